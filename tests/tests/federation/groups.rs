//! Groups with members of several domains (DS-5, DS-7, DS-10): they converse, and those who cannot be reached, or are
//! not to be, are removed.

use postern_protocol::{
    ds::MessageAccepted,
    problem::ProblemType,
    push::{AddressPush, PushKey, Urgency},
    qs::{PushPolicy, QueuePayload},
};
use postern_tests_kit::{Call, Commit, Group, Member, Neighbours, PushService, World, eventually};

/// A group at the first domain with members of these domains.
pub async fn group(neighbours: &Neighbours, domains: &[usize]) -> Group {
    let mut founders = neighbours[0].group(1).await;
    for domain in domains {
        let joiner = neighbours[*domain].candidate().await;
        neighbours.add(&mut founders, *domain, joiner).await;
        catch_up(neighbours, &mut founders, 0).await;
    }
    founders
}

fn update() -> Commit {
    Commit { update: true, ..Commit::default() }
}

/// A member says something.
async fn say(neighbours: &Neighbours, group: &mut Group, by: usize, text: &str) -> MessageAccepted {
    let said = group.party(by).say(text.as_bytes());
    submit(neighbours, &group.submit(by, &said, None)).await
}

/// Asks the DS, which is at the first domain. Clients of other domains reach it by the pipe, with tokens of it.
async fn submit(neighbours: &Neighbours, call: &Call) -> MessageAccepted {
    neighbours[0].pay(call).await.decode()
}

/// A member commits, and everybody follows.
async fn commit(neighbours: &Neighbours, group: &mut Group, by: usize, commit: Commit) -> MessageAccepted {
    let (_, call) = group.make(by, commit);
    let accepted = submit(neighbours, &call).await;
    group.party(by).merge();
    catch_up(neighbours, group, by).await;
    accepted
}

/// Everybody takes in what came, until all are in the epoch of one of them.
async fn catch_up(neighbours: &Neighbours, group: &mut Group, with: usize) {
    let epoch = group.party(with).epoch();
    for member in &mut group.members {
        while member.party.is_active() && member.party.epoch() < epoch {
            read(neighbours, member).await;
        }
    }
}

/// Reads the next messages that come to a member; returns what they say.
async fn read(neighbours: &Neighbours, member: &mut Member) -> Vec<String> {
    let home = neighbours.worlds.iter().position(|world| *world.domain() == member.domain);
    let received = neighbours.await_payloads(home.expect("it is a neighbour"), member).await;
    let take_in = |payload| {
        let QueuePayload::Message(message) = payload else { panic!("{payload:?}") };
        member.party.receive(&message).map(|text| String::from_utf8(text).expect("it is text"))
    };
    received.into_iter().filter_map(take_in).collect()
}

/// The texts that came to a member, once there are so many.
pub async fn texts(neighbours: &Neighbours, member: &mut Member, number: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < number {
        texts.extend(read(neighbours, member).await);
    }
    texts
}

/// Waits until nothing waits for other domains.
pub async fn drained(world: &World) {
    eventually("the outbox is empty", async || (world.count("federation.outbox").await == 0).then_some(()))
        .await;
}

