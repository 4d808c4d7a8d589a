//! Members' work for a group that nobody asks for (DS-10), the attributes that they keep in it (DS-12), the devices of
//! one user in it, its admins, and its end.

use std::{collections::BTreeSet, time::Duration};

use postern_client::{Client, Error, Event, Options, ProfileChange};
use postern_protocol::{
    account::EndIdentity,
    ds::{GroupId, GroupIdReserved},
    encoding::Encoding,
    key::SigningKey,
    problem::{MEDIA_TYPE, Problem, ProblemType},
    second_proof::{Operation, SecondProof},
};
use postern_tests_kit::{BadLine, Call, PATIENCE, World, befriend, eventually, joined, now};

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
async fn who_cannot_be_added_keeps_nobody_else_out() {
    let world = World::builder().pushing().start().await;
    let [alice, bob, carol] =
        [world.person("alice").await, world.person("bob").await, world.person("carol").await];
    let group = alice.create_group("two").await.unwrap().id().clone();
    let asked = |event: &Event| matches!(event, Event::ContactRequested { .. });
    for friend in [&bob, &carol] {
        alice.group_with_id(&group).invite(friend.user()).await.unwrap();
        // Alice learns of both answers at once, and would add both.
        let events = friend.sync_until(PATIENCE, asked).await.unwrap();
        assert!(events.iter().any(asked), "{events:?}");
        receive(friend).await;
    }
    world.admin.execute("SELECT operator.set_group_limit('max_members', 2)", &[]).await.unwrap();
    let told =
        |event: &Event| matches!(event, Event::Ignored { reason } if reason.contains("cannot be added"));
    let events = alice.sync_until(PATIENCE, told).await.unwrap();
    let reasons: Vec<_> = events.iter().filter(|event| told(event)).collect();
    let [Event::Ignored { reason }] = reasons[..] else { panic!("one of the two: {events:?}") };
    assert!(reason.starts_with(&carol.user().to_string()), "{reason}");
    joined(&bob, 1).await;
    assert_eq!(alice.group_with_id(&group).members().unwrap().len(), 2);
    // Nothing of the invitation is left.
    world.admin.execute("SELECT operator.set_group_limit('max_members', 3)", &[]).await.unwrap();
    receive(&alice).await;
    assert_eq!(alice.group_with_id(&group).members().unwrap().len(), 2);
    assert_eq!(alice.group_with_id(&group).invite(carol.user()).await.unwrap().members, 1);
    joined(&carol, 1).await;
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
async fn a_commit_takes_along_what_was_proposed_since_its_sender_looked() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let (alice, bob) = (with(alice, patient()), with(bob, patient()));
    receive(&bob).await;
    bob.sync(Duration::ZERO).await.unwrap();
    carol.group_with_id(&group).leave().await.unwrap();
    bob.group_with_id(&group).update().await.unwrap();
    receive(&carol).await;
    assert!(matches!(carol.group_with_id(&group).epoch(), Err(Error::NotMember)));
    receive(&alice).await;
    for client in [&alice, &bob] {
        assert_eq!(client.group_with_id(&group).members().unwrap().len(), 2);
    }
    let events = bob.sync(Duration::ZERO).await.unwrap();
    assert!(matches!(&events[..], [Event::Removed { .. }]), "{events:?}");
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

fn names(client: &Client, group: &GroupId) -> Vec<String> {
    let members = client.group_with_id(group).members().unwrap();
    let mut names: Vec<_> = members.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

async fn hears(client: &Client, said: &str) {
    let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == said);
    let events = client.sync_until(PATIENCE, heard).await.unwrap();
    assert!(events.iter().any(heard), "{} hears {said}: {events:?}", client.user());
}

#[tokio::test]
async fn a_second_device_of_a_plain_member_comes_into_all_groups_by_itself_as_the_same_user() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let other = alice.create_group("other").await.unwrap().id().clone();
    alice.group_with_id(&other).invite(bob.user()).await.unwrap();
    joined(&bob, 1).await;

    let tablet = world.device(&bob, "tablet").await;
    receive(&bob).await;
    joined(&tablet, 2).await;
    for client in [&alice, &bob, &carol] {
        receive(client).await;
    }
    let expected = ["alice", "bob", "bob", "carol"].map(|name| format!("{name}@home.example"));
    for client in [&alice, &bob, &carol, &tablet] {
        receive(client).await;
        assert_eq!(names(client, &group), expected, "{} needs no introduction", client.user());
    }
    tablet.group_with_id(&group).send("from the tablet").await.unwrap();
    for client in [&alice, &bob, &carol] {
        hears(client, "from the tablet").await;
    }
    carol.group_with_id(&group).send("to all").await.unwrap();
    for client in [&bob, &tablet] {
        hears(client, "to all").await;
    }
    let titles: Vec<_> = tablet.groups().unwrap().into_iter().map(|found| found.title).collect();
    assert_eq!(titles.len(), 2);
    assert!(titles.contains(&"three".to_owned()) && titles.contains(&"other".to_owned()), "{titles:?}");

    // A group that one of Bob's devices makes later is the other's, too, and both may do what Bob may.
    let own = bob.create_group("own").await.unwrap().id().clone();
    receive(&bob).await;
    joined(&tablet, 1).await;
    tablet.group_with_id(&own).rename("ours").await.unwrap();
    let titled = |event: &Event| matches!(event, Event::Titled { title, .. } if title == "ours");
    assert!(bob.sync_until(PATIENCE, titled).await.unwrap().iter().any(titled));

    // Bob is removed whole, by his name, and nobody else is.
    let group = alice.group_with_id(&group);
    let removal = group.removal(bob.user()).unwrap();
    assert!(removal.members.iter().all(|member| member.user.as_ref() == Some(bob.user())));
    assert_eq!(removal.members.len(), 2);
    group.remove_all(&removal).await.unwrap();
    receive(&carol).await;
    assert_eq!(names(&carol, group.id()), ["alice@home.example", "carol@home.example"]);
    for client in [&bob, &tablet] {
        receive(client).await;
        assert!(matches!(client.group_with_id(group.id()).epoch(), Err(Error::NotMember)));
    }
}

