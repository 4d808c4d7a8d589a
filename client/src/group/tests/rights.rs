//! Rights: admins, proposals, and strangers that a server shows.

use std::collections::HashMap;

use super::*;
use crate::{
    group::{add_invited, add_invited_client, strayed},
    invitations,
};

#[test]
fn only_admins_change_who_is_in() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let leaf_key = carol.offer_to(&bob);
    let addition = bob.stage(&id, &Change::Add(vec![leaf_key]));
    assert!(alice.receive(&addition.message).unwrap_err().contains("no admin"));
    assert_eq!(alice.epoch(&id), 1, "a refused commit leaves no trace");
}

#[test]
fn of_two_who_are_invited_as_one_user_one_comes_in() {
    let Trio { alice, bob, carol, id, issuer } = Trio::with_bob();
    let mallory = person("mallory", &issuer);
    alice.knows(&[&carol, &mallory]);
    // Mallory has seen a KeyPackage of Carol's.
    let carols = Pseudonym::random();
    let both = [&carol, &mallory].map(|invited| invited.offer_as(carols, &alice));
    let copy = alice.copy();
    let commit = copy.stage(&id, &Change::Add(both.to_vec())).message;
    assert!(bob.receive(&commit).unwrap_err().contains("added as another one"));

    let adds = |store: &Store| {
        let change = store.write(|tx| add_invited(tx, &GroupState::load(tx, &id)?)).unwrap();
        let Some(Change::Add(leaf_keys)) = change else { panic!("somebody is invited") };
        leaf_keys
    };
    alice
        .store
        .write(|tx| {
            [&carol, &mallory].into_iter().try_for_each(|invited| {
                invitations::invite(tx, &id, &invited.account().client_key().public_key(), &invited.user)
            })
        })
        .unwrap();
    let [first] = adds(&alice.store)[..] else { panic!("one of them comes in") };
    let commit = alice.stage(&id, &Change::Add(vec![first])).message;
    alice.confirm(&id);
    bob.receive(&commit).unwrap();
    // The DS refuses the other one, now that the pseudonym is taken, and so do members.
    let second = both.into_iter().find(|leaf_key| *leaf_key != first).unwrap();
    let change = alice.store.write(|tx| add_invited(tx, &GroupState::load(tx, &id)?)).unwrap();
    assert!(change.is_none(), "nobody is left who may come in");
    let commit = alice.stage(&id, &Change::Add(vec![second])).message;
    assert!(bob.receive(&commit).unwrap_err().contains("add somebody as another member"));
}

#[test]
fn nobody_is_invited_in_as_a_device_of_who_invites() {
    let Trio { alice, carol, id, .. } = Trio::with_bob();
    let alices = alice.pseudonym(&id);
    alice.knows(&[&carol]);
    let client_key = carol.account().client_key().public_key();
    carol.offer_as(alices, &alice);
    alice.store.write(|tx| invitations::invite(tx, &id, &client_key, &carol.user)).unwrap();
    let (all, alone) = alice
        .store
        .write(|tx| {
            let group = GroupState::load(tx, &id)?;
            Ok((add_invited(tx, &group)?, add_invited_client(tx, &group, &client_key)?))
        })
        .unwrap();
    assert!(all.is_none() && alone.is_none());
}

#[test]
fn a_group_that_refuses_somebody_leaves_the_key_package_that_another_groups_commit_took() {
    let Trio { alice, carol, id, .. } = Trio::alone();
    let other = alice.create();
    alice.knows(&[&carol]);
    let client_key = carol.account().client_key().public_key();
    let invite = |group: &GroupId| {
        alice.store.write(|tx| invitations::invite(tx, group, &client_key, &carol.user)).unwrap();
    };
    [&id, &other].into_iter().for_each(invite);
    let taken = carol.offer_to(&alice);
    alice.stage(&other, &Change::Add(vec![taken]));
    // The answer is lost, and the first group takes another one, which the DS refuses.
    assert_ne!(carol.offer_to(&alice), taken);
    alice.store.write(|tx| crate::group::withdraw_invitation(tx, &id, &client_key)).unwrap();
    assert_eq!(alice.store.write(|tx| key_package_of(tx, &client_key)).unwrap(), None);
    alice.confirm(&other);
    let shown = alice.members(&other);
    assert!(shown.iter().any(|member| member.leaf_key == taken && member.user.as_ref() == Some(&carol.user)));
    for group in [&id, &other] {
        assert_eq!(alice.store.read(|tx| invitations::of_group(tx, group)).unwrap(), []);
    }
}

