//! Lost answers: the server has acted, and the client does not know. Every call of the client has its answer lost once
//! (then the client repeats it by itself) and four times (then it gives up, and its next step goes on). An outcome that
//! is not known is never taken for a refusal, and nothing happens twice. `endpoints` has each endpoint that clients call.

mod account;
mod endpoints;
mod groups;
mod messages;
mod now_and_then;
mod people;
mod registration;

use std::time::Duration;

use postern_client::{Client, Error, Event, Group, Options, RecoveryKey};
use postern_protocol::ds::GroupId;
use postern_tests_kit::{BadLine, PATIENCE, World, befriend, joined, with};

/// The client's own attempts at one request.
const ALL_ATTEMPTS: usize = 4;

fn options() -> Options {
    Options { accept_contacts: true, durable: false, return_after: Duration::ZERO, ..Options::default() }
}

async fn register(world: &World, line: &BadLine, name: &str) -> Result<Client, Error> {
    let builder = Client::builder(world.homes.path().join(name)).server(line.url()).options(options());
    builder.register(name).await
}

/// The same device after a restart of its program.
fn restart(client: Client) -> Client {
    with(client, options())
}

/// Somebody whose line may be bad, in a group with somebody whose line is good.
struct Scene {
    world: World,
    line: BadLine,
    alice: Client,
    bob: Client,
    /// Alice made it, and Bob is in it.
    group: GroupId,
}

impl Scene {
    async fn start() -> Self {
        let world = World::builder().pushing().start().await;
        let line = BadLine::to(world.server().address()).await;
        let alice = register(&world, &line, "alice").await.unwrap();
        let bob = world.person("bob").await;
        let group = alice.create_group("climbing").await.unwrap().id().clone();
        befriend(&alice, &bob, &group).await;
        joined(&bob, 1).await;
        for client in [&alice, &bob] {
            client.sync(Duration::ZERO).await.unwrap();
        }
        Self { world, line, alice, bob, group }
    }

    fn alices(&self) -> Group {
        self.alice.group_with_id(&self.group)
    }

    /// Everything that Bob reads until a last message of Alice's.
    async fn bob_reads(&self) -> Vec<String> {
        self.alices().send("that is all").await.unwrap();
        let last = |event: &Event| matches!(event, Event::Message { text, .. } if text == "that is all");
        let events = self.bob.sync_until(PATIENCE, last).await.unwrap();
        let mut texts = texts(events);
        assert_eq!(texts.pop().as_deref(), Some("that is all"));
        texts
    }

    /// Does something of Alice's while the answers to requests like this are lost, and again until it is done.
    async fn insist<T>(&self, named: &str, times: usize, work: impl AsyncFn() -> Result<T, Error>) -> T {
        insist_after(&self.line, (named, 0), times, work).await
    }
}

/// Does something while the answers to requests like this are lost, after so many that are not, and again until it is done.
async fn insist_after<T>(
    line: &BadLine,
    (named, spared): (&str, usize),
    times: usize,
    work: impl AsyncFn() -> Result<T, Error>,
) -> T {
    line.cut_after(named, spared, times);
    let first = work().await;
    assert_eq!(line.mend(), times, "{named} was asked for, and its answer lost");
    if times < ALL_ATTEMPTS {
        return first.unwrap_or_else(|error| panic!("{named}, lost {times} times: {error}"));
    }
    let error = first.err().unwrap_or_else(|| panic!("{named} has no answer"));
    assert!(error.is_passing(), "{named}: {error}");
    work().await.unwrap_or_else(|error| panic!("{named}, after {times} lost answers: {error}"))
}

/// Lets months pass in which no client asks for a credential, and the AS does its chore.
async fn months_pass(world: &World) {
    world.admin.execute("UPDATE auth.clients SET heard = heard - 4", &[]).await.unwrap();
    let more: bool = world.value("SELECT auth.expire()").await;
    assert!(!more);
    assert_eq!(world.count("auth.clients WHERE credential IS NOT NULL").await, 0);
}

/// The recovery key as its owner wrote it down.
fn written_down(client: &Client) -> RecoveryKey {
    let key = client.recovery_key().unwrap().expect("it was not shown yet");
    client.forget_recovery_key().unwrap();
    key
}

fn texts(events: Vec<Event>) -> Vec<String> {
    let text = |event| match event {
        Event::Message { text, .. } => Some(text),
        _ => None,
    };
    events.into_iter().filter_map(text).collect()
}