#[tokio::test]
async fn a_device_that_left_a_group_is_not_brought_in_again_by_the_users_others() {
    let world = World::builder().pushing().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "noise").await;
    let tablet = world.device(&bob, "tablet").await;
    receive(&bob).await;
    joined(&tablet, 1).await;
    tablet.group_with_id(&group).block().await.unwrap();
    bob.group_with_id(&group).invite(bob.user()).await.unwrap();
    receive(&tablet).await;
    assert!(matches!(tablet.group_with_id(&group).epoch(), Err(Error::NotMember)));
    receive(&alice).await;
}

#[tokio::test]
async fn an_admin_names_another_and_leaves_and_the_other_renames_and_deletes_the_group() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let of = |client: &Client| client.group_with_id(&group);
    assert!(matches!(of(&alice).leave().await, Err(Error::LastAdmin)));
    assert!(matches!(of(&alice).dismiss_admin(alice.user()).await, Err(Error::LastAdmin)));
    assert!(matches!(of(&bob).name_admin(bob.user()).await, Err(Error::NotAdmin)));
    assert!(matches!(of(&bob).rename("his").await, Err(Error::NotAdmin)));
    assert!(matches!(of(&bob).delete().await, Err(Error::NotAdmin)));

    of(&alice).name_admin(bob.user()).await.unwrap();
    let changed = |event: &Event| matches!(event, Event::AdminsChanged { admins, .. } if admins.len() == 2);
    for client in [&bob, &carol] {
        assert!(client.sync_until(PATIENCE, changed).await.unwrap().iter().any(changed));
    }
    // Bob's title has the last number of its epoch.
    of(&bob).take_last_title("zzz").await.unwrap();
    let last = |event: &Event| matches!(event, Event::Titled { title, .. } if title == "zzz");
    assert!(alice.sync_until(PATIENCE, last).await.unwrap().iter().any(last));
    let epoch = of(&alice).epoch().unwrap();
    of(&alice).rename("hers").await.unwrap();
    assert!(of(&alice).epoch().unwrap() > epoch, "another one begins");
    let hers = |event: &Event| matches!(event, Event::Titled { title, .. } if title == "hers");
    assert!(carol.sync_until(PATIENCE, hers).await.unwrap().iter().any(hers));
    of(&alice).leave().await.unwrap();
    let bob = with(bob, eager());
    receive(&bob).await;
    receive(&alice).await;
    let of = |client: &Client| client.group_with_id(&group);
    assert!(matches!(of(&alice).epoch(), Err(Error::NotMember)));
    of(&bob).rename("his").await.unwrap();
    let titled = |event: &Event| matches!(event, Event::Titled { title, .. } if title == "his");
    assert!(carol.sync_until(PATIENCE, titled).await.unwrap().iter().any(titled));

    of(&bob).delete().await.unwrap();
    assert_eq!(world.count("ds.groups").await, 0);
    receive(&carol).await;
    for client in [&bob, &carol] {
        assert!(matches!(of(client).epoch(), Err(Error::NotMember)), "{}", client.user());
    }
}

