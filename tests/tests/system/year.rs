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
use postern_tests_kit::{Call, MovedClock, PATIENCE, World, eventually, now};

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
            let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == title);
            device.sync_until(PATIENCE, heard).await.expect("it is heard");
        }
    }
}

/// Takes what waits.
async fn sync(device: &Client) -> Vec<Event> {
    let events = device.sync(Duration::ZERO).await;
    events.unwrap_or_else(|error| panic!("{} cannot go on: {error}", device.user()))
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

    async fn keys(&self) -> [BTreeSet<Vec<u8>>; 2] {
        let auth: AuthenticationKeys = self.world.send(&Call::get("/as/keys").wire()).await.decode();
        let qs: QueuingKeys = self.world.send(&Call::get("/qs/keys").wire()).await.decode();
        [auth.keys, qs.keys].map(|keys| keys.iter().map(|key| key.public_key.as_bytes().to_vec()).collect())
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
        let [auth, _] = self.keys().await;
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
    for week in 1..=DAYS / 7 {
        year.move_to_day(7 * week).await;
        year.alice.look_around().await;
        year.bob.look_around().await;
        if week % 10 == 0 {
            year.alice.invite(&year.bob, &format!("week {week}")).await;
        }
    }
    year.move_to_day(DAYS).await;
    eventually("every key of the first day is replaced", async || {
        let now = year.keys().await;
        now.iter().zip(&first).all(|(now, first)| !now.is_empty() && now.is_disjoint(first)).then_some(())
    })
    .await;
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
    year.move_to_day(DAYS).await;
    eventually("every key of the first day is replaced", async || {
        let now = year.keys().await;
        now.iter().zip(&first).all(|(now, first)| !now.is_empty() && now.is_disjoint(first)).then_some(())
    })
    .await;
    // Nothing is left of what the server keeps for those who are there. Accounts stay.
    for rows in [
        "auth.clients WHERE credential IS NOT NULL OR sealed_contact IS NOT NULL",
        "qs.queues",
        "qs.friendships",
        "ds.groups",
    ] {
        eventually(rows, async || (year.world.count(rows).await == 0).then_some(())).await;
    }
    for _ in 0..3 {
        year.alice.look_around().await;
        year.bob.look_around().await;
    }
    year.end().await;
}
