//! Invitations, and the KeyPackages by which they are kept.

use openmls::prelude::{
    Capabilities, CredentialType, ExtensionType, MlsMessageOut, ProposalType, ProtocolVersion,
};
use postern_protocol::mls::{DELIVERY_ADDRESS, GROUP_POLICY, USER_KEY};
use tls_codec::VLBytes;

use super::*;
use crate::{
    group::{
        add_invited, add_invited_client, invited, strayed, try_another_key_package, why_not_added,
        withdraw_invitation,
    },
    invitations,
    key_packages::keep_batch,
};

/// The place of the init key in an `MLSMessage` with a KeyPackage: after four numbers of two bytes, and a length.
const INIT_KEY: usize = 9;
/// The place of the leaf, which begins with the length of its encryption key.
const LEAF: usize = INIT_KEY + 32;
const ENCRYPTION_KEY: usize = LEAF + 1;
/// The length of a signature. The leaf ends with one, and so does the KeyPackage.
const SIGNATURE: usize = 64;
/// The same, with the two bytes before it that say so.
const SIGNED: usize = SIGNATURE + 2;

/// A one-time KeyPackage with other keys to encrypt to, signed anew.
fn with_keys(
    key_package: &MlsMessage,
    signer: &SigningKey,
    init_key: Option<[u8; 32]>,
    encryption_key: Option<[u8; 32]>,
) -> MlsMessage {
    let mut bytes = key_package.as_bytes().to_vec();
    // Between the leaf and the signature there are no extensions.
    let (end, leaf_end) = (bytes.len(), bytes.len() - SIGNED - 1);
    assert_eq!(bytes[leaf_end], 0);
    for (place, key) in [(INIT_KEY, init_key), (ENCRYPTION_KEY, encryption_key)] {
        if let Some(key) = key {
            bytes[place..place + key.len()].copy_from_slice(&key);
        }
    }
    let sign = |label: &str, content: &[u8]| {
        let part = |bytes: &[u8]| VLBytes::new(bytes.to_vec()).tls_serialize_detached().unwrap();
        let parts = [part(format!("MLS 1.0 {label}").as_bytes()), part(content)];
        signer.sign(&parts.concat()).into_bytes()
    };
    let signature = sign("LeafNodeTBS", &bytes[LEAF..leaf_end - SIGNED]);
    bytes[leaf_end - SIGNATURE..leaf_end].copy_from_slice(&signature);
    let signature = sign("KeyPackageTBS", &bytes[4..end - SIGNED]);
    bytes[end - SIGNATURE..].copy_from_slice(&signature);
    MlsMessage::new(bytes)
}

fn encryption_key(key_package: &MlsMessage) -> [u8; 32] {
    key_package.as_bytes()[ENCRYPTION_KEY..ENCRYPTION_KEY + 32].try_into().unwrap()
}

fn client_key(person: &Person) -> PublicKey {
    person.account().client_key().public_key()
}

fn invite(inviter: &Person, id: &GroupId, others: &[&Person]) {
    inviter.knows(others);
    inviter
        .store
        .write(|tx| others.iter().try_for_each(|it| invitations::invite(tx, id, &client_key(it), &it.user)))
        .unwrap();
}

