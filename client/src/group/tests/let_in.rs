//! Signatures prove who was let in by commits that a device could not follow.

use openmls::prelude::LeafNodeIndex;

use super::{
    super::late_commit,
    rights::{mistagged, unknown_device},
    *,
};

/// The devices that are strangers to somebody to whom these messages came, which nobody follows, and who comes back.
fn strangers_after(
    person: &Person,
    id: &GroupId,
    messages: &[MlsMessage],
    shown: &CurrentGroup,
) -> Vec<PublicKey> {
    for message in messages {
        person.receive(message).unwrap_err();
    }
    match person.rejoin(id, shown, &Differences::default()) {
        Ok(_) => Vec::new(),
        Err(Error::Strangers(differences)) => {
            assert!(differences.admins.is_empty(), "{differences:?}");
            differences.strangers.iter().map(|member| member.leaf_key).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

/// A KeyPackage of nobody whom anybody knows.
fn newcomer(store: &Store) -> KeyPackage {
    store.write(|tx| Ok(unknown_device(tx, Pseudonym::random(), &leaf::new_user_key(tx, 0)?))).unwrap()
}

fn leaf_key(key_package: &KeyPackage) -> PublicKey {
    mls::public_key(key_package.leaf_node().signature_key().as_slice()).unwrap()
}

/// The commit by which a member adds the owner of a KeyPackage, whether it may or not; its maker applies it.
fn adds(by: &Person, id: &GroupId, added: &KeyPackage) -> MlsMessage {
    by.commit_freely(id, |_, _| Free { added: Some(added.clone()), ..Free::default() })
}

#[test]
fn who_made_itself_an_admin_and_is_none_again_has_let_nobody_in() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let (alices, mallorys) = (alice.pseudonym(&id), mallory.pseudonym(&id));
    let ghost = newcomer(&mallory.store);
    let names = |admins: &[Pseudonym]| {
        let context = |group: &GroupState| Some(group.context_with(admins).unwrap());
        mallory.commit_freely(&id, |_, group| Free { context: context(group), ..Free::default() })
    };
    let commits = [names(&[alices, mallorys]), adds(&mallory, &id, &ghost), names(&[alices])];
    let strangers = strangers_after(&bob, &id, &commits.map(mistagged), &mallory.shown(&id));
    assert_eq!(strangers, [leaf_key(&ghost)]);
}

#[test]
fn who_was_an_admin_and_is_none_any_more_lets_nobody_in() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let (alices, mallorys) = (alice.pseudonym(&id), mallory.pseudonym(&id));
    let ghost = newcomer(&mallory.store);
    let names = |admins: Vec<Pseudonym>| {
        let naming = alice.stage(&id, &Change::Admins(admins)).message;
        alice.confirm(&id);
        mallory.receive(&naming).unwrap();
        naming
    };
    // He can follow until she is an admin, and as that she lets somebody in.
    bob.receive(&names(vec![alices, mallorys])).unwrap();
    let as_admin = mallory.copy();
    let addition = mistagged(adds(&as_admin, &id, &ghost));
    assert!(strangers_after(&bob.copy(), &id, &[addition], &as_admin.shown(&id)).is_empty());
    let commits = [names(vec![alices]), adds(&mallory, &id, &ghost)];
    let strangers = strangers_after(&bob, &id, &commits.map(mistagged), &mallory.shown(&id));
    assert_eq!(strangers, [leaf_key(&ghost)]);
}

#[test]
fn whom_an_admin_added_and_removed_again_nobody_else_brings_back() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let guest = newcomer(&alice.store);
    let addition = adds(&alice, &id, &guest);
    let is_in = alice.shown(&id);
    let removal = alice.stage(&id, &Change::Remove(vec![leaf_key(&guest)])).message;
    alice.confirm(&id);
    for message in [&addition, &removal] {
        mallory.receive(message).unwrap();
    }
    let ghosts = adds(&mallory, &id, &guest);
    let messages = [addition, removal, ghosts].map(mistagged);
    assert!(strangers_after(&bob.copy(), &id, &messages[..1], &is_in).is_empty());
    for came in [2, 3] {
        let strangers = strangers_after(&bob.copy(), &id, &messages[..came], &mallory.shown(&id));
        assert_eq!(strangers, [leaf_key(&guest)]);
    }
}

#[test]
fn of_two_whom_an_admin_added_as_one_user_none_comes_in_unseen() {
    let issuer = SigningKey::generate();
    let ([alice, bob, mallory], id) = three(&issuer);
    let carols = Pseudonym::random();
    let mut both = [&person("carol", &issuer), &mallory].map(|it| it.offer_as(carols, &alice));
    let commit = alice.stage(&id, &Change::Add(both.to_vec())).message;
    alice.confirm(&id);
    let mut strangers = strangers_after(&bob, &id, &[mistagged(commit)], &alice.shown(&id));
    strangers.sort();
    both.sort();
    assert_eq!(strangers, both);
}

/// An addition by a KeyPackage that has ended soon after.
struct LateAddition {
    /// The member who made the commit, and goes on from there.
    maker: Person,
    commit: MlsMessage,
    /// The group as it is then.
    shown: CurrentGroup,
    /// The end of the KeyPackage, in seconds since 1970.
    end: u64,
}

