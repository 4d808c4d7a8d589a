//! Messages for members of other homeservers wait in the outbox (DS-5, FED-4), for each domain, and in bounds.

use std::collections::BTreeMap;

use postern_protocol::{Address, encoding::Encoding, name::Domain, push::Urgency};
use postern_tests_kit::Member;

use super::{
    super::elsewhere::{Elsewhere, Waiting, domain, domains, operate},
    *,
};

fn of(member: &Member) -> (Domain, Address) {
    (member.domain.clone(), member.address)
}

/// The recipients of each payload of what waits.
fn recipients(waiting: &[Waiting], group: &Group) -> BTreeMap<Vec<u8>, Vec<(Domain, Address)>> {
    let mut all: BTreeMap<Vec<u8>, Vec<_>> = BTreeMap::new();
    for Waiting { domain, delivery, .. } in waiting {
        assert_eq!(delivery.group_id, *group.id.id());
        assert_eq!(delivery.addresses.len(), delivery.parts.len());
        for (address, part) in delivery.addresses.iter().zip(&delivery.parts) {
            let payload = delivery.payloads[usize::from(*part) - 1].as_bytes().to_vec();
            all.entry(payload).or_default().push((domain.clone(), *address));
        }
    }
    all.values_mut().for_each(|recipients| recipients.sort_by_key(|(_, address)| *address.as_bytes()));
    all
}

/// The recipients that one payload is to have, as [`recipients`] has them.
fn expected<const N: usize>(
    payload: &QueuePayload,
    group: &Group,
    members: [usize; N],
) -> (Vec<u8>, Vec<(Domain, Address)>) {
    let mut recipients = members.map(|member| of(&group.members[member])).to_vec();
    recipients.sort_by_key(|(_, address)| *address.as_bytes());
    (Encoding::Cbor.encode(payload), recipients)
}

#[tokio::test]
async fn what_members_elsewhere_are_to_get_waits_sealed_once_for_each_domain_and_in_order() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let (b, c) = (domain("b"), domain("c"));
    let mut local = world.group(3).await;
    let spoken = local.party(1).say(b"among us");
    submit(&world, &local.submit(1, &spoken, None)).await;
    assert!(elsewhere.waiting(&world).await.is_empty(), "nobody of that group is elsewhere");

    let mut group = elsewhere.group(&world, &[home(), home(), b.clone(), c.clone(), b.clone()]).await;
    let said = group.party(1).say(b"one");
    assert_eq!(submit(&world, &group.submit(1, &said, None)).await, MessageAccepted::in_epoch(1));
    let urgent = group.party(2).say(b"two");
    let call = group.submit_urgent(2, &urgent, Urgency::High);
    assert_eq!(world.pay(&call).await.decode::<MessageAccepted>(), MessageAccepted::in_epoch(1));
    let waiting = elsewhere.waiting(&world).await;
    assert_eq!(domains(&waiting), ["b.example", "b.example", "c.example", "c.example"]);
    for pair in waiting.chunks(2) {
        assert_eq!((pair[0].lane, pair[0].number + 1), (pair[1].lane, pair[1].number), "one after the other");
    }
    let (one, two) = (QueuePayload::Message(said), QueuePayload::Message(urgent));
    assert_eq!(
        recipients(&waiting, &group),
        BTreeMap::from([expected(&one, &group, [2, 3, 4]), expected(&two, &group, [3, 4])]),
        "all but who says it"
    );
    let urgencies: Vec<_> = waiting.iter().map(|waiting| waiting.delivery.urgencies.as_slice()).collect();
    assert_eq!(urgencies, [[2], [3], [2], [3]], "the sender's word for how soon others want to know");
    let size = waiting[0].sealed.len();
    for Waiting { sealed, delivery, .. } in &waiting {
        assert_eq!(sealed.len(), size, "a size tells nothing of so few recipients");
        for address in &delivery.addresses {
            assert!(!sealed.windows(32).any(|bytes| bytes == address.as_bytes()), "it is sealed");
        }
    }
    elsewhere.deliver(&world).await;
    assert!(elsewhere.waiting(&world).await.is_empty());
    let texts = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect::<Vec<_>>();
    for member in [0, 3, 4] {
        let read = world.receive(&mut group.members[member]).await;
        assert_eq!(read, texts(&[b"one", b"two"]), "member {member}");
    }
    assert_eq!(world.receive(&mut group.members[1]).await, texts(&[b"two"]));
    assert_eq!(world.receive(&mut group.members[2]).await, texts(&[b"one"]));

    // A commit goes to those who are there, and its Welcome to who comes.
    let joiner = world.candidate_at(&c).await;
    let (made, call) = group.make(0, Commit { add: vec![joiner.party.key_package()], ..Commit::default() });
    world.pay(&call).await.assert_ok("adding");
    group.party(0).merge();
    group.members.push(joiner);
    let waiting = elsewhere.deliver(&world).await;
    assert_eq!(domains(&waiting), ["b.example", "c.example"], "a delivery for each");
    let Made { commit, welcome, .. } = made;
    let commit = expected(&QueuePayload::Message(commit), &group, [2, 3, 4]);
    let welcome = expected(&QueuePayload::Welcome(welcome.unwrap()), &group, [5]);
    assert_eq!(recipients(&waiting, &group), BTreeMap::from([commit, welcome]));
    assert_eq!(waiting[0].delivery.payloads.len(), 1, "no Welcome where nobody joins");
    let mut joiner = group.members.pop().unwrap();
    world.join(&group, 2, &mut joiner).await;
    group.members.push(joiner);
    for member in 0..6 {
        world.receive(&mut group.members[member]).await;
        let agreed = group.party(0).epoch_authenticator();
        assert_eq!(group.party(member).epoch_authenticator(), agreed, "member {member}");
    }
    world.close();
}

