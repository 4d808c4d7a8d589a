//! A year passes (OPS-10): PostgreSQL, servers and clients go by a clock that is moved 400 days, week by week or at once,
//! and no process is started again.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use postern_client::{Client, Event};
use postern_protocol::{
    aas::TokenKey,
    auth::{AuthenticationKeys, UserRecord},
    credential::ClientCredential,
    name::UserName,
    qs::QueuingKeys,
};
use postern_tests_kit::{Call, MovedClock, PATIENCE, World, bytes_of, eventually, now};

const DAYS: u32 = 400;

/// Somebody with two devices in use and one that lies in a drawer.
struct Person {
    used: [Client; 2],
    _silent: Client,
}

impl Person {
    async fn new(world: &World, name: &str) -> Self {
        let first = world.person(name).await;
        let second = world.device(&first, &format!("{name}-2")).await;
        let silent = world.device(&first, &format!("{name}-3")).await;
        let person = Self { used: [first, second], _silent: silent };
        person.look_around().await;
        person
    }

    fn name(&self) -> &UserName {
        self.used[0].user()
    }

    /// Both devices do what is due.
    async fn look_around(&self) {
        for device in &self.used {
            sync(device).await;
        }
    }

    /// Both devices have credentials that end in a month at the earliest: no day passes on which one is nobody's.
    async fn assert_renewed_in_time(&self) {
        let devices = self.used[0].devices().await.expect("the server shows the devices");
        for used in &self.used {
            let device = devices.iter().find(|device| device.client_key == used.client_key());
            let ends = device.and_then(|device| device.credential_ends).expect("it has a credential");
            assert!(ends > now() + 29 * 24 * 60 * 60, "{} s are left", ends.saturating_sub(now()));
        }
    }

    /// Makes a group, into which the other comes with every device in use, and says something in it.
    async fn invite(&self, other: &Self, title: &str) {
        let group = self.used[0].create_group(title).await.expect("a group can be made");
        group.invite(other.name()).await.unwrap_or_else(|error| panic!("{title}: no invitation: {error}"));
        let (mut inside, begun) = (BTreeSet::new(), Instant::now());
        while inside.len() < other.used.len() {
            assert!(begun.elapsed() < PATIENCE, "{title}: {} of two devices came", inside.len());
            self.look_around().await;
            for device in &other.used {
                let joined = |event: &Event| matches!(event, Event::Joined { .. });
                if sync(device).await.iter().any(joined) {
                    inside.insert(device.client_key());
                }
            }
        }
        group.send(title).await.unwrap_or_else(|error| panic!("{title}: nothing can be said: {error}"));
        for device in &other.used {
            hear(device, title).await;
        }
    }
}

/// Waits until a device hears something.
async fn hear(device: &Client, said: &str) {
    let is_it = |event: &Event| matches!(event, Event::Message { text, .. } if text == said);
    eventually("it is heard", async || sync(device).await.iter().any(is_it).then_some(())).await;
}

/// Takes what waits. A server that does every chore at once may have too much to do for a moment.
async fn sync(device: &Client) -> Vec<Event> {
    eventually("the server answers", async || match device.sync(Duration::ZERO).await {
        Ok(events) => Some(events),
        Err(error) if error.is_passing() => None,
        Err(error) => panic!("{} cannot go on: {error}", device.user()),
    })
    .await
}

/// The public keys of key configurations, each after its length: a number, the KEM, and the key (RFC 9458 §3.1).
fn gateway_keys(mut configurations: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    while let Some((length, rest)) = configurations.split_first_chunk() {
        let (configuration, others) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        keys.insert(configuration[3..35].to_vec());
        configurations = others;
    }
    keys
}

struct Year {
    world: World,
    clock: MovedClock,
    alice: Person,
    bob: Person,
}

impl Year {
    async fn begin(clock: MovedClock) -> Self {
        let world = World::builder().by(&clock).start().await;
        let (alice, bob) = (Person::new(&world, "alice").await, Person::new(&world, "bob").await);
        alice.invite(&bob, "the first day").await;
        Self { world, clock, alice, bob }
    }

    /// The server does its chores once it sees that the calendar leapt: all that it holds is of that day then.
    async fn move_to_day(&self, day: u32) {
        self.clock.move_to_day(day);
        eventually("the server has keys of that day", async || {
            let auth: AuthenticationKeys = self.world.send(&Call::get("/as/keys").wire()).await.decode();
            let qs: QueuingKeys = self.world.send(&Call::get("/qs/keys").wire()).await.decode();
            let issuer = self.world.directory(0).await;
            let issues = |key: &TokenKey| key.not_before.is_none_or(|begin| begin <= now());
            let is_ready =
                [&auth.keys, &qs.keys].iter().all(|keys| keys.iter().any(|key| key.is_valid_at(now())))
                    && issuer.token_keys.iter().any(issues);
            is_ready.then_some(())
        })
        .await;
    }

