//! The clients of a server that was restored.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use postern_client::{Client, DeviceState, Error, Event};
use postern_protocol::{ds::GroupId, problem::ProblemType, qs::QueueKind};
use postern_tests_kit::{
    Call, DataDir, HOME, PATIENCE, Server, World, befriend, eventually, joined, postern, program, with,
};
use tempfile::TempDir;
use tokio::process::Command;

use super::{
    fails, hears, into, on, patient,
    rights::{assert_same, definitions},
    succeeds, sync,
};
use crate::own_address;

/// A world whose server is to be restored, and the backup of a moment of it.
struct Lost {
    world: World,
    backups: TempDir,
}

impl Lost {
    async fn of(world: World) -> Self {
        let backups = tempfile::tempdir().unwrap();
        let lost = Self { world, backups };
        let said = succeeds(&mut on(&lost.world.cluster, "backup", &lost.dir())).await;
        assert!(said.contains("verified") && said.contains("the master key is not in it"), "{said}");
        assert_without_key(&lost.dir(), lost.world.cluster.master_key()).await;
        lost
    }

    fn dir(&self) -> std::path::PathBuf {
        self.backups.path().join("today")
    }

    /// Everything is destroyed, and restored elsewhere; the server comes back at its address.
    async fn restored(mut self) -> (World, DataDir) {
        let address = self.world.server().address();
        for server in self.world.servers.drain(..) {
            server.kill().await;
        }
        self.world.cluster.kill_postgres();
        let data_dir = DataDir::fresh();
        let said = succeeds(&mut into(&data_dir, &self.dir(), self.world.cluster.master_key())).await;
        assert!(said.contains("generation ") && said.contains("restored: "), "{said}");
        let server = Server::embedded(&data_dir)
            .env("POSTERN_MASTER_KEY", self.world.cluster.master_key())
            .listen(address);
        self.world.servers.push(server.start().await);
        (self.world, data_dir)
    }
}

/// Asserts that neither the files of a backup nor what the dump in it says hold the master key.
async fn assert_without_key(dir: &Path, key: &str) {
    let mut places = vec![dir.to_owned()];
    let mut contents = Vec::new();
    while let Some(place) = places.pop() {
        match place.is_dir() {
            true => places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path())),
            false => contents.push(fs::read(&place).unwrap()),
        }
    }
    assert!(contents.len() > 2, "a manifest, what vouches for it, and the dump");
    // It is compressed, and has bytes in hex.
    let dump = Command::new(program("pg_restore")).arg("--file=-").arg(dir.join("database")).output().await;
    let dump = dump.expect("it runs");
    assert!(dump.status.success() && dump.stdout.len() > 100_000, "all of it is read");
    contents.push(dump.stdout);
    for wanted in [hex::decode(key).unwrap(), key.as_bytes().to_vec(), key.to_uppercase().into_bytes()] {
        let holds = |content: &Vec<u8>| content.windows(wanted.len()).any(|part| part == wanted);
        assert!(!contents.iter().any(holds), "the master key is in the backup");
    }
}

async fn person(world: &World, name: &str) -> Client {
    with(world.person(name).await, patient())
}

/// Everyone says something, and everyone else hears it.
async fn all_hear_each_other(people: &[&Client], group: &GroupId) {
    for speaker in people {
        let words = format!("{} speaks", speaker.user());
        speaker.group_with_id(group).send(&words).await.unwrap_or_else(|error| panic!("{words}: {error}"));
        for listener in people.iter().filter(|listener| listener.user() != speaker.user()) {
            hears(listener, &words).await;
        }
    }
}

/// The queues of which a client was told that they were restored.
fn restored(events: &[Event]) -> Vec<QueueKind> {
    let kind = |event: &Event| match event {
        Event::Restored { kind } => Some(*kind),
        _ => None,
    };
    events.iter().filter_map(kind).collect()
}