#[tokio::test]
async fn messages_follow_a_device_to_another_address() {
    let world = World::builder().pushing().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "here").await;
    receive(&bob).await;
    let addresses = world.count("qs.addresses").await;
    bob.group_with_id(&group).renew_address().await.unwrap();
    assert_eq!(world.count("qs.addresses").await, addresses, "the old one leads nowhere");
    receive(&alice).await;
    alice.group_with_id(&group).send("found you").await.unwrap();
    hears(&bob, "found you").await;
}

#[tokio::test]
async fn a_device_in_use_renews_the_addresses_that_it_keeps_though_nobody_writes_to_them() {
    let world = World::builder().pushing().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "here").await;
    receive(&bob).await;
    // The address that Bob has in the group is one that no KeyPackage has.
    bob.group_with_id(&group).renew_address().await.unwrap();
    receive(&alice).await;
    world.admin.batch_execute("UPDATE qs.addresses SET season = season - 4").await.unwrap();
    let renewed = "qs.addresses WHERE season = qs.season((now() AT TIME ZONE 'UTC')::date)";
    receive(&bob).await;
    assert_eq!(world.count(renewed).await, 0, "two months are not over");
    bob.forget_the_renewals().unwrap();
    receive(&bob).await;
    assert_eq!(world.count(renewed).await, 2, "his contact's address, and the group's");
    let bobs = world.count("qs.addresses").await;
    receive(&bob).await;
    assert_eq!(world.count("qs.addresses").await, bobs, "no address was added");

    world.admin.batch_execute("UPDATE qs.addresses SET season = season - 4").await.unwrap();
    alice.group_with_id(&group).send("are you there?").await.unwrap();
    assert_eq!(world.count(renewed).await, 1, "a delivery renews the one that it is for");
    hears(&bob, "are you there?").await;
}

