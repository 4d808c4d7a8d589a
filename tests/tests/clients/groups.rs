//! Members' work for a group that nobody asks for (DS-10), and the attributes that they keep in it (DS-12).

use std::time::Duration;

use postern_client::{Client, Error, Event, Options};
use postern_protocol::ds::GroupId;
use postern_tests_kit::{PATIENCE, World, befriend, joined};

/// The same device, as it acts with these options.
fn with(client: Client, options: Options) -> Client {
    let directory = client.directory().to_owned();
    drop(client);
    Client::builder(directory).options(options).open().unwrap()
}

fn eager() -> Options {
    Options { accept_contacts: true, durable: false, commit_within: Duration::ZERO, ..Options::default() }
}

/// A client that waits for others to do it.
fn patient() -> Options {
    Options { commit_within: Duration::from_secs(1_000_000_000), ..eager() }
}

async fn receive(client: &Client) {
    client.receive(Duration::ZERO).await.unwrap();
}

/// Alice's group with Bob and Carol, who have seen each other.
async fn group_of_three(world: &World) -> ([Client; 3], GroupId) {
    let people = [world.person("alice").await, world.person("bob").await, world.person("carol").await];
    let group = people[0].create_group("three").await.unwrap().id().clone();
    for friend in &people[1..] {
        befriend(&people[0], friend, &group).await;
        joined(friend, 1).await;
    }
    for client in &people {
        receive(client).await;
    }
    (people, group)
}

#[tokio::test]
async fn a_device_that_only_listens_renews_its_keys_when_they_are_old() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, _carol], group) = group_of_three(&world).await;
    let epoch = bob.group_with_id(&group).epoch().unwrap();
    receive(&bob).await;
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch, "they are new");
    let bob = with(bob, Options { update_every: Duration::ZERO, ..patient() });
    receive(&bob).await;
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch + 1);
    let bob = with(bob, patient());
    receive(&bob).await;
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch + 1, "once");
    let renewed = |event: &Event| matches!(event, Event::Updated { .. });
    let events = alice.sync_until(PATIENCE, renewed).await.unwrap();
    assert!(events.iter().any(renewed), "{events:?}");
}

#[tokio::test]
async fn what_somebody_proposed_is_committed_though_nobody_says_anything() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let epoch = alice.group_with_id(&group).epoch().unwrap();
    carol.group_with_id(&group).leave().await.unwrap();
    let bob = with(bob, patient());
    let carol = with(carol, Options { update_every: Duration::ZERO, ..eager() });
    receive(&bob).await;
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch, "it is not his turn yet");
    receive(&carol).await;
    assert_eq!(carol.group_with_id(&group).epoch().unwrap(), epoch, "who leaves commits nothing");
    let alice = with(alice, eager());
    receive(&alice).await;
    assert_eq!(
        (alice.group_with_id(&group).epoch().unwrap(), alice.group_with_id(&group).members().unwrap().len()),
        (epoch + 1, 2)
    );
    receive(&bob).await;
    assert_eq!(bob.group_with_id(&group).epoch().unwrap(), epoch + 1);
    receive(&carol).await;
    assert!(matches!(carol.group_with_id(&group).epoch(), Err(Error::NotMember)));

    // When it is everyone's turn, one is first, and the others follow.
    let [alice, bob] =
        [alice, bob].map(|client| with(client, Options { update_every: Duration::ZERO, ..eager() }));
    let (one, other) = tokio::join!(alice.receive(Duration::ZERO), bob.receive(Duration::ZERO));
    one.and(other).unwrap();
    let (alice, bob) = (with(alice, patient()), with(bob, patient()));
    receive(&alice).await;
    receive(&bob).await;
    assert_eq!(alice.group_with_id(&group).epoch().unwrap(), bob.group_with_id(&group).epoch().unwrap());
    assert!(alice.group_with_id(&group).epoch().unwrap() > epoch + 1);
    alice.group_with_id(&group).send("still together").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "still together");
    assert!(bob.sync_until(PATIENCE, said).await.unwrap().iter().any(said));
}

#[tokio::test]
async fn what_members_keep_beside_their_leaves_they_alone_can_read_and_it_goes_with_them() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    alice.group_with_id(&group).set_attributes(b"likes rope").await.unwrap();
    bob.group_with_id(&group).set_attributes(b"likes maps").await.unwrap();
    bob.group_with_id(&group).set_attributes(b"likes huts").await.unwrap();
    receive(&carol).await;
    let read = async |client: &Client| {
        let mut kept: Vec<_> = client.group_with_id(&group).attributes().await.unwrap();
        kept.sort();
        kept.into_iter().map(|(_, content)| content).collect::<Vec<_>>()
    };
    for client in [&alice, &bob, &carol] {
        let mut found = read(client).await;
        found.sort();
        assert_eq!(found, [b"likes huts".to_vec(), b"likes rope".to_vec()], "{}", client.user());
    }

    // Others' commits leave it as it is, and somebody new finds it.
    carol.group_with_id(&group).update().await.unwrap();
    let dave = world.person("dave").await;
    befriend(&alice, &dave, &group).await;
    joined(&dave, 1).await;
    receive(&alice).await;
    receive(&dave).await;
    assert_eq!(read(&dave).await.len(), 2);
    alice.group_with_id(&group).remove(bob.user()).await.unwrap();
    receive(&dave).await;
    assert_eq!(read(&dave).await, [b"likes rope".to_vec()]);
    let refused = bob.group_with_id(&group).attributes().await;
    assert!(refused.is_err(), "who was removed sees nothing any more");
    let dump = world.admin.query_one("SELECT tree FROM ds.groups", &[]).await.unwrap();
    let tree: Vec<u8> = dump.get(0);
    assert!(!tree.windows(10).any(|part| part == b"likes rope"));
}
