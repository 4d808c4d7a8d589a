//! First contact (AS-12), removed devices (AS-13), and knowing that somebody is who they seem to be. Real clients, a real
//! server, and letters that a server keeps back or sends again.

mod addresses;
mod devices;
mod known;
mod mail;
mod requests;

use std::time::Duration;

use postern_client::{Client, Contact, Event, Options};
use postern_protocol::{
    auth::SignedContact,
    name::UserName,
    qs::{QueueKind, QueuePayload},
};
use postern_tests_kit::{PATIENCE, World, depositing, with};

/// Somebody that decides on requests in person.
fn shy() -> Options {
    Options { durable: false, record_deliveries: true, ..Options::default() }
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

/// Alice, who accepted Bob's request.
async fn contacts_of_each_other(world: &World) -> [Client; 2] {
    let [alice, bob] = [shy_person(world, "alice").await, shy_person(world, "bob").await];
    bob.ask_contact(alice.user()).await.unwrap();
    until(&alice, asks(bob.user())).await;
    alice.accept_contact(bob.user()).await.unwrap();
    until(&bob, answers(alice.user())).await;
    [alice, bob]
}
