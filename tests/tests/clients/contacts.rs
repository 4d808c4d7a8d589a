//! First contact (AS-12), removed devices (AS-13), and knowing that somebody is who they seem to be. Real clients, a real
//! server, and letters that a server keeps back or sends again.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use postern_client::{
    Client, Clock, Contact, ContactRequest, Error, Event, Letter, LetterBody, Options, RequestId, Stamp,
};
use postern_protocol::{
    Address, Payload, PublicKey, Transcript,
    auth::SignedContact,
    chain::HpkePrivateKey,
    credential::ClientCredential,
    eid::EidState,
    encoding::Encoding,
    key::SigningKey,
    label::Label,
    name::UserName,
    problem::ProblemType,
    qs::{QueueKind, QueuePayload},
    second_proof::RecoveryKey,
};
use postern_tests_kit::{PATIENCE, World, befriend, depositing, joined};

/// Somebody that decides on requests in person.
fn shy() -> Options {
    Options { durable: false, record_deliveries: true, ..Options::default() }
}

/// The same client, acting otherwise.
fn with(client: Client, options: Options) -> Client {
    let directory = client.directory().to_owned();
    drop(client);
    Client::builder(directory).options(options).open().unwrap()
}

async fn shy_person(world: &World, name: &str) -> Client {
    with(world.person(name).await, shy())
}

async fn sync(client: &Client) -> Vec<Event> {
    client.sync(Duration::ZERO).await.unwrap()
}

async fn until(client: &Client, what: impl Fn(&Event) -> bool) -> Vec<Event> {
    let events = client.sync_until(PATIENCE, &what).await.unwrap();
    assert!(events.iter().any(what), "{events:?}");
    events
}

fn asks(user: &UserName) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::ContactRequested { user: found, verified: true, accepted: false } if found == user)
}

fn answers(user: &UserName) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::ContactAnswered { user: found } if found == user)
}

fn declines(user: &UserName) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::ContactDeclined { user: found } if found == user)
}

fn is_ignored(events: &[Event], why: &str) -> bool {
    events.iter().any(|event| matches!(event, Event::Ignored { reason } if reason.contains(why)))
}

fn is_about_contacts(event: &Event) -> bool {
    matches!(
        event,
        Event::ContactRequested { .. }
            | Event::ContactAnswered { .. }
            | Event::ContactDeclined { .. }
            | Event::Ignored { .. }
    )
}

fn contact(client: &Client, user: &UserName) -> Option<Contact> {
    client.contacts().unwrap().into_iter().find(|contact| contact.user == *user)
}

/// The letters that a client's contact queue delivered so far.
fn letters(client: &Client) -> Vec<Vec<u8>> {
    let delivered = client.deliveries(QueueKind::Contact).unwrap();
    delivered
        .into_iter()
        .filter_map(|(_, payload)| match payload {
            QueuePayload::Deposit(deposit) => Some(deposit.into_bytes()),
            _ => None,
        })
        .collect()
}

/// The contact that a client published.
async fn published(of: &Client) -> SignedContact {
    let found = of.look_up(of.user()).await.unwrap();
    let client = found.clients.into_iter().find(|client| client.client_key == of.client_key()).unwrap();
    client.contact.unwrap()
}

/// A server puts a letter into a client's contact queue again.
async fn send_again(world: &World, to: &Client, letter: &[u8]) {
    put(world, &published(to).await, letter).await;
}

/// Anybody puts something into a contact queue.
async fn put(world: &World, to: &SignedContact, letter: &[u8]) {
    world.stock(1).await;
    world.pay(&depositing(to.address, letter)).await.assert_ok("a deposit");
}

/// A request in a user's name, with a credential that this key signed.
fn forged(to: &SignedContact, name: &str, issuer: &SigningKey) -> Vec<u8> {
    let (client, hpke) = (SigningKey::generate(), HpkePrivateKey::generate().unwrap());
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let credential = ClientCredential {
        user: name.parse().unwrap(),
        client_key: client.public_key(),
        not_before: time - 1000,
        not_after: time + 1000,
        issuer_key: issuer.public_key(),
    };
    let address = Address::generate().unwrap();
    let contact = SignedContact::sign(to.domain.clone(), address, hpke.public_key().unwrap(), &client);
    let request = LetterBody::Request(ContactRequest { request_id: RequestId::new([1; 16]), contact });
    let (credential, body) = (credential.issue(issuer), Payload::new(Encoding::Cbor.encode(&request)));
    let stamp = Stamp { time, number: 1, eid: EidState::founded(0, Transcript::new([3; 32])) };
    let signature = client.sign(&Letter::to_be_signed(&to.address, &credential, &stamp, None, None, &body));
    let letter =
        Encoding::Cbor.encode(&Letter { credential, stamp, lookup: None, home_key: None, body, signature });
    to.hpke_key.seal(Label::CONTACT_SEAL.as_bytes(), to.address.as_bytes(), &letter).unwrap()
}

