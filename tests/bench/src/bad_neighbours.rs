//! Messages at home next to a bad neighbour (FED-6): one that is silent, slow, fails or answers without an end, and one
//! that floods this homeserver. Rounds next to a good one and next to a bad one take turns. A flood comes in either of the
//! two, to the neighbour or to this homeserver, so that the machine has as much to do; the CPU of this process, which makes
//! it, and of the own homeserver are given apart.

use std::time::{Duration, Instant};

use anyhow::Result;
use postern_tests_kit::{Capsules, Flood, Floods, Neighbours, Weather, asking_elsewhere};
use tokio::time::sleep;

use super::{
    Options,
    costs::{self, Cpu},
    median,
    neighbours::Talk,
};

/// The pause between two messages at home.
const EVERY: Duration = Duration::from_millis(10);
/// Messages at home for each one that goes to the neighbour.
const TO_ONE_ELSEWHERE: usize = 10;
/// How long a neighbour is good or bad before a round is measured.
const HEAD_START: Duration = Duration::from_millis(500);
/// Requests in a second of which the gateway opens those of one domain, where its pace is measured.
const PACE: &str = "20";

/// Messages at home that are measured, and what goes on next to them.
struct Scene<'a> {
    options: &'a Options,
    neighbours: &'a Neighbours,
    home: Talk,
    elsewhere: Talk,
}

/// The kind of a flood.
#[derive(Clone, Copy)]
enum Bad {
    Capsules(Capsules),
    Deliveries,
    LargeDeliveries,
}

/// A round next to a good or a bad neighbour: milliseconds of a message, and cores of this process and of the own
/// server and database.
struct Round {
    p50: f64,
    p99: f64,
    here: f64,
    homeserver: f64,
}

