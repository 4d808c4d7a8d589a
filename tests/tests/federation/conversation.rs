//! People of three domains in one group, while at random servers and databases die and the lines between the domains
//! are cut, slow, silent, brief, or answer with errors and garbage: nothing is lost, told twice or turned round (FED-4,
//! FED-5, FED-6).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use postern_client::{Change, Client, Error, Event};
use postern_protocol::{
    MlsMessage,
    ds::GroupId,
    qs::{QueueKind, QueuePayload},
};
use postern_tests_kit::{Chance, Neighbours, Server, Weather, befriend, eventually, joined};
use rand::{Rng, rngs::StdRng};
use tokio::task::JoinHandle;

use crate::groups::operate;

const DOMAINS: usize = 3;
const PEOPLE: usize = 2 * DOMAINS;
/// How long things go wrong, at least; they go on until all of what follows has happened, for so long at most.
const TROUBLE: [Duration; 2] = [Duration::from_secs(25), Duration::from_secs(240)];
/// Texts that are said meanwhile, at least, and commits that are accepted.
const TEXTS: usize = 200;
const COMMITS: u64 = 10;
/// Connections that are struck meanwhile, more than these.
const STRUCK: usize = 10;
/// How long nothing may come and go, once all is well, though something is left to do: a client leaves a homeserver
/// alone for up to a minute after it failed all the while, and a server that was killed has asked for tokens for a
/// minute.
const REST: Duration = Duration::from_secs(180);
/// Pause between two looks whether all is at rest.
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_of_three_domains_survives_bad_days() {
    let chance = Chance::new();
    let mut neighbours = Neighbours::builder().domains(DOMAINS).processes(2).bad_lines().start().await;
    for world in &neighbours.worlds {
        operate(world, "set_federation_limit('retry_seconds', 5)").await;
    }
    let mut conversation = Conversation::begin(&neighbours).await;
    conversation.go_on_in(&mut neighbours, &chance).await;
    conversation.come_to_rest(&neighbours).await;
    conversation.end(&neighbours).await;
    conversation.check();
    for world in &neighbours.worlds {
        assert_eq!(world.count("federation.set_aside").await, 0, "{} set something aside", world.domain());
        let log: String = world.servers.iter().map(Server::log).collect();
        assert!(!log.contains("panicked"), "{log}");
    }
}

struct Conversation {
    people: Vec<Client>,
    group: GroupId,
    /// The number of messages in each one's queue when it began, and the epoch.
    begun: Vec<u64>,
    epoch: u64,
    /// The texts that each one said.
    said: Vec<Vec<String>>,
}

impl Conversation {
    /// Brings two people of each domain together, in a group at the first one, in fair weather.
    async fn begin(neighbours: &Neighbours) -> Self {
        let mut people = Vec::new();
        for number in 0..PEOPLE {
            let world = &neighbours[number % DOMAINS];
            people.push(world.person_at(&world.servers[number / DOMAINS], &format!("person{number}")).await);
        }
        let group = people[0].create_group("bad days").await.expect("a group can be made").id().clone();
        for person in &people[1..] {
            befriend(&people[0], person, &group).await;
            joined(person, 1).await;
        }
        let said = vec![Vec::new(); PEOPLE];
        let mut conversation = Self { people, group, begun: Vec::new(), epoch: 0, said };
        conversation.come_to_rest(neighbours).await;
        for person in &conversation.people {
            if let Some((last, _)) = person.pending_events().expect("events can be read").last() {
                person.forget_events(*last).expect("events can be forgotten");
            }
            conversation.begun.push(position(person));
        }
        conversation.epoch = conversation.epoch_of(&conversation.people[0]);
        conversation
    }

