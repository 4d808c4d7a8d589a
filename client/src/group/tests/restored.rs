//! A DS at another homeserver that was restored to an earlier state (QS-12), to devices that follow it by its messages alone.

use super::{super::strayed, *};

/// Alice's group at another homeserver with Bob, and both as they are at the moment that the DS is put back to; a commit of
/// Alice's, and what she said after it, are of the lost time.
struct Restored {
    alice: Person,
    bob: Person,
    id: GroupId,
    /// Alice as she was then.
    before: Person,
    lost: [MlsMessage; 2],
}

impl Restored {
    fn new() -> Self {
        let issuer = SigningKey::generate();
        let [alice, bob] = ["alice", "bob"].map(|name| person(name, &issuer));
        let id = alice.create_at("other.example");
        alice.add(&id, &[&bob]);
        let before = alice.copy();
        let commit = commits(&alice, &id);
        bob.receive(&commit).unwrap();
        let said = alice.say(&id, "in the lost time");
        bob.receive(&said).unwrap();
        assert_eq!(bob.texts(), ["in the lost time"]);
        Self { alice, bob, id, before, lost: [commit, said] }
    }
}

/// A member commits, and the DS accepts it.
fn commits(member: &Person, id: &GroupId) -> MlsMessage {
    let update = member.stage(id, &Change::Update);
    member.confirm(id);
    update.message
}

/// The effect of a message that comes to somebody.
fn received(person: &Person, message: &MlsMessage) -> Result<(), Rejection> {
    let receives = |tx: &Tx<'_>| Ok(tx.attempt(|| receive(tx, message, &Options::default())));
    person.store.write(receives).unwrap()
}

fn state(person: &Person, id: &GroupId) -> strayed::State {
    person.store.read(|tx| strayed::state(tx, id)).unwrap()
}

#[test]
fn a_commit_that_begins_another_epoch_than_the_one_of_its_number_raises_a_doubt() {
    let Restored { bob, id, before, .. } = Restored::new();
    bob.receive(&commits(&before, &id)).unwrap();
    assert_eq!(state(&bob, &id), strayed::State::Doubtful);
    assert_eq!(bob.store.read(strayed::due).unwrap(), std::slice::from_ref(&id), "it is looked at at once");
    assert!(bob.events().is_empty(), "nothing is known for sure");
}

#[test]
fn a_message_that_does_not_open_with_the_secrets_of_its_epoch_raises_a_doubt() {
    let Restored { bob, id, before, .. } = Restored::new();
    commits(&before, &id);
    let said = before.say(&id, "in another epoch");
    let unfit = received(&bob, &said);
    let Err(Rejection::Unfit { group, members: 2, .. }) = unfit else { panic!("{unfit:?}") };
    assert_eq!(group, id);
}

#[test]
fn what_comes_twice_or_late_raises_none() {
    let Restored { alice, bob, id, lost, .. } = Restored::new();
    let late = alice.say(&id, "before the next commits");
    let own = commits(&bob, &id);
    alice.receive(&own).unwrap();
    let next = commits(&alice, &id);
    bob.receive(&next).unwrap();
    // The outbox of a homeserver sends them again, and this device gets its own commit.
    for message in [&lost[0], &lost[1], &own, &next] {
        bob.receive(message).unwrap();
    }
    bob.receive(&late).unwrap();
    assert_eq!(bob.texts(), ["before the next commits"]);
    assert_eq!(state(&bob, &id), strayed::State::Follows);
}

#[test]
fn a_device_that_came_back_takes_nothing_that_was_on_its_way_for_another_way_of_the_group() {
    let Restored { alice, bob, id, lost, before } = Restored::new();
    let others = [commits(&alice, &id), commits(&alice, &id)];
    let back = bob.rejoin(&id, &alice.shown(&id), &Differences::default()).unwrap();
    alice.receive(&back).unwrap();
    for message in [&lost[0], &others[0], &others[1]] {
        bob.receive(message).unwrap();
    }
    // A homeserver has commits of the time before, which are no other way, either.
    bob.receive(&commits(&before, &id)).unwrap();
    assert_eq!(state(&bob, &id), strayed::State::Follows);
    bob.receive(&alice.say(&id, "all is well")).unwrap();
    assert!(bob.texts().contains(&"all is well".to_owned()));
}

#[test]
fn no_group_at_the_own_homeserver_is_doubted_for_such_messages() {
    let Trio { alice, bob, id, .. } = Trio::with_bob();
    let before = alice.copy();
    bob.receive(&commits(&alice, &id)).unwrap();
    bob.receive(&commits(&before, &id)).unwrap();
    assert_eq!(state(&bob, &id), strayed::State::Follows, "its queue tells");
    let said = before.say(&id, "in another epoch");
    let ignored = received(&bob, &said);
    assert!(matches!(ignored, Err(Rejection::Invalid(_))), "{ignored:?}");
}

#[test]
fn beginnings_of_so_many_epochs_are_kept_and_none_of_a_group_that_is_over() {
    let issuer = SigningKey::generate();
    let alice = person("alice", &issuer);
    let [id, other] = [(); 2].map(|()| alice.create_at("other.example"));
    let kept = || -> u64 {
        let count = |row: &rusqlite::Row<'_>| row.get(0);
        alice.store.read(|tx| Ok(tx.sql().query_row("SELECT count(*) FROM epochs", [], count)?)).unwrap()
    };
    for _ in 0..3 {
        commits(&alice, &id);
    }
    commits(&alice, &other);
    assert_eq!(kept(), 4);
    // A thousand of them are older.
    let sql = "UPDATE epochs SET epoch = epoch - 1000 WHERE group_id = ?1 AND epoch < 3";
    alice.store.write(|tx| Ok(tx.sql().execute(sql, [id.to_mls()])?)).unwrap();
    commits(&alice, &id);
    assert_eq!(kept(), 3);
    alice.store.write(|tx| GroupState::load(tx, &id)?.end(tx)).unwrap();
    assert_eq!(kept(), 1);
}
