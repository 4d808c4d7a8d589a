//! People in groups, a ledger of what they send, and the check of all their queues against it (DS-4, DS-5, QS-4).

use std::collections::{HashMap, HashSet};

use postern_client::{Change, Client, Event, Http, Submission, Token};
use postern_protocol::{
    ds::{GroupId, MessageAccepted},
    problem::ProblemType,
    qs::{QueueKind, QueuePayload},
};
use postern_tests_kit::{World, eventually};
use rand::Rng;

use crate::{
    ledger::{Fate, Ledger},
    world::insist,
};

pub struct Cast {
    pub people: Vec<Client>,
    pub groups: Vec<Group>,
    pub ledger: Ledger,
    /// How far each one's queue was when the ledger was begun.
    begun: Vec<u64>,
}

pub struct Group {
    pub id: GroupId,
    /// Indexes of people; the first is the admin.
    pub members: Vec<usize>,
}

/// The answer to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The group's epoch after the message.
    Accepted(u64),
    /// The group's current epoch.
    WrongEpoch(u64),
    TokenSpent,
    /// No answer, or one that says that something failed.
    Lost,
}

impl Cast {
    /// Registers people at the two servers in turn, and brings them together in groups.
    pub async fn assemble(world: &World, people: usize, groups: &[&[usize]]) -> Self {
        let mut clients = Vec::new();
        for index in 0..people {
            clients.push(world.person_at(&world.servers[index % 2], &format!("person{index}")).await);
        }
        let mut cast =
            Self { people: clients, groups: Vec::new(), ledger: Ledger::default(), begun: Vec::new() };
        for members in groups {
            let admin = &cast.people[members[0]];
            let id = admin.create_group("").await.expect("a group can be made").id().clone();
            for member in &members[1..] {
                admin
                    .group_with_id(&id)
                    .invite(cast.people[*member].user())
                    .await
                    .expect("everyone can be invited");
            }
            cast.groups.push(Group { id, members: members.to_vec() });
        }
        let all: usize = groups.iter().map(|members| members.len() * members.len()).sum();
        while cast.acquaintances() < all {
            let before = cast.acquaintances();
            eventually("somebody more is in a group, or hears of one who is", async || {
                cast.receive_all().await;
                (cast.acquaintances() > before).then_some(())
            })
            .await;
        }
        cast.catch_up().await;
        for person in &cast.people {
            let told = person.pending_events().expect("events can be read");
            if let Some((last, _)) = told.last() {
                person.forget_events(*last).expect("events can be forgotten");
            }
            cast.begun.push(position(person, QueueKind::Group));
        }
        cast
    }

    /// The members of all groups, as each member knows them, added up.
    fn acquaintances(&self) -> usize {
        let places = self.groups.iter().flat_map(|group| {
            group.members.iter().map(move |member| self.people[*member].group_with_id(&group.id))
        });
        places.filter_map(|place| Some(place.members().ok()?.len())).sum()
    }

    /// The groups somebody is in.
    pub fn groups_of(&self, person: usize) -> Vec<&Group> {
        self.groups.iter().filter(|group| group.members.contains(&person)).collect()
    }

    pub async fn prepare_text(&self, sender: usize, group: &GroupId, text: &str) -> Submission {
        let submission =
            self.people[sender].group_with_id(group).prepare_text(text).await.expect("a text can be made");
        self.ledger.open(sender, &submission, Some(text));
        submission
    }

    pub async fn prepare_commit(&self, sender: usize, group: &GroupId) -> Submission {
        let submission = self.people[sender]
            .group_with_id(group)
            .prepare(&Change::Update)
            .await
            .expect("a commit can be made");
        self.ledger.open(sender, &submission, None);
        submission
    }

    pub async fn token(&self, person: usize) -> Token {
        insist("there are tokens", || self.people[person].wallet().take()).await
    }