#[test]
fn no_member_takes_another_pseudonym_address_or_user_key() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let alices = alice.store.read(|tx| Ok(own_leaf(&GroupState::load(tx, &id)?))).unwrap();
    let with = |leaf: PublicKey, pseudonym: Pseudonym| {
        LeafNodeParameters::builder()
            .with_credential_with_key(mls::credential(pseudonym.0.to_vec(), leaf))
            .build()
    };
    let extensions = |leaf: &rules::Leaf, key: UserKey| {
        let delivery = leaf.delivery.clone().unwrap();
        LeafNodeParameters::builder().with_extensions(leaf::extensions(&delivery, &key).unwrap()).build()
    };
    let attacks: [(&str, Box<dyn Fn(&Tx<'_>, &GroupState) -> LeafNodeParameters>); 4] = [
        ("pseudonym", Box::new(|_, group| with(group.leaf.public_key(), alices.pseudonym))),
        ("address", Box::new(|_, group| extensions(&alices, own_leaf(group).user_key.unwrap()))),
        (
            "key",
            Box::new(|_, group| {
                let key = UserKey { generation: 0, public_key: SigningKey::generate().public_key() };
                extensions(&own_leaf(group), key)
            }),
        ),
        (
            "numbers",
            Box::new(|_, group| {
                let key = UserKey { generation: u32::MAX, public_key: SigningKey::generate().public_key() };
                extensions(&own_leaf(group), key)
            }),
        ),
    ];
    for (what, attack) in attacks {
        let before = mallory.store.read(|tx| Ok(GroupState::load(tx, &id)?.epoch())).unwrap();
        let copy = mallory.copy();
        let commit =
            copy.commit_freely(&id, |tx, group| Free { leaf_node: attack(tx, group), ..Free::default() });
        let refused = bob.receive(&commit).unwrap_err();
        assert!(refused.contains(what), "{what}: {refused}");
        assert_eq!(bob.epoch(&id), before);
    }
    // By the key of a leaf the others know whose device it is.
    let copy = mallory.copy();
    let renewed =
        copy.commit_freely(&id, |_, _| Free { key: Some(SigningKey::generate()), ..Free::default() });
    assert!(bob.receive(&renewed).unwrap_err().contains("another leaf key"));
}

#[test]
fn proposals_that_the_server_should_not_have_let_pass_are_neither_kept_nor_committed() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let ghost = person("ghost", &issuer);
    let leaf_key = ghost.offer_to(&mallory);
    let propose = |make: &dyn Fn(&Tx<'_>, &mut GroupState) -> MlsMessage| {
        mallory.copy().store.write(|tx| Ok(make(tx, &mut GroupState::load(tx, &id)?))).unwrap()
    };
    let bytes = |message| MlsMessage::new(mls::message_bytes(&message).unwrap());
    let addition = propose(&|tx, group| {
        let package = crate::key_packages::reserve_key_package(tx, &id, &leaf_key).unwrap();
        let signer = LeafSigner(&group.leaf);
        bytes(group.mls.propose_add_member(tx, &signer, &package).unwrap().0)
    });
    let removal = propose(&|tx, group| {
        let alices = group.member(&alice.leaf(&id)).unwrap().index;
        let signer = LeafSigner(&group.leaf);
        bytes(group.mls.propose_remove_member(tx, &signer, alices).unwrap().0)
    });
    let promotion = propose(&|tx, group| {
        let own = own_leaf(group).pseudonym;
        let context = group.context_with(&[own]).unwrap();
        let signer = LeafSigner(&group.leaf);
        bytes(group.mls.propose_group_context_extensions(tx, context, &signer).unwrap().0)
    });
    let renewal = propose(&|tx, group| {
        let key = SigningKey::generate();
        let credential_with_key = mls::credential(own_leaf(group).pseudonym.0.to_vec(), key.public_key());
        let new = NewSignerBundle { signer: &LeafSigner(&key), credential_with_key };
        let (signer, leaf) = (LeafSigner(&group.leaf), LeafNodeParameters::default());
        bytes(group.mls.propose_self_update_with_new_signer(tx, &signer, new, leaf).unwrap().0)
    });
    let last_key = propose(&|tx, group| {
        let key = UserKey { generation: u32::MAX, public_key: SigningKey::generate().public_key() };
        let extensions = leaf::extensions(&own_leaf(group).delivery.unwrap(), &key).unwrap();
        let leaf = LeafNodeParameters::builder().with_extensions(extensions).build();
        let signer = LeafSigner(&group.leaf);
        bytes(group.mls.propose_self_update(tx, &signer, leaf).unwrap().0)
    });
    for proposal in [&addition, &removal, &promotion, &renewal, &last_key] {
        for other in [&alice, &bob] {
            assert!(other.receive(proposal).is_err());
        }
    }
    let commit = alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    bob.receive(&commit.message).unwrap();
    assert_eq!(alice.members(&id).len(), 3);
    let admins = bob.store.read(|tx| GroupState::load(tx, &id)?.admins()).unwrap();
    assert_eq!(admins, [alice.pseudonym(&id)]);
}

