//! People of three domains in one group, of whom some come and go, while at random servers and databases die and the lines
//! between the domains are cut, slow, silent, brief, or answer with errors and garbage: nothing is lost, told twice or turned
//! round (FED-4, FED-5, FED-6).

mod record;
mod talk;
mod visit;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use postern_client::{Client, Group};
use postern_protocol::{PublicKey, ds::GroupId, qs::QueueKind};
use postern_tests_kit::{Chance, Neighbours, Server, befriend, eventually, joined};
use rand::Rng;
use tokio::task::JoinHandle;

use self::{
    talk::{Course, Talker, Words, is_of_bad_days},
    visit::{HOSTS, TURNS, Visit, leaf_key},
};
use crate::groups::operate;

const DOMAINS: usize = 3;
/// Those who stay.
const RESIDENTS: usize = 2 * DOMAINS;
/// How long things go wrong, at least; they go on until all of what follows has happened, for so long at most.
const TROUBLE: [Duration; 2] = [Duration::from_secs(25), Duration::from_secs(360)];
/// Texts that are said meanwhile, at least, and commits that are accepted.
const TEXTS: usize = 200;
const COMMITS: u64 = 10;
/// Times that guests come or go meanwhile, at least. All others are begun by then, or follow when things go well again.
const CHANGES: usize = 3;
/// Connections that are struck meanwhile, more than these.
const STRUCK: usize = 10;
/// How long nothing may come and go, once all is well, though something is left to do: a client leaves a homeserver
/// alone for up to a minute after it failed all the while, and a server that was killed has asked for tokens for a
/// minute.
const REST: Duration = Duration::from_secs(180);
/// How long the guests' turns may take that are left when all is well.
const ALL_TURNS: Duration = Duration::from_secs(420);
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
    /// The residents, and then a guest of each domain, in the order of the domains.
    people: Vec<Person>,
    group: GroupId,
    /// The epoch when it began, in which all of them are members.
    epoch: u64,
}

struct Person {
    client: Client,
    /// The number of messages in the queue when it began.
    begun: u64,
    words: Words,
}

impl Conversation {
    /// Brings two people and a guest of each domain together, in a group at the first one, in fair weather. One of each domain
    /// is an admin.
    async fn begin(neighbours: &Neighbours) -> Self {
        let mut clients = Vec::new();
        for number in 0..RESIDENTS {
            let world = &neighbours[number % DOMAINS];
            clients.push(world.person_at(&world.servers[number / DOMAINS], &format!("person{number}")).await);
        }
        let group = clients[0].create_group("bad days").await.expect("a group can be made").id().clone();
        for client in &clients[1..] {
            befriend(&clients[0], client, &group).await;
            joined(client, 1).await;
        }
        let mut conversation = Self { people: Vec::new(), group, epoch: 0 };
        conversation.people.extend(clients.into_iter().map(Person::new));
        conversation.come_to_rest(neighbours).await;
        conversation.name_hosts().await;
        for domain in 0..DOMAINS {
            let world = &neighbours[domain];
            let guest = world.person_at(&world.servers[1], &format!("guest{domain}")).await;
            conversation.bring_in(domain, &guest).await;
            conversation.people.push(Person::new(guest));
        }
        conversation.come_to_rest(neighbours).await;
        let group = &conversation.group;
        for person in &mut conversation.people {
            let client = &person.client;
            if let Some((last, _)) = client.pending_events().expect("events can be read").last() {
                client.forget_events(*last).expect("events can be forgotten");
            }
            person.begun = position(client);
            person.words.leaf_keys = vec![leaf_key(client, &client.group_with_id(group))];
        }
        conversation.epoch = conversation.epoch_of(0);
        conversation
    }

    /// Makes the guests' hosts admins, and lets them hear of it.
    async fn name_hosts(&self) {
        for host in HOSTS {
            let user = self.people[host].client.user();
            if host != 0 {
                self.group_of(0).name_admin(user).await.expect("an admin names others");
            }
        }
        eventually("the guests' hosts are admins", async || {
            for host in HOSTS {
                self.people[host].client.receive(Duration::ZERO).await.expect("the homeserver is there");
            }
            let knows = |host: usize| self.group_of(host).admins().expect("a member").len() == DOMAINS;
            HOSTS.into_iter().all(knows).then_some(())
        })
        .await;
    }

    /// The host of a domain's guest invites it.
    async fn bring_in(&self, domain: usize, guest: &Client) {
        let host = HOSTS[domain];
        self.group_of(host).invite(guest.user()).await.expect("it can be invited");
        eventually("the guest is in", async || {
            for client in [guest, &self.people[host].client] {
                client.receive(Duration::ZERO).await.expect("the homeserver is there");
            }
            guest.group_with_id(&self.group).epoch().is_ok().then_some(())
        })
        .await;
    }

    fn group_of(&self, person: usize) -> Group {
        self.people[person].client.group_with_id(&self.group)
    }