#[test]
fn a_key_package_that_groups_do_not_take_is_not_kept() {
    let Trio { alice, carol, .. } = Trio::alone();
    let (account, pseudonym) = (carol.account(), Pseudonym::random());
    let friend = FriendshipSecrets::generate().unwrap().friend.clone();
    let make = |tx: &Tx<'_>| make_key_package(tx, &account, &friend, &delivery(), pseudonym, false);
    let own = carol.store.write(make).unwrap();
    let key = carol.store.read(|tx| leaf::key(tx, &own.leaf_key)).unwrap().unwrap();
    let opens = |key_package: MlsMessage| {
        let bytes = key_package.as_bytes();
        let is_valid = |tx: &Tx<'_>| Ok(mls::parse_key_package(bytes, tx.crypto()).is_some());
        assert!(alice.store.read(is_valid).unwrap(), "openmls finds it valid");
        let attachment = own.package.attachment.clone();
        let stocked = StockedKeyPackage { key_package, attachment };
        alice.store.read(|tx| Ok(open_key_package(tx, &friend, &stocked).is_some())).unwrap()
    };
    let made = |capabilities: Capabilities, identity: &[u8]| {
        carol
            .store
            .write(|tx| {
                let extensions = leaf::extensions(&delivery(), &leaf::new_user_key(tx, 0)?)?;
                let credential = mls::credential(identity.to_vec(), own.leaf_key);
                let bundle = KeyPackage::builder()
                    .key_package_lifetime(mls::lifetime())
                    .leaf_node_capabilities(capabilities)
                    .leaf_node_extensions(extensions)
                    .build(CIPHERSUITE, tx, &LeafSigner(&key), credential)
                    .unwrap();
                mls::message_bytes(&MlsMessageOut::from(bundle.key_package().clone())).map(MlsMessage::new)
            })
            .unwrap()
    };
    let capabilities = |extensions: &[u16], proposals: &[ProposalType]| {
        let extensions: Vec<_> = extensions.iter().copied().map(ExtensionType::Unknown).collect();
        Capabilities::new(
            Some(&[ProtocolVersion::Mls10]),
            Some(&[CIPHERSUITE]),
            Some(&extensions),
            Some(proposals),
            Some(&[CredentialType::Basic]),
        )
    };
    let all = [GROUP_POLICY, DELIVERY_ADDRESS, USER_KEY];
    let leaves = [ProposalType::SelfRemove];
    assert!(opens(made(capabilities(&all, &leaves), &pseudonym.0)));
    assert!(!opens(made(capabilities(&all[1..], &leaves), &pseudonym.0)), "without 0xf0a1");
    assert!(!opens(made(capabilities(&all, &[]), &pseudonym.0)), "without SelfRemove");
    assert!(!opens(made(capabilities(&all, &leaves), &pseudonym.0[1..])), "that is no pseudonym");

    let with = |init, encryption| opens(with_keys(&own.package.key_package, &key, init, encryption));
    assert!(with(Some(rand::random()), Some(rand::random())));
    // Whatever is encrypted to this point, all have the same secret.
    assert!(!with(Some([0; 32]), None), "its init key");
    assert!(!with(None, Some([0; 32])), "its leaf's key");
}

#[test]
fn a_key_package_that_a_server_hands_out_as_a_users_is_kept_only_if_its_client_is_the_users() {
    let Trio { alice, bob, carol, issuer, .. } = Trio::alone();
    let mallory = person("mallory", &issuer);
    alice.knows(&[&bob, &carol]);
    drop(alice.events());
    // Carol and Mallory have it, too.
    let bobs = FriendshipSecrets::generate().unwrap().friend.clone();
    let own_key = client_key(&alice);
    let is_kept = |maker: &Person, name: &UserName| {
        let (mut account, client_key) = (maker.account(), client_key(maker));
        let (not_before, not_after, issuer_key) = (0, u64::MAX, issuer.public_key());
        let credential =
            ClientCredential { user: name.clone(), client_key, not_before, not_after, issuer_key };
        account.credential = Some(credential.issue(&issuer));
        let make =
            |tx: &Tx<'_>| make_key_package(tx, &account, &bobs, &delivery(), Pseudonym::random(), false);
        let package = maker.store.write(make).unwrap().package;
        alice
            .store
            .write(|tx| {
                let packages = [open_key_package(tx, &bobs, &package)];
                assert!(packages[0].is_some(), "the client and the leaf signed each other");
                keep_batch(tx, &bob.user, &own_key, &packages)?;
                Ok(key_package_of(tx, &client_key)?.is_some())
            })
            .unwrap()
    };
    for (what, maker, name) in [
        ("another user's", &carol, &carol.user),
        ("another user's client that is called Bob", &carol, &bob.user),
        ("a client that nobody knows and that is called Bob", &mallory, &bob.user),
        ("his client that is called otherwise", &bob, &carol.user),
    ] {
        assert!(!is_kept(maker, name), "{what}");
        let events = alice.events();
        assert!(matches!(events.as_slice(), [Event::Ignored { .. }]), "{what}: {events:?}");
    }
    assert!(is_kept(&bob, &bob.user));
    assert_eq!(alice.events(), []);
}