/// The KeyPackages that a server would hand out, and the friendships whose they are.
async fn stock(dir: &DataDir) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let rows =
        dir.admin().await.query("SELECT friendship_id, sealed FROM qs.key_packages", &[]).await.unwrap();
    let stock: BTreeSet<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(!stock.is_empty(), "there are some");
    stock
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_clients_go_on_at_a_server_that_was_restored_elsewhere() {
    let world = World::builder().listen(vec![own_address()]).start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "climbing").await;
    world
        .admin
        .batch_execute("CREATE ROLE \"o'neil\" LOGIN; GRANT postern_operator TO \"o'neil\"")
        .await
        .unwrap();
    alice.group_with_id(&group).send("before the backup").await.unwrap();
    let before = definitions(world.cluster.socket_dir()).await;
    let lost = Lost::of(world).await;
    fails(&mut on(&lost.world.cluster, "backup", &lost.dir()), "exists already").await;
    let (world, data_dir) = lost.restored().await;
    assert_same(&before, &definitions(&data_dir.path().join("run")).await);
    let of_before = stock(&data_dir).await;

    let events = hears(&bob, "before the backup").await;
    assert_eq!(
        restored(&events).len(),
        2,
        "what was there is read, and both queues are restored: {events:?}"
    );
    alice.group_with_id(&group).send("after the restore").await.unwrap();
    let events = hears(&bob, "after the restore").await;
    assert_eq!(restored(&events), [], "told once");
    bob.group_with_id(&group).send("and back").await.unwrap();
    hears(&alice, "and back").await;
    let came_back = |event: &Event| matches!(event, Event::CannotFollow { .. } | Event::Returned { .. });
    assert!(!sync(&bob).await.iter().chain(&events).any(came_back), "nobody was ahead");

    // Some of the KeyPackages of before may have been handed out in the lost time.
    eventually("both have published others", async || {
        sync(&alice).await;
        sync(&bob).await;
        let now = stock(&data_dir).await;
        let owners = |stock: &BTreeSet<(Vec<u8>, Vec<u8>)>| {
            stock.iter().map(|(friendship, _)| friendship.clone()).collect::<BTreeSet<_>>()
        };
        (owners(&now) == owners(&of_before) && now.is_disjoint(&of_before)).then_some(())
    })
    .await;

    let check = ["check", "--embedded", "--domain", HOME, "--data-dir"];
    let key = "POSTERN_MASTER_KEY";
    let report =
        succeeds(postern().args(check).arg(data_dir.path()).env(key, world.cluster.master_key())).await;
    assert!(report.contains("ok       generation: ") && report.contains("since a restore"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_ahead_of_a_restored_server_come_back_and_say_what_may_be_missing() {
    let world = World::builder().listen(vec![own_address()]).tokens(10).start().await;
    let (alice, bob) = (person(&world, "alice").await, person(&world, "bob").await);
    let carol = person(&world, "carol").await;
    let climbing = &alice.create_group("climbing").await.unwrap().id().clone();
    let attic = &alice.create_group("attic").await.unwrap().id().clone();
    for friend in [&bob, &carol] {
        befriend(&alice, friend, climbing).await;
        joined(friend, 1).await;
        alice.group_with_id(attic).invite(friend.user()).await.unwrap();
        let added = |event: &Event| matches!(event, Event::Added { group, .. } if group == attic);
        alice.sync_until(PATIENCE, added).await.unwrap();
        joined(friend, 1).await;
    }
    for client in [&alice, &bob, &carol, &alice, &bob, &carol] {
        sync(client).await;
    }
    let lost = Lost::of(world).await;

    // All of this is forgotten: words, commits, a removal, a device, acknowledgements, a spent token. Carol sees nothing of
    // it.
    for client in [&alice, &bob] {
        client.group_with_id(climbing).update().await.unwrap();
        client.group_with_id(climbing).send("forgotten").await.unwrap();
    }
    alice.group_with_id(attic).remove(carol.user()).await.unwrap();
    for client in [&alice, &bob, &alice, &bob] {
        sync(client).await;
    }
    let laptop = lost.world.device(&alice, "laptop").await;
    sync(&laptop).await;
    let spent = lost.world.paid(Call::post("/ds/group-ids")).wire();
    lost.world.send(&spent).await.assert_ok("a token");
    let (world, _data_dir) = lost.restored().await;
    let refused = world.send(&spent).await;
    refused.assert_problem("a token that was spent in the lost time", ProblemType::TokenRequired);

    let mut events = vec![Vec::new(); 3];
    for _ in 0..4 {
        for (client, events) in [&alice, &bob, &carol].into_iter().zip(&mut events) {
            events.extend(sync(client).await);
        }
    }
    for events in &events {
        let mut kinds = restored(events);
        kinds.sort_by_key(|kind| kind.as_str());
        assert_eq!(kinds, [QueueKind::Contact, QueueKind::Group], "each says so once: {events:?}");
    }
    for events in &events[..2] {
        let back = |event: &&Event| matches!(event, Event::Returned { group, .. } if group == climbing);
        assert_eq!(events.iter().filter(back).count(), 1, "those that were ahead came back: {events:?}");
    }
    all_hear_each_other(&[&alice, &bob, &carol], climbing).await;

    // The identity goes on where it was, by the same commits.
    eventually("the laptop is one of alice's devices again", async || {
        let _not_yet = laptop.sync(Duration::ZERO).await;
        sync(&alice).await;
        let devices = alice.devices().await.ok()?;
        (devices.len() == 2 && devices.iter().all(|it| it.state == DeviceState::Confirmed)).then_some(())
    })
    .await;
    let seen = bob.look_up(alice.user()).await.unwrap();
    assert_eq!(seen.clients.len(), 2, "nobody sees another history: {seen:?}");

    // Members that were removed are back, and nobody takes that for granted.
    for (client, events) in [&alice, &bob].into_iter().zip(&events) {
        let strangers = |event: &Event| matches!(event, Event::Strangers { group, .. } if group == attic);
        assert!(events.iter().any(strangers), "a person decides: {events:?}");
        let Err(Error::Strangers(differences)) = client.group_with_id(attic).rejoin().await else {
            panic!("nobody knows why carol is there");
        };
        assert_eq!(differences.strangers.len(), 1, "{differences:?}");
        client.group_with_id(attic).rejoin_accepting(&differences).await.unwrap();
    }
    sync(&alice).await;
    alice.group_with_id(attic).remove(carol.user()).await.unwrap();
    sync(&bob).await;
    alice.group_with_id(attic).send("without carol").await.unwrap();
    hears(&bob, "without carol").await;
    // New people are added by KeyPackages that nobody used.
    let dave = person(&world, "dave").await;
    befriend(&bob, &dave, &bob.create_group("cellar").await.unwrap().id().clone()).await;
    joined(&dave, 1).await;
}
