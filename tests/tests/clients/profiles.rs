//! Profiles (AS-6): who sees what of them, who can look whom up (AS-5), and what contacts and groups are told (AS-11). Real
//! clients, a real server.

use std::time::{Duration, Instant};

use postern_client::{Client, Event, ForContacts, ProfileChange};
use postern_protocol::{ds::GroupId, name::UserName, problem::ProblemType};
use postern_tests_kit::{PATIENCE, World, befriend, joined};

fn named(name: &str) -> ProfileChange {
    ProfileChange { display_name: Some(name.to_owned()), ..ProfileChange::default() }
}

fn for_contacts(name: &str) -> ProfileChange {
    let part = ForContacts { display_name: name.to_owned(), text: "at the crag".to_owned() };
    ProfileChange { for_contacts: Some(part), ..ProfileChange::default() }
}

fn hiding() -> ProfileChange {
    ProfileChange { discoverable: Some(false), ..ProfileChange::default() }
}

/// The name for contacts that a client sees of a user.
fn inner_name(client: &Client, user: &UserName) -> Option<String> {
    client.profile(user).unwrap().for_contacts.map(|part| part.display_name)
}

async fn is_found(client: &Client, user: &UserName) -> bool {
    match client.look_up(user).await {
        Ok(_) => true,
        Err(error) if error.problem() == Some(ProblemType::NotFound) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Takes what waits, and returns the events.
async fn sync(client: &Client) -> Vec<Event> {
    client.sync(Duration::ZERO).await.unwrap()
}

/// Waits until a client hears a text of a group.
async fn hears(client: &Client, said: &str) {
    let is_it = |event: &Event| matches!(event, Event::Message { text, .. } if text == said);
    let events = client.sync_until(PATIENCE, is_it).await.unwrap();
    assert!(events.iter().any(is_it), "{events:?}");
}

/// One person gets another one's friendship. They have no group together.
async fn become_contact(one: &Client, other: &Client) {
    one.ask_contact(other.user()).await.unwrap();
    sync(other).await;
    let answered = |event: &Event| matches!(event, Event::ContactAnswered { user } if user == other.user());
    assert!(sync(one).await.iter().any(answered));
}

/// A group of one person's with two others, each of whom knows the first one only.
async fn group_of(world: &World, names: [&str; 3]) -> ([Client; 3], GroupId) {
    let one = world.person(names[0]).await;
    let group = one.create_group("climbing").await.unwrap().id().clone();
    let (two, three) = (world.person(names[1]).await, world.person(names[2]).await);
    for other in [&two, &three] {
        befriend(&one, other, &group).await;
        joined(other, 1).await;
    }
    ([one, two, three], group)
}

#[tokio::test]
async fn a_profile_is_shown_to_everybody_its_inner_part_to_who_has_the_key_and_its_changes_are_told() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let for_contacts = ForContacts { display_name: "Bobby".into(), text: "at the crag".into() };
    let change = ProfileChange {
        display_name: Some("Bob".into()),
        for_contacts: Some(for_contacts.clone()),
        ..ProfileChange::default()
    };
    bob.change_profile(&change).await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    let seen = alice.profile(bob.user()).unwrap();
    assert_eq!((seen.display_name.as_str(), seen.for_contacts), ("Bob", None));
    assert_eq!(bob.profile(bob.user()).unwrap().for_contacts, Some(for_contacts));
    bob.change_profile(&named("Robert")).await.unwrap();
    assert_eq!(alice.profile(bob.user()).unwrap().display_name, "Bob", "until the next lookup");
    alice.look_up(bob.user()).await.unwrap();
    let told = Event::DisplayName { user: bob.user().clone(), display_name: "Robert".into() };
    assert!(alice.sync(Duration::ZERO).await.unwrap().contains(&told));

    // An old profile that the server shows again, and one that it changed, are not taken.
    let keep = "CREATE TABLE old AS SELECT profile, version FROM auth.profiles";
    world.admin.batch_execute(keep).await.unwrap();
    bob.change_profile(&named("Rob")).await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    world.admin.batch_execute("UPDATE auth.profiles p SET profile = o.profile FROM old o").await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    assert_eq!(alice.profile(bob.user()).unwrap().display_name, "Rob", "no older one");

    // Another device of the user changes what the first one made.
    let tablet = world.device(&bob, "tablet").await;
    bob.change_profile(&named("Bert")).await.unwrap();
    let text = ProfileChange { text: Some("climbs".into()), ..ProfileChange::default() };
    tablet.change_profile(&text).await.unwrap();
    alice.look_up(bob.user()).await.unwrap();
    let seen = alice.profile(bob.user()).unwrap();
    assert_eq!((seen.display_name.as_str(), seen.text.as_str()), ("Bert", "climbs"));

    // Nobody is told of a reset, a rename or an end, and of the same name nothing.
    let events = alice.sync(Duration::ZERO).await.unwrap();
    assert!(
        events.iter().all(|event| matches!(event, Event::DisplayName { .. } | Event::DeviceAdded { .. }))
    );
}

#[tokio::test]
async fn contacts_have_the_key_and_one_who_is_blocked_sees_nothing_of_later_changes() {
    let world = World::builder().pushing().start().await;
    let [alice, bob, carol] =
        [world.person("alice").await, world.person("bob").await, world.person("carol").await];
    become_contact(&alice, &bob).await;
    become_contact(&carol, &bob).await;
    bob.change_profile(&named("Bob")).await.unwrap();
    bob.change_profile(&for_contacts("Bobby")).await.unwrap();
    for friend in [&alice, &carol] {
        let told = sync(friend).await;
        let display_name = "Bobby".to_owned();
        assert!(told.contains(&Event::DisplayName { user: bob.user().clone(), display_name }), "{told:?}");
        assert_eq!(inner_name(friend, bob.user()).as_deref(), Some("Bobby"), "{}", friend.user());
    }
    bob.block_user(carol.user()).await.unwrap();
    assert!(sync(&alice).await.iter().all(|event| !matches!(event, Event::DisplayName { .. })));
    bob.change_profile(&for_contacts("Rob")).await.unwrap();
    sync(&alice).await;
    assert_eq!(inner_name(&alice, bob.user()).as_deref(), Some("Rob"));
    sync(&carol).await;
    assert!(is_found(&carol, bob.user()).await);
    assert_eq!(inner_name(&carol, bob.user()).as_deref(), Some("Bobby"), "what she saw once");
    let erin = world.person("erin").await;
    assert!(is_found(&erin, bob.user()).await);
    assert_eq!(inner_name(&erin, bob.user()), None);
}

#[tokio::test]
async fn members_see_the_part_for_contacts_and_are_told_a_changed_name_as_that_and_nothing_else() {
    let world = World::builder().pushing().start().await;
    let ([_alice, bob, carol], group) = group_of(&world, ["alice", "bob", "carol"]).await;
    bob.change_profile(&for_contacts("Bobby")).await.unwrap();
    bob.group_with_id(&group).send("hello").await.unwrap();
    hears(&carol, "hello").await;
    sync(&carol).await;
    assert_eq!(inner_name(&carol, bob.user()).as_deref(), Some("Bobby"), "she is no contact of his");

    // He says nothing himself: his client's message tells of a version; what it is, the AS shows.
    bob.change_profile(&for_contacts("Rob")).await.unwrap();
    assert_eq!(inner_name(&carol, bob.user()).as_deref(), Some("Bobby"));
    let is_told = |event: &Event| matches!(event, Event::DisplayName { user, .. } if user == bob.user());
    let mut events = carol.sync_until(PATIENCE, is_told).await.unwrap();
    events.extend(sync(&carol).await);
    let (user, display_name) = (bob.user().clone(), "Rob".to_owned());
    let told = [
        Event::MemberDisplayName {
            group: group.clone(),
            user: user.clone(),
            display_name: display_name.clone(),
        },
        Event::DisplayName { user, display_name },
    ];
    events.retain(|event| {
        !matches!(event, Event::Message { .. } | Event::Added { .. } | Event::Updated { .. })
    });
    assert_eq!(events, told);
}

#[tokio::test]
async fn a_version_that_the_server_keeps_back_from_members_is_told_once() {
    let world = World::builder().pushing().start().await;
    let ([_alice, bob, carol], group) = group_of(&world, ["alice", "bob", "carol"]).await;
    bob.change_profile(&named("Bob")).await.unwrap();
    bob.group_with_id(&group).send("hello").await.unwrap();
    hears(&carol, "hello").await;
    sync(&carol).await;
    assert_eq!(carol.profile(bob.user()).unwrap().display_name, "Bob");

    let keep = async |name: &str| {
        let sql = format!("CREATE TABLE {name} AS SELECT profile FROM auth.profiles");
        world.admin.batch_execute(&sql).await.unwrap();
    };
    let show = async |name: &str| {
        let sql = format!("UPDATE auth.profiles p SET profile = kept.profile FROM {name} kept");
        world.admin.batch_execute(&sql).await.unwrap();
    };
    keep("earlier").await;
    bob.change_profile(&named("Robert")).await.unwrap();
    keep("later").await;
    show("earlier").await;
    // The message of the change comes before this one.
    bob.group_with_id(&group).send("it is me").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "it is me");
    let mut told = carol.sync_until(PATIENCE, said).await.unwrap();
    assert!(told.iter().any(said), "{told:?}");
    told.extend(sync(&carol).await);
    for _ in 0..3 {
        carol.look_up(bob.user()).await.unwrap();
        told.extend(sync(&carol).await);
    }
    let is_told = |event: &Event| matches!(event, Event::Ignored { reason } if reason.contains("keeps back"));
    assert_eq!(told.iter().filter(|event| is_told(event)).count(), 1, "{told:?}");
    assert_eq!(carol.profile(bob.user()).unwrap().display_name, "Bob");
    show("later").await;
    carol.look_up(bob.user()).await.unwrap();
    let told = sync(&carol).await;
    let display_name = "Robert".to_owned();
    assert!(told.contains(&Event::DisplayName { user: bob.user().clone(), display_name }), "{told:?}");
    assert!(!told.iter().any(is_told), "{told:?}");
}