    /// The keys that the server shows: of the AS, the QS, the homeserver, its gateway and its issuer. Of the homeserver's
    /// those that are valid: the others only lead to these.
    async fn keys(&self) -> [BTreeSet<Vec<u8>>; 5] {
        let auth: AuthenticationKeys = self.world.send(&Call::get("/as/keys").wire()).await.decode();
        let qs: QueuingKeys = self.world.send(&Call::get("/qs/keys").wire()).await.decode();
        let description = self.world.description().await;
        let [auth, qs] = [auth.keys, qs.keys]
            .map(|keys| keys.iter().map(|key| key.public_key.as_bytes().to_vec()).collect());
        let valid = description.keys.iter().filter(|key| (key.not_before..=key.not_after).contains(&now()));
        let homeserver = valid.map(|key| key.public_key.as_bytes().to_vec()).collect();
        let gateway = gateway_keys(description.gateway_keys.as_bytes());
        let issuer = description.issuer.token_keys.iter().map(bytes_of).collect();
        [auth, qs, homeserver, gateway, issuer]
    }

    /// Waits until none of the keys of the first day is left.
    async fn assert_replaced(&self, first: &[BTreeSet<Vec<u8>>; 5]) {
        eventually("every key of the first day is replaced", async || {
            let now = self.keys().await;
            now.iter().zip(first).all(|(now, first)| !now.is_empty() && now.is_disjoint(first)).then_some(())
        })
        .await;
    }

    /// All goes on as on the first day, for those who were here and those who are new.
    async fn end(self) {
        let Self { world, alice, bob, .. } = &self;
        alice.invite(bob, "after a year").await;
        bob.invite(alice, "the other way").await;
        let carol = Person::new(world, "carol").await;
        carol.invite(alice, "somebody new").await;
        bob.invite(&carol, "to somebody new").await;
        for person in [alice, bob, &carol] {
            let reader = if person.name() == alice.name() { bob } else { alice };
            let seen = reader.used[1].look_up(person.name()).await.expect("a user is found");
            let keys: BTreeSet<_> = seen.clients.iter().map(|client| client.client_key).collect();
            for device in &person.used {
                assert!(keys.contains(&device.client_key()), "{} has this device", person.name());
            }
        }
        // A stranger, who starts from the present.
        world.stock(10).await;
        let record: UserRecord = world.look_up(alice.name()).await;
        assert!(record.ticket.time > u64::from(DAYS - 1) * 24 * 60 * 60);
        let issuers: BTreeSet<_> = record
            .clients
            .iter()
            .filter_map(|client| ClientCredential::parse(&client.credential).ok())
            .map(|credential| credential.issuer_key.as_bytes().to_vec())
            .collect();
        let [auth, ..] = self.keys().await;
        assert!(
            issuers.iter().any(|issuer| auth.contains(issuer)),
            "credentials are renewed under a key of now"
        );
    }
}

#[tokio::test]
async fn accounts_live_through_a_year_week_by_week_without_a_restart() {
    let Some(clock) = MovedClock::enter("year::accounts_live_through_a_year_week_by_week_without_a_restart")
    else {
        return;
    };
    let year = Year::begin(clock).await;
    let first = year.keys().await;
    assert!(first.iter().all(|keys| !keys.is_empty()), "{first:?}");
    for week in 1..=DAYS / 7 {
        year.move_to_day(7 * week).await;
        year.alice.look_around().await;
        year.bob.look_around().await;
        if week % 10 == 0 {
            year.alice.assert_renewed_in_time().await;
            year.alice.invite(&year.bob, &format!("week {week}")).await;
        }
    }
    year.move_to_day(DAYS).await;
    year.assert_replaced(&first).await;
    // The device in the drawer is nobody's any more.
    let seen = year.bob.used[0].look_up(year.alice.name()).await.unwrap();
    assert_eq!(seen.clients.len(), 2);
    assert_eq!(year.alice.used[1].devices().await.unwrap().len(), 2, "another device removed it");
    year.end().await;
}

#[tokio::test]
async fn accounts_live_through_a_year_in_one_leap_without_a_restart() {
    let Some(clock) = MovedClock::enter("year::accounts_live_through_a_year_in_one_leap_without_a_restart")
    else {
        return;
    };
    let year = Year::begin(clock).await;
    let first = year.keys().await;
    assert!(first.iter().all(|keys| !keys.is_empty()), "{first:?}");
    year.move_to_day(DAYS).await;
    year.assert_replaced(&first).await;
    // A leap alone lets nothing expire: a clock that is wrong for some hours looks the same.
    let kept = [
        "auth.clients WHERE credential IS NOT NULL OR sealed_contact IS NOT NULL",
        "qs.queues",
        "qs.friendships",
        "ds.groups",
    ];
    for rows in kept {
        assert!(year.world.count(rows).await > 0, "{rows}");
    }
    for day in [DAYS, DAYS + 1, DAYS + 2] {
        year.move_to_day(day).await;
        eventually("the server has seen that day", async || {
            let noted = "operator.days WHERE day = (now() AT TIME ZONE 'UTC')::date";
            (year.world.count(noted).await == 1).then_some(())
        })
        .await;
    }
    // After three days nothing is left of what the server keeps for those who are there. Accounts stay.
    for rows in kept {
        eventually(rows, async || (year.world.count(rows).await == 0).then_some(())).await;
    }
    for _ in 0..3 {
        year.alice.look_around().await;
        year.bob.look_around().await;
    }
    year.end().await;
}