impl LateAddition {
    /// Has a copy of a member add somebody under a pseudonym, by a KeyPackage that ends after so many seconds. openmls makes no
    /// commit for one that has ended: so it looks soon after the end is chosen, and all else is made before.
    fn by(member: &Person, id: &GroupId, pseudonym: Pseudonym, seconds: u64) -> Self {
        let maker = member.copy();
        let make = |tx: &Tx<'_>| {
            let extensions = leaf::extensions(&delivery(), &leaf::new_user_key(tx, 0)?)?;
            let mut group = GroupState::load(tx, id)?;
            let signer = LeafSigner(&group.leaf);
            let end = tx.now() + seconds;
            let lifetime = Lifetime::init(tx.now() - 10, end);
            let added = key_package(tx, &pseudonym.0, lifetime, extensions);
            let builder = group.mls.commit_builder().propose_adds([added]);
            let staged = builder.load_psks(tx.storage()).unwrap();
            let built = staged.build(tx.rand(), tx.crypto(), &signer, |_| true).unwrap();
            let (commit, ..) = built.stage_commit(tx).unwrap().into_messages();
            group.mls.merge_pending_commit(tx).unwrap();
            Ok((MlsMessage::new(mls::message_bytes(&commit)?), end))
        };
        let (commit, end) = maker.store.write(make).unwrap();
        let shown = maker.shown(id);
        Self { maker, commit, shown, end }
    }
}

#[test]
fn who_reads_too_late_that_somebody_was_added_comes_back_by_itself_if_who_added_them_may() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_all();
    let in_time = LateAddition::by(&alice, &id, Pseudonym::random(), 24 * 60 * 60);
    let read_in_time = carol.copy();
    read_in_time.receive(&in_time.commit).unwrap();
    assert_eq!(read_in_time.epoch(&id), 3);

    let late = |by: &Person, pseudonym| LateAddition::by(by, &id, pseudonym, 20);
    let cases = [
        ("an admin adds a user", late(&alice, Pseudonym::random()), true),
        ("a member adds a device of its own", late(&bob, bob.pseudonym(&id)), true),
        ("a member adds a user", late(&bob, Pseudonym::random()), false),
        ("a member adds a device in an admin's place", late(&bob, alice.pseudonym(&id)), false),
        ("an admin adds a device in a member's place", late(&alice, bob.pseudonym(&id)), false),
    ];
    let end = cases.iter().map(|(_, late, _)| late.end).max().unwrap();
    while carol.store.now() <= end {
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(carol.events());
    for (what, LateAddition { commit, shown, .. }, is_let_in) in &cases {
        for is_folded in [false, true] {
            let carol = carol.copy();
            let receives = |tx: &Tx<'_>| Ok(tx.attempt(|| receive(tx, commit, &Options::default())));
            let received = carol.store.write(receives).unwrap();
            let Err(Rejection::Stray { by_hand: false, members: 3, reason, .. }) = &received else {
                panic!("{what}: {received:?}")
            };
            assert!(reason.contains("Lifetime is in the past"), "{what}: {reason}");
            assert_eq!(carol.epoch(&id), 2, "{what}");
            carol.receive(commit).unwrap_err();
            if is_folded {
                carol.store.write(|tx| onlooker::fold(tx, &id)).unwrap();
            }
            assert_eq!(strangers_after(&carol, &id, &[], shown).is_empty(), *is_let_in, "{what}");
            let events = carol.events();
            let is_back = events.iter().any(|event| matches!(event, Event::Returned { .. }));
            let is_told = |event: &Event| matches!(event, Event::Changed { added, .. } if added.len() == 1);
            assert_eq!((is_back, events.iter().any(is_told)), (*is_let_in, *is_let_in), "{what}: {events:?}");
        }
    }

    // Nobody can follow from there: of whoever came later it knows nothing.
    let (_, LateAddition { maker, commit, .. }, _) = &cases[0];
    let guest = newcomer(&maker.store);
    let later = adds(maker, &id, &guest);
    let strangers = strangers_after(&carol, &id, &[commit.clone(), later], &maker.shown(&id));
    assert_eq!(strangers, [leaf_key(&guest)]);
}

#[test]
fn whom_a_commit_adds_is_read_only_of_what_a_member_signed_in_the_same_epoch() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let added_by = |person: &Person, message: &MlsMessage| {
        let read =
            |tx: &Tx<'_>| Ok(late_commit::added(GroupState::load(tx, &id)?.mls.public_group(), message));
        person.store.read(read).unwrap()
    };
    let update = alice.copy().stage(&id, &Change::Update).message;
    assert_eq!(added_by(&bob, &update), Some(Vec::new()));
    let addition = alice.add(&id, &[&carol]);
    let alices = LeafNodeIndex::new(0);
    assert_eq!(
        added_by(&bob, &addition),
        Some(vec![(alices, (carol.leaf(&id), carol.pseudonym(&id)))]),
        "without a secret of the group"
    );
    assert_eq!(added_by(&alice, &addition), None, "another epoch");
    let said = alice.say(&id, "hello");
    for nothing in [said, MlsMessage::new(Vec::new()), MlsMessage::new(vec![0; 1000])] {
        assert_eq!(added_by(&bob, &nothing), None);
    }
    // All up to the tags of confirmation and membership is signed.
    let bytes = addition.as_bytes().to_vec();
    let is_read = |tx: &Tx<'_>| {
        let group = GroupState::load(tx, &id)?;
        let changed = |place: usize| {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1;
            late_commit::added(group.mls.public_group(), &MlsMessage::new(bytes)).is_some()
        };
        Ok((0..bytes.len() - 2 * 33).filter(|place| changed(*place)).count())
    };
    assert_eq!(bob.store.read(is_read).unwrap(), 0);
}