    /// The fate of somebody's message is known as far as it ever will be. To be called for all of somebody's messages
    /// before they receive anything: a client sends its outstanding messages by itself.
    pub async fn close(&self, sender: usize, submission: &Submission, fate: Fate) {
        self.ledger.close(submission, fate);
        let group = self.people[sender].group_with_id(&submission.group);
        match fate {
            Fate::Accepted => insist("it takes effect", || group.confirm()).await,
            // Whether it took effect, the queue will tell.
            Fate::Unknown if submission.is_commit => {}
            _ => group.abandon().await.expect("it can be abandoned"),
        }
    }

    /// Takes what somebody's queues hold now.
    pub async fn receive(&self, person: usize) {
        let person = &self.people[person];
        insist("a queue is read", || person.receive(std::time::Duration::ZERO)).await;
    }

    pub async fn receive_all(&self) {
        let all = (0..self.people.len()).map(|person| self.receive(person));
        futures_util::future::join_all(all).await;
    }

    /// Receives until all queues are empty and nobody sends anything more.
    pub async fn catch_up(&self) {
        let positions = || -> Vec<u64> {
            let kinds = [QueueKind::Contact, QueueKind::Group];
            self.people.iter().flat_map(|person| kinds.map(|kind| position(person, kind))).collect()
        };
        eventually("all is quiet", async || {
            let before = positions();
            // A message of the first round is heard in the second.
            self.receive_all().await;
            self.receive_all().await;
            (positions() == before).then_some(())
        })
        .await;
    }

    /// Holds everyone's group queue, as it was delivered and as it was understood, against the ledger. Call when
    /// all is quiet.
    pub async fn check(&self, world: &World) {
        let entries = self.ledger.entries().clone();
        let mut orders = Vec::new();
        for (index, person) in self.people.iter().enumerate() {
            let deliveries = person.deliveries(QueueKind::Group).expect("deliveries can be read");
            let seqs = deliveries.iter().map(|(seq, _)| *seq);
            assert!(seqs.eq(1..=deliveries.len() as u64), "sequence numbers count from 1 without gaps");

            let (mut order, mut seen) = (Vec::new(), HashSet::new());
            for (_, payload) in deliveries.into_iter().filter(|(seq, _)| *seq > self.begun[index]) {
                let QueuePayload::Message(message) = payload else { panic!("nobody joins any more") };
                let (message, entry) =
                    entries.get_key_value(&message).expect("only what was sent is delivered");
                let group = self.groups.iter().find(|group| group.id == entry.group).expect("it is known");
                assert!(group.members.contains(&index), "a message reached somebody who is no member");
                assert_ne!(entry.sender, index, "a message came back to its sender");
                assert_ne!(entry.fate, Fate::Refused, "a refused message was delivered: {}", describe(entry));
                assert!(seen.insert(message), "a message was delivered twice: {}", describe(entry));
                order.push(message);
            }
            let told = person.pending_events().expect("events can be read");
            let told: Vec<_> = told.iter().map(|(_, event)| event).collect();
            let ignored = told.iter().find(|event| matches!(event, Event::Ignored { .. }));
            assert!(ignored.is_none(), "person {index} could not make sense of something: {ignored:?}");
            let texts = told.iter().filter_map(|event| match event {
                Event::Message { group, text, .. } => Some((group, text)),
                _ => None,
            });
            let sent = order.iter().filter_map(|message| {
                let entry = &entries[*message];
                Some((&entry.group, entry.text.as_ref()?))
            });
            assert_eq!(
                texts.collect::<Vec<_>>(),
                sent.collect::<Vec<_>>(),
                "person {index} reads what was delivered"
            );
            orders.push(order);
        }

        let places: Vec<HashMap<_, _>> = orders
            .iter()
            .map(|order| order.iter().enumerate().map(|(place, message)| (*message, place)).collect())
            .collect();
        for (message, entry) in &entries {
            let group = self.groups.iter().find(|group| group.id == entry.group).expect("it is known");
            let others = group.members.iter().filter(|member| **member != entry.sender);
            let reached = others.clone().filter(|member| places[**member].contains_key(message)).count();
            match entry.fate {
                Fate::Accepted => assert_eq!(reached, others.count(), "a member misses {}", describe(entry)),
                Fate::Refused => assert_eq!(reached, 0),
                Fate::Unknown => {
                    let all_or_none = reached == 0 || reached == others.count();
                    assert!(all_or_none, "some members got it and some did not: {}", describe(entry));
                }
            }
        }
        // Across all groups that two people share, and that their queues get at once.
        for (one, order) in orders.iter().enumerate() {
            for (other, place) in places.iter().enumerate() {
                let common: Vec<usize> =
                    order.iter().filter_map(|message| place.get(message).copied()).collect();
                assert!(common.is_sorted(), "persons {one} and {other} got messages in different orders");
            }
        }
        for group in &self.groups {
            let epochs: HashSet<u64> = group
                .members
                .iter()
                .map(|member| self.people[*member].group_with_id(&group.id).epoch().expect("a member"))
                .collect();
            assert_eq!(epochs.len(), 1, "all members are in the same epoch: {epochs:?}");
        }
        drop(entries);
        self.check_counters(world).await;
    }