#[tokio::test]
async fn who_is_to_be_removed_and_is_still_here_comes_back_with_another_address() {
    let world = World::builder().pushing().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "here").await;
    let fast = Options { return_after: Duration::ZERO, ..patient() };
    let (alice, bob) = (with(alice, fast.clone()), with(bob, fast));
    receive(&alice).await;
    let lookups = async || -> BTreeSet<Vec<u8>> {
        let rows = world.admin.query("SELECT lookup FROM qs.addresses", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let before = lookups().await;
    bob.group_with_id(&group).renew_address().await.unwrap();
    receive(&alice).await;
    let address = lookups().await.difference(&before).next().unwrap().clone();
    // The address that Bob has in the group goes, which the DS sees when it delivers: it proposes to remove him.
    let gone = world.admin.execute("DELETE FROM qs.addresses WHERE lookup = $1", &[&address]).await.unwrap();
    assert_eq!(gone, 1);
    let revision = async || -> i32 {
        world.admin.query_one("SELECT revision FROM ds.groups", &[]).await.unwrap().get("revision")
    };
    let proposed = revision().await;
    alice.group_with_id(&group).send("where are you?").await.unwrap();
    eventually("his removal is proposed", async || (revision().await > proposed).then_some(())).await;
    bob.group_with_id(&group).update().await.unwrap();
    receive(&alice).await;
    assert_eq!(names(&alice, &group).len(), 2);
    alice.group_with_id(&group).send("there you are").await.unwrap();
    hears(&bob, "there you are").await;
}

/// Asserts that Alice, Bob and Carol are in the group with a device each, as each of them learns.
async fn assert_each_with_one_device(clients: [&Client; 3], group: &GroupId) {
    let expected = ["alice", "bob", "carol"].map(|name| format!("{name}@home.example"));
    for client in clients {
        receive(client).await;
        assert_eq!(names(client, group), expected, "{}", client.user());
    }
}

#[tokio::test]
async fn a_device_that_was_removed_from_its_user_is_removed_from_all_groups() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let tablet = world.device(&bob, "tablet").await;
    receive(&bob).await;
    joined(&tablet, 1).await;
    for client in [&bob, &alice, &carol] {
        receive(client).await;
        assert_eq!(client.group_with_id(&group).members().unwrap().len(), 4);
    }
    // It cannot take a key under which nobody knows whose it is.
    receive(&tablet).await;
    let renewal = tablet.group_with_id(&group).with_another_key().unwrap();
    assert_eq!(tablet.submit(&renewal).await.unwrap_err().problem(), Some(ProblemType::InvalidMls));
    bob.remove_device(&tablet.client_key()).await.unwrap();
    receive(&bob).await;
    assert_each_with_one_device([&bob, &alice, &carol], &group).await;
    assert!(tablet.group_with_id(&group).rejoin().await.is_err(), "it does not come back, either");
    bob.group_with_id(&group).send("without it").await.unwrap();
    hears(&carol, "without it").await;
    assert_eq!(bob.group_with_id(&group).members().unwrap().len(), 3);

    // A device that comes later has the key that the removed one does not.
    let phone = world.device(&bob, "phone").await;
    receive(&bob).await;
    joined(&phone, 1).await;
    phone.group_with_id(&group).send("from the phone").await.unwrap();
    hears(&alice, "from the phone").await;
}

#[tokio::test]
async fn a_removed_device_that_the_server_refuses_to_remove_goes_as_soon_as_it_does_not() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let bob = with(bob, Options { server: Some(line.url()), ..patient() });
    let tablet = world.device(&bob, "tablet").await;
    receive(&bob).await;
    joined(&tablet, 1).await;
    for client in [&bob, &alice, &carol] {
        receive(client).await;
        assert_eq!(client.group_with_id(&group).members().unwrap().len(), 4);
    }
    let problem = Problem::new(ProblemType::PolicyViolation).to_json();
    let length = problem.len();
    let head =
        format!("HTTP/1.1 403 Forbidden\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {length}\r\n\r\n");
    let path = format!("POST /ds/groups/{}/messages", group.to_base64url());
    line.answer(&path, usize::MAX, &[head.as_bytes(), &problem].concat());
    bob.remove_device(&tablet.client_key()).await.unwrap();
    let refused = |event: &Event| matches!(event, Event::NotShutOut { .. });
    let events = bob.sync_until(PATIENCE, refused).await.unwrap();
    assert_eq!(events.iter().filter(|event| refused(event)).count(), 1, "{events:?}");
    assert!(line.mend() >= 2);
    let gone = |event: &Event| matches!(event, Event::Removed { .. });
    let events = bob.sync_until(PATIENCE, gone).await.unwrap();
    assert!(events.iter().any(gone) && !events.iter().any(refused), "{events:?}");
    assert_each_with_one_device([&bob, &alice, &carol], &group).await;
    bob.group_with_id(&group).send("without it").await.unwrap();
    hears(&carol, "without it").await;
}

