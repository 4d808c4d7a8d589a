//! The attributes that members keep (DS-12), their admins, a server that shows somebody who is no member, and what is said while a
//! member comes back.

use std::time::Duration;

use postern_client::{Client, Error, Event, Options};
use postern_protocol::encoding::Encoding;
use postern_tests_kit::{BadLine, PATIENCE, World, befriend, joined};

use super::{eager, group_of_three, hears, names, patient, receive, with};

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

/// A server's answer with this content.
pub(super) fn answer(content: &[u8]) -> Vec<u8> {
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
    // One that no client reads is in no list of strangers that a person could accept.
    let shown = mallory.group_with_id(&group).with_unread_ghost().unwrap();
    line.answer("/group-info", 1, &answer(&Encoding::Cbor.encode(&shown)));
    let refused = bob.group_with_id(&group).rejoin().await;
    assert!(matches!(refused, Err(Error::Mls { .. })), "{refused:?}");
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