/// Alice, who accepted Bob's request.
async fn contacts_of_each_other(world: &World) -> [Client; 2] {
    let [alice, bob] = [shy_person(world, "alice").await, shy_person(world, "bob").await];
    bob.ask_contact(alice.user()).await.unwrap();
    until(&alice, asks(bob.user())).await;
    alice.accept_contact(bob.user()).await.unwrap();
    until(&bob, answers(alice.user())).await;
    [alice, bob]
}

#[tokio::test]
async fn a_person_accepts_a_request_declines_it_or_lets_it_lie_and_nobody_is_answered_unasked() {
    let world = World::builder().start().await;
    let alice = shy_person(&world, "alice").await;
    let [bob, carol, dave] = [
        shy_person(&world, "bob").await,
        shy_person(&world, "carol").await,
        shy_person(&world, "dave").await,
    ];

    // Bob lets it lie for a while.
    let group = alice.create_group("climbing").await.unwrap();
    let invited = group.invite(bob.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (0, 1));
    until(&bob, asks(alice.user())).await;
    let requests = bob.contact_requests().unwrap();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&request.user, request.verified, request.declined), (alice.user(), true, false));
    assert!(sync(&bob).await.is_empty() && !sync(&alice).await.iter().any(is_about_contacts));
    assert!(contact(&alice, bob.user()).unwrap().asked);
    assert!(bob.contacts().unwrap().is_empty());

    bob.accept_contact(alice.user()).await.unwrap();
    until(&alice, |event| matches!(event, Event::Added { .. })).await;
    joined(&bob, 1).await;
    assert!(bob.contact_requests().unwrap().is_empty());
    let (of_alice, of_bob) = (contact(&alice, bob.user()).unwrap(), contact(&bob, alice.user()).unwrap());
    assert!(of_alice.may_be_added && !of_alice.may_add && !of_alice.asked, "{of_alice:?}");
    assert!(of_bob.may_add && !of_bob.may_be_added, "it is not mutual: Bob did not ask, {of_bob:?}");
    assert!(matches!(bob.accept_contact(carol.user()).await, Err(Error::NoRequest(_))), "she did not ask");
    let tablet = world.device(&bob, "bobs-tablet").await;
    assert!(contact(&tablet, alice.user()).unwrap().may_add, "a new device knows whom he accepted");

    // Carol says no, Dave says nothing.
    for other in [&carol, &dave] {
        alice.ask_contact(other.user()).await.unwrap();
        until(other, asks(alice.user())).await;
        other.decline_contact(alice.user(), other.user() == dave.user()).await.unwrap();
    }
    until(&alice, declines(carol.user())).await;
    assert!(!contact(&alice, carol.user()).is_some_and(|contact| contact.asked));
    assert!(!sync(&alice).await.iter().any(is_about_contacts), "nothing came from Dave");
    assert!(contact(&alice, dave.user()).unwrap().asked);

    // Somebody who asks again and again is not shown again, and may be accepted all the same.
    for _ in 0..3 {
        alice.ask_contact(carol.user()).await.unwrap();
        assert!(!sync(&carol).await.iter().any(is_about_contacts));
    }
    let requests = carol.contact_requests().unwrap();
    assert!(requests.len() == 1 && requests[0].declined, "{requests:?}");
    carol.accept_contact(alice.user()).await.unwrap();
    until(&alice, answers(carol.user())).await;
    world.close();
}