/// A device that was told of a group and removed from its user before it came in.
#[tokio::test]
async fn a_removed_device_does_not_come_into_a_group_with_the_key_that_it_was_told() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let tablet = world.device(&bob, "tablet").await;
    assert!(tablet.group_with_id(&group).epoch().is_err(), "it is not in yet");
    // It gets no tokens any more.
    tablet.wallet().fetch(100).await.unwrap();
    bob.remove_device(&tablet.client_key()).await.unwrap();
    receive(&bob).await;
    for _ in 0..3 {
        // Its errands fail one after the other.
        tablet.receive(Duration::ZERO).await.ok();
    }
    assert_each_with_one_device([&alice, &carol, &bob], &group).await;
    bob.group_with_id(&group).send("still here").await.unwrap();
    hears(&carol, "still here").await;
    // Another device does, with the key that it is told now.
    let phone = world.device(&bob, "phone").await;
    receive(&bob).await;
    joined(&phone, 1).await;
}

#[tokio::test]
async fn devices_that_were_added_apart_come_together_as_one_user() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let tablet = world.device(&bob, "tablet").await;
    let group = alice.create_group("one").await.unwrap().id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    joined(&tablet, 1).await;
    let found = alice.group_with_id(&group);
    let in_one_place = || {
        let bobs = found.removal(bob.user()).unwrap().members;
        bobs.len() == 2 && found.removal_of(&bobs[0].leaf_key).unwrap().members.len() == 2
    };
    let together = async || {
        for client in [&alice, &bob, &tablet] {
            receive(client).await;
        }
        in_one_place().then_some(())
    };
    eventually("the devices come together", together).await;
    assert_eq!(found.members().unwrap().len(), 3);
    for (speaker, text) in [(&alice, "one"), (&bob, "two"), (&tablet, "three")] {
        speaker.group_with_id(&group).send(text).await.unwrap();
        for listener in [&alice, &bob, &tablet] {
            if listener.client_key() != speaker.client_key() {
                hears(listener, text).await;
            }
        }
    }
}

/// Answers that a server gives to somebody who asks for a group, made up by a member.
fn answer(content: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\ncontent-length: {}\r\n\r\n",
        content.len()
    );
    [head.as_bytes(), content].concat()
}

#[tokio::test]
async fn a_ghost_in_what_a_server_shows_of_a_group_does_not_come_in_unseen() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let mallory = carol;
    let bob = with(bob, Options { server: Some(line.url()), return_after: Duration::ZERO, ..patient() });
    receive(&bob).await;
    let shown = mallory.group_with_id(&group).with_ghost().unwrap();
    line.answer("/group-info", 1, &answer(&Encoding::Cbor.encode(&shown)));
    let Err(Error::Strangers(differences)) = bob.group_with_id(&group).rejoin().await else {
        panic!("the ghost is in")
    };
    let strangers: Vec<_> = differences.strangers.iter().map(ToString::to_string).collect();
    assert_eq!(strangers.len(), 1, "{strangers:?}");
    assert_eq!(line.mend(), 1);

    // The person did not accept it, and asks again: this time the server shows the truth.
    assert_eq!(names(&bob, &group).len(), 3);
    bob.group_with_id(&group).rejoin().await.unwrap();
    assert_eq!(names(&bob, &group).len(), 3);
    receive(&alice).await;
    alice.group_with_id(&group).send("just us").await.unwrap();
    hears(&bob, "just us").await;
}

#[tokio::test]
async fn what_was_said_while_another_came_back_is_said_again_in_the_epoch_that_it_can_read() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    bob.group_with_id(&group).prepare_text("to all").await.unwrap();
    carol.group_with_id(&group).rejoin().await.unwrap();
    bob.group_with_id(&group).settle().await.unwrap();
    assert_eq!(bob.group_with_id(&group).unsent().unwrap(), 0);
    for client in [&alice, &carol] {
        let events = client.sync(Duration::ZERO).await.unwrap();
        let heard = |event: &&Event| matches!(event, Event::Message { text, .. } if text == "to all");
        assert_eq!(events.iter().filter(heard).count(), 1, "{}: {events:?}", client.user());
    }
}