#[tokio::test]
async fn a_member_elsewhere_founds_commits_comes_back_lets_a_client_in_and_leaves() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let b = domain("b");
    // All members are elsewhere: the group's server has no queue of any.
    let mut group = elsewhere.group(&world, &[b.clone(), domain("c"), b.clone()]).await;
    let (_, call) = group.make(1, Commit { update: true, ..Commit::default() });
    world.pay(&call).await.assert_ok("a commit");
    group.party(1).merge();
    elsewhere.deliver(&world).await;
    world.receive(&mut group.members[0]).await;
    world.receive(&mut group.members[2]).await;

    let mut client = world.further_client(&group.members[1]).await;
    let user = client.party.user.clone();
    let current = world.group_info(&group, &user).await;
    let made = client.party.join_externally(&current, Some(&user));
    world.pay(&group.submit_commit(&client.party.key, &made)).await.assert_ok("joining");
    client.party.merge();
    group.members.push(client);
    let delivered = elsewhere.deliver(&world).await;
    let commit = expected(&QueuePayload::Message(made.commit), &group, [0, 1, 2]);
    assert_eq!(recipients(&delivered, &group), BTreeMap::from([commit]), "who joins has it");

    // To another address, and its place of before gets nothing.
    let address = world.address(&group.members[2].mailbox).await;
    group.members[2].address = address;
    let leaf = group.members[2].party.leaf_at(&b, address);
    group.party(2).leaf = leaf;
    let key = group.members[2].party.key.clone();
    let current = world.group_info(&group, &key).await;
    let made = group.party(2).join_externally(&current, None);
    world.pay(&group.submit_commit(&key, &made)).await.assert_ok("coming back");
    group.party(2).merge();
    world.read(&mut group.members[2].mailbox).await;
    let delivered = elsewhere.deliver(&world).await;
    let commit = expected(&QueuePayload::Message(made.commit), &group, [0, 1, 3]);
    assert_eq!(recipients(&delivered, &group), BTreeMap::from([commit]));

    let leaving = group.party(2).self_remove();
    submit(&world, &group.submit(2, &leaving, None)).await;
    elsewhere.deliver(&world).await;
    for member in [0, 1, 3] {
        world.receive(&mut group.members[member]).await;
    }
    let (_, call) = group.make(0, Commit::default());
    world.pay(&call).await.assert_ok("committing that");
    group.party(0).merge();
    elsewhere.deliver(&world).await;
    for member in [1, 2, 3] {
        world.receive(&mut group.members[member]).await;
    }
    assert!(!group.party(2).is_active());
    let agreed = group.party(0).epoch_authenticator();
    assert_eq!(group.party(3).epoch_authenticator(), agreed);
    assert_eq!(group.party(1).epoch_authenticator(), agreed);
    world.close();
}

#[tokio::test]
async fn while_a_message_waits_for_a_queue_here_other_groups_have_their_lanes() {
    let world = World::builder().pushing().tokens(200).patient().start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), home(), domain("b")]).await;
    let said = group.party(0).say(b"wait for me");
    let call = group.submit(0, &said, None);
    let blocker = world.cluster.admin().await;
    blocker.batch_execute("BEGIN; SELECT FROM qs.queues FOR UPDATE").await.unwrap();
    let looking = async {
        let waits = world.caught("submit_message").await;
        // The outbox may have it for a moment.
        eventually("nobody holds the lane", async || {
            let lanes = "SELECT FROM federation.outgoing_lanes FOR UPDATE SKIP LOCKED";
            (world.admin.query(lanes, &[]).await.expect("it can be read").len() == 1).then_some(())
        })
        .await;
        assert_eq!(world.caught("submit_message").await, waits, "the message waits for the queue");
        blocker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (reply, ()) = tokio::join!(world.pay(&call), looking);
    reply.assert_ok("a message");
    assert_eq!(domains(&elsewhere.waiting(&world).await), ["b.example"]);
    world.close();
}

