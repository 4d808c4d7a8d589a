//! People of several domains in one group, by the client library: everything that a group can do works across domains, and
//! what is out of reach keeps nobody from anything else (FED-5, FED-6).

use std::time::{Duration, Instant};

use postern_client::{Client, Error, Event, Options};
use postern_protocol::ds::GroupId;
use postern_tests_kit::{Neighbours, PATIENCE, Weather, befriend, eventually, joined, with};

use crate::groups::operate;

/// How long something is waited for: a Welcome whose tree was out of reach is tried again after pauses, each of which is
/// twice as long as the one before, and its DS is left alone for up to a minute besides.
const WAIT: Duration = PATIENCE.saturating_mul(2);

/// Alice's group at a.example, with Bob of b.example and Carol of c.example.
async fn three(neighbours: &Neighbours) -> ([Client; 3], GroupId) {
    let alice = neighbours[0].person("alice").await;
    let people = [alice, neighbours[1].person("bob").await, neighbours[2].person("carol").await];
    let group = people[0].create_group("across").await.expect("a group can be made").id().clone();
    for friend in &people[1..] {
        befriend(&people[0], friend, &group).await;
        joined(friend, 1).await;
    }
    (people, group)
}

/// The same person, who commits at once what others proposed.
fn eager(client: Client) -> Client {
    let options = Options { accept_contacts: true, durable: false, ..Options::default() };
    let options = Options { commit_within: Duration::ZERO, ..options };
    with(client, options)
}

/// Members, as a person knows them: only those that their AS vouches for.
fn names(client: &Client, group: &GroupId) -> Vec<String> {
    let members = client.group_with_id(group).members().expect("a member");
    let known = members.iter().filter(|member| member.verified);
    let mut names: Vec<_> = known.filter_map(|member| Some(member.user.as_ref()?.to_string())).collect();
    names.sort();
    names
}

/// Has a member do something. Changes by others may be on their way to its homeserver: then it is tried again once they came.
async fn does(what: &str, member: &Client, act: impl AsyncFn() -> Result<(), Error>) {
    eventually(what, async || {
        let error = match act().await {
            Ok(()) => return Some(()),
            Err(error) => error,
        };
        assert!(error.is_passing(), "{what}: {}: {error}", member.user());
        let received = member.receive(Duration::ZERO).await;
        assert!(received.as_ref().err().is_none_or(Error::is_passing), "{what}: {received:?}");
        None
    })
    .await;
}

/// Has a member say something, once.
pub async fn say(member: &Client, group: &GroupId, text: &str) {
    let group = member.group_with_id(group);
    group.keep(text).expect("a member can speak");
    does("a member speaks", member, async || group.deliver().await).await;
}

/// Receives until something is so.
pub async fn until(what: &str, clients: &[&Client], so: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        for client in clients {
            client.receive(Duration::from_millis(50)).await.unwrap_or_else(|error| {
                assert!(error.is_passing(), "{}: {error}", client.user());
            });
        }
    }
}

pub async fn hears(client: &Client, said: &str) {
    hears_all(client, &[said]).await;
}