#[test]
fn who_leaves_the_group_without_an_admin_is_not_helped() {
    let issuer = SigningKey::generate();
    let ([alice, bob, _], id) = three(&issuer);
    alice.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    assert!(bob.receive(&alice.outstanding(&id).unwrap().message).is_err());
}

/// The group as a server shows it that has Mallory's word that a ghost was added, or is an admin.
pub(super) fn haunted(mallory: &Person, id: &GroupId, ghost: Option<&Person>, admin: bool) -> CurrentGroup {
    let copy = mallory.copy();
    let package = ghost.map(|ghost| ghost.offer_to(&copy));
    copy.commit_freely(id, |tx, group| Free {
        added: package.map(|leaf_key| crate::key_packages::reserve_key_package(tx, id, &leaf_key).unwrap()),
        context: admin.then(|| group.context_with(&[own_leaf(group).pseudonym]).unwrap()),
        ..Free::default()
    });
    copy.shown(id)
}

/// A device of which no comparison knows: its credential has no pseudonym, or its leaf no address.
fn unread_device(tx: &Tx<'_>, has_pseudonym: bool) -> KeyPackage {
    if has_pseudonym {
        return key_package(tx, &[7; 16], mls::lifetime(), Extensions::default());
    }
    let user_key = leaf::new_user_key(tx, 0).unwrap();
    let extensions = leaf::extensions(&delivery(), &user_key).unwrap();
    key_package(tx, &[7; 15], mls::lifetime(), extensions)
}

/// A commit that adds such a device; its maker applies it.
pub(super) fn add_unread(by: &Person, id: &GroupId, has_pseudonym: bool) -> MlsMessage {
    by.commit_freely(id, |tx, _| Free { added: Some(unread_device(tx, has_pseudonym)), ..Free::default() })
}

/// The group as a server shows it that has Mallory's word that such a device was added.
pub(super) fn haunted_unread(mallory: &Person, id: &GroupId, has_pseudonym: bool) -> CurrentGroup {
    let copy = mallory.copy();
    add_unread(&copy, id, has_pseudonym);
    copy.shown(id)
}

#[test]
fn nobody_comes_back_into_a_group_with_a_member_that_cannot_be_read_nor_follows_it_nor_commits_to_it() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    for has_pseudonym in [false, true] {
        let (alice, bob) = (alice.copy(), bob.copy());
        let shown = haunted_unread(&mallory, &id, has_pseudonym);
        let refused = bob.rejoin(&id, &shown, &Differences::default()).unwrap_err();
        assert!(matches!(refused, Error::Mls { .. }), "{refused}");
        assert!(bob.outstanding(&id).is_none(), "nothing was changed");
        let seen = bob.store.write(|tx| {
            onlooker::start_from(tx, &id, &shown, None, &HashMap::new())?;
            onlooker::Onlooker::of(tx, &id)
        });
        assert_eq!(seen.unwrap().map(|seen| seen.epoch()), Some(bob.epoch(&id)), "nobody looks on, either");

        let addition = add_unread(&alice, &id, has_pseudonym);
        let refused = bob.receive(&addition).unwrap_err();
        assert!(refused.contains(if has_pseudonym { "cannot read" } else { "pseudonym" }), "{refused}");
        assert_eq!(bob.epoch(&id) + 1, alice.epoch(&id), "a refused commit leaves no trace");
        let staged = alice.store.write(|tx| GroupState::load(tx, &id)?.stage_commit(tx, &Change::Update));
        assert!(matches!(staged, Err(Error::Mls { .. })), "{staged:?}");
    }
}