    /// The database's own numbers: nobody's queue holds more than they got.
    async fn check_counters(&self, world: &World) {
        let rows = world
            .cluster
            .admin()
            .await
            .query("SELECT next_seq - 1 FROM qs.queues WHERE kind = 'group' ORDER BY 1", &[])
            .await
            .expect("an admin can read");
        let mut positions: Vec<i64> =
            self.people.iter().map(|person| position(person, QueueKind::Group) as i64).collect();
        positions.sort_unstable();
        assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), positions);
        let twice =
            "SELECT count(*) FROM qs.messages m JOIN qs.queues q USING (queue_id) WHERE m.seq <= q.acked_seq";
        let twice: i64 =
            world.cluster.admin().await.query_one(twice, &[]).await.expect("an admin can read").get(0);
        assert_eq!(twice, 0, "what was acknowledged would come again");
    }

    /// For a reader of the test's output.
    pub fn tell(&self, what: &str) {
        let count = |fate| self.ledger.count(fate);
        let (accepted, refused) = (count(Fate::Accepted), count(Fate::Refused));
        eprintln!("{what}: {accepted} accepted, {refused} refused, {} unknown", count(Fate::Unknown));
    }
}

fn describe(entry: &crate::ledger::Entry) -> String {
    format!("{} of person {}, {:?}", entry.text.as_deref().unwrap_or("a commit"), entry.sender, entry.fate)
}

fn position(person: &Client, kind: QueueKind) -> u64 {
    let deliveries = person.deliveries(kind).expect("deliveries can be read");
    deliveries.last().map_or(0, |(seq, _)| *seq)
}

/// Hands a message in, once.
pub async fn hand_in(way: &Http, submission: &Submission, token: Token) -> Answer {
    let error = match way.send_once(&submission.request.clone().paid_with(token)).await {
        Ok(answer) => {
            let accepted: MessageAccepted = answer.decode().expect("an accepted message has an epoch");
            assert_eq!(accepted.undelivered, 0, "every member has a queue");
            return Answer::Accepted(accepted.epoch);
        }
        Err(error) => error,
    };
    match &error {
        postern_client::api::Error::Refused(problem) if problem.kind == ProblemType::WrongEpoch => {
            Answer::WrongEpoch(problem.epoch.expect("the current epoch is told"))
        }
        _ if error.problem() == Some(ProblemType::TokenSpent) => Answer::TokenSpent,
        _ if error.problem() == Some(ProblemType::Fault) => {
            panic!("a crash is no fault of the server's: {error}")
        }
        _ if error.is_passing() => Answer::Lost,
        _ => panic!("a good message was refused: {error}"),
    }
}

/// Any of the ways.
pub fn any<'a>(ways: &'a [Http], rng: &mut impl Rng) -> &'a Http {
    &ways[rng.random_range(0..ways.len())]
}