/// They may come together, or one by one.
async fn hears_all(client: &Client, said: &[&str]) {
    let is = |event: &Event, said: &str| matches!(event, Event::Message { text, .. } if text == said);
    let mut left = said.to_vec();
    while !left.is_empty() {
        let heard = |event: &Event| left.iter().any(|said| is(event, said));
        let events = client.sync_until(PATIENCE, heard).await.expect("the queue can be read");
        assert!(events.iter().any(heard), "{} hears {left:?}: {events:?}", client.user());
        left.retain(|said| !events.iter().any(|event| is(event, said)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_of_three_domains_do_in_one_group_what_people_do() {
    let neighbours = Neighbours::builder().domains(3).start().await;
    let ([alice, bob, carol], group) = three(&neighbours).await;
    let alice = eager(alice);
    let of = |client: &Client| client.group_with_id(&group);
    for (speaker, listeners) in [(&alice, [&bob, &carol]), (&bob, [&alice, &carol]), (&carol, [&alice, &bob])]
    {
        let text = format!("hello from {}", speaker.user());
        say(speaker, &group, &text).await;
        for listener in listeners {
            hears(listener, &text).await;
        }
    }
    let everybody = [&alice, &bob, &carol];
    let all = ["alice@a.example", "bob@b.example", "carol@c.example"];
    until("all know who all are, by each one's own AS", &everybody, || {
        everybody.iter().all(|client| names(client, &group) == all)
    })
    .await;

    // Commits of members whose DS is elsewhere, and one of another admin there.
    does("a commit", &bob, async || of(&bob).update().await).await;
    does("a commit", &carol, async || of(&carol).update().await).await;
    does("an admin names another", &alice, async || of(&alice).name_admin(bob.user()).await).await;
    until("Bob is an admin", &everybody, || of(&bob).admins().expect("a member").len() == 2).await;
    let dave = neighbours[2].person("dave").await;
    befriend(&bob, &dave, &group).await;
    joined(&dave, 1).await;
    say(&dave, &group, "thanks").await;
    for listener in everybody {
        hears(listener, "thanks").await;
    }

    // Somebody who leaves, somebody who is removed, and somebody who comes back.
    does("it can be left", &carol, async || of(&carol).leave().await).await;
    until("Carol is out", &[&alice, &bob, &carol, &dave], || {
        matches!(of(&carol).epoch(), Err(Error::NotMember))
    })
    .await;
    does("an admin removes", &bob, async || of(&bob).remove(dave.user()).await).await;
    until("Dave is out", &[&alice, &dave], || matches!(of(&dave).epoch(), Err(Error::NotMember))).await;
    does("a member comes back", &bob, async || of(&bob).rejoin().await).await;
    say(&bob, &group, "back again").await;
    hears(&alice, "back again").await;
    until("two are left", &[&alice, &bob], || {
        [&alice, &bob].iter().all(|client| names(client, &group) == all[..2])
    })
    .await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_device_comes_by_itself_into_a_group_at_another_homeserver() {
    let neighbours = Neighbours::builder().domains(2).start().await;
    let (alice, bob) = (neighbours[0].person("alice").await, neighbours[1].person("bob").await);
    let group = alice.create_group("across").await.expect("a group can be made").id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    let tablet = neighbours[1].device(&bob, "tablet").await;
    let own = [&bob, &tablet];
    until("the tablet is in", &own, || tablet.group_with_id(&group).epoch().is_ok()).await;
    say(&tablet, &group, "from the tablet").await;
    hears(&alice, "from the tablet").await;
    hears(&bob, "from the tablet").await;
    say(&alice, &group, "to both").await;
    hears(&tablet, "to both").await;
    hears(&bob, "to both").await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_reach_keeps_nobody_from_anything_else() {
    let neighbours = Neighbours::builder().domains(3).bad_lines().start().await;
    let ([alice, bob, carol], group) = three(&neighbours).await;
    let (dave, erin, home) = neighbours[1].friends(["dave", "erin"], "at home").await;
    // A group at c.example, which is away when its Welcome comes to Bob.
    let away = carol.create_group("away").await.expect("a group can be made").id().clone();
    befriend(&carol, &bob, &away).await;
    let delivered = "SELECT count(*) FROM federation.outbox";
    eventually("the Welcome is there", async || {
        (neighbours[2].value::<i64>(delivered).await == 0).then_some(())
    })
    .await;
    for from in [0, 1] {
        neighbours.line(from, 2).set(Weather::Cut);
    }

    say(&alice, &group, "is Carol there?").await;
    hears(&bob, "is Carol there?").await;
    say(&bob, &group, "not now").await;
    hears(&alice, "not now").await;
    assert!(
        matches!(bob.group_with_id(&away).epoch(), Err(Error::UnknownGroup(_))),
        "it cannot be joined yet"
    );
    // Texts that are said there meanwhile come, and cannot be read yet.
    say(&carol, &away, "is Bob here?").await;
    carol.group_with_id(&away).update().await.expect("a member can commit");
    say(&carol, &away, "he will be").await;
    eventually("it came", async || (neighbours[2].value::<i64>(delivered).await == 0).then_some(())).await;
    bob.receive(Duration::ZERO).await.expect("the own homeserver is there");
    let refused = bob.group_with_id(&group).invite(&"frank@c.example".parse().unwrap()).await;
    assert!(refused.is_err_and(|error| error.is_passing()), "nobody there can be asked for");
    say(&dave, &home, "among us").await;
    hears(&erin, "among us").await;

    neighbours.calm();
    for from in [0, 1] {
        operate(&neighbours[from], "retry_now('c.example')").await;
    }
    hears_all(&carol, &["is Carol there?", "not now"]).await;
    until("Bob has joined at last", &[&bob, &carol], || bob.group_with_id(&away).epoch().is_ok()).await;
    assert_eq!(
        bob.group_with_id(&away).epoch().expect("a member"),
        carol.group_with_id(&away).epoch().expect("a member")
    );
    say(&carol, &away, "welcome").await;
    hears_all(&bob, &["is Bob here?", "he will be", "welcome"]).await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_a_blocked_domain_cannot_be_added_and_the_others_are_told() {
    let neighbours = Neighbours::builder().domains(3).start().await;
    let ([alice, bob, carol], group) = three(&neighbours).await;
    let alice = eager(alice);
    let all_are_in = || bob.group_with_id(&group).members().expect("a member").len() == 3;
    until("Bob knows that Carol is in", &[&bob], all_are_in).await;
    let operator = neighbours[0].cluster.connect_as("postern_operator").await;
    let block = "SELECT operator.block_domain('c.example')";
    operator.execute(block, &[]).await.expect("the operator may");
    // Bob's homeserver deals with c.example, that of the group does not.
    say(&bob, &group, "who is there?").await;
    let all = ["alice@a.example", "bob@b.example"];
    until("Carol is removed", &[&alice, &bob], || {
        [&alice, &bob].iter().all(|client| names(client, &group) == all)
    })
    .await;
    let name_bob = async || alice.group_with_id(&group).name_admin(bob.user()).await;
    does("an admin names another", &alice, name_bob).await;
    until("Bob is an admin", &[&bob], || bob.group_with_id(&group).admins().unwrap().len() == 2).await;
    bob.group_with_id(&group).invite(carol.user()).await.expect("she can be asked for");
    let asked = |event: &Event| matches!(event, Event::ContactRequested { .. });
    let events = carol.sync_until(PATIENCE, asked).await.expect("the queue can be read");
    assert!(events.iter().any(asked), "{events:?}");
    let told =
        |event: &Event| matches!(event, Event::Ignored { reason } if reason.contains("cannot be added"));
    let events = bob.sync_until(PATIENCE, told).await.expect("the queue can be read");
    assert!(events.iter().any(told), "{events:?}");
    say(&bob, &group, "without her").await;
    hears(&alice, "without her").await;
    neighbours.close();
}