#[tokio::test]
async fn repeated_requests_do_not_pile_up_and_those_of_many_strangers_are_bounded() {
    let world = World::builder().start().await;
    let bob = with(world.person("bob").await, Options { waiting_requests: 2, ..shy() });
    let alice = shy_person(&world, "alice").await;
    for _ in 0..3 {
        alice.ask_contact(bob.user()).await.unwrap();
    }
    let events = sync(&bob).await;
    assert_eq!(events.iter().filter(|event| asks(alice.user())(event)).count(), 1, "{events:?}");
    assert_eq!(bob.contact_requests().unwrap().len(), 1);

    for name in ["carol", "dave", "eve"] {
        let stranger = shy_person(&world, name).await;
        stranger.ask_contact(bob.user()).await.unwrap();
        let events = sync(&bob).await;
        let is_full = is_ignored(&events, "more users ask");
        assert_eq!(is_full, name != "carol", "{name}: {events:?}");
    }
    assert_eq!(bob.contact_requests().unwrap().len(), 2);

    // Somebody who was asked before is not kept out by strangers.
    alice.ask_contact(bob.user()).await.unwrap();
    assert!(sync(&bob).await.is_empty());
    bob.accept_contact(alice.user()).await.unwrap();
    until(&alice, answers(bob.user())).await;
    // Strangers in one batch, before the AS can be asked about any of them.
    let fred = with(world.person("fred").await, Options { waiting_requests: 1, ..shy() });
    for name in ["gina", "hank"] {
        shy_person(&world, name).await.ask_contact(fred.user()).await.unwrap();
    }
    let events = sync(&fred).await;
    assert!(is_ignored(&events, "more letters of strangers"), "{events:?}");
    assert_eq!(fred.contact_requests().unwrap().len(), 1);
    world.close();
}

#[tokio::test]
async fn a_user_is_blocked_and_unblocked_on_all_devices_and_gets_nothing_back_by_that() {
    let world = World::builder().start().await;
    let alice = shy_person(&world, "alice").await;
    let phone = shy_person(&world, "bob").await;
    let tablet = with(world.device(&phone, "tablet").await, shy());
    alice.ask_contact(phone.user()).await.unwrap();
    until(&tablet, asks(alice.user())).await;
    sync(&phone).await;
    tablet.accept_contact(alice.user()).await.unwrap();
    until(&alice, answers(phone.user())).await;
    sync(&phone).await;
    assert!(phone.contact_requests().unwrap().is_empty(), "the phone knows what was decided on the tablet");
    assert!(contact(&phone, alice.user()).unwrap().may_add);

    phone.block_user(alice.user()).await.unwrap();
    sync(&tablet).await;
    for device in [&phone, &tablet] {
        let alice = contact(device, alice.user()).unwrap();
        assert!(alice.blocked && !alice.may_add, "{alice:?}");
    }
    let group = alice.create_group("after").await.unwrap();
    assert_eq!(group.invite(phone.user()).await.unwrap().members, 0, "the token is worth nothing");
    for device in [&phone, &tablet] {
        assert!(!sync(device).await.iter().any(is_about_contacts), "what she asks vanishes");
        assert!(device.contact_requests().unwrap().is_empty());
    }

    tablet.unblock_user(alice.user()).await.unwrap();
    sync(&phone).await;
    for device in [&phone, &tablet] {
        assert!(!contact(device, alice.user()).is_some_and(|alice| alice.blocked || alice.may_add));
    }
    assert_eq!(group.invite(phone.user()).await.unwrap().members, 0, "she has nothing of him");
    for device in [&phone, &tablet] {
        until(device, asks(alice.user())).await;
    }
    phone.accept_contact(alice.user()).await.unwrap();
    until(&alice, |event| matches!(event, Event::Added { .. })).await;
    assert_eq!(group.members().unwrap().len(), 3, "both of his devices");
    world.close();
}

#[tokio::test]
async fn a_request_whose_sender_the_server_does_not_confirm_is_shown_as_that_and_cannot_be_accepted() {
    let world = World::builder().start().await;
    let alice = shy_person(&world, "alice").await;
    let bob = shy_person(&world, "bob").await;
    alice.ask_contact(bob.user()).await.unwrap();
    let rename = |to: &str| format!("UPDATE auth.users SET name = '{to}' WHERE name LIKE 'alice%'");
    world.admin.batch_execute(&rename("alice-is-hidden")).await.unwrap();
    let events = sync(&bob).await;
    let unverified =
        |event: &Event| matches!(event, Event::ContactRequested { verified: false, accepted: false, .. });
    assert!(events.iter().any(unverified), "{events:?}");
    let requests = bob.contact_requests().unwrap();
    assert!(requests.len() == 1 && !requests[0].verified, "{requests:?}");
    bob.accept_contact(alice.user()).await.unwrap_err();
    assert!(bob.contacts().unwrap().is_empty());
    assert!(sync(&bob).await.is_empty(), "it is told once");

    // The server confirms her again: then it counts.
    world.admin.batch_execute(&rename("alice")).await.unwrap();
    bob.accept_contact(alice.user()).await.unwrap();
    until(&alice, answers(bob.user())).await;
    assert!(contact(&bob, alice.user()).unwrap().may_add);
    world.close();
}

