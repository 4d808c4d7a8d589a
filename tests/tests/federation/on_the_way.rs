//! Members whose group is at another homeserver, and to whom its messages come later than its answers (FED-4, DS-7): they wait
//! for what is on its way, whatever they want meanwhile, and lose nothing.

use std::time::Duration;

use postern_client::{Change, Client, Error, Event, Group, Options};
use postern_protocol::{
    ds::{GroupId, MAX_PAST_EPOCHS},
    problem::ProblemType,
};
use postern_tests_kit::{BadLine, Neighbours, Weather, befriend, eventually, joined, with};

use crate::groups::operate;

/// Alice's group at a.example, with others: everybody knows who everybody is.
struct Across {
    neighbours: Neighbours,
    /// Alice first.
    people: Vec<Client>,
    group: GroupId,
}

impl Across {
    /// With these people at domains of these numbers.
    async fn with(others: &[(&str, usize)]) -> Self {
        let neighbours = Neighbours::builder().bad_lines().start().await;
        let mut people = vec![neighbours[0].person("alice").await];
        let group = people[0].create_group("across").await.expect("a group can be made").id().clone();
        for (name, domain) in others {
            let other = neighbours[*domain].person(name).await;
            befriend(&people[0], &other, &group).await;
            joined(&other, 1).await;
            people.push(other);
        }
        let across = Self { neighbours, people, group };
        let is_known = |client: &Client| {
            let members = across.of(client).members().expect("a member");
            let busy = client.has_errands().expect("it can be read") || client.group("across").is_err();
            !busy && members.len() == across.people.len() && members.iter().all(|member| member.verified)
        };
        eventually("all introductions are made", async || {
            for client in &across.people {
                receive(client).await;
            }
            across.people.iter().all(is_known).then_some(())
        })
        .await;
        for client in &across.people {
            told(client).await;
        }
        across
    }

    fn of(&self, client: &Client) -> Group {
        client.group_with_id(&self.group)
    }

    /// Nothing comes from a.example to b.example.
    fn cut(&self) {
        self.neighbours.line(0, 1).set(Weather::Cut);
    }

    /// Everything does, at once.
    async fn mend(&self) {
        self.neighbours.calm();
        operate(&self.neighbours[0], "retry_now('b.example')").await;
    }

    /// Receives until something is so.
    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        eventually(what, async || {
            for client in &self.people {
                receive(client).await;
            }
            so().then_some(())
        })
        .await;
    }
}

async fn receive(client: &Client) {
    client.receive(Duration::ZERO).await.expect("the own homeserver is there");
}

async fn told(client: &Client) -> Vec<Event> {
    client.sync(Duration::ZERO).await.expect("the own homeserver is there")
}

/// The events that somebody was told, which are all of these kinds.
async fn told_only(client: &Client, usual: impl Fn(&Event) -> bool) -> Vec<Event> {
    let events = told(client).await;
    assert!(events.iter().all(usual), "{}: {events:?}", client.user());
    events
}