pub async fn operate(world: &World, what: &str) {
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute(&format!("SELECT operator.{what}"), &[]).await.expect("the operator may");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_three_domains_converse_in_one_group() {
    const ROUNDS: usize = 4;
    let neighbours = Neighbours::builder().domains(3).tokens(400).start().await;
    let mut group = group(&neighbours, &[0, 1, 2, 1]).await;
    let members = group.members.len();
    let mut said = Vec::new();
    for round in 0..ROUNDS {
        for by in 0..members {
            let text = format!("{by} in round {round}");
            assert_eq!(say(&neighbours, &mut group, by, &text).await.undelivered, 0);
            said.push((by, text));
        }
        let of_round: Vec<_> = said[round * members..].to_vec();
        for member in 0..members {
            let expected: Vec<_> =
                of_round.iter().filter(|(by, _)| *by != member).map(|(_, text)| text.clone()).collect();
            let heard = texts(&neighbours, &mut group.members[member], expected.len()).await;
            assert_eq!(heard, expected, "member {member} hears all others once, in order");
        }
        // A member of another domain each time.
        commit(&neighbours, &mut group, round % members, update()).await;
    }
    let agreed = group.party(0).epoch_authenticator();
    for member in 1..members {
        assert_eq!(group.party(member).epoch_authenticator(), agreed, "member {member}");
    }

    // Another client of a member elsewhere comes in by itself, and its first one leaves.
    let mut client = neighbours[1].further_client(&group.members[2]).await;
    let user = client.party.user.clone();
    let current = neighbours[0].group_info(&group, &user).await;
    let made = client.party.join_externally(&current, Some(&user));
    submit(&neighbours, &group.submit_commit(&client.party.key, &made)).await;
    client.party.merge();
    group.members.push(client);
    catch_up(&neighbours, &mut group, members).await;
    let leaving = group.party(2).self_remove();
    submit(&neighbours, &group.submit(2, &leaving, None)).await;
    for member in [0, 1, 3, 4, 5] {
        read(&neighbours, &mut group.members[member]).await;
    }
    commit(&neighbours, &mut group, 3, Commit::default()).await;
    assert!(!group.party(2).is_active());
    say(&neighbours, &mut group, 5, "I am the one now").await;
    assert_eq!(texts(&neighbours, &mut group.members[4], 1).await, ["I am the one now"]);
    drained(&neighbours[0]).await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_queue_at_its_homeserver_is_gone_is_removed_by_the_next_commit() {
    let neighbours = Neighbours::builder().domains(3).tokens(200).start().await;
    let operator = neighbours[0].cluster.connect_as("postern_operator").await;
    let sql = "SELECT operator.set_federation_limit('gone_after_days', 0)";
    operator.execute(sql, &[]).await.expect("the operator may");
    let mut group = group(&neighbours, &[1, 1, 2]).await;
    let gone = &group.members[2];
    let call = gone.mailbox.deleting(vec![gone.address]);
    neighbours[1].pay(&call).await.assert_ok("deleting a queue");
    let accepted = say(&neighbours, &mut group, 1, "is everybody there?").await;
    assert_eq!(accepted.undelivered, 0, "nobody knows yet");
    eventually("the other homeserver has said so", async || {
        (neighbours[0].count("federation.gone").await == 1).then_some(())
    })
    .await;
    say(&neighbours, &mut group, 1, "really?").await;
    while group.party(0).evictions == 0 {
        read(&neighbours, &mut group.members[0]).await;
    }
    // A member elsewhere commits it.
    while group.party(3).evictions == 0 {
        read(&neighbours, &mut group.members[3]).await;
    }
    let gone = group.key(2);
    let (_, call) = group.make(3, update());
    submit(&neighbours, &call).await;
    group.party(3).merge();
    group.members.remove(2);
    catch_up(&neighbours, &mut group, 2).await;
    assert!(!group.party(0).member_keys().contains(&gone));
    say(&neighbours, &mut group, 0, "so it is").await;
    assert_eq!(texts(&neighbours, &mut group.members[1], 1).await.last().unwrap(), "so it is");
    // The commit went there, too.
    drained(&neighbours[0]).await;
    say(&neighbours, &mut group, 0, "and nothing of it is left").await;
    eventually("what was filed is forgotten", async || {
        (neighbours[0].count("federation.gone").await == 0).then_some(())
    })
    .await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_domains_members_are_refused_get_nothing_and_are_to_go() {
    let neighbours = Neighbours::builder().domains(3).tokens(200).start().await;
    let mut group = group(&neighbours, &[0, 1, 2]).await;
    drained(&neighbours[0]).await;
    operate(&neighbours[0], "block_domain('b.example')").await;
    let newcomer = neighbours[1].candidate().await;
    let (_, call) = group.make(0, Commit { add: vec![newcomer.party.key_package()], ..Commit::default() });
    neighbours[0].pay(&call).await.assert_problem("an Add", ProblemType::HomeserverBlocked);
    group.party(0).forget();
    assert_eq!(say(&neighbours, &mut group, 1, "who is there?").await.undelivered, 1);
    for member in [0, 1, 3] {
        while group.party(member).evictions == 0 {
            read(&neighbours, &mut group.members[member]).await;
        }
    }
    let gone = group.members.remove(2);
    let (_, call) = group.make(2, update());
    assert_eq!(submit(&neighbours, &call).await.undelivered, 1, "it does not even hear of its removal");
    group.party(2).merge();
    catch_up(&neighbours, &mut group, 2).await;
    assert!(!group.party(0).member_keys().contains(&gone.party.public_key()));
    assert_eq!(neighbours[0].count("federation.outbox WHERE domain = 'b.example'").await, 0);
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_wakes_a_reader_at_another_homeserver_as_its_reader_wants() {
    let neighbours = Neighbours::builder().pushing().tokens(100).start().await;
    let mut service = PushService::start().await;
    let mut group = group(&neighbours, &[1]).await;
    let (world, member) = (&neighbours[1], &group.members[1]);
    let key = PushKey::generate().expect("there is randomness");
    let (subscription, agent) = service.subscribe("/elsewhere", b"look into the first");
    let sealed = subscription.seal(&member.mailbox.id, &key).expect("it is short");
    world.pay(&member.mailbox.subscribing(Some(sealed))).await.assert_ok("subscribing");
    let push = AddressPush { at_least: Urgency::Normal, key }.seal(&member.address);
    let policy = PushPolicy { address: member.address, push: Some(push.expect("there is randomness")) };
    world.pay(&member.mailbox.setting_push_policy(vec![policy])).await.assert_ok("a policy");
    // A commit is not urgent.
    commit(&neighbours, &mut group, 0, update()).await;
    let said = group.party(0).say(b"help");
    submit(&neighbours, &group.submit_urgent(0, &said, Urgency::High)).await;
    let pushed = service.pushed().await;
    assert_eq!(agent.read(&pushed), b"look into the first");
    assert_eq!(pushed.header("urgency"), "high");
    assert!(!service.has_more(), "one message, one push");
    neighbours.close();
}