#[tokio::test]
async fn contacts_and_members_find_a_user_that_strangers_do_not_also_under_the_next_key() {
    let world = World::builder().pushing().start().await;
    let ([alice, bob, carol], group) = group_of(&world, ["alice", "bob", "carol"]).await;
    let dave = world.person("dave").await;
    become_contact(&dave, &bob).await;
    bob.change_profile(&hiding()).await.unwrap();
    let (erin, frank) = (world.person("erin").await, world.person("frank").await);
    sync(&bob).await;
    for client in [&alice, &carol, &dave] {
        sync(client).await;
        assert!(is_found(client, bob.user()).await, "{}", client.user());
    }
    assert!(!is_found(&erin, bob.user()).await);
    assert!(bob.look_up(bob.user()).await.unwrap().clients.len() == 1, "himself");
    let tablet = world.device(&bob, "tablet").await;
    assert!(is_found(&tablet, bob.user()).await);
    sync(&bob).await;
    joined(&tablet, 1).await;
    // Another device changes something else: he stays hidden.
    tablet.change_profile(&named("Bob")).await.unwrap();
    assert!(!is_found(&erin, bob.user()).await);

    // A member that comes later knows him, though he says nothing.
    befriend(&alice, &frank, &group).await;
    joined(&frank, 1).await;
    hears_nothing_wrong(&frank, bob.user(), &group).await;
    assert!(is_found(&frank, bob.user()).await);

    // He asks somebody who could not find him.
    bob.ask_contact(erin.user()).await.unwrap();
    let asked = sync(&erin).await;
    let verified = |event: &Event| matches!(event, Event::ContactRequested { user, verified: true, .. } if user == bob.user());
    assert!(asked.iter().any(verified), "{asked:?}");

    // He blocks one who was a contact only. The others go on finding him.
    bob.block_user(dave.user()).await.unwrap();
    sync(&bob).await;
    for client in [&alice, &carol, &frank, &tablet] {
        hears_nothing_wrong(client, bob.user(), &group).await;
        assert!(is_found(client, bob.user()).await, "{}", client.user());
    }
    // Also one that comes only now.
    let grace = world.person("grace").await;
    befriend(&alice, &grace, &group).await;
    joined(&grace, 1).await;
    for _ in 0..3 {
        for client in [&bob, &tablet, &alice] {
            sync(client).await;
        }
    }
    hears_nothing_wrong(&grace, bob.user(), &group).await;
    sync(&dave).await;
    assert!(!is_found(&dave, bob.user()).await, "his key is an old one");
    let events = sync(&dave).await;
    assert!(!events.iter().any(|event| matches!(event, Event::MemberGone { .. })), "{events:?}");
}