#[test]
fn nobody_joins_a_group_with_a_member_that_cannot_be_read() {
    let Trio { alice, bob, id, .. } = Trio::alone();
    for has_pseudonym in [false, true] {
        let copy = alice.copy();
        add_unread(&copy, &id, has_pseudonym);
        let leaf_key = bob.offer_to(&copy);
        let welcome = copy.add_freely(&id, &leaf_key);
        let refused = bob.join(&welcome, Some(&copy.tree(&id))).unwrap_err();
        assert!(refused.contains("cannot read"), "{refused}");
    }
    alice.add(&id, &[&bob]);
    bob.receive(&alice.say(&id, "just us")).unwrap();
}

#[test]
fn who_comes_back_accepts_no_stranger_and_no_new_admin_without_a_persons_consent() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let ghost = person("ghost", &issuer);
    for (current, strangers, admins) in
        [(haunted(&mallory, &id, Some(&ghost), false), 1, 0), (haunted(&mallory, &id, None, true), 0, 1)]
    {
        let bob = bob.copy();
        let refused = bob.rejoin(&id, &current, &Differences::default()).unwrap_err();
        let Error::Strangers(differences) = refused else { panic!("{refused}") };
        assert_eq!((differences.strangers.len(), differences.admins.len()), (strangers, admins));
        assert_eq!(bob.members(&id).len(), 3, "nothing was changed");
        bob.rejoin(&id, &current, &differences).unwrap();
        let told = |event: &Event| {
            matches!(event, Event::Changed { added, .. } if added.len() == strangers)
                || matches!(event, Event::AdminsFound { admins: found, .. } if found.len() == admins)
        };
        assert!(bob.events().iter().any(told));
    }
    // Nothing was changed but keys.
    let update = mallory.stage(&id, &Change::Update);
    mallory.confirm(&id);
    alice.receive(&update.message).unwrap();
    let back = bob.rejoin(&id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&back).unwrap();
    assert_eq!(bob.members(&id).len(), 3);
}

/// A device in the place of the user with this pseudonym, which nobody knows yet.
pub(super) fn unknown_device(tx: &Tx<'_>, pseudonym: Pseudonym, user_key: &UserKey) -> KeyPackage {
    let extensions = leaf::extensions(&delivery(), user_key).unwrap();
    key_package(tx, &pseudonym.0, mls::lifetime(), extensions)
}

/// Commits that nobody can follow: of new keys, then of an unknown device in the place of the user with this pseudonym; and
/// the group as the server shows it then.
fn unfollowable(by: &Person, id: &GroupId, pseudonym: Pseudonym) -> ([MlsMessage; 2], CurrentGroup) {
    let copy = by.copy();
    let update = copy.commit_freely(id, |_, _| Free::default());
    let addition = copy.commit_freely(id, |tx, group| {
        let user_key = own_leaf(group).user_key.unwrap();
        Free { added: Some(unknown_device(tx, pseudonym, &user_key)), ..Free::default() }
    });
    ([mistagged(update), mistagged(addition)], copy.shown(id))
}

/// A message of a group with a wrong membership tag, which the server cannot see.
pub(super) fn mistagged(message: MlsMessage) -> MlsMessage {
    let mut message = message.into_bytes();
    *message.last_mut().unwrap() ^= 1;
    MlsMessage::new(message)
}

/// How many messages are kept that had no effect.
fn kept(person: &Person) -> i64 {
    let sql = "SELECT count(*) FROM unfollowed";
    person.store.read(|tx| Ok(tx.sql().query_row(sql, [], |row| row.get(0))?)).unwrap()
}

