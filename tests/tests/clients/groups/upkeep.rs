//! Members' work that nobody asks for (DS-10): they renew keys and addresses, and commit what others proposed.

use std::{collections::BTreeSet, time::Duration};

use postern_client::{Client, Error, Event, Options};
use postern_protocol::ds::{GroupId, GroupIdReserved};
use postern_tests_kit::{Call, PATIENCE, World, eventually, joined};

use super::{eager, group_of_three, hears, names, patient, receive, with};

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
    assert_eq!(world.count(renewed).await, 4, "those for letters, and the group's");
    let bobs = world.count("qs.addresses").await;
    receive(&bob).await;
    assert_eq!(world.count("qs.addresses").await, bobs, "no address was added");

    world.admin.batch_execute("UPDATE qs.addresses SET season = season - 4").await.unwrap();
    alice.group_with_id(&group).send("are you there?").await.unwrap();
    assert_eq!(world.count(renewed).await, 1, "a delivery renews the one that it is for");
    hears(&bob, "are you there?").await;
}

/// Deletes the address that a member has in the group, one that no KeyPackage has. The other one knows of it.
async fn loses_its_address(world: &World, member: &Client, other: &Client, group: &GroupId) {
    let lookups = async || -> BTreeSet<Vec<u8>> {
        let rows = world.admin.query("SELECT lookup FROM qs.addresses", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let before = lookups().await;
    member.group_with_id(group).renew_address().await.unwrap();
    receive(other).await;
    let address = lookups().await.difference(&before).next().unwrap().clone();
    let gone = world.admin.execute("DELETE FROM qs.addresses WHERE lookup = $1", &[&address]).await.unwrap();
    assert_eq!(gone, 1);
}

#[tokio::test]
async fn who_is_to_be_removed_and_is_still_here_comes_back_with_another_address() {
    let world = World::builder().pushing().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "here").await;
    let fast = Options { return_after: Duration::ZERO, ..patient() };
    let (alice, bob) = (with(alice, fast.clone()), with(bob, fast));
    receive(&alice).await;
    // The DS sees that when it delivers: it proposes to remove him.
    loses_its_address(&world, &bob, &alice, &group).await;
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
    loses_its_address(&world, &carol, &alice, &group).await;
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
