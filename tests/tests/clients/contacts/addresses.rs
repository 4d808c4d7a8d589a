//! Addresses for letters (QS-2): strangers can close the published one for a day. Its owner opens another, and neither
//! contacts nor the user's own devices are kept out meanwhile.

use postern_client::{Client, Event, ProfileChange};
use postern_protocol::{Address, name::UserName, problem::ProblemType};
use postern_tests_kit::{BadLine, World, depositing};

use super::{asks, contact, contacts_of_each_other, letters, published, shy, shy_person, sync, until, with};

/// An address takes so few letters that a test can close it.
async fn take_few_letters(world: &World) {
    let few = "UPDATE qs.settings SET deposits_per_day = 3, deposit_refills = 1";
    world.admin.batch_execute(few).await.unwrap();
}

/// Strangers put into a contact queue what an address takes.
async fn close(world: &World, address: Address) {
    world.restock(10).await;
    for _ in 0..3 {
        world.pay(&depositing(address, b"hello")).await.assert_ok("it is open");
    }
    is_closed(world, address).await;
}

async fn is_closed(world: &World, address: Address) {
    world.restock(10).await;
    let more = world.pay(&depositing(address, b"hello")).await;
    more.assert_problem("one too many", ProblemType::Undeliverable);
}

/// Somebody else of a client's domain.
fn nobody(of: &Client, number: usize) -> UserName {
    format!("nobody-{number}@{}", of.user().domain()).parse().unwrap()
}

/// A client's letters found their receivers.
async fn reached_all(client: &Client) {
    let events = sync(client).await;
    let unreachable = |event: &Event| matches!(event, Event::ContactUnreachable { .. });
    assert!(!events.iter().any(unreachable), "{events:?}");
}

/// Blocks somebody: other contacts are told another token, and the user's own devices who is blocked.
async fn write_to_all(client: &Client, number: usize) {
    client.block_user(&nobody(client, number)).await.unwrap();
    reached_all(client).await;
}

fn has_lost_letters(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Lost { group: None }))
}

#[tokio::test]
async fn the_owner_of_an_address_that_strangers_closed_publishes_another_however_often() {
    let world = World::builder().start().await;
    let [alice, bob] = [shy_person(&world, "alice").await, shy_person(&world, "bob").await];
    take_few_letters(&world).await;
    for round in 0..3 {
        let before = published(&bob).await.address;
        close(&world, before).await;
        let events = sync(&bob).await;
        assert!(has_lost_letters(&events), "{round}: {events:?}");
        assert_ne!(published(&bob).await.address, before, "{round}");
        is_closed(&world, before).await;
    }
    alice.ask_contact(bob.user()).await.unwrap();
    until(&bob, asks(alice.user())).await;
    world.close();
}

#[tokio::test]
async fn strangers_who_close_the_published_address_keep_out_neither_contacts_nor_own_devices() {
    let world = World::builder().start().await;
    let [alice, phone] = contacts_of_each_other(&world).await;
    let laptop = with(world.device(&phone, "laptop").await, shy());
    // The laptop has a letter of the phone's, as Alice has.
    sync(&laptop).await;
    write_to_all(&phone, 1).await;
    for device in [&laptop, &phone] {
        sync(device).await;
    }

    take_few_letters(&world).await;
    close(&world, published(&phone).await.address).await;
    write_to_all(&alice, 2).await;
    write_to_all(&laptop, 3).await;
    sync(&phone).await;
    let blocked = contact(&phone, &nobody(&phone, 3));
    assert!(blocked.is_some_and(|contact| contact.blocked), "the laptop's letter came");
    let invited = phone.create_group("climbing").await.unwrap().invite(alice.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0), "Alice's came, with her token of now");
    world.close();
}

#[tokio::test]
async fn letters_that_the_address_for_contacts_does_not_take_come_by_the_published_one() {
    let world = World::builder().start().await;
    let [alice, bob] = contacts_of_each_other(&world).await;
    sync(&bob).await;
    take_few_letters(&world).await;
    let before = letters(&bob).len();
    for number in 0..5 {
        write_to_all(&alice, number).await;
    }
    let events = sync(&bob).await;
    assert!(has_lost_letters(&events), "the address is closed: {events:?}");
    assert_eq!(letters(&bob).len() - before, 5);

    // He has another one for contacts, which his next letter tells.
    bob.change_profile(&ProfileChange { display_name: Some("Bob".to_owned()), ..ProfileChange::default() })
        .await
        .unwrap();
    sync(&alice).await;
    close(&world, published(&bob).await.address).await;
    write_to_all(&alice, 5).await;
    sync(&bob).await;
    // Strangers' were three.
    assert_eq!(letters(&bob).len() - before, 5 + 1 + 3);
    let invited = bob.create_group("climbing").await.unwrap().invite(alice.user()).await.unwrap();
    assert_eq!((invited.members, invited.waiting), (1, 0), "he has her token of now");
    world.close();
}

#[tokio::test]
async fn a_letter_that_waited_goes_to_the_address_that_its_receiver_has_by_then() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let home = world.homes.path().join("alice");
    let alice = Client::builder(home).server(line.url()).options(shy()).register("alice").await.unwrap();
    let bob = shy_person(&world, "bob").await;
    let unavailable = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    line.answer("POST /qs/deposits", usize::MAX, unavailable);
    let error = alice.ask_contact(bob.user()).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    line.mend();

    take_few_letters(&world).await;
    let before = published(&bob).await.address;
    close(&world, before).await;
    sync(&bob).await;
    is_closed(&world, before).await;
    reached_all(&alice).await;
    until(&bob, asks(alice.user())).await;
    world.close();
}