#[test]
fn who_has_the_key_of_another_who_is_invited_keeps_nobody_else_out() {
    let Trio { alice, bob, carol, id, issuer } = Trio::alone();
    let mallory = person("mallory", &issuer);
    invite(&alice, &id, &[&carol, &mallory, &bob]);
    // Mallory has seen a KeyPackage of Carol's.
    let mut carols = None;
    carol.offer_changed(Pseudonym::random(), &alice, |_, key_package| {
        carols = Some(encryption_key(&key_package));
        key_package
    });
    mallory.offer_changed(Pseudonym::random(), &alice, |key, key_package| {
        with_keys(&key_package, key, None, carols)
    });
    bob.offer_to(&alice);
    let adds = |invited: Option<&Person>| {
        alice.store.write(|tx| {
            let mut group = GroupState::load(tx, &id)?;
            let change = match invited {
                Some(invited) => add_invited_client(tx, &group, &client_key(invited))?,
                None => add_invited(tx, &group)?,
            };
            group.stage_commit(tx, &change.expect("they are at hand"))
        })
    };
    let why_not = |error: &Error| alice.store.write(|tx| Ok(why_not_added(tx, &id, error))).unwrap();
    let failed = adds(None).unwrap_err();
    assert!(matches!(failed, Error::Mls { .. }), "{failed}");
    assert_eq!(why_not(&failed), Some(failed.to_string()));
    assert!(alice.outstanding(&id).is_none(), "nothing was changed");

    // Each alone.
    adds(Some(&carol)).unwrap();
    assert_eq!(why_not(&failed), None, "no other commit can be made, either");
    alice.confirm(&id);
    let failed = adds(Some(&mallory)).unwrap_err();
    assert!(why_not(&failed).is_some(), "{failed}");
    alice.store.write(|tx| withdraw_invitation(tx, &id, &client_key(&mallory))).unwrap();
    adds(Some(&bob)).unwrap();
    alice.confirm(&id);
    let mut users: Vec<_> = alice.members(&id).into_iter().filter_map(|member| member.user).collect();
    users.sort();
    assert_eq!(users, [&alice, &bob, &carol].map(|it| it.user.clone()));
    assert_eq!(alice.store.read(|tx| invitations::of_group(tx, &id)).unwrap(), []);
    assert_eq!(why_not(&Error::NotMember), None, "that is nobody's who is invited");
}

#[test]
fn a_group_that_waits_for_a_client_whose_key_package_another_group_refused_gets_another() {
    let Trio { alice, carol, id, .. } = Trio::alone();
    let other = alice.create();
    [&id, &other].into_iter().for_each(|group| invite(&alice, group, &[&carol]));
    carol.offer_to(&alice);
    let withdraw = |group: &GroupId| {
        alice.store.write(|tx| withdraw_invitation(tx, group, &client_key(&carol))).unwrap();
        alice.store.read(invitations::wanted_key_packages).unwrap()
    };
    assert_eq!(withdraw(&id), std::slice::from_ref(&carol.user));
    assert_eq!(alice.store.read(|tx| invitations::of_group(tx, &other)).unwrap(), [client_key(&carol)]);
    alice.store.write(|tx| invitations::fetched(tx, &carol.user)).unwrap();
    assert_eq!(withdraw(&other), [], "nobody waits any more");
}