    /// Lets all of them talk while things go wrong.
    async fn go_on_in(&mut self, neighbours: &mut Neighbours, chance: &Chance) {
        let (mut rng, texts) = (chance.of(0), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let talking: Vec<JoinHandle<Vec<String>>> = (1..)
            .zip(&self.people)
            .map(|(number, person)| {
                let talker = Talker {
                    client: person.clone(),
                    group: self.group.clone(),
                    stop: stop.clone(),
                    texts: texts.clone(),
                };
                tokio::spawn(talker.talk(chance.of(number)))
            })
            .collect();
        neighbours.storm(chance);
        let begun = Instant::now();
        let (mut servers, mut databases) = (0, 0);
        loop {
            let commits = self.epoch_of(&self.people[0]) - self.epoch;
            let happened = [
                texts.load(Ordering::Relaxed) >= TEXTS,
                commits >= COMMITS,
                neighbours.struck() > STRUCK,
                databases > 0,
            ];
            if begun.elapsed() >= TROUBLE[0] && happened.into_iter().all(|is_so| is_so) {
                break;
            }
            assert!(
                begun.elapsed() < TROUBLE[1],
                "texts, commits, struck connections, databases: {happened:?}"
            );
            assert!(!talking.iter().any(JoinHandle::is_finished), "somebody gave up");
            tokio::time::sleep(Duration::from_millis(rng.random_range(200..2500))).await;
            let world = &mut neighbours[rng.random_range(0..DOMAINS)];
            if servers <= 2 * databases {
                world.replace(rng.random_range(0..2), Signal::SIGKILL).await;
                servers += 1;
            } else {
                world.cluster.kill_postgres();
                world.cluster.restart().await;
                databases += 1;
            }
        }
        for world in &mut neighbours.worlds {
            world.reconnect().await;
        }
        let struck = neighbours.calm();
        stop.store(true, Ordering::Relaxed);
        for (talker, said) in talking.into_iter().zip(&mut self.said) {
            *said = talker.await.expect("nobody panics");
        }
        let texts = texts.load(Ordering::Relaxed);
        eprintln!(
            "{texts} texts in {:?}, {struck} connections struck, {servers} servers and {databases} databases killed",
            begun.elapsed()
        );
    }

    /// Receives until nobody gets or sends anything more, and nothing is on its way, for two rounds: what came in the first
    /// one after somebody had looked is seen in the second.
    async fn come_to_rest(&self, neighbours: &Neighbours) {
        let calm = Instant::now();
        let (mut deadline, mut before, mut still) = (calm + REST, Vec::new(), 0);
        while still < 2 {
            let busy = self.receive().await;
            let state = self.state(neighbours).await;
            if state != before {
                (deadline, still) = (Instant::now() + REST, 0);
            } else if busy.is_empty() && state.iter().all(|(_, left)| *left == 0) {
                still += 1;
                continue;
            } else {
                still = 0;
            }
            assert!(Instant::now() < deadline, "no rest comes: {busy:?}, {state:?}");
            before = state;
            tokio::time::sleep(PAUSE).await;
        }
        eprintln!("all is quiet after {:?}", calm.elapsed());
    }

    /// Everybody receives; returns who could not, or has something left to do.
    async fn receive(&self) -> Vec<String> {
        let mut busy = Vec::new();
        for person in &self.people {
            // A message of the first time is heard in the second.
            for _ in 0..2 {
                if let Err(error) = person.receive(Duration::ZERO).await {
                    assert!(is_of_bad_days(&error), "{}: {error}", person.user());
                    busy.push(format!("{}: {error}", person.user()));
                }
            }
            let group = person.group_with_id(&self.group);
            if group.is_unsettled().expect("it can be read") || person.has_errands().expect("it can be read")
            {
                busy.push(format!("{} has errands", person.user()));
            }
        }
        busy
    }

    /// How far each person's queue is read, and the texts that are left to be sent; and of each domain the deliveries
    /// that are left.
    async fn state(&self, neighbours: &Neighbours) -> Vec<(u64, u64)> {
        let unsent = |person: &Client| person.group_with_id(&self.group).unsent().expect("it can be read");
        let mut state: Vec<_> = self.people.iter().map(|person| (position(person), unsent(person))).collect();
        for world in &neighbours.worlds {
            let waiting = world.count("federation.outbox").await;
            state.push((0, waiting.try_into().expect("a count")));
        }
        state
    }

    /// Everybody says a last word, which all others read: all have the same keys.
    async fn end(&mut self, neighbours: &Neighbours) {
        for (person, said) in self.people.iter().zip(&mut self.said) {
            let text = format!("{}: good night", person.user());
            person.group_with_id(&self.group).keep(&text).expect("a member can speak");
            said.push(text);
        }
        self.come_to_rest(neighbours).await;
    }

    /// Holds everyone's queue, as it was delivered and as it was understood, against what was said and against the others.
    fn check(&self) {
        let queues: Vec<Vec<MlsMessage>> = (0..PEOPLE).map(|person| self.queue(person)).collect();
        let heard: Vec<Vec<(String, String)>> = self.people.iter().map(heard).collect();
        Self::check_queues(&queues);
        for (speaker, person) in self.people.iter().enumerate() {
            let name = person.user().to_string();
            for (listener, heard) in heard.iter().enumerate().filter(|(listener, _)| *listener != speaker) {
                let of_speaker = heard.iter().filter(|(by, _)| *by == name).map(|(_, text)| text.clone());
                let of_speaker: Vec<_> = of_speaker.collect();
                assert_eq!(of_speaker, self.said[speaker], "what {speaker} said, as {listener} heard it");
            }
        }
        for (one, of_one) in heard.iter().enumerate() {
            for (other, of_other) in heard.iter().enumerate() {
                let without = |heard: &[(String, String)]| {
                    let own = [one, other].map(|person| self.people[person].user().to_string());
                    heard.iter().filter(|(by, _)| !own.contains(by)).cloned().collect::<Vec<_>>()
                };
                assert_eq!(without(of_one), without(of_other), "{one} and {other} heard another order");
            }
        }
        let (epoch, members) = (self.epoch_of(&self.people[0]), self.members_of(&self.people[0]));
        for person in &self.people {
            assert_eq!(self.epoch_of(person), epoch, "{} is in another epoch", person.user());
            assert_eq!(self.members_of(person), members, "{} knows other members", person.user());
        }
        assert_eq!(members.len(), PEOPLE);
        assert!(epoch - self.epoch >= COMMITS, "few commits were accepted: {}", epoch - self.epoch);
        eprintln!("{} commits", epoch - self.epoch);
    }

    /// A message that the DS accepted once is in every queue but its sender's once, and in the same order. A client that
    /// got no answer sends it again, and members know the repeat: it may be accepted twice, and is then in all of them
    /// twice.
    fn check_queues(queues: &[Vec<MlsMessage>]) {
        let sets: Vec<HashSet<&MlsMessage>> = queues.iter().map(|queue| queue.iter().collect()).collect();
        let mut having: HashMap<&MlsMessage, usize> = HashMap::new();
        for message in sets.iter().flatten() {
            *having.entry(message).or_default() += 1;
        }
        let missed: Vec<_> = having.values().filter(|number| **number != PEOPLE - 1).collect();
        assert!(
            missed.is_empty(),
            "so many have messages that all but their senders are to have: {missed:?}"
        );
        for (one, queue) in queues.iter().enumerate() {
            for (other, theirs) in queues.iter().enumerate() {
                let shared = queue.iter().filter(|message| sets[other].contains(message));
                let shared_by_them = theirs.iter().filter(|message| sets[one].contains(message));
                assert!(shared.eq(shared_by_them), "the queues of {one} and {other} differ");
            }
        }
        let repeats = queues.iter().zip(&sets).map(|(queue, set)| queue.len() - set.len()).max();
        eprintln!("{} messages, {} repeats at most", having.len(), repeats.unwrap_or_default());
    }

    /// The messages that came to a person since the beginning.
    fn queue(&self, person: usize) -> Vec<MlsMessage> {
        let deliveries = self.people[person].deliveries(QueueKind::Group).expect("deliveries can be read");
        let seqs = deliveries.iter().map(|(seq, _)| *seq);
        assert!(seqs.eq(1..=deliveries.len() as u64), "sequence numbers count from 1 without gaps");
        let new = deliveries.into_iter().filter(|(seq, _)| *seq > self.begun[person]);
        new.map(|(_, payload)| match payload {
            QueuePayload::Message(message) => message,
            other => panic!("nobody joins any more, and nothing is lost: {other:?}"),
        })
        .collect()
    }

    fn epoch_of(&self, person: &Client) -> u64 {
        person.group_with_id(&self.group).epoch().expect("a member")
    }

    /// Each member by name, as its AS confirmed it.
    fn members_of(&self, person: &Client) -> Vec<String> {
        let members = person.group_with_id(&self.group).members().expect("a member");
        let name = |member: &postern_client::Member| {
            assert!(member.verified, "{} does not know who {:?} is", person.user(), member.user);
            format!("{:?} {:?}", member.user, member.leaf_key)
        };
        let mut members: Vec<_> = members.iter().map(name).collect();
        members.sort();
        members
    }
}

/// The texts and their speakers in the order in which a person was told. Nothing else happened but that members renewed
/// their keys.
fn heard(person: &Client) -> Vec<(String, String)> {
    let mut heard = Vec::new();
    for (_, event) in person.pending_events().expect("events can be read") {
        match event {
            Event::Message { sender, text, .. } => {
                heard.push((sender.user.expect("all know each other").to_string(), text));
            }
            Event::Updated { .. } => {}
            other => panic!("{}: {other:?}", person.user()),
        }
    }
    heard
}

fn position(person: &Client) -> u64 {
    let deliveries = person.deliveries(QueueKind::Group).expect("deliveries can be read");
    deliveries.last().map_or(0, |(seq, _)| *seq)
}

/// Whether an error is one that passes by itself, when lines and servers do better.
fn is_of_bad_days(error: &Error) -> bool {
    error.is_passing() || matches!(error, Error::Contended(_))
}

struct Talker {
    client: Client,
    group: GroupId,
    stop: Arc<AtomicBool>,
    texts: Arc<AtomicUsize>,
}

impl Talker {
    /// Says something, renews its keys and reads in turn, until it is told to stop; returns what it said.
    async fn talk(self, mut rng: StdRng) -> Vec<String> {
        let mut said = Vec::new();
        let group = self.client.group_with_id(&self.group);
        while !self.stop.load(Ordering::Relaxed) {
            let done = match rng.random_range(0..12) {
                0 => group.update().await,
                1..7 => {
                    let text = format!("{}: {}", self.client.user(), said.len());
                    said.push(text.clone());
                    self.texts.fetch_add(1, Ordering::Relaxed);
                    group.send(&text).await
                }
                _ => self.client.receive(Duration::ZERO).await,
            };
            if let Err(error) = done {
                assert!(is_of_bad_days(&error), "{}: {error}", self.client.user());
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        }
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_elsewhere_waits_for_changes_that_are_on_their_way() {
    let neighbours = Neighbours::builder().bad_lines().start().await;
    let alice = neighbours[0].person("alice").await;
    let bob = neighbours[1].person("bob").await;
    let group = alice.create_group("across").await.expect("a group can be made").id().clone();
    befriend(&alice, &bob, &group).await;
    joined(&bob, 1).await;
    let [hers, his] = [&alice, &bob].map(|client| client.group_with_id(&group));
    let receive = async |client: &Client| {
        client.receive(Duration::ZERO).await.expect("the own homeserver is there");
    };
    let is_known = |by: &Client| {
        let members = by.group_with_id(&group).members().expect("a member");
        members.len() == 2 && members.iter().all(|member| member.verified)
    };
    eventually("all introductions are made", async || {
        receive(&alice).await;
        receive(&bob).await;
        let busy = [&alice, &bob].iter().any(|client| client.has_errands().expect("it can be read"));
        (!busy && is_known(&alice) && is_known(&bob) && bob.group("across").is_ok()).then_some(())
    })
    .await;
    let told =
        async |client: &Client| client.sync(Duration::ZERO).await.expect("the own homeserver is there");
    told(&alice).await;
    told(&bob).await;

    // Bob's commit is accepted, and he does not hear of it. Nothing comes to him while Alice renews her keys again and
    // again.
    let commit = his.prepare(&Change::Update).await.expect("a member can commit");
    bob.submit(&commit).await.expect("it is accepted");
    eventually("Alice follows", async || {
        receive(&alice).await;
        (hers.epoch().expect("a member") > commit.epoch).then_some(())
    })
    .await;
    neighbours.line(0, 1).set(Weather::Cut);
    for _ in 0..5 {
        hers.update().await.expect("a member can commit");
    }
    let behind = his.send("am I late?").await;
    assert!(matches!(behind, Err(Error::Behind)), "{behind:?}");
    assert!(matches!(his.update().await, Err(Error::Behind)));
    assert_eq!(his.unsent().expect("it can be read"), 1);
    receive(&bob).await;

    neighbours.calm();
    operate(&neighbours[0], "retry_now('b.example')").await;
    eventually("Bob follows, and is heard", async || {
        receive(&bob).await;
        receive(&alice).await;
        let events = alice.pending_events().expect("events can be read");
        let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == "am I late?");
        events.iter().any(|(_, event)| heard(event)).then_some(())
    })
    .await;
    assert_eq!(his.epoch().expect("a member"), hers.epoch().expect("a member"));
    for client in [&alice, &bob] {
        let unusual = |event: &Event| !matches!(event, Event::Updated { .. } | Event::Message { .. });
        let events = told(client).await;
        assert!(!events.iter().any(unusual), "{}: {events:?}", client.user());
    }
    neighbours.close();
}