#[test]
fn who_comes_back_takes_a_device_that_its_user_or_an_admin_let_in_and_whose_commit_came() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let [alices, mallorys] = [&alice, &mallory].map(|it| it.pseudonym(&id));
    let nobodys = Pseudonym::random();
    for (by, place, received, are_many, is_proved) in [
        (&mallory, mallorys, 2, false, true),
        // So many that they are not kept themselves.
        (&mallory, mallorys, 2, true, true),
        // The last commit, or both, were lost on the way.
        (&mallory, mallorys, 1, false, false),
        (&mallory, mallorys, 0, false, false),
        // Mallory and the server put a device in Alice's place.
        (&mallory, alices, 2, false, false),
        (&mallory, alices, 2, true, false),
        // A user is new, and was added by an admin.
        (&alice, nobodys, 2, false, true),
        (&alice, nobodys, 2, true, true),
        (&alice, nobodys, 1, false, false),
        // Or by Mallory and the server.
        (&mallory, nobodys, 2, false, false),
        (&mallory, nobodys, 2, true, false),
        // An admin puts nobody in another user's place.
        (&alice, mallorys, 2, false, false),
    ] {
        let bob = bob.copy();
        let (commits, current) = unfollowable(by, &id, place);
        for commit in &commits[..received] {
            bob.receive(commit).unwrap_err();
            if are_many {
                bob.store.write(|tx| onlooker::fold(tx, &id)).unwrap();
            }
        }
        let back = bob.rejoin(&id, &current, &Differences::default());
        if !is_proved {
            let Err(Error::Strangers(differences)) = back else { panic!("{received} commits prove nothing") };
            assert_eq!(differences.strangers.len(), 1);
            continue;
        }
        back.unwrap();
        assert_eq!(bob.members(&id).len(), 4);
        let changes: Vec<_> = bob
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Changed { added, removed, .. } => Some((added.len(), removed.len())),
                _ => None,
            })
            .collect();
        assert_eq!(changes, [(1, 0)]);
        assert_eq!(kept(&bob), 0, "it follows again");
    }
}

#[test]
fn of_all_groups_together_so_much_is_kept_at_most_and_what_it_proves_stays() {
    let issuer = SigningKey::generate();
    let ([_, bob, mallory], id) = three(&issuer);
    let mallorys = mallory.pseudonym(&id);
    let (commits, current) = unfollowable(&mallory, &id, mallorys);
    bob.receive(&commits[0]).unwrap_err();
    let keep = |group: &GroupId, kibibytes: i64| {
        let sql = "INSERT INTO unfollowed (group_id, message) VALUES (?1, zeroblob(?2 * 1024))";
        bob.store
            .write(|tx| {
                tx.sql().execute(sql, rusqlite::params![group.to_mls(), kibibytes])?;
                Ok(())
            })
            .unwrap();
    };
    // There is room for each alone. This group has the most.
    keep(&id, 7600);
    for _ in 0..4 {
        keep(&GroupId::new(rand::random(), "example.org".parse().unwrap()), 7000);
    }
    assert_eq!(kept(&bob), 6);
    bob.receive(&commits[1]).unwrap_err();
    assert_eq!(kept(&bob), 5, "the others', and the latest");
    bob.rejoin(&id, &current, &Differences::default()).unwrap();
    assert_eq!(bob.members(&id).len(), 4);
}

#[test]
fn of_all_groups_together_so_many_messages_are_kept_at_most() {
    let issuer = SigningKey::generate();
    let ([_, bob, mallory], id) = three(&issuer);
    let mallorys = mallory.pseudonym(&id);
    let (commits, _) = unfollowable(&mallory, &id, mallorys);
    let keep = |group: &GroupId, messages: i64, bytes: i64| {
        let sql = "WITH RECURSIVE numbers (number) AS
                       (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?2)
                   INSERT INTO unfollowed (group_id, message) SELECT ?1, zeroblob(?3) FROM numbers";
        let values = rusqlite::params![group.to_mls(), messages, bytes];
        bob.store.write(|tx| Ok(tx.sql().execute(sql, values)?)).unwrap();
    };
    // There is room for each alone. This group has the most bytes.
    for _ in 0..4 {
        keep(&GroupId::new(rand::random(), "example.org".parse().unwrap()), 999, 1);
    }
    keep(&id, 2, 2000);
    for commit in &commits {
        bob.receive(commit).unwrap_err();
    }
    assert_eq!(kept(&bob), 4000, "there is room for so many");
    bob.receive(&commits[0]).unwrap_err();
    assert_eq!(kept(&bob), 4 * 999 + 1, "the others', and the latest");
}