/// Lets a member hear what waits: all is well with another one, whom it comes to know.
async fn hears_nothing_wrong(client: &Client, user: &UserName, group: &GroupId) {
    let knows = || {
        let members = client.group_with_id(group).members().unwrap();
        client.user() == user
            || members.iter().any(|member| member.user.as_ref() == Some(user) && member.verified)
    };
    let mut events = sync(client).await;
    let until = Instant::now() + PATIENCE;
    while !knows() {
        assert!(Instant::now() < until, "{} does not come to know {user}", client.user());
        events.extend(sync(client).await);
    }
    for event in &events {
        let is_wrong = matches!(
            event,
            Event::MemberGone { .. }
                | Event::MemberReset { .. }
                | Event::MemberRenamed { .. }
                | Event::IdentitySplit { .. }
                | Event::Ignored { .. }
        );
        assert!(!is_wrong, "{}: {events:?}", client.user());
    }
}

#[tokio::test]
async fn a_removed_device_has_no_key_to_what_is_sealed_later_and_its_signature_is_replaced() {
    let world = World::builder().pushing().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    become_contact(&alice, &bob).await;
    bob.change_profile(&for_contacts("Bobby")).await.unwrap();
    let tablet = world.device(&bob, "tablet").await;
    sync(&bob).await;
    tablet.change_profile(&named("Bob of the tablet")).await.unwrap();
    assert!(is_found(&bob, bob.user()).await);
    bob.remove_device(&tablet.client_key()).await.unwrap();
    sync(&bob).await;
    sync(&alice).await;
    assert!(is_found(&alice, bob.user()).await);
    let seen = alice.profile(bob.user()).unwrap();
    assert_eq!((seen.display_name.as_str(), seen.shown_name()), ("Bob of the tablet", "Bobby"));

    // A reader that sees the profile for the first time takes it, so it is signed by a device of his.
    let carol = world.person("carol").await;
    assert!(is_found(&carol, bob.user()).await);
    assert_eq!(carol.profile(bob.user()).unwrap().display_name, "Bob of the tablet");
    bob.change_profile(&for_contacts("Rob")).await.unwrap();
    sync(&alice).await;
    assert_eq!(inner_name(&alice, bob.user()).as_deref(), Some("Rob"));
    let _ = tablet.look_up(bob.user()).await;
    assert_eq!(inner_name(&tablet, bob.user()).as_deref(), Some("Bobby"), "what it saw when it was his");
}
