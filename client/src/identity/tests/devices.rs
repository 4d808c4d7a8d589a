//! Commits of the user's own devices, and devices that are silent.

use postern_protocol::ds::GroupId;

use super::*;
use crate::{identity::IdentityLink, store::encode};

const DAY: u64 = 24 * 60 * 60;

/// The user's other devices that were silent for 90 days, as this one looks at them.
async fn silent(server: &As, device: &Device) -> Vec<PublicKey> {
    let found = lookup::find(server, &device.store, &alice()).await.unwrap();
    device.write(|tx| silence::watch(tx, &found, &device.public_key(), 90 * DAY))
}

#[tokio::test]
async fn silence_is_what_this_device_saw_and_no_forged_credential() {
    let (phone, mut server, _) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let look = async |server: &As| silent(server, &phone).await;
    let with_end = |server: &As, end| server.credential(laptop.public_key(), end);
    let passes = |days: u64| phone.write(|tx| silence::pass_time(tx, days * DAY));
    server.clients[1].credential = with_end(&server, now() + 90 * DAY);
    assert_eq!(look(&server).await, []);

    // A credential that ended long ago, and that nobody signed, along with the good one or in its place.
    let forged = ClientCredential {
        user: alice(),
        client_key: laptop.public_key(),
        not_before: 0,
        not_after: 1,
        issuer_key: server.issuer.public_key(),
    }
    .issue(&SigningKey::generate());
    let forged = ClientRecord { credential: forged, contact: None };
    let beside = forged.clone();
    server.lie(move |record| record.clients.push(beside.clone()));
    let refused = lookup::find(&server, &phone.store, &alice()).await.map(|found| found.user);
    assert!(matches!(refused, Err(Error::Identity(IdentityError::NotADevice))), "{refused:?}");
    server.lie(move |record| record.clients[1] = forged.clone());
    assert_eq!(look(&server).await, []);
    // One that ended, and that the AS did sign, is older than another that was seen.
    let old = with_end(&server, now() - 200 * DAY);
    server.lie(move |record| record.clients[1].credential = old.clone());
    assert_eq!(look(&server).await, []);

    // The AS shows none any more, and the last one that was seen has not ended for long.
    server.be_honest();
    let last = server.clients.pop().unwrap();
    assert_eq!(look(&server).await, []);
    passes(170);
    assert_eq!(look(&server).await, [], "its credential ended 80 days ago");
    server.clients.push(last.clone());
    assert_eq!(look(&server).await, [], "it was here again");
    server.clients.pop();
    assert_eq!(look(&server).await, []);
    passes(91);
    assert_eq!(look(&server).await, [], "the end of its credential was put off");
    passes(95);
    assert_eq!(look(&server).await, [laptop.public_key()]);
    server.clients.push(last);
    assert_eq!(look(&server).await, []);
}

#[tokio::test]
async fn a_device_that_was_away_itself_gives_the_others_time() {
    let (phone, mut server, _) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let look = async |server: &As| silent(server, &phone).await;
    assert_eq!(look(&server).await, []);
    phone.write(|tx| silence::pass_time(tx, FAR));
    server.clients.pop();
    assert_eq!(look(&server).await, [], "it may come tomorrow");
    phone.write(|tx| silence::pass_time(tx, 91 * DAY));
    assert_eq!(look(&server).await, [laptop.public_key()]);
}

/// Bob meets the device in a group, by its link, and has seen Alice only without it.
#[tokio::test]
async fn a_device_that_was_removed_before_its_user_was_known_is_to_go_also_once_its_credential_has_ended() {
    let (phone, server, bob) = world();
    sees(&server, &bob).await.unwrap();
    let keys = server.keys(&bob.store, alice().domain()).await.unwrap();
    let group = GroupId::new([7; 16], alice().domain().clone()).to_mls();
    bob.write(|tx| {
        let sql = "INSERT INTO issuers (domain, keys, looked) VALUES (?1, ?2, 0)";
        tx.sql().execute(sql, rusqlite::params![keys.domain.as_str(), encode(&keys)])?;
        let sql = "INSERT INTO groups (group_id, title, leaf_key, active, introduce, next_number, committed)
                   VALUES (?1, 'climbing', x'', 1, 0, 1, 0)";
        tx.sql().execute(sql, [&group])?;
        Ok(())
    });
    // Whether it is to go, with a credential that this key of the AS's, or somebody else's, signed.
    let is_to_go = |client: &SigningKey, not_after: u64, issuer: &SigningKey| {
        let (user, client_key) = (alice(), client.public_key());
        let issuer_key = server.issuer.public_key();
        let credential = ClientCredential { user, client_key, not_before: 0, not_after, issuer_key };
        let link = IdentityLink::sign(client, credential.issue(issuer), None, &SigningKey::generate());
        bob.write(|tx| {
            let sql = "INSERT INTO links (group_id, leaf_key, client_key, user, link, last_number)
                       VALUES (?1, randomblob(32), ?2, ?3, ?4, 0)";
            let (client_key, user) = (client_key.as_bytes(), alice().to_string());
            tx.sql().execute(sql, rusqlite::params![group, client_key, user, encode(&link)])?;
            crate::group::doubt(tx, &alice(), &client.public_key())?;
            let sql = "SELECT EXISTS (SELECT 1 FROM outcasts WHERE client_key = ?1)";
            Ok(tx.sql().query_row(sql, [client_key], |row| row.get::<_, bool>(0))?)
        })
    };
    for not_after in [FAR, now() - DAY, 1] {
        assert!(is_to_go(&SigningKey::generate(), not_after, &server.issuer), "until {not_after}");
        assert!(!is_to_go(&SigningKey::generate(), not_after, &SigningKey::generate()), "nobody's");
        assert!(!is_to_go(&phone.key(), not_after, &server.issuer), "it is in the identity");
    }
}