#[test]
fn who_comes_back_too_late_takes_what_was_let_in_since_the_server_showed_the_group() {
    let issuer = SigningKey::generate();
    let ([_, bob, mallory], id) = three(&issuer);
    let mallorys = mallory.pseudonym(&id);
    for (is_one_lost, came_before, are_many, was_restored) in [
        (false, false, false, false),
        (false, true, false, false),
        (false, true, true, false),
        // Nothing leads to what the server showed.
        (true, false, false, false),
        (true, true, false, false),
        // The server lost what he had seen, and goes another way.
        (false, false, false, true),
    ] {
        let (bob, mallory) = (bob.copy(), mallory.copy());
        if is_one_lost {
            mallory.commit_freely(&id, |_, _| Free::default());
        }
        let shown = mallory.shown(&id);
        let (commits, current) = unfollowable(&mallory, &id, mallorys);
        if was_restored {
            for _ in 0..4 {
                bob.stage(&id, &Change::Update);
                bob.confirm(&id);
            }
        }
        let known = bob.store.read(|tx| GroupState::load(tx, &id)?.latest_known(tx)).unwrap();
        let rejoin = |known, current: &CurrentGroup| {
            let delivery = delivery();
            bob.store.write(|tx| {
                GroupState::load(tx, &id)?.rejoin(tx, known, current, &Differences::default(), &delivery)
            })
        };
        if came_before {
            // It came while he looked names up, for what the server had shown by then.
            bob.receive(&commits[0]).unwrap_err();
        }
        if are_many {
            bob.store.write(|tx| onlooker::fold(tx, &id)).unwrap();
        }
        rejoin(known, &shown).unwrap();
        // Both were accepted before his commit, which is of their epochs.
        if !came_before {
            bob.receive(&commits[0]).unwrap();
        }
        bob.receive(&commits[1]).unwrap_err();
        let known = bob.store.read(|tx| GroupState::load(tx, &id)?.latest_known(tx)).unwrap();
        rejoin(known, &current).unwrap();
        bob.confirm(&id);
        assert_eq!(bob.members(&id).len(), 4);
    }
}

#[test]
fn what_follows_an_own_commit_whose_answer_was_lost_proves_who_was_let_in() {
    let issuer = SigningKey::generate();
    let ([_, bob, mallory], id) = three(&issuer);
    let mallorys = mallory.pseudonym(&id);
    let own = bob.stage(&id, &Change::Update);
    mallory.receive(&own.message).unwrap();
    let (commits, current) = unfollowable(&mallory, &id, mallorys);
    for commit in &commits {
        bob.receive(commit).unwrap_err();
    }
    assert_eq!(kept(&bob), 3, "his own is one of them");
    bob.rejoin(&id, &current, &Differences::default()).unwrap();
    assert_eq!(bob.members(&id).len(), 4);
}

#[test]
fn what_proves_who_was_let_in_stays_where_the_group_cannot_be_looked_at_as_the_server_shows_it() {
    let issuer = SigningKey::generate();
    let ([_, bob, mallory], id) = three(&issuer);
    let mallorys = mallory.pseudonym(&id);
    let (commits, current) = unfollowable(&mallory, &id, mallorys);
    bob.receive(&commits[0]).unwrap_err();
    // A tree with a leaf whose KeyPackage has ended cannot be looked at, either.
    let shown = CurrentGroup { ratchet_tree: RatchetTree::new(Vec::new()), ..current.clone() };
    bob.store
        .write(|tx| {
            let seen = onlooker::Onlooker::of(tx, &id)?;
            let taken = rules::leaves(&GroupState::load(tx, &id)?.mls);
            onlooker::start_from(tx, &id, &shown, seen, &taken)
        })
        .unwrap();
    bob.receive(&commits[1]).unwrap_err();
    bob.rejoin(&id, &current, &Differences::default()).unwrap();
    assert_eq!(bob.members(&id).len(), 4);
}