#[tokio::test]
async fn forged_letters_are_shown_to_nobody_and_keep_no_request_out() {
    let world = World::builder().start().await;
    let alice = shy_person(&world, "alice").await;
    let bob = with(world.person("bob").await, Options { waiting_requests: 2, ..shy() });
    let to = published(&bob).await;
    let issuer = SigningKey::generate();
    let domain = bob.user().domain();
    for name in ["nobody-1", "nobody-2", "nobody-3", "alice"] {
        put(&world, &to, &forged(&to, &format!("{name}@{domain}"), &issuer)).await;
    }
    put(&world, &to, &forged(&to, "nobody@elsewhere.example", &issuer)).await;
    alice.ask_contact(bob.user()).await.unwrap();
    let events = sync(&bob).await;
    let requested = events.iter().filter(|event| matches!(event, Event::ContactRequested { .. })).count();
    assert!(requested == 1 && events.iter().any(asks(alice.user())), "{events:?}");
    assert!(is_ignored(&events, "none that the server signed"), "{events:?}");
    let requests = bob.contact_requests().unwrap();
    assert!(requests.len() == 1 && requests[0].user == *alice.user(), "{requests:?}");
    world.close();
}

#[tokio::test]
async fn requests_that_the_server_does_not_confirm_take_no_place_from_those_that_it_does() {
    let world = World::builder().start().await;
    let options = Options { waiting_requests: 1, unconfirmed_requests: 1, ..shy() };
    let bob = with(world.person("bob").await, options);
    for (name, is_shown) in [("gina", true), ("hank", false)] {
        shy_person(&world, name).await.ask_contact(bob.user()).await.unwrap();
        let hide = format!("UPDATE auth.users SET name = '{name}-is-hidden' WHERE name = '{name}'");
        world.admin.batch_execute(&hide).await.unwrap();
        let events = sync(&bob).await;
        let unverified = |event: &Event| matches!(event, Event::ContactRequested { verified: false, .. });
        assert_eq!(events.iter().any(unverified), is_shown, "{name}: {events:?}");
        assert_eq!(is_ignored(&events, "whom the server does not confirm"), !is_shown, "{name}: {events:?}");
    }
    let alice = shy_person(&world, "alice").await;
    alice.ask_contact(bob.user()).await.unwrap();
    until(&bob, asks(alice.user())).await;
    assert_eq!(bob.contact_requests().unwrap().len(), 2);
    world.close();
}

#[tokio::test]
async fn letters_that_a_server_sends_again_change_nothing() {
    let world = World::builder().tokens(20).start().await;
    let [alice, carol] = [shy_person(&world, "alice").await, shy_person(&world, "carol").await];
    let phone = world.person("bob").await;
    let tablet = with(world.device(&phone, "tablet").await, shy());
    for friend in [&alice, &carol] {
        friend.ask_contact(phone.user()).await.unwrap();
        until(&phone, |event| matches!(event, Event::ContactRequested { accepted: true, .. })).await;
        until(friend, answers(phone.user())).await;
    }
    sync(&tablet).await;
    let before = letters(&tablet).len();
    phone.block_user(alice.user()).await.unwrap();
    sync(&tablet).await;
    let old_secrets = letters(&tablet)[before..].to_vec();
    let old_renewal = {
        sync(&carol).await;
        letters(&carol).pop().expect("Carol was told another token")
    };
    phone.unblock_user(alice.user()).await.unwrap();
    phone.block_user(carol.user()).await.unwrap();
    phone.unblock_user(carol.user()).await.unwrap();
    carol.ask_contact(phone.user()).await.unwrap();
    until(&phone, |event| matches!(event, Event::ContactRequested { accepted: true, .. })).await;
    until(&carol, answers(phone.user())).await;
    sync(&tablet).await;
    assert!(!contact(&tablet, alice.user()).is_some_and(|alice| alice.blocked));

    assert!(!old_secrets.is_empty());
    for letter in &old_secrets {
        send_again(&world, &tablet, letter).await;
    }
    let events = sync(&tablet).await;
    assert!(is_ignored(&events, "came again"), "{events:?}");
    assert!(!contact(&tablet, alice.user()).is_some_and(|alice| alice.blocked), "no list goes back");
    send_again(&world, &carol, &old_renewal).await;
    let events = sync(&carol).await;
    assert!(is_ignored(&events, "came again"), "{events:?}");
    let invited = carol.create_group("later").await.unwrap().invite(phone.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (2, 0), "she has the token of now");
    world.close();
}