fn says<'a>(events: &'a [Event], what: &str) -> Option<&'a Event> {
    events.iter().find(|event| matches!(event, Event::Message { text, .. } if text == what))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_waits_for_changes_that_are_on_their_way() {
    let across = Across::with(&[("bob", 1)]).await;
    let [alice, bob] = [&across.people[0], &across.people[1]];
    let [hers, his] = [alice, bob].map(|client| across.of(client));

    // Bob's commit is accepted, and he does not hear of it. Nothing comes to him while Alice renews her keys again and
    // again.
    let commit = his.prepare(&Change::Update).await.expect("a member can commit");
    bob.submit(&commit).await.expect("it is accepted");
    eventually("Alice follows", async || {
        receive(alice).await;
        (hers.epoch().expect("a member") > commit.epoch).then_some(())
    })
    .await;
    across.cut();
    for _ in 0..5 {
        hers.update().await.expect("a member can commit");
    }
    let behind = his.send("am I late?").await;
    assert!(matches!(behind, Err(Error::Behind)), "{behind:?}");
    assert!(matches!(his.update().await, Err(Error::Behind)));
    assert_eq!(his.unsent().expect("it can be read"), 1);
    receive(bob).await;

    across.mend().await;
    across
        .until("Bob follows, and is heard", || {
            let events = alice.pending_events().expect("events can be read");
            let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == "am I late?");
            let follows = his.epoch().expect("a member") == hers.epoch().expect("a member");
            follows && events.iter().any(|(_, event)| heard(event))
        })
        .await;
    for client in [alice, bob] {
        told_only(client, |event| matches!(event, Event::Updated { .. } | Event::Message { .. })).await;
    }
    across.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_waits_for_a_proposal_that_is_on_its_way() {
    let across = Across::with(&[("bob", 1), ("carol", 0)]).await;
    let [alice, bob, carol] = [&across.people[0], &across.people[1], &across.people[2]];
    across.cut();
    across.of(carol).leave().await.expect("a member can leave");
    let behind = across.of(bob).update().await;
    assert!(matches!(behind, Err(Error::Behind)), "{behind:?}");

    across.mend().await;
    eventually("Bob commits it", async || {
        receive(bob).await;
        match across.of(bob).update().await {
            Ok(()) => Some(()),
            Err(error) => {
                assert!(error.is_passing(), "{error}");
                None
            }
        }
    })
    .await;
    across
        .until("Carol is out", || {
            let is_out = matches!(across.of(carol).epoch(), Err(Error::NotMember));
            is_out
                && [alice, bob].iter().all(|client| across.of(client).members().expect("a member").len() == 2)
        })
        .await;
    for client in [alice, bob] {
        told_only(client, |event| matches!(event, Event::Updated { .. } | Event::Removed { .. })).await;
    }
    across.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_that_was_removed_hears_of_that_and_of_what_was_not_sent() {
    let across = Across::with(&[("bob", 1)]).await;
    let [alice, bob] = [&across.people[0], &across.people[1]];
    let [hers, his] = [alice, bob].map(|client| across.of(client));
    // His commit is accepted, and he does not hear of it.
    let commit = his.prepare(&Change::Update).await.expect("a member can commit");
    bob.submit(&commit).await.expect("it is accepted");
    eventually("Alice follows", async || {
        receive(alice).await;
        (hers.epoch().expect("a member") > commit.epoch).then_some(())
    })
    .await;
    across.cut();
    hers.remove(bob.user()).await.expect("an admin can remove");
    let sent = his.send("am I in?").await;
    assert!(matches!(sent, Err(Error::Behind)), "{sent:?}");
    assert!(matches!(his.leave().await, Err(Error::Behind)));
    receive(bob).await;
    assert!(his.epoch().is_ok(), "nobody told him");

    across.mend().await;
    across.until("Bob hears of it", || matches!(his.epoch(), Err(Error::NotMember))).await;
    let usual =
        |event: &Event| matches!(event, Event::Updated { .. } | Event::Left { .. } | Event::Unsent { .. });
    let events = told_only(bob, usual).await;
    assert!(events.iter().any(|event| matches!(event, Event::Left { .. })), "{events:?}");
    let unsent = |event: &Event| matches!(event, Event::Unsent { text, .. } if text == "am I in?");
    assert!(events.iter().any(unsent), "{events:?}");
    across.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_hears_what_somebody_said_before_it_removed_them() {
    let across = Across::with(&[("bob", 1), ("carol", 0)]).await;
    let [alice, bob, carol] = [&across.people[0], &across.people[1], &across.people[2]];
    across.of(alice).name_admin(bob.user()).await.expect("an admin names others");
    across.until("Bob is an admin", || across.of(bob).admins().expect("a member").len() == 2).await;
    for client in [alice, bob] {
        told(client).await;
    }
    across.cut();
    across.of(carol).send("one last thing").await.expect("a member can speak");
    across.of(bob).remove(carol.user()).await.expect("an admin can remove");
    let mut events = told(bob).await;
    assert!(says(&events, "one last thing").is_none(), "it is on its way");

    across.mend().await;
    across
        .until("Bob hears it", || {
            let pending = bob.pending_events().expect("events can be read");
            let events: Vec<_> = pending.into_iter().map(|(_, event)| event).collect();
            says(&events, "one last thing").is_some()
        })
        .await;
    events.extend(told(bob).await);
    let by = match says(&events, "one last thing") {
        Some(Event::Message { sender, .. }) => sender.user.as_ref(),
        other => panic!("{other:?}"),
    };
    assert_eq!(by, Some(carol.user()));
    let usual = |event: &Event| matches!(event, Event::Removed { .. } | Event::Message { .. });
    assert!(events.iter().all(usual), "{events:?}");
    across.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_that_commits_again_and_again_hears_what_was_said_before() {
    let across = Across::with(&[("bob", 1)]).await;
    let [alice, bob] = [&across.people[0], &across.people[1]];
    let [hers, his] = [alice, bob].map(|client| across.of(client));
    across.cut();
    hers.send("before all that").await.expect("a member can speak");
    for _ in 0..=MAX_PAST_EPOCHS {
        his.update().await.expect("a member can commit");
    }
    let usual = |event: &Event| matches!(event, Event::Updated { .. } | Event::Message { .. });
    let events = told_only(bob, usual).await;
    assert!(says(&events, "before all that").is_none(), "it is on its way");

    across.mend().await;
    let hears = async |text: &str| {
        across
            .until("Bob hears it", || {
                let pending = bob.pending_events().expect("events can be read");
                let events: Vec<_> = pending.into_iter().map(|(_, event)| event).collect();
                says(&events, text).is_some()
            })
            .await;
    };
    hears("before all that").await;
    hers.send("after it").await.expect("a member can speak");
    hears("after it").await;
    told_only(bob, usual).await;
    across.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_that_gets_no_token_does_not_take_itself_for_removed_and_loses_nothing() {
    let mut across = Across::with(&[("bob", 1)]).await;
    let bob = across.people.pop().expect("he came last");
    let home = &across.neighbours[1];
    let url = home.url_of(home.server());
    let line = BadLine::to(url.trim_start_matches("http://").parse().expect("it is an address")).await;
    let bob = with(bob, Options { server: Some(line.url()), durable: false, ..Options::default() });
    let his = across.of(&bob);
    let refusal = BadLine::refusal(ProblemType::NotAllowed);
    line.answer("POST /relay/a.example/token-request", usize::MAX, &refusal);

    // Each text costs a token of a.example.
    let mut said = Vec::new();
    let refused = loop {
        assert!(said.len() < 50, "he has tokens without end");
        let text = format!("text {}", said.len());
        let sent = his.send(&text).await;
        said.push(text);
        if let Err(error) = sent {
            break error;
        }
    };
    assert_eq!(refused.problem(), Some(ProblemType::NotAllowed), "{refused}");
    assert_eq!(his.unsent().expect("it can be read"), 1, "it is kept");

    assert!(line.mend() > 0, "he asked for tokens");
    across.people.push(bob);
    across
        .until("Alice hears all of it", || {
            let pending = across.people[0].pending_events().expect("events can be read");
            let events: Vec<_> = pending.into_iter().map(|(_, event)| event).collect();
            said.iter().all(|text| says(&events, text).is_some())
        })
        .await;
    told_only(&across.people[1], |event| !matches!(event, Event::Unsent { .. })).await;
    across.neighbours.close();
}