#[test]
fn a_proposal_that_cannot_be_followed_is_known_when_a_commit_takes_it_however_many_came() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let proposal = mallory
        .store
        .write(|tx| {
            let mut group = GroupState::load(tx, &id)?;
            let signer = LeafSigner(&group.leaf);
            let (proposal, _) =
                group.mls.propose_self_update(tx, &signer, LeafNodeParameters::default()).unwrap();
            Ok(MlsMessage::new(mls::message_bytes(&proposal)?))
        })
        .unwrap();
    alice.receive(&proposal).unwrap();
    let commit = alice.commit_freely(&id, |tx, group| {
        let own = own_leaf(group);
        let added = unknown_device(tx, own.pseudonym, &own.user_key.unwrap());
        Free { added: Some(added), ..Free::default() }
    });
    let (proposal, commit, current) = (mistagged(proposal), mistagged(commit), alice.shown(&id));
    for are_many in [false, true] {
        let bob = bob.copy();
        for message in [&proposal, &commit] {
            bob.receive(message).unwrap_err();
            if are_many {
                bob.store.write(|tx| onlooker::fold(tx, &id)).unwrap();
            }
        }
        bob.rejoin(&id, &current, &Differences::default()).unwrap();
        assert_eq!(bob.members(&id).len(), 4);
    }
    // Without the proposal nothing shows what the commit does.
    bob.receive(&commit).unwrap_err();
    let Err(Error::Strangers(differences)) = bob.rejoin(&id, &current, &Differences::default()) else {
        panic!("the commit alone proves nothing")
    };
    assert_eq!(differences.strangers.len(), 1);
}

#[test]
fn what_had_no_effect_is_forgotten_with_an_own_commit_unless_the_group_cannot_be_followed() {
    let issuer = SigningKey::generate();
    let ([_, bob, mallory], id) = three(&issuer);
    let mallorys = mallory.pseudonym(&id);
    let proposal = mallory
        .copy()
        .store
        .write(|tx| {
            let mut group = GroupState::load(tx, &id)?;
            let signer = LeafSigner(&group.leaf);
            let leaf = LeafNodeParameters::default();
            let (proposal, _) = group.mls.propose_self_update(tx, &signer, leaf).unwrap();
            Ok(MlsMessage::new(mls::message_bytes(&proposal)?))
        })
        .unwrap();
    bob.receive(&mistagged(proposal)).unwrap_err();
    let own = bob.stage(&id, &Change::Update);
    assert_eq!(kept(&bob), 1);
    mallory.receive(&own.message).unwrap();
    let (commits, current) = unfollowable(&mallory, &id, mallorys);
    let comes_back = |bob: &Person| bob.rejoin(&id, &current, &Differences::default());

    // He follows: what cannot be followed later is looked at from his commit on.
    let follows = bob.copy();
    follows.confirm(&id);
    assert_eq!(kept(&follows), 0);
    for commit in &commits {
        follows.receive(commit).unwrap_err();
    }
    comes_back(&follows).unwrap();
    assert_eq!(follows.members(&id).len(), 4);

    // The answer to his commit comes after what he cannot follow, and that alone proves who was let in.
    for commit in &commits {
        bob.receive(commit).unwrap_err();
    }
    bob.store.write(|tx| strayed::leave_to_person(tx, &id)).unwrap();
    bob.confirm(&id);
    let forgetful = bob.copy();
    forgetful.store.write(|tx| onlooker::forget(tx, &id)).unwrap();
    let Err(Error::Strangers(differences)) = comes_back(&forgetful) else { panic!("nothing else proves it") };
    assert_eq!(differences.strangers.len(), 1);
    comes_back(&bob).unwrap();
    assert_eq!(bob.members(&id).len(), 4);
}

#[test]
fn an_admin_names_another_and_then_may_go() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let load = |person: &Person| person.store.read(|tx| GroupState::load(tx, &id)?.is_last_admin()).unwrap();
    assert!(load(&alice));
    let admins = [&alice, &bob].map(|it| it.pseudonym(&id)).to_vec();
    let naming = alice.stage(&id, &Change::Admins(admins.clone()));
    alice.confirm(&id);
    for other in [&bob, &mallory] {
        other.receive(&naming.message).unwrap();
        assert!(other.events().iter().any(|event| matches!(event, Event::AdminsChanged { .. })));
        assert_eq!(other.store.read(|tx| GroupState::load(tx, &id)?.admins()).unwrap(), admins);
    }
    assert!(!load(&alice) && !load(&bob));
    // Bob has the rights now, Mallory has not.
    let naming = mallory.copy().stage(&id, &Change::Admins(admins));
    assert!(alice.receive(&naming.message).is_err());
    let removal = bob.stage(&id, &Change::Remove(vec![mallory.leaf(&id)]));
    alice.receive(&removal.message).unwrap();
    mallory.receive(&removal.message).unwrap();
    assert_eq!(alice.members(&id).len(), 2);
}