#[tokio::test]
async fn of_two_devices_that_change_an_identity_at_once_one_wins_and_the_other_goes_on() {
    let (phone, mut server, bob) = world();
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let (first, second) = (phone.make(&Change::Update), laptop.make(&Change::Update));
    server.accept(&phone, &first);
    assert_ne!(first.commit, second.commit);
    // The laptop was refused: it follows, and its own commit never happened.
    look_up(&server, &laptop.store, &alice()).await.unwrap();
    assert!(laptop.write(eid::outstanding).is_none());
    assert_eq!(laptop.write(own_state), phone.write(own_state));
    server.update(&laptop);
    look_up(&server, &phone.store, &alice()).await.unwrap();
    assert_eq!(laptop.write(own_state), phone.write(own_state));
    assert_eq!(sees(&server, &bob).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_in_the_log() {
    let (phone, mut server, _) = world();
    let commit = phone.make(&Change::Update);
    let twin = fork(&phone);
    twin.write(|tx| eid::accepted(tx, &twin.account, &commit));
    server.append(&twin, &commit);
    look_up(&server, &phone.store, &alice()).await.unwrap();
    assert!(phone.write(eid::outstanding).is_none());
    assert_eq!(phone.write(own_state), server.log.current.state.eid);
    // The answer comes after all.
    phone.write(|tx| eid::accepted(tx, &phone.account, &commit));
    assert_eq!(phone.write(own_state), server.log.current.state.eid);
    server.update(&phone);
}

/// The founder's leaf comes from a KeyPackage in epoch 0, as that of a pending device does: with a commit that left it so,
/// no device of the user would be confirmed.
#[test]
fn a_commit_that_does_not_update_its_devices_leaf_is_followed_by_nobody() {
    let (phone, server, _) = world();
    let laptop = Device::new(&alice());
    let new = phone.write(|tx| Ok(eid::parse_device(tx, &alice(), &laptop.request()))).unwrap();
    let follow = |updates: bool| {
        let twin = fork(&phone);
        let commit = twin.write(|tx| {
            let mut group = twin.group(tx);
            let builder = group.commit_builder().force_self_update(updates);
            let bundle = builder
                .propose_adds([new.key_package.clone()])
                .load_psks(tx.storage())
                .unwrap()
                .build(tx.rand(), tx.crypto(), &LeafSigner(&twin.key()), |_| true)
                .unwrap()
                .stage_commit(tx)
                .unwrap();
            mls::message_bytes(&bundle.into_messages().0)
        });
        let current = &server.log.current;
        let mut reader = PublicEid::open(&current.group_info, &current.ratchet_tree).unwrap();
        reader.follow(&alice(), &MlsMessage::new(commit))
    };
    assert_eq!(follow(true), Ok(None));
    assert_eq!(follow(false), Err(IdentityError::History("a commit does not update its device")));
}

#[test]
fn the_key_package_of_a_new_device_outlives_its_readers_patience() {
    let device = Device::new(&alice());
    let request = device.request();
    let found = device.write(|tx| Ok(eid::parse_device(tx, &alice(), &request))).expect("it can be added");
    let left = found.key_package.life_time().not_after() - now();
    assert!(left > 19 * 365 * 24 * 60 * 60, "{left} s");
    let begun = now() - found.key_package.life_time().not_before();
    assert!(begun > 100 * 24 * 60 * 60, "a reader's clock may be behind: {begun} s");
}

#[test]
fn an_identity_survives_its_bytes() {
    let mut phone = Device::new(&alice());
    let mut server = As::with(&mut phone);
    let mut laptop = Device::new(&alice());
    server.link(&phone, &mut laptop);
    let kept = phone.write(|tx| known::own(tx, &alice()));
    let read = PublicEid::decode(&kept.public_group).unwrap();
    assert_eq!(read.encode(), kept.public_group);
    assert_eq!(read.epoch(), 2);
    assert!(PublicEid::decode(&kept.public_group[1..]).is_none());
}