    /// Lets all of them talk, and the guests come and go, while things go wrong.
    async fn go_on_in(&mut self, neighbours: &mut Neighbours, chance: &Chance) {
        let (mut rng, course) = (chance.of(0), Course::default());
        let talking: Vec<JoinHandle<Words>> = (0..self.people.len())
            .map(|person| {
                let client = &self.people[person].client;
                let talker = Talker::new(client, &self.group, &course, chance.of(1 + person as u64));
                match person.checked_sub(RESIDENTS) {
                    None => tokio::spawn(talker.talk()),
                    Some(domain) => {
                        let visit = Visit::new(talker, &self.people[HOSTS[domain]].client);
                        tokio::spawn(visit.go_on(TURNS[domain]))
                    }
                }
            })
            .collect();
        let gave_up = || talking.iter().any(JoinHandle::is_finished);
        neighbours.storm(chance);
        let begun = Instant::now();
        let (mut servers, mut databases) = (0, 0);
        loop {
            let commits = self.epoch_of(0) - self.epoch;
            let happened = [
                course.texts() >= TEXTS,
                commits >= COMMITS,
                course.changes() >= CHANGES,
                neighbours.struck() > STRUCK,
                databases > 0,
            ];
            if begun.elapsed() >= TROUBLE[0] && happened.into_iter().all(|is_so| is_so) {
                break;
            }
            assert!(
                begun.elapsed() < TROUBLE[1],
                "texts, commits, changes, struck connections, databases: {happened:?}"
            );
            assert!(!gave_up(), "somebody gave up");
            // The longer it takes, as on a slow machine, the less often something dies.
            let pause = Duration::from_millis(rng.random_range(200..2500));
            tokio::time::sleep(pause.mul_f64(1.0 + begun.elapsed().as_secs_f64() / 60.0)).await;
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
        let (struck, changes) = (neighbours.calm(), course.changes());
        eprintln!(
            "{} texts and {changes} changes in {:?}, {struck} connections struck, {servers} servers and {databases} \
             databases killed",
            course.texts(),
            begun.elapsed()
        );
        all_turns(&course, gave_up).await;
        course.end();
        for (talker, person) in talking.into_iter().zip(&mut self.people) {
            let words = talker.await.expect("nobody panics");
            person.words.said = words.said;
            person.words.refused = words.refused;
            person.words.leaf_keys.extend(words.leaf_keys);
        }
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

    /// Everybody receives; returns who could not, has something left to do, or does not know yet who another member is.
    async fn receive(&self) -> Vec<String> {
        let mut busy = Vec::new();
        for Person { client, .. } in &self.people {
            // A message of the first time is heard in the second.
            for _ in 0..2 {
                if let Err(error) = client.receive(Duration::ZERO).await {
                    assert!(is_of_bad_days(&error), "{}: {error}", client.user());
                    busy.push(format!("{}: {error}", client.user()));
                }
            }
            let group = client.group_with_id(&self.group);
            if group.is_unsettled().expect("it can be read") || client.has_errands().expect("it can be read")
            {
                busy.push(format!("{} has errands", client.user()));
            }
            if group.members().is_ok_and(|members| members.iter().any(|member| !member.verified)) {
                busy.push(format!("{} does not know everybody", client.user()));
            }
        }
        busy
    }

    /// How far each person's queue is read, and the texts that are left to be sent; and of each domain the deliveries
    /// that are left.
    async fn state(&self, neighbours: &Neighbours) -> Vec<(u64, u64)> {
        let state = |Person { client, .. }: &Person| {
            (position(client), client.group_with_id(&self.group).unsent().expect("it can be read"))
        };
        let mut state: Vec<_> = self.people.iter().map(state).collect();
        for world in &neighbours.worlds {
            let waiting = world.count("federation.outbox").await;
            state.push((0, waiting.try_into().expect("a count")));
        }
        state
    }

    /// All who are in say a last word, which all others read: they have the same keys.
    async fn end(&mut self, neighbours: &Neighbours) {
        for person in 0..self.people.len() {
            if self.is_in(person) {
                let text = format!("{}: good night", self.people[person].client.user());
                self.group_of(person).keep(&text).expect("a member can speak");
                self.people[person].words.said.push(text);
            }
        }
        self.come_to_rest(neighbours).await;
    }

    fn is_in(&self, person: usize) -> bool {
        self.group_of(person).epoch().is_ok()
    }

    fn epoch_of(&self, person: usize) -> u64 {
        self.group_of(person).epoch().expect("a member")
    }

    /// Each member by name, as its AS confirmed it.
    fn members_of(&self, person: usize) -> Vec<String> {
        let members = self.group_of(person).members().expect("a member");
        let name = |member: &postern_client::Member| {
            assert!(member.verified, "person {person} does not know who {:?} is", member.user);
            format!("{:?} {:?}", member.user, member.leaf_key)
        };
        let mut members: Vec<_> = members.iter().map(name).collect();
        members.sort();
        members
    }

    /// The number of the person who has this leaf key, or had it.
    fn who(&self, leaf_key: &PublicKey) -> usize {
        let has_it = |person: &Person| person.words.leaf_keys.contains(leaf_key);
        self.people.iter().position(has_it).expect("everybody's leaf keys are known")
    }
}

impl Person {
    fn new(client: Client) -> Self {
        Self { client, begun: 0, words: Words::default() }
    }
}

/// Waits until all guests have had their turns.
async fn all_turns(course: &Course, gave_up: impl Fn() -> bool) {
    let (all, deadline) = (TURNS.concat().len(), Instant::now() + ALL_TURNS);
    while course.changes() < all {
        let changes = course.changes();
        assert!(!gave_up(), "somebody gave up");
        assert!(Instant::now() < deadline, "of {all} changes {changes} happened");
        tokio::time::sleep(PAUSE).await;
    }
}

fn position(client: &Client) -> u64 {
    let deliveries = client.deliveries(QueueKind::Group).expect("deliveries can be read");
    deliveries.last().map_or(0, |(seq, _)| *seq)
}