#[tokio::test]
async fn letters_of_another_time_are_refused() {
    let world = World::builder().start().await;
    let alice = shy_person(&world, "alice").await;
    const DAY: i64 = 24 * 60 * 60;
    for (name, ahead, why) in [("early", -2 * 60 * 60, "of the future"), ("late", 63 * DAY, "too old")] {
        let bob = with(world.person(name).await, Options { clock: Clock::ahead_by(ahead), ..shy() });
        alice.ask_contact(bob.user()).await.unwrap();
        let events = sync(&bob).await;
        assert!(is_ignored(&events, why), "{name}: {events:?}");
        assert!(bob.contact_requests().unwrap().is_empty());
    }
    world.close();
}

/// Owner keys and lookups of all friendships at the QS.
async fn friendships(world: &World) -> BTreeSet<Vec<u8>> {
    let rows = world.admin.query("SELECT owner_key, lookup FROM qs.friendships", &[]).await.unwrap();
    rows.iter().flat_map(|row| [row.get(0), row.get(1)]).collect()
}

#[tokio::test]
async fn a_removed_device_is_nothing_to_contacts_and_has_no_part_in_the_friendship() {
    let world = World::builder().tokens(20).start().await;
    let bob = world.person("bob").await;
    let phone = world.person("alice").await;
    let tablet = world.device(&phone, "tablet").await;
    let stolen = world.device(&phone, "stolen").await;
    befriend(&bob, &phone, bob.create_group("before").await.unwrap().id()).await;
    for device in [&tablet, &stolen] {
        sync(device).await;
    }
    let before = friendships(&world).await;

    phone.remove_device(&stolen.client_key()).await.unwrap();
    sync(&tablet).await;
    sync(&bob).await;
    let after = friendships(&world).await;
    assert_eq!(before.intersection(&after).count(), 2, "Bob's own; all of Alice's is new");
    let alices = "qs.stocks s JOIN qs.friendships f USING (friendship_id)
                  GROUP BY f.friendship_id HAVING count(*) = 2";
    assert_eq!(world.count(&format!("(SELECT FROM {alices}) two")).await, 1, "phone and tablet");

    // It goes on: it says that the friendship is another, asks, and publishes.
    let carol = shy_person(&world, "carol").await;
    let _ = stolen.block_user(&"nobody@example.org".parse().unwrap()).await;
    let _ = stolen.ask_contact(carol.user()).await;
    for _ in 0..2 {
        let _ = stolen.sync(Duration::ZERO).await;
    }
    let events = sync(&bob).await;
    assert!(is_ignored(&events, "not any more"), "the renewal of a device that is nobody's: {events:?}");
    for device in [&phone, &tablet] {
        sync(device).await;
        assert!(!device.contacts().unwrap().iter().any(|contact| contact.blocked), "it decides nothing");
    }
    let events = sync(&carol).await;
    assert!(
        !events.iter().any(|event| matches!(event, Event::ContactRequested { verified: true, .. })),
        "{events:?}"
    );
    assert!(carol.contact_requests().unwrap().is_empty());

    let group = bob.create_group("after").await.unwrap();
    let invited = group.invite(phone.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (2, 0), "phone and tablet");
    let members: BTreeSet<PublicKey> =
        group.members().unwrap().iter().filter_map(|member| member.client_key).collect();
    assert!(!members.contains(&stolen.client_key()));
    world.close();
}

#[tokio::test]
async fn a_removed_device_deletes_no_account_and_tells_nobody_that_it_ended() {
    let world = World::builder().tokens(20).start().await;
    let bob = world.person("bob").await;
    let phone = world.person("alice").await;
    let stolen = world.device(&phone, "stolen").await;
    befriend(&bob, &phone, bob.create_group("climbing").await.unwrap().id()).await;
    for device in [&stolen, &phone] {
        sync(device).await;
    }
    phone.ask_contact(bob.user()).await.unwrap();
    sync(&bob).await;
    sync(&phone).await;
    sync(&stolen).await;
    phone.remove_device(&stolen.client_key()).await.unwrap();

    let error = stolen.delete_account(&RecoveryKey::generate()).await.unwrap_err();
    assert_eq!(error.problem(), Some(ProblemType::NotAllowed));
    phone.look_up(phone.user()).await.expect("the account is there");
    for _ in 0..2 {
        let events = sync(&bob).await;
        assert!(
            !events
                .iter()
                .any(|event| matches!(event, Event::MemberGone { .. } | Event::ContactDeleted { .. })),
            "{events:?}"
        );
    }
    assert!(contact(&bob, phone.user()).is_some());
    world.close();
}