#[test]
fn a_group_that_refuses_a_key_package_leaves_those_that_other_groups_can_use() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let other = alice.create();
    [&id, &other].into_iter().for_each(|group| invite(&alice, group, &[&carol]));
    let taken = bob.pseudonym(&id);
    let other_place = carol.offer_as(taken, &alice);
    let [refused, good] = [(); 2].map(|()| carol.offer_to(&alice));
    let adds = |group: &GroupId| {
        let change = alice.store.write(|tx| add_invited(tx, &GroupState::load(tx, group)?)).unwrap();
        let Some(Change::Add(leaf_keys)) = change else { panic!("she is invited") };
        leaf_keys
    };
    assert_eq!(adds(&id), [refused]);
    alice.store.write(|tx| withdraw_invitation(tx, &id, &client_key(&carol))).unwrap();
    assert_eq!(alice.store.read(invitations::wanted_key_packages).unwrap(), [], "there are others");
    assert_eq!(adds(&other), [other_place], "it is taken in one group only");
    invite(&alice, &id, &[&carol]);
    assert_eq!(adds(&id), [good]);
}

/// Whether the pseudonyms are free of those whom a member invited and whose KeyPackages are at hand; and whom it would add, of all
/// and of this one alone.
fn would_add(inviter: &Person, id: &GroupId, alone: &Person) -> (Vec<bool>, [Vec<PublicKey>; 2]) {
    let decide = |tx: &Tx<'_>| -> Result<_> {
        let group = GroupState::load(tx, id)?;
        let are_free: Vec<_> = invited(tx, &group)?.iter().map(|it| it.is_free).collect();
        let changes = [add_invited(tx, &group)?, add_invited_client(tx, &group, &client_key(alone))?];
        Ok((are_free, changes))
    };
    let (are_free, changes) = inviter.store.write(decide).unwrap();
    let leaf_keys = changes.map(|change| match change {
        Some(Change::Add(leaf_keys)) => leaf_keys,
        None => Vec::new(),
        Some(other) => panic!("{other:?}"),
    });
    (are_free, leaf_keys)
}

#[test]
fn of_the_key_packages_at_hand_one_serves_whose_pseudonym_is_free() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let taken = bob.pseudonym(&id);
    invite(&alice, &id, &[&carol]);
    carol.offer_as(taken, &alice);
    assert_eq!(would_add(&alice, &id, &carol), (vec![false], [vec![], vec![]]));
    let free = carol.offer_to(&alice);
    assert_eq!(would_add(&alice, &id, &carol), (vec![true], [vec![free], vec![free]]));
}

#[test]
fn nobody_comes_in_by_the_pseudonym_of_an_admin_who_left() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let bobs = bob.pseudonym(&id);
    let naming = alice.stage(&id, &Change::Admins(vec![alice.pseudonym(&id), bobs]));
    alice.confirm(&id);
    bob.receive(&naming.message).unwrap();
    bob.store.write(|tx| GroupState::load(tx, &id)?.stage_leaving(tx)).unwrap();
    alice.receive(&bob.outstanding(&id).unwrap().message).unwrap();
    alice.stage(&id, &Change::Update);
    alice.confirm(&id);
    assert_eq!(alice.members(&id).len(), 1);
    invite(&alice, &id, &[&carol]);
    carol.offer_as(bobs, &alice);
    assert_eq!(would_add(&alice, &id, &carol), (vec![false], [vec![], vec![]]));
}

/// The domain of the group's server is nowhere: nothing is asked of it.
#[tokio::test]
async fn who_cannot_follow_a_group_withdraws_no_invitation_into_it() {
    let Trio { alice, bob, carol, id, .. } = Trio::with_bob();
    let taken = bob.pseudonym(&id);
    invite(&alice, &id, &[&carol]);
    carol.offer_as(taken, &alice);
    let session = alice.session();
    let step = session.store.step().await.unwrap();
    let waiting = || alice.store.read(|tx| invitations::of_group(tx, &id)).unwrap();
    alice.store.write(|tx| strayed::leave_to_person(tx, &id)).unwrap();
    let refused = session.add_invited(&step, &id).await.unwrap_err();
    assert!(matches!(refused, Error::CannotFollow), "{refused}");
    assert_eq!(waiting(), [client_key(&carol)], "by now the pseudonym may be free");
    alice.store.write(|tx| strayed::back(tx, &id)).unwrap();
    session.add_invited(&step, &id).await.unwrap();
    assert_eq!(waiting(), []);
}

