//! The devices of one user in a group: they come in by themselves, as one user, and go when their user removes them.

use std::time::Duration;

use postern_client::{Client, Error, Event, Farewell, Options};
use postern_protocol::{PublicKey, ds::GroupId, encoding::Encoding, problem::ProblemType};
use postern_tests_kit::{BadLine, PATIENCE, World, befriend, eventually, joined};

use super::{group_of_three, hears, members::answer, names, patient, receive, with};

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
async fn a_new_device_is_told_of_members_of_whom_the_old_one_reads_as_it_adds_it() {
    let world = World::builder().pushing().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "climbing").await;
    let carol = world.person("carol").await;
    befriend(&alice, &carol, &group).await;
    assert_eq!(bob.group_with_id(&group).members().unwrap().len(), 2, "he has read nothing of her");
    let tablet = world.device(&bob, "tablet").await;
    // It waits for no letter.
    tablet.group_with_id(&group).rejoin().await.expect("nobody in the group is a stranger");
    assert_eq!(tablet.group_with_id(&group).members().unwrap().len(), 4);
}

#[tokio::test]
async fn a_device_on_its_way_is_told_by_the_same_call_of_whom_another_one_adds() {
    let world = World::builder().pushing().start().await;
    let (alice, carol) = (world.person("alice").await, world.person("carol").await);
    let group = alice.create_group("two").await.unwrap().id().clone();
    let tablet = world.device(&alice, "tablet").await;
    // She tells it of the group, in which she is alone.
    receive(&alice).await;
    befriend(&alice, &carol, &group).await;
    receive(&tablet).await;
    assert_eq!(tablet.group_with_id(&group).members().unwrap().len(), 3);
}

#[tokio::test]
async fn a_ghost_in_what_a_server_shows_of_a_group_does_not_come_in_with_a_further_device() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let tablet = world.device(&bob, "tablet").await;
    let tablet = with(tablet, Options { server: Some(line.url()), ..patient() });
    // A server that conspires with a member shows it so.
    let shown = carol.group_with_id(&group).with_ghost().unwrap();
    line.answer("/group-info", 1, &answer(&Encoding::Cbor.encode(&shown)));
    let Err(Error::Strangers(differences)) = tablet.group_with_id(&group).rejoin().await else {
        panic!("the ghost is in")
    };
    assert_eq!(differences.strangers.len(), 1, "{differences:?}");
    assert_eq!(line.mend(), 1);
    assert!(tablet.group_with_id(&group).epoch().is_err(), "it is not in");
    assert_eq!(*tablet.group("three").unwrap().id(), group, "its user can accept them");
    let shown = carol.group_with_id(&group).with_unread_ghost().unwrap();
    line.answer("/group-info", 1, &answer(&Encoding::Cbor.encode(&shown)));
    let refused = tablet.group_with_id(&group).rejoin().await;
    assert!(matches!(refused, Err(Error::Mls { .. })), "no client reads it: {refused:?}");
    assert_eq!(line.mend(), 1);

    // The person did not accept it, and the server shows the truth.
    joined(&tablet, 1).await;
    for client in [&alice, &tablet] {
        receive(client).await;
        assert_eq!(names(client, &group).len(), 4);
    }
}

#[tokio::test]
async fn who_comes_back_asks_the_as_about_a_members_new_device_and_has_the_group_shown_once() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([_, bob, carol], group) = group_of_three(&world).await;
    let bob = with(bob, Options { server: Some(line.url()), ..patient() });
    receive(&bob).await;
    let tablet = world.device(&carol, "tablet").await;
    // Nobody hears of it when it comes in.
    world.admin.batch_execute("DELETE FROM qs.addresses").await.unwrap();
    tablet.group_with_id(&group).rejoin().await.unwrap();
    line.take_requests();
    bob.group_with_id(&group).rejoin().await.expect("the AS confirms whose it is");
    let requests = line.take_requests();
    assert_eq!(requests.iter().filter(|line| line.contains("/group-info")).count(), 1, "{requests:?}");
    assert_eq!(bob.group_with_id(&group).members().unwrap().len(), 4);
}