#[tokio::test]
async fn what_one_device_accepts_no_other_device_answers_to_a_removed_one() {
    let world = World::builder().tokens(20).start().await;
    let alice = shy_person(&world, "alice").await;
    let stolen = with(world.device(&alice, "stolen").await, shy());
    let phone = shy_person(&world, "bob").await;
    let tablet = with(world.device(&phone, "tablet").await, shy());
    for device in [&stolen, &alice] {
        device.ask_contact(phone.user()).await.unwrap();
    }
    for device in [&phone, &tablet] {
        until(device, asks(alice.user())).await;
    }
    alice.remove_device(&stolen.client_key()).await.unwrap();
    let _ = stolen.sync(Duration::ZERO).await;
    let before = letters(&stolen).len();

    tablet.accept_contact(alice.user()).await.unwrap();
    sync(&phone).await;
    assert!(contact(&phone, alice.user()).unwrap().may_add, "the phone knows what was decided");
    until(&alice, answers(phone.user())).await;
    let _ = stolen.sync(Duration::ZERO).await;
    assert_eq!(letters(&stolen).len(), before, "nobody writes to it");
    world.close();
}

#[tokio::test]
async fn two_people_see_one_safety_number_and_what_they_verified_stays_so_while_devices_come_and_go() {
    let world = World::builder().start().await;
    let [alice, bob, carol] = [
        shy_person(&world, "alice").await,
        shy_person(&world, "bob").await,
        shy_person(&world, "carol").await,
    ];
    let ours = alice.safety_number(bob.user()).await.unwrap();
    let theirs = bob.safety_number(alice.user()).await.unwrap();
    assert_eq!(ours.digits(), theirs.digits());
    assert_ne!(ours.digits(), alice.safety_number(carol.user()).await.unwrap().digits());
    bob.confirm_safety_number(carol.user()).expect_err("nothing was shown");
    bob.confirm_safety_number(alice.user()).unwrap();
    alice.compare_safety_code(bob.user(), theirs.code()).await.unwrap();
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        assert!(one.known(other.user()).unwrap().unwrap().verified);
    }
    let other = carol.safety_number(alice.user()).await.unwrap();
    assert!(matches!(alice.compare_safety_code(bob.user(), other.code()).await, Err(Error::BadBlob(_))));

    // A device of Bob's comes and goes: the number is another one, the same for both, and he stays verified.
    let tablet = world.device(&bob, "tablet").await;
    assert!(tablet.known(alice.user()).unwrap().unwrap().verified, "the new device knows whom he verified");
    let more = alice.safety_number(bob.user()).await.unwrap();
    assert_ne!(more.digits(), ours.digits());
    assert_eq!(more.digits(), bob.safety_number(alice.user()).await.unwrap().digits());
    bob.remove_device(&tablet.client_key()).await.unwrap();
    assert_ne!(alice.safety_number(bob.user()).await.unwrap().digits(), more.digits());
    assert!(alice.known(bob.user()).unwrap().unwrap().verified);
    // A code of earlier is good as long as it is a part of what both saw since.
    alice.compare_safety_code(bob.user(), theirs.code()).await.unwrap();
    world.close();
}

#[tokio::test]
async fn contacts_hear_of_another_name_and_of_an_end_and_go_on_or_not() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;
    let number = alice.safety_number(bob.user()).await.unwrap();
    bob.compare_safety_code(alice.user(), number.code()).await.unwrap();

    let key = alice.recovery_key().unwrap().expect("it was not shown yet");
    let before = alice.user().clone();
    let alicia = alice.rename("alicia", &key).await.unwrap();
    sync(&alicia).await;
    let renamed = |event: &Event| matches!(event, Event::Renamed { from, to } if *from == before && to == alicia.user());
    let events = until(&bob, renamed).await;
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::IdentityReset { .. } | Event::IdentitySplit { .. }))
    );
    assert!(contact(&bob, &before).is_none());
    let known = contact(&bob, alicia.user()).expect("what was agreed goes on");
    assert!(known.may_be_added && known.verified, "{known:?}");
    let invited = bob.create_group("climbing").await.unwrap().invite(alicia.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0), "she need not be asked");

    alicia.delete_account(&key).await.unwrap();
    let deleted = |event: &Event| matches!(event, Event::ContactDeleted { user } if user == alicia.user());
    until(&bob, deleted).await;
    assert!(contact(&bob, alicia.user()).is_none());
    world.close();
}