pub async fn measure(options: &Options) -> Result<()> {
    println!("{}\n", costs::machine());
    println!(
        "A message of {} B to 9 others at home every {} ms, {} rounds of {} s next to each kind of neighbour, good and bad \
         in turns, medians. CPU is in cores.\n",
        options.bytes,
        EVERY.as_millis(),
        options.rounds,
        options.seconds
    );
    println!(
        "| bad neighbour | p50 next to a good one | to the bad one | ratio | p99 next to a good one | to the bad one | ratio \
         | generator and client CPU, good | bad | homeserver CPU, good | bad |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    bad_answers(options).await?;
    floods(options).await
}

async fn bad_answers(options: &Options) -> Result<()> {
    let neighbours = Neighbours::builder().bad_lines().tokens(1000).start().await;
    let scene = Scene::set(options, &neighbours).await?;
    let _asking = asking_elsewhere(&neighbours[0], &neighbours[1]).await;
    let line = neighbours.line(0, 1);
    for (name, weather) in [
        ("accepts, and never answers", Weather::Silent),
        ("half a second late", Weather::Slow(Duration::from_millis(500))),
        ("500s", Weather::Failing),
        ("garbage", Weather::Garbage),
        ("bodies without an end", Weather::Endless),
    ] {
        scene.compare(name, |is_bad| line.set(if is_bad { weather } else { Weather::Fair })).await?;
    }
    Ok(())
}

async fn floods(options: &Options) -> Result<()> {
    for (name, bad, pace, per_second) in [
        ("strangers' capsules, 200/s", Bad::Capsules(Capsules::OfStrangers), None, 200),
        ("the same, 1,000/s", Bad::Capsules(Capsules::OfStrangers), None, 1000),
        ("a neighbour's capsules that do not open, 200/s", Bad::Capsules(Capsules::Spoilt), None, 200),
        ("a neighbour's capsules, 200/s", Bad::Capsules(Capsules::Sound), None, 200),
        ("the same, of which 20/s are opened", Bad::Capsules(Capsules::Sound), Some(PACE), 200),
        ("1,000/s, of which 200/s are opened", Bad::Capsules(Capsules::Sound), None, 1000),
        ("2,000/s, of which 200/s are opened", Bad::Capsules(Capsules::Sound), None, 2000),
        ("deliveries to nobody, 300 addresses each, 200/s", Bad::Deliveries, None, 200),
        ("deliveries of 2 MiB to nobody, 20,000 addresses each, 8/s", Bad::LargeDeliveries, None, 8),
    ] {
        let mut neighbours = Neighbours::builder().tokens(1000);
        if let Some(pace) = pace {
            neighbours = neighbours.setting("POSTERN_FEDERATION_GATEWAY_PER_SECOND", pace);
        }
        let neighbours = neighbours.start().await;
        let scene = Scene::set(options, &neighbours).await?;
        let mut floods = Vec::new();
        for world in [&neighbours[1], &neighbours[0]] {
            let flood = match bad {
                Bad::Capsules(capsules) => Flood::of_capsules(world, capsules).await,
                Bad::Deliveries => Flood::of_deliveries(world).await,
                Bad::LargeDeliveries => Flood::of_large_deliveries(world).await,
            };
            floods.push(flood.at(per_second));
        }
        let floods = Floods::start(floods);
        scene.compare(name, |is_bad| floods.turn_to(usize::from(is_bad))).await?;
    }
    Ok(())
}

impl<'a> Scene<'a> {
    async fn set(options: &'a Options, neighbours: &'a Neighbours) -> Result<Self> {
        for world in &neighbours.worlds {
            world.admin.execute("SELECT operator.set_allowance(2000000000)", &[]).await?;
        }
        let home = Talk::start(neighbours, 9, 0, options.bytes).await;
        let elsewhere = Talk::start(neighbours, 0, 1, options.bytes).await;
        Ok(Self { options, neighbours, home, elsewhere })
    }

    /// Prints a row about a neighbour that `set` makes bad and good.
    async fn compare(&self, name: &str, set: impl Fn(bool)) -> Result<()> {
        let mut rounds = Vec::new();
        for number in 0..=self.options.rounds {
            let mut pair = [None, None];
            // Neither of the two always comes first.
            for is_bad in [number % 2 == 1, number % 2 == 0] {
                set(false);
                self.clear_up().await?;
                set(is_bad);
                pair[usize::from(is_bad)] = Some(self.round().await?);
            }
            set(false);
            // The first pair warms up plans, caches and connections.
            if let [Some(good), Some(bad)] = pair
                && number > 0
            {
                rounds.push((good, bad));
            }
        }
        let of = |value: &dyn Fn(&Round) -> f64| {
            let good = median(rounds.iter().map(|(good, _)| value(good)));
            let bad = median(rounds.iter().map(|(_, bad)| value(bad)));
            (good, bad, median(rounds.iter().map(|(good, bad)| value(bad) / value(good))))
        };
        let (p50, p99) = (of(&|round| round.p50), of(&|round| round.p99));
        let (here, homeserver) = (of(&|round| round.here), of(&|round| round.homeserver));
        println!(
            "| {name} | {:.2} ms | {:.2} ms | {:.2} | {:.2} ms | {:.2} ms | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            p50.0, p50.1, p50.2, p99.0, p99.1, p99.2, here.0, here.1, homeserver.0, homeserver.1,
        );
        Ok(())
    }

    /// Waits until nothing is left of what was bad before.
    async fn clear_up(&self) -> Result<()> {
        let world = &self.neighbours[0];
        world.restock(2000).await;
        // An attempt from before may fail yet, and put the next one off.
        while world.count("federation.outbox").await > 0 {
            world.admin.execute("SELECT operator.retry_now('b.example')", &[]).await?;
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn round(&self) -> Result<Round> {
        let [world, neighbour] = [&self.neighbours[0], &self.neighbours[1]];
        self.elsewhere.send(world).await;
        sleep(HEAD_START).await;
        let before = Cpu::read(world, neighbour)?;
        let (started, mut times) = (Instant::now(), Vec::new());
        while started.elapsed() < Duration::from_secs(self.options.seconds) {
            if times.len() % TO_ONE_ELSEWHERE == 0 {
                self.elsewhere.send(world).await;
            }
            let begun = Instant::now();
            self.home.send(world).await;
            times.push(begun.elapsed());
            sleep(EVERY).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        let cpu = Cpu::read(world, neighbour)?.since(before);
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        Ok(Round {
            p50: at(50),
            p99: at(99),
            here: cpu.here / seconds,
            homeserver: (cpu.servers[0] + cpu.databases[0]) / seconds,
        })
    }
}
