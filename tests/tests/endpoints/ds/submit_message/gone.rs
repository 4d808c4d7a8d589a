//! The server proposes to remove members whose address at another homeserver is gone, by the word of that one, and tells those
//! who are elsewhere (DS-10).

use super::{
    super::elsewhere::{Elsewhere, domain, operate},
    *,
};

#[tokio::test]
async fn who_takes_no_messages_elsewhere_any_more_is_removed_by_the_next_commit() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let b = domain("b");
    operate(&world, "operator.set_federation_limit('gone_after_days', 0)").await;
    let mut group = elsewhere.group(&world, &[home(), b.clone(), b.clone(), domain("c")]).await;
    let mut other = elsewhere.group(&world, &[home(), b.clone()]).await;
    let filed = async || world.count("federation.gone").await;

    // As its owner would by revoking it, there.
    let revoked = vec![group.members[2].address];
    world.pay(&group.members[2].mailbox.revoking(revoked)).await.assert_ok("revoking");
    let one = group.party(1).say(b"is everybody there?");
    assert_eq!(submit(&world, &group.submit(1, &one, None)).await.undelivered, 0, "nobody knows yet");
    elsewhere.deliver(&world).await;
    assert_eq!(filed().await, 1);
    // Addresses that nobody has there, and one of another group.
    elsewhere.file(&world, group.id.id(), &b, &fresh_address()).await;
    elsewhere.file(&world, group.id.id(), &b, &group.members[0].address).await;
    elsewhere.file(&world, other.id.id(), &b, &fresh_address()).await;

    let two = group.party(1).say(b"really?");
    assert_eq!(submit(&world, &group.submit(1, &two, None)).await.undelivered, 0);
    while group.party(0).evictions == 0 {
        world.await_message(&mut group.members[0]).await;
    }
    eventually("what is proposed, or nobody's, is forgotten", async || (filed().await == 1).then_some(()))
        .await;
    elsewhere.deliver(&world).await;
    assert_eq!(filed().await, 2, "it does not take the proposal either");
    world.receive(&mut group.members[3]).await;
    assert_eq!(group.party(3).evictions, 1);
    let alone = Commit { alone: true, update: true, ..Commit::default() };
    let (_, call) = group.make(0, alone);
    world.assert_refuses("a commit that leaves the removal out", &call, ProblemType::PolicyViolation).await;
    group.party(0).forget();
    world.receive(&mut group.members[1]).await;
    let (_, call) = group.make(1, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("a commit");
    group.party(1).merge();
    eventually("it is filed no more", async || (filed().await == 1).then_some(())).await;
    elsewhere.deliver(&world).await;
    let gone = group.key(2);
    assert!(!group.party(1).member_keys().contains(&gone));

    let three = group.party(1).say(b"now");
    submit(&world, &group.submit(1, &three, None)).await;
    eventually("nothing of the group is filed", async || (filed().await == 1).then_some(())).await;
    elsewhere.deliver(&world).await;
    assert_eq!(world.receive(&mut group.members[3]).await, [b"now".to_vec()]);
    assert_eq!(group.party(3).evictions, 1, "once");

    let said = other.party(0).say(b"we are all there");
    submit(&world, &other.submit(0, &said, None)).await;
    eventually("each group forgets its own", async || (filed().await == 0).then_some(())).await;
    world.close();
}

#[tokio::test]
async fn what_a_homeserver_says_of_an_address_on_one_day_removes_nobody() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("b")]).await;
    let pass = async |days: i32| {
        let sql = "UPDATE federation.gone SET day = day - $1::integer, last_day = last_day - $1::integer";
        world.admin.execute(sql, &[&days]).await.expect("it is another day");
    };
    let (id, address) = (group.id.clone(), group.members[2].address);
    let report = async || elsewhere.file(&world, id.id(), &domain("b"), &address).await;
    let due = async || -> i64 {
        let sql = "SELECT sum(cardinality(federation.gone_addresses(g.group_digest))) FROM federation.gone g";
        world.value(sql).await
    };

    report().await;
    report().await;
    assert_eq!(due().await, 0, "twice on one day");
    pass(1).await;
    assert_eq!(due().await, 0, "and the next day says nothing");
    pass(7).await;
    report().await;
    assert_eq!(due().await, 0, "that was too long ago");
    let said = group.party(1).say(b"is everybody there?");
    submit(&world, &group.submit(1, &said, None)).await;
    pass(1).await;
    report().await;
    assert_eq!(due().await, 1);
    let said = group.party(1).say(b"really?");
    submit(&world, &group.submit(1, &said, None)).await;
    while group.party(0).evictions == 0 {
        world.await_message(&mut group.members[0]).await;
    }
    let proposals = elsewhere.waiting(&world).await.len();
    assert_eq!(proposals, 3, "two messages, and one proposal");
    world.close();
}

#[tokio::test]
async fn what_a_homeserver_says_of_an_address_is_nothing_of_another_ones() {
    let world = World::start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    operate(&world, "operator.set_federation_limit('gone_after_days', 0)").await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
    let (id, address) = (group.id.clone(), group.members[1].address);
    elsewhere.file(&world, id.id(), &domain("c"), &address).await;
    for text in ["is everybody there?", "really?"] {
        let said = group.party(0).say(text.as_bytes());
        submit(&world, &group.submit(0, &said, None)).await;
        elsewhere.deliver(&world).await;
    }
    eventually("nobody has that address there", async || {
        (world.count("federation.gone").await == 0).then_some(())
    })
    .await;
    world.receive(&mut group.members[1]).await;
    assert_eq!(group.party(1).evictions, 0);
    world.close();
}

#[tokio::test]
async fn several_proposals_of_the_server_go_elsewhere_in_one_delivery() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), home(), home(), domain("b"), domain("b")]).await;
    for member in [1, 2] {
        let revoked = vec![group.members[member].address];
        world.pay(&group.members[member].mailbox.revoking(revoked)).await.assert_ok("revoking");
    }
    let said = group.party(3).say(b"is everybody there?");
    assert_eq!(submit(&world, &group.submit(3, &said, None)).await.undelivered, 2);
    while group.party(0).evictions < 2 {
        world.await_message(&mut group.members[0]).await;
    }
    let waiting = elsewhere.deliver(&world).await;
    let numbers: Vec<_> =
        waiting.iter().map(|it| (it.delivery.payloads.len(), it.delivery.parts.len())).collect();
    assert_eq!(numbers, [(1, 1), (2, 4)], "what was said, and both proposals for both members");
    for member in [3, 4] {
        world.receive(&mut group.members[member]).await;
        assert_eq!(group.party(member).evictions, 2);
    }
    let (_, call) = group.make(3, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("both are committed");
    group.party(3).merge();
    elsewhere.deliver(&world).await;
    world.receive(&mut group.members[4]).await;
    assert_eq!(group.party(4).member_keys().len(), 3);
    world.close();
}