#[tokio::test]
async fn a_contact_that_began_anew_is_no_contact_until_a_person_accepts() {
    let world = World::builder().start().await;
    let [alice, bob] = [shy_person(&world, "alice").await, shy_person(&world, "bob").await];
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        one.ask_contact(other.user()).await.unwrap();
        until(other, asks(one.user())).await;
        other.accept_contact(one.user()).await.unwrap();
        until(one, answers(other.user())).await;
    }
    let number = alice.safety_number(bob.user()).await.unwrap();
    bob.compare_safety_code(alice.user(), number.code()).await.unwrap();
    let key = alice.recovery_key().unwrap().unwrap();
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url()).options(shy());
    let anew = anew.reset("alice", &key).await.unwrap();
    assert!(anew.contacts().unwrap().is_empty());
    anew.ask_contact(bob.user()).await.unwrap();

    let reset = |event: &Event| matches!(event, Event::IdentityReset { user } if user == alice.user());
    let events = until(&bob, reset).await;
    assert!(!events.iter().any(asks(alice.user())), "it is not known who asks: {events:?}");
    let known = contact(&bob, alice.user()).unwrap();
    assert!(known.reset && !known.may_add && !known.may_be_added && !known.verified, "{known:?}");
    assert!(matches!(bob.accept_contact(alice.user()).await, Err(Error::Identity(_))));
    assert!(matches!(bob.safety_number(alice.user()).await, Err(Error::Identity(_))));

    assert!(bob.accept_reset(alice.user()).unwrap());
    until(&bob, asks(alice.user())).await;
    assert!(contact(&bob, alice.user()).is_none(), "nothing of before holds");
    bob.accept_contact(alice.user()).await.unwrap();
    until(&anew, answers(bob.user())).await;
    let known = contact(&bob, alice.user()).unwrap();
    assert!(known.may_add && !known.may_be_added && !known.verified, "{known:?}");
    world.close();
}

/// Looks contacts up whenever it can.
fn watchful() -> Options {
    Options { look_up_contacts_every: Duration::ZERO, ..shy() }
}

#[tokio::test]
async fn a_contacts_reset_and_end_show_within_a_day_though_nothing_tells_of_them() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;

    let key = alice.recovery_key().unwrap().unwrap();
    let anew = Client::builder(world.homes.path().join("anew")).server(world.server().url()).options(shy());
    anew.reset("alice", &key).await.unwrap();
    let spent = "SELECT count(*) FROM aas.spent";
    let before: i64 = world.value(spent).await;
    let events = sync(&bob).await;
    assert!(events.is_empty(), "her turn has not come: {events:?}");
    let usual = world.value::<i64>(spent).await - before;
    // A day later.
    let bob = with(bob, watchful());
    let before: i64 = world.value(spent).await;
    let events = sync(&bob).await;
    let reset = |event: &Event| matches!(event, Event::IdentityReset { user } if user == alice.user());
    assert!(events.iter().any(reset), "{events:?}");
    assert_eq!(world.value::<i64>(spent).await - before, usual + 1, "a look costs a token");

    assert!(bob.accept_reset(alice.user()).unwrap());
    bob.ask_contact(alice.user()).await.unwrap();
    let missing = |event: &Event| matches!(event, Event::ContactMissing { user } if user == alice.user());
    world.admin.batch_execute("SELECT operator.delete_user('alice')").await.unwrap();
    assert!(!sync(&bob).await.iter().any(missing), "nothing was agreed with her new identity");
    world.close();
}

#[tokio::test]
async fn a_contact_that_the_server_knows_no_more_is_told_of_once() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;
    world.admin.batch_execute("SELECT operator.delete_user('alice')").await.unwrap();
    assert!(sync(&bob).await.is_empty());
    let bob = with(bob, watchful());
    let missing = |event: &Event| matches!(event, Event::ContactMissing { user } if user == alice.user());
    assert!(sync(&bob).await.iter().any(missing));
    assert!(!sync(&bob).await.iter().any(missing), "once");
    world.close();
}