#[tokio::test]
async fn an_admin_gives_an_old_group_the_key_with_which_the_server_proposes_now() {
    let world = World::builder().pushing().tokens(100).start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let of = |client: &Client| client.group_with_id(&group);
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.rotate_sender_keys(revoke => true)", &[]).await.unwrap();
    eventually("there is another key", async || {
        (world.count("ds.sender_keys WHERE NOT replaced").await == 1).then_some(())
    })
    .await;
    eventually("the server that made it uses it", async || {
        // Each look costs a token.
        world.restock(1).await;
        let reserved: GroupIdReserved = world.pay(&Call::post("/ds/group-ids")).await.decode();
        (reserved.server_key != world.server_key()).then_some(())
    })
    .await;
    // A member that is no admin hears of it, and leaves it to those that may.
    let bob = with(bob, eager());
    of(&bob).update().await.unwrap();
    receive(&bob).await;
    let epoch = of(&bob).epoch().unwrap();
    receive(&alice).await;
    let alice = with(alice, eager());
    of(&alice).update().await.unwrap();
    receive(&alice).await;
    for client in [&alice, &bob, &carol] {
        receive(client).await;
        assert_eq!(of(client).epoch().unwrap(), epoch + 2, "{}", client.user());
    }
    receive(&alice).await;
    assert_eq!(of(&alice).epoch().unwrap(), epoch + 2, "once");

    // With the old one, which is revoked, the server could not propose that Carol goes, who has no mailbox any more.
    let alice = with(alice, patient());
    let lookups = async || -> BTreeSet<Vec<u8>> {
        let rows = world.admin.query("SELECT lookup FROM qs.addresses", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let before = lookups().await;
    of(&carol).renew_address().await.unwrap();
    receive(&alice).await;
    let address = lookups().await.difference(&before).next().unwrap().clone();
    let gone = world.admin.execute("DELETE FROM qs.addresses WHERE lookup = $1", &[&address]).await.unwrap();
    assert_eq!(gone, 1);
    of(&alice).send("where are you?").await.unwrap();
    eventually("her removal is proposed", async || {
        let sql = "SELECT revision FROM ds.groups";
        let revision: i32 = world.admin.query_one(sql, &[]).await.unwrap().get("revision");
        (revision > 0).then_some(())
    })
    .await;
    receive(&alice).await;
    of(&alice).update().await.unwrap();
    assert_eq!(of(&alice).members().unwrap().len(), 2);
}

#[tokio::test]
async fn members_hear_in_their_groups_of_another_name_of_a_reset_and_of_an_end() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    // Nobody tells of a reset: she looks.
    let alice = with(alice, Options { look_up_every: Duration::ZERO, ..patient() });
    let of_group = |event: &Event| event.group() == Some(&group);
    // Somebody that she does not find is not gone: he hides for a while.
    for discoverable in [Some(false), Some(true)] {
        bob.change_profile(&ProfileChange { discoverable, ..ProfileChange::default() }).await.unwrap();
        let events = alice.sync(Duration::ZERO).await.unwrap();
        assert!(!events.iter().any(|event| matches!(event, Event::MemberGone { .. })), "{events:?}");
    }
    let key = bob.recovery_key().unwrap().expect("it was not shown yet");
    let before = bob.user().clone();
    let robert = bob.rename("robert", &key).await.unwrap();
    receive(&robert).await;
    let renamed = |event: &Event| {
        of_group(event)
            && matches!(event, Event::MemberRenamed { user, name, .. } if *user == before && name == robert.user())
    };
    for client in [&alice, &carol] {
        let events = client.sync_until(PATIENCE, renamed).await.unwrap();
        assert_eq!(events.iter().filter(|event| renamed(event)).count(), 1, "{}: {events:?}", client.user());
    }

    robert.delete_account(&key).await.unwrap();
    let gone = |event: &Event| {
        of_group(event) && matches!(event, Event::MemberGone { user, .. } if user == robert.user())
    };
    for client in [&alice, &carol] {
        for _ in 0..2 {
            let events = client.sync(Duration::ZERO).await.unwrap();
            assert!(!events.iter().any(gone), "he may begin anew: {events:?}");
        }
        client.pass_time_for_gone_members(2 * 24 * 60 * 60).unwrap();
        let events = client.sync_until(PATIENCE, gone).await.unwrap();
        assert_eq!(events.iter().filter(|event| gone(event)).count(), 1, "{}: {events:?}", client.user());
    }

    let key = carol.recovery_key().unwrap().unwrap();
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url());
    anew.options(patient()).reset("carol", &key).await.unwrap();
    let reset = |event: &Event| {
        of_group(event) && matches!(event, Event::MemberReset { user, .. } if user == carol.user())
    };
    let events = alice.sync_until(PATIENCE, reset).await.unwrap();
    assert_eq!(events.iter().filter(|event| reset(event)).count(), 1, "{events:?}");
}