#[test]
fn whose_key_package_expired_while_a_group_waits_gives_another() {
    let Trio { alice, carol, id, .. } = Trio::alone();
    invite(&alice, &id, &[&carol]);
    carol.offer_to(&alice);
    let wanted = || {
        alice.store.write(|tx| invited(tx, &GroupState::load(tx, &id)?).map(drop)).unwrap();
        alice.store.read(invitations::wanted_key_packages).unwrap()
    };
    assert_eq!(wanted(), []);
    // It cannot be used any more, whatever the reason.
    let spoil = "UPDATE key_packages SET key_package = x'00'";
    alice.store.write(|tx| Ok(tx.sql().execute(spoil, [])?)).unwrap();
    assert_eq!(wanted(), [carol.user]);
}

/// A KeyPackage of nobody's that is good for so many more days.
fn good_for(maker: &Person, days: u64) -> MlsMessage {
    let make = |tx: &Tx<'_>| {
        let extensions = leaf::extensions(&delivery(), &leaf::new_user_key(tx, 0)?)?;
        let lifetime = Lifetime::init(tx.now() - 60, tx.now() + days * 24 * 60 * 60);
        let made = key_package(tx, &Pseudonym::random().0, lifetime, extensions);
        mls::message_bytes(&MlsMessageOut::from(made)).map(MlsMessage::new)
    };
    maker.store.write(make).unwrap()
}

#[test]
fn nobody_is_invited_by_a_key_package_that_would_have_ended_when_the_last_member_elsewhere_reads_of_it() {
    let Trio { alice, carol, id, .. } = Trio::alone();
    invite(&alice, &id, &[&carol]);
    carol.offer_to(&alice);
    for (days, expected, wanted) in [(47, 1, vec![]), (45, 0, vec![carol.user.clone()])] {
        let key_package = good_for(&carol, days);
        let sql = "UPDATE key_packages SET key_package = ?1";
        alice.store.write(|tx| Ok(tx.sql().execute(sql, [key_package.as_bytes()])?)).unwrap();
        let found = alice.store.write(|tx| invited(tx, &GroupState::load(tx, &id)?)).unwrap();
        assert_eq!(found.len(), expected, "good for {days} days");
        assert_eq!(alice.store.read(invitations::wanted_key_packages).unwrap(), wanted);
    }
}

#[test]
fn after_a_refusal_another_key_package_of_who_is_invited_is_asked_for_once() {
    let Trio { alice, carol, id, .. } = Trio::alone();
    let other = alice.create();
    invite(&alice, &id, &[&carol]);
    for _ in 0..2 {
        carol.offer_to(&alice);
    }
    let client_key = client_key(&carol);
    let tries =
        |group: &GroupId| alice.store.write(|tx| try_another_key_package(tx, group, &client_key)).unwrap();
    let is_at_hand = || alice.store.write(|tx| key_package_of(tx, &client_key)).unwrap().is_some();
    let wanted = || alice.store.read(invitations::wanted_key_packages).unwrap();
    assert!(!tries(&other) && is_at_hand(), "nobody is invited there");
    assert!(tries(&id) && !is_at_hand(), "all at hand may be as old");
    assert_eq!(wanted(), std::slice::from_ref(&carol.user));
    alice.store.write(|tx| invitations::fetched(tx, &carol.user)).unwrap();
    carol.offer_to(&alice);
    assert!(!tries(&id) && is_at_hand());
    assert_eq!(wanted(), []);
}