#[tokio::test]
async fn lanes_do_not_tell_which_domains_have_members_of_the_same_groups() {
    let world = World::start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut lanes = Vec::new();
    for _ in 0..6 {
        let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
        let mut of_group = Vec::new();
        for text in ["one", "two"] {
            let said = group.party(0).say(text.as_bytes());
            submit(&world, &group.submit(0, &said, None)).await;
            let delivered = elsewhere.deliver(&world).await;
            of_group.push(delivered.iter().map(|waiting| waiting.lane).collect::<Vec<_>>());
        }
        assert_eq!(of_group[0], of_group[1], "a group has one lane at a homeserver");
        lanes.extend(of_group);
    }
    assert!(lanes.iter().any(|lanes| lanes[0] != lanes[1]), "and another one at another: {lanes:?}");
    world.close();
}

#[tokio::test]
async fn what_waits_for_all_domains_together_is_bounded() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
    operate(&world, "operator.set_federation_limit('outbox_total_mib', 1)").await;
    let counted = "SELECT (SELECT sum(bytes) FROM federation.outbox_bytes)
                        = (SELECT coalesce(sum(octet_length(sealed)), 0) FROM federation.outbox)";
    // Each takes 64 KiB and a few bytes, for each domain.
    let text = vec![b'x'; 40_000];
    let mut undelivered = Vec::new();
    for _ in 0..5 {
        let said = group.party(0).say(&text);
        undelivered.push(submit(&world, &group.submit(0, &said, None)).await.undelivered);
        assert!(world.value::<bool>(counted).await);
    }
    assert_eq!(undelivered, [0, 0, 0, 2, 2], "each has as much room as it leaves to the next one");
    assert_eq!(elsewhere.deliver(&world).await.len(), 6);
    assert!(world.value::<bool>(counted).await);
    let said = group.party(0).say(&text);
    assert_eq!(submit(&world, &group.submit(0, &said, None)).await.undelivered, 0, "there is room again");
    world.close();
}

#[tokio::test]
async fn a_message_is_as_large_as_its_padded_deliveries_to_all_domains_together() {
    let world = World::start().await;
    world.stock(100).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut one = elsewhere.group(&world, &[home(), domain("b"), domain("b")]).await;
    let mut two = elsewhere.group(&world, &[home(), domain("b"), domain("c")]).await;
    operate(&world, "operator.set_group_limit('max_members', 5)").await;
    operate(&world, "operator.set_group_limit('max_delivery_bytes', 65536)").await;
    // 64 KiB with its padding.
    let text = vec![b'x'; 17_000];
    let said = one.party(0).say(&text);
    assert_eq!(submit(&world, &one.submit(0, &said, None)).await.undelivered, 0);
    let said = two.party(0).say(&text);
    let call = two.submit(0, &said, None);
    world.assert_refuses("for two domains", &call, ProblemType::DeliveryTooLarge).await;
    let said = two.party(0).say(b"in short");
    submit(&world, &two.submit(0, &said, None)).await;
    assert_eq!(domains(&elsewhere.waiting(&world).await), ["b.example", "b.example", "c.example"]);
    world.close();
}

#[tokio::test]
async fn what_has_no_room_in_the_outbox_counts_as_undelivered_and_removes_nobody() {
    let world = World::start().await;
    world.stock(200).await;
    let elsewhere = Elsewhere::of(&world).await;
    let mut group = elsewhere.group(&world, &[home(), domain("b"), domain("b"), domain("c")]).await;
    operate(&world, "operator.set_federation_limit('outbox_mib', 1)").await;
    // It took deliveries before: one that never did has an eighth of that.
    let known = "INSERT INTO federation.neighbours (domain, first_success, last_success)
                 VALUES ('b.example', current_date, current_date)";
    assert!(world.admin.execute(known, &[]).await.expect("it can be so") > 0);
    // Each takes 64 KiB and a few bytes.
    let text = vec![b'x'; 40_000];
    let mut undelivered = Vec::new();
    for _ in 0..16 {
        let said = group.party(3).say(&text);
        undelivered.push(submit(&world, &group.submit(3, &said, None)).await.undelivered);
    }
    assert_eq!(undelivered[..15], [0; 15]);
    assert_eq!(undelivered[15], 2, "both members of b miss it");
    let mut heard = Vec::new();
    while heard.len() < undelivered.len() {
        heard.extend(world.receive(&mut group.members[0]).await);
    }
    let said = group.party(0).say(b"still here");
    assert_eq!(
        submit(&world, &group.submit(0, &said, None)).await.undelivered,
        0,
        "there is room for little, and for others"
    );
    assert_eq!(elsewhere.deliver(&world).await.len(), 15 + 2);
    let said = group.party(3).say(&text);
    assert_eq!(submit(&world, &group.submit(3, &said, None)).await.undelivered, 0);
    assert_eq!(world.count("federation.gone").await, 0);
    world.receive(&mut group.members[0]).await;
    assert_eq!(group.party(0).evictions, 0);
    world.close();
}
