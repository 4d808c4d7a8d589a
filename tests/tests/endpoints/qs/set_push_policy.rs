//! `POST /qs/queues/{queue_id}/addresses/push` (QS-10)

use postern_protocol::{
    Address, SealedPush,
    problem::ProblemType,
    push::{AddressPush, PushKey, Urgency},
    qs::{PushPolicy, QueueKind},
};
use postern_tests_kit::{PushService, World, fresh_address};
use reqwest::StatusCode;

use super::{
    add_addresses::other_queues,
    subscribe_push::{say, subscribe},
};
use crate::every_route::Valid;

/// A policy that pushes an address's messages from an urgency on.
pub fn policy(address: Address, at_least: Urgency, key: &PushKey) -> PushPolicy {
    let push = AddressPush { at_least, key: key.clone() }.seal(&address);
    PushPolicy { address, push: Some(push.expect("there is randomness")) }
}

pub async fn valid(world: &World) -> Valid {
    let mailbox = world.mailbox(QueueKind::Group).await;
    let push = Some(SealedPush::new([7; 61]));
    let addresses = vec![
        PushPolicy { address: world.address(&mailbox).await, push },
        PushPolicy { address: world.address(&mailbox).await, push: None },
    ];
    let call = mailbox.setting_push_policy(addresses);
    let stranger = Some(ProblemType::NotFound);
    Valid { stranger, targets: other_queues("addresses/push"), ..Valid::new(call, StatusCode::NO_CONTENT) }
}

#[tokio::test]
async fn only_the_owners_own_addresses_are_set_all_of_them_or_none() {
    let world = World::start().await;
    let (one, two) = (world.mailbox(QueueKind::Group).await, world.mailbox(QueueKind::Group).await);
    let (own, foreign) = (world.address(&one).await, world.address(&two).await);
    let key = PushKey::new([1; 32]);
    let set = |addresses: &[Address]| {
        one.setting_push_policy(addresses.iter().map(|it| policy(*it, Urgency::Normal, &key)).collect())
    };
    for (what, call) in [
        ("another queue's address", set(&[foreign])),
        ("another queue's address with an own one", set(&[own, foreign])),
        ("an address that there is not", set(&[own, fresh_address()])),
        ("an own address, by another owner", set(&[own]).signed_by(&two.owner)),
    ] {
        world.assert_refuses(what, &call, ProblemType::NotFound).await;
    }
    let many: Vec<_> = (0..1001).map(|_| fresh_address()).collect();
    world.assert_refuses("1001 at once", &set(&many), ProblemType::TooManyAddresses).await;
    world.pay(&set(&[own])).await.assert_ok("an own address");
    world.close();
}

#[tokio::test]
async fn each_group_wakes_its_members_from_the_urgency_on_that_they_want_of_it() {
    let world = World::start().await;
    let mut service = PushService::start().await;
    let mut group = world.group(3).await;
    let mut agents = Vec::new();
    for (number, at_least) in [(1, Urgency::High), (2, Urgency::Low)] {
        let member = &group.members[number];
        let (agent, key) = subscribe(&world, &service, &member.mailbox, &format!("/{number}")).await;
        let policy = policy(member.address, at_least, &key);
        world.pay(&member.mailbox.setting_push_policy(vec![policy])).await.assert_ok("a policy");
        agents.push((agent, key));
    }
    say(&world, &mut group, Urgency::VeryLow).await;
    say(&world, &mut group, Urgency::Normal).await;
    let pushed = service.pushed().await;
    assert_eq!([&pushed.path, pushed.header("urgency")], ["/2", "normal"], "and the first to nobody");

    let louder = policy(group.members[2].address, Urgency::High, &agents[1].1);
    world.pay(&group.members[2].mailbox.setting_push_policy(vec![louder])).await.assert_ok("another policy");
    say(&world, &mut group, Urgency::Normal).await;
    say(&world, &mut group, Urgency::High).await;
    let mut both = [service.pushed().await, service.pushed().await];
    both.sort_by(|one, other| one.path.cmp(&other.path));
    for (number, pushed) in both.iter().enumerate() {
        let path = format!("/{}", number + 1);
        assert_eq!([&pushed.path, pushed.header("urgency")], [&path, "high"], "the message before to nobody");
    }

    let muted = PushPolicy { address: group.members[2].address, push: None };
    world.pay(&group.members[2].mailbox.setting_push_policy(vec![muted])).await.assert_ok("muting");
    say(&world, &mut group, Urgency::High).await;
    assert_eq!(service.pushed().await.path, "/1");
    // Had the mute been ignored, that push would come before this one, or be one with it.
    let again = policy(group.members[2].address, Urgency::Low, &agents[1].1);
    world.pay(&group.members[2].mailbox.setting_push_policy(vec![again])).await.assert_ok("not muted");
    say(&world, &mut group, Urgency::Low).await;
    let pushed = service.pushed().await;
    assert_eq!([&pushed.path, pushed.header("urgency")], ["/2", "low"], "who muted the group was not woken");
    assert!(!service.has_more());
    world.close();
}