/// A device whose letters are gone: they waited in its mailbox for too long, or it lost the mailbox itself.
async fn misses_letters(gone: &str) {
    let world = World::builder().start().await;
    let [alice, carol] = [shy_person(&world, "alice").await, shy_person(&world, "carol").await];
    let laptop = shy_person(&world, "bob").await;
    let before = "CREATE TABLE others AS SELECT queue_id FROM qs.queues";
    world.admin.batch_execute(before).await.unwrap();
    let phone = with(world.device(&laptop, "phone").await, shy());
    for device in [&laptop, &phone] {
        sync(device).await;
    }
    laptop.ask_contact(alice.user()).await.unwrap();
    until(&alice, asks(laptop.user())).await;
    alice.accept_contact(laptop.user()).await.unwrap();
    until(&laptop, answers(alice.user())).await;
    laptop.block_user(carol.user()).await.unwrap();
    let group = laptop.create_group("climbing").await.unwrap().id().clone();
    sync(&laptop).await;
    world.admin.batch_execute(gone).await.unwrap();
    let told = sync(&phone).await;
    let noticed = |event: &Event| matches!(event, Event::Expired { .. } | Event::MailboxReplaced { .. });
    assert!(told.iter().any(noticed), "{told:?}");
    assert!(contact(&phone, alice.user()).is_none() && contact(&phone, carol.user()).is_none());

    sync(&laptop).await;
    let joined = |event: &Event| matches!(event, Event::Joined { group: found } if *found == group);
    until(&phone, joined).await;
    assert!(contact(&phone, carol.user()).unwrap().blocked);
    phone.look_up(alice.user()).await.unwrap();
    assert!(contact(&phone, alice.user()).expect("they agreed").may_be_added);
    let invited = phone.group_with_id(&group).invite(alice.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0), "the phone may add her");
    world.close();
}

const OF_THE_PHONE: &str = "queue_id NOT IN (SELECT queue_id FROM others)";

#[tokio::test]
async fn a_device_whose_letters_expired_asks_its_users_others_what_they_share() {
    misses_letters(&format!(
        "UPDATE qs.messages SET enqueued = enqueued - 100 WHERE {OF_THE_PHONE};
         UPDATE qs.sweep SET day = 'epoch', position = NULL;
         SELECT qs.keep_up()"
    ))
    .await;
}

#[tokio::test]
async fn a_device_whose_mailboxes_are_gone_makes_others_and_asks_what_it_missed() {
    misses_letters(&format!("SELECT operator.drop_queue(queue_id) FROM qs.queues WHERE {OF_THE_PHONE}"))
        .await;
}

/// Bob's laptop and phone, which know each other, and Carol.
async fn two_devices(world: &World) -> (Client, Client, Client) {
    let carol = shy_person(world, "carol").await;
    let laptop = shy_person(world, "bob").await;
    let phone = with(world.device(&laptop, "phone").await, shy());
    for _ in 0..2 {
        for device in [&laptop, &phone] {
            sync(device).await;
        }
    }
    (laptop, phone, carol)
}

/// Whether a device blocks a user.
fn blocks(device: &Client, user: &UserName) -> bool {
    contact(device, user).is_some_and(|contact| contact.blocked)
}

#[tokio::test]
async fn a_device_for_whose_letters_there_was_no_room_asks_its_users_others_what_they_share() {
    let world = World::builder().start().await;
    let (laptop, phone, carol) = two_devices(&world).await;
    world.admin.batch_execute("UPDATE qs.settings SET contact_queue_depth = 1").await.unwrap();
    laptop.create_group("fills the queue").await.unwrap();
    sync(&laptop).await;
    laptop.block_user(carol.user()).await.unwrap();
    sync(&laptop).await;
    world.admin.batch_execute("UPDATE qs.settings SET contact_queue_depth = 1000").await.unwrap();
    laptop.create_group("shows that something is missing").await.unwrap();
    sync(&laptop).await;
    let told = sync(&phone).await;
    assert!(told.iter().any(|event| matches!(event, Event::Lost { .. })), "{told:?}");
    assert!(!blocks(&phone, carol.user()), "the letter is lost");
    for device in [&laptop, &phone] {
        sync(device).await;
    }
    assert!(blocks(&phone, carol.user()));
    world.close();
}

#[tokio::test]
async fn a_device_that_was_not_shown_for_a_while_asks_its_users_others_what_they_share() {
    let world = World::builder().start().await;
    let (laptop, phone, carol) = two_devices(&world).await;
    // It was silent for long: nobody can write to it (AS-9).
    let sql = "UPDATE auth.clients SET heard = heard - 4 WHERE client_key = $1";
    world.admin.execute(sql, &[&phone.client_key().as_bytes().as_slice()]).await.unwrap();
    world.value::<bool>("SELECT auth.expire()").await;
    laptop.block_user(carol.user()).await.unwrap();
    sync(&laptop).await;
    sync(&phone).await;
    assert!(!blocks(&phone, carol.user()), "no letter was written to it");
    phone.forget_the_upkeep().unwrap();
    for device in [&phone, &laptop, &phone] {
        sync(device).await;
    }
    assert!(blocks(&phone, carol.user()));
    world.close();
}
