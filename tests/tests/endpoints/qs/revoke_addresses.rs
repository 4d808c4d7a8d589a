//! `POST /qs/queues/{queue_id}/addresses/revoke` (QS-7)

use postern_protocol::{ds::MessageAccepted, problem::ProblemType, qs::QueueKind};
use postern_tests_kit::{World, depositing, fresh_address, home};
use reqwest::StatusCode;

use super::add_addresses::other_queues;
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let call = mailbox.revoking(vec![world.address(&mailbox).await, world.address(&mailbox).await]);
    let stranger = Some(ProblemType::NotFound);
    Valid { stranger, targets: other_queues("addresses/revoke"), ..Valid::new(call, StatusCode::NO_CONTENT) }
}

#[tokio::test]
async fn a_group_whose_address_is_revoked_reaches_nobody_there_and_is_told_so() {
    let world = World::start().await;
    let (mut blocked, mut other) = (world.group(2).await, world.group(1).await);
    // The member of the first group is in the second one, too, under another address.
    let mut again = world.candidate().await;
    std::mem::swap(&mut again.mailbox, &mut blocked.members[1].mailbox);
    again.address = world.address(&again.mailbox).await;
    again.party.leaf = again.party.leaf_at(&home(), again.address);
    world.add(&mut other, vec![again]).await;

    let mailbox = &other.members[1].mailbox;
    world.pay(&mailbox.revoking(vec![blocked.members[1].address])).await.assert_ok("revoking");
    let message = blocked.party(0).say(b"do you hear me?");
    let accepted: MessageAccepted = world.pay(&blocked.submit(0, &message, None)).await.decode();
    assert_eq!(accepted.undelivered, 1, "the DS is told");
    let message = other.party(0).say(b"and me?");
    let accepted: MessageAccepted = world.pay(&other.submit(0, &message, None)).await.decode();
    assert_eq!(accepted.undelivered, 0);
    let texts = world.receive(&mut other.members[1]).await;
    assert_eq!(texts, [b"and me?"], "the other group's message and nothing else");
    world.close();
}

#[tokio::test]
async fn only_the_owners_own_addresses_are_revoked_all_of_them_or_none() {
    let world = World::start().await;
    let (one, two) = (world.mailbox(QueueKind::Contact).await, world.mailbox(QueueKind::Contact).await);
    let (own, foreign) = (world.address(&one).await, world.address(&two).await);
    for (what, call) in [
        ("another queue's address", one.revoking(vec![foreign])),
        ("another queue's address with an own one", one.revoking(vec![own, foreign])),
        ("an address that there is not", one.revoking(vec![own, fresh_address()])),
        ("an own address, by another owner", one.revoking(vec![own]).signed_by(&two.owner)),
    ] {
        world.assert_refuses(what, &call, ProblemType::NotFound).await;
    }
    let many = (0..1001).map(|_| fresh_address()).collect();
    world.assert_refuses("1001 at once", &one.revoking(many), ProblemType::TooManyAddresses).await;

    world.pay(&one.revoking(vec![own])).await.assert_ok("an own address");
    world.assert_refuses("it leads nowhere", &depositing(own, b"hello"), ProblemType::Undeliverable).await;
    world.assert_refuses("again", &one.revoking(vec![own]), ProblemType::NotFound).await;
    world.pay(&depositing(foreign, b"hello")).await.assert_ok("the other's leads to its queue");
    let counts: Vec<i32> =
        world.value("SELECT array_agg(address_count::integer ORDER BY address_count) FROM qs.queues").await;
    assert_eq!(counts, [0, 1], "a revoked address makes room for another");
    world.close();
}
