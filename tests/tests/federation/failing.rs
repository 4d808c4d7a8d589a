//! Homeservers whose services fail while everything else of theirs is there: their gateway seals the fault as it seals any
//! other answer. It is that homeserver's own, and keeps people of other domains from nothing else (FED-6).

use std::time::Duration;

use postern_client::{Client, Error, Event};
use postern_protocol::name::UserName;
use postern_tests_kit::{Neighbours, PATIENCE, World, befriend, eventually};

use crate::people_in_groups::{hears, say, until};

/// Lets the servers of a homeserver call a function, or has each request that needs it end in a fault.
async fn allow(world: &World, function: &str, may: bool) {
    let (verb, preposition) = if may { ("GRANT", "TO") } else { ("REVOKE", "FROM") };
    let sql = format!("{verb} EXECUTE ON FUNCTION {function} {preposition} postern_server");
    world.admin.batch_execute(&sql).await.expect("a superuser can");
}

fn asks(user: &UserName) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::ContactRequested { user: found, verified: true, .. } if found == user)
}

async fn hears_of(client: &Client, wanted: impl Fn(&Event) -> bool) {
    let events = client.sync_until(PATIENCE, &wanted).await.expect("the own homeserver is there");
    assert!(events.iter().any(wanted), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_as_elsewhere_that_fails_keeps_nobodys_letters_from_being_read_and_answered() {
    const LOOK_UP: &str = "auth.look_up_user";
    let neighbours = Neighbours::builder().start().await;
    let (home, remote) = (&neighbours[0], &neighbours[1]);
    let (alice, carol) = (home.person("alice").await, home.person("carol").await);
    let mallory = remote.person("mallory").await;
    mallory.ask_contact(alice.user()).await.expect("the letter is deposited");
    // His AS shows its keys, by which the letter counts as a user's, and says of nobody who that is.
    allow(remote, LOOK_UP, false).await;
    let failed = alice.look_up(mallory.user()).await.expect_err("that AS has a fault");
    assert!(failed.is_passing(), "it may be mended: {failed}");
    let told = failed.to_string();
    assert!(told.contains("the other domain's homeserver"), "it is told whose fault it is: {told}");
    carol.ask_contact(alice.user()).await.expect("the letter is deposited");
    // The letters are read with the same errands, and the answer goes out with later ones.
    hears_of(&alice, asks(carol.user())).await;
    let answered = |event: &Event| matches!(event, Event::ContactAnswered { user } if user == alice.user());
    eventually("she answers", async || {
        alice.sync(Duration::ZERO).await.expect("the own homeserver is there");
        let events = carol.sync(Duration::ZERO).await.expect("the own homeserver is there");
        events.iter().any(answered).then_some(())
    })
    .await;
    assert!(alice.known(mallory.user()).expect("it can be read").is_none(), "nobody says who he is");

    allow(remote, LOOK_UP, true).await;
    eventually("his letter is read once it is mended", async || {
        let events = alice.sync(Duration::ZERO).await.expect("the own homeserver is there");
        events.iter().any(asks(mallory.user())).then_some(())
    })
    .await;
    // The fault is in that homeserver's log: nothing is asserted of it.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ds_elsewhere_that_fails_keeps_no_other_group_waiting() {
    const WELCOME_TREE: &str = "ds.load_welcome_tree";
    let neighbours = Neighbours::builder().start().await;
    let remote = &neighbours[1];
    let (alice, carol, at_home) = neighbours[0].friends(["alice", "carol"], "at home").await;
    let bob = remote.person("bob").await;
    let failing = bob.create_group("failing").await.expect("a group can be made").id().clone();
    allow(remote, WELCOME_TREE, false).await;
    befriend(&bob, &alice, &failing).await;
    eventually("the Welcome is there", async || {
        (remote.value::<i64>("SELECT count(*) FROM federation.outbox").await == 0).then_some(())
    })
    .await;
    say(&carol, &at_home, "is Alice there?").await;
    hears(&alice, "is Alice there?").await;
    say(&alice, &at_home, "yes").await;
    hears(&carol, "yes").await;
    assert!(
        matches!(alice.group_with_id(&failing).epoch(), Err(Error::UnknownGroup(_))),
        "it cannot be joined yet"
    );

    allow(remote, WELCOME_TREE, true).await;
    until("Alice has joined at last", &[&alice], || alice.group_with_id(&failing).epoch().is_ok()).await;
    // The fault is in that homeserver's log: nothing is asserted of it.
}
