//! Requests (AS-12): a person decides on them, a server that does not confirm who asks is not believed, and strangers are
//! bounded.

use std::time::{SystemTime, UNIX_EPOCH};

use postern_client::{ContactRequest, Error, Event, Letter, LetterBody, Options, RequestId, Stamp};
use postern_protocol::{
    Address, Payload, Transcript, auth::SignedContact, chain::HpkePrivateKey, credential::ClientCredential,
    eid::EidState, encoding::Encoding, key::SigningKey, label::Label,
};
use postern_tests_kit::{World, joined};

use super::{
    answers, asks, contact, declines, is_about_contacts, is_ignored, published, put, shy, shy_person, sync,
    until, with,
};

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
    let signed = Letter::to_be_signed(&to.address, &credential, &stamp, None, None, None, &body);
    let (lookup, home_key, address) = (None, None, None);
    let signature = client.sign(&signed);
    let letter = Letter { credential, stamp, lookup, home_key, address, body, signature };
    let letter = Encoding::Cbor.encode(&letter);
    to.hpke_key.seal(Label::CONTACT_SEAL.as_bytes(), to.address.as_bytes(), &letter).unwrap()
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