#[tokio::test]
async fn a_device_whose_user_does_not_take_the_strangers_in_a_group_stays_out() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([_, bob, carol], group) = group_of_three(&world).await;
    let tablet = world.device(&bob, "tablet").await;
    let tablet = with(tablet, Options { server: Some(line.url()), ..patient() });
    let shown = carol.group_with_id(&group).with_ghost().unwrap();
    line.answer("/group-info", 1, &answer(&Encoding::Cbor.encode(&shown)));
    let refused = tablet.group_with_id(&group).rejoin().await;
    assert!(matches!(refused, Err(Error::Strangers(_))), "{refused:?}");
    assert_eq!(line.mend(), 1);
    tablet.group("three").unwrap().block().await.unwrap();
    // Another device tells it again.
    bob.group_with_id(&group).invite(bob.user()).await.unwrap();
    receive(&tablet).await;
    assert!(matches!(tablet.group_with_id(&group).epoch(), Err(Error::NotMember)));
    receive(&carol).await;
    assert_eq!(names(&carol, &group).len(), 3);
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

/// Asserts that Alice, Bob and Carol are in the group with a device each, as each of them learns.
async fn assert_each_with_one_device(clients: [&Client; 3], group: &GroupId) {
    let expected = ["alice", "bob", "carol"].map(|name| format!("{name}@home.example"));
    for client in clients {
        receive(client).await;
        assert_eq!(names(client, group), expected, "{}", client.user());
    }
}

/// A tablet of Bob's that came into the group. He, Alice and Carol have seen it there.
async fn with_tablet(world: &World, clients: [&Client; 3], group: &GroupId) -> Client {
    let [bob, ..] = clients;
    let tablet = world.device(bob, "tablet").await;
    receive(bob).await;
    joined(&tablet, 1).await;
    for client in clients {
        receive(client).await;
        assert_eq!(client.group_with_id(group).members().unwrap().len(), 4);
    }
    tablet
}

#[tokio::test]
async fn a_device_that_was_removed_from_its_user_is_removed_from_all_groups() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let tablet = with_tablet(&world, [&bob, &alice, &carol], &group).await;
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

/// Waits until each of these clients sees Alice and Carol in the group with a device each, and Bob with so many.
async fn see_devices_of_bob(clients: [&Client; 4], group: &GroupId, number: usize) {
    let mut expected: Vec<_> = ["alice", "carol"].map(|name| format!("{name}@home.example")).to_vec();
    expected.extend(vec!["bob@home.example".to_owned(); number]);
    expected.sort();
    let all_see = async || {
        for client in clients {
            receive(client).await;
        }
        clients.iter().all(|client| names(client, group) == expected).then_some(())
    };
    eventually("each of them sees the devices", all_see).await;
}

#[tokio::test]
async fn a_device_that_logs_out_is_removed_by_the_users_others_and_from_all_groups() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let tablet = with_tablet(&world, [&bob, &alice, &carol], &group).await;
    let phone = world.device(&bob, "phone").await;
    receive(&bob).await;
    joined(&phone, 1).await;
    let clients = [&bob, &phone, &alice, &carol];
    see_devices_of_bob(clients, &group, 3).await;
    for reader in [&alice, &carol] {
        assert_eq!(reader.look_up(bob.user()).await.unwrap().clients.len(), 3);
        reader.sync(Duration::ZERO).await.unwrap();
    }

    assert_eq!(tablet.log_out().await.unwrap(), Farewell::Told { devices: 2 });
    see_devices_of_bob(clients, &group, 2).await;
    let mut expected = [&bob, &phone].map(Client::client_key);
    expected.sort();
    for device in [&bob, &phone] {
        let mut devices: Vec<PublicKey> =
            device.devices().await.unwrap().iter().map(|device| device.client_key).collect();
        devices.sort();
        assert_eq!(devices, expected);
    }
    let removed = Event::DeviceRemoved { user: bob.user().clone(), device: tablet.client_key() };
    for reader in [&alice, &carol] {
        let found = reader.look_up(bob.user()).await.unwrap();
        let mut devices: Vec<PublicKey> = found.clients.iter().map(|client| client.client_key).collect();
        devices.sort();
        assert_eq!(devices, expected);
        assert!(reader.sync(Duration::ZERO).await.unwrap().contains(&removed), "contacts are told");
    }
    phone.group_with_id(&group).send("without it").await.unwrap();
    for client in [&alice, &bob, &carol] {
        hears(client, "without it").await;
    }
}

#[tokio::test]
async fn a_removed_device_that_the_server_refuses_to_remove_goes_as_soon_as_it_does_not() {
    let world = World::builder().pushing().start().await;
    let line = BadLine::to(world.server().address()).await;
    let ([alice, bob, carol], group) = group_of_three(&world).await;
    let bob = with(bob, Options { server: Some(line.url()), ..patient() });
    let tablet = with_tablet(&world, [&bob, &alice, &carol], &group).await;
    let path = format!("POST /ds/groups/{}/messages", group.to_base64url());
    line.answer(&path, usize::MAX, &BadLine::refusal(ProblemType::PolicyViolation));
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