const DAY: u64 = 24 * 60 * 60;

/// The AS knows nobody of the name for a while, and no member takes that for the end of the account (AS-8, AS-11).
#[tokio::test]
async fn an_end_that_a_reset_follows_is_told_as_a_reset_and_as_nothing_else() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, _carol], group) = group_of_three(&world).await;
    let alice = with(alice, Options { look_up_every: Duration::ZERO, ..patient() });
    let key = bob.recovery_key().unwrap().expect("it was not shown yet");
    let (next, time) = (SigningKey::generate(), now());
    let operation = Operation::EndIdentity { client: next.public_key(), time };
    let proof = SecondProof::recovery(&key, bob.user(), &operation);
    let end = EndIdentity { name: bob.user().clone(), time, proof };
    alice.http().end_identity(&end, &next).await.unwrap();

    let is_end = |event: &Event| matches!(event, Event::MemberGone { .. } | Event::MemberMissing { .. });
    for _ in 0..3 {
        let events = alice.sync(Duration::ZERO).await.unwrap();
        assert!(!events.iter().any(is_end), "{events:?}");
        alice.pass_time_for_gone_members(3 * DAY).unwrap();
    }
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url());
    anew.options(patient()).reset("bob", &key).await.unwrap();
    let reset = |event: &Event| {
        matches!(event, Event::MemberReset { user, .. } if user == bob.user())
            && event.group() == Some(&group)
    };
    let events = alice.sync_until(PATIENCE, reset).await.unwrap();
    assert_eq!(events.iter().filter(|event| reset(event)).count(), 1, "{events:?}");
    alice.pass_time_for_gone_members(60 * DAY).unwrap();
    let later = alice.sync(Duration::ZERO).await.unwrap();
    assert!(!events.iter().chain(&later).any(is_end), "{events:?}, {later:?}");
}

#[tokio::test]
async fn members_hear_after_a_month_of_an_account_that_the_operator_ended() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, _carol], group) = group_of_three(&world).await;
    let alice = with(alice, Options { look_up_every: Duration::ZERO, ..patient() });
    world.admin.query("SELECT operator.delete_user('bob')", &[]).await.unwrap();
    let missing = |event: &Event| {
        matches!(event, Event::MemberMissing { user, .. } if user == bob.user())
            && event.group() == Some(&group)
    };
    for days in [29, 0] {
        let events = alice.sync(Duration::ZERO).await.unwrap();
        assert!(!events.iter().any(missing), "he may hide: {events:?}");
        alice.pass_time_for_gone_members(days * DAY).unwrap();
    }
    alice.pass_time_for_gone_members(2 * DAY).unwrap();
    let mut events = alice.sync_until(PATIENCE, missing).await.unwrap();
    events.extend(alice.sync(Duration::ZERO).await.unwrap());
    assert_eq!(events.iter().filter(|event| missing(event)).count(), 1, "{events:?}");
}
