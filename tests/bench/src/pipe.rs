//! The costs of a message to a group of another domain by way of the own homeserver (FED-5), next to the same message by
//! somebody of that domain: the two are interleaved, one at a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use postern_tests_kit::{Call, Capsule, Neighbours, World};

use crate::{Options, costs::Cpu, median};

/// Messages of a round by each way.
const AT_A_TIME: usize = 100;

pub async fn measure(options: &Options) -> Result<()> {
    let neighbours = Neighbours::builder()
        .tokens(1000)
        .setting("POSTERN_FEDERATION_GATEWAY_PER_SECOND", "100000")
        .start()
        .await;
    let (home, remote) = (&neighbours[0], &neighbours[1]);
    println!(
        "\n{AT_A_TIME} messages of {} B in a group of 2, one at a time, {} interleaved rounds, medians.\n",
        options.bytes, options.rounds
    );
    println!(
        "| way | p50 | p99 | client CPU | relay CPU | gateway CPU | relay's database | gateway's database |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut group = remote.group(2).await;
    let keys = remote.gateway_keys().await;
    let mut rounds: [Vec<(Duration, Duration, Cpu)>; 2] = Default::default();
    for round in 0..=options.rounds {
        remote.restock(2 * AT_A_TIME + 10).await;
        home.restock(AT_A_TIME + 10).await;
        for through in [false, true] {
            let before = Cpu::read(home, remote)?;
            let mut times = Vec::new();
            for _ in 0..AT_A_TIME {
                let message = group.party(0).say(&vec![7; options.bytes]);
                let call = remote.paid(group.submit(0, &message, None));
                let begun = Instant::now();
                if through {
                    by_relay(home, remote, &keys, &call).await;
                } else {
                    direct(remote, &call).await;
                }
                times.push(begun.elapsed());
            }
            let spent = Cpu::read(home, remote)?.since(before);
            times.sort_unstable();
            // The first round warms up plans, caches and connections.
            if round > 0 {
                let at = |share: usize| times[(times.len() - 1) * share / 100];
                rounds[usize::from(through)].push((at(50), at(99), spent));
            }
        }
    }
    for (way, rounds) in ["direct", "through relay and gateway"].into_iter().zip(&rounds) {
        let milliseconds = |time: fn(&(Duration, Duration, Cpu)) -> Duration| {
            median(rounds.iter().map(|round| time(round).as_secs_f64() * 1e3))
        };
        let cpu = |place: fn(&Cpu) -> f64| {
            median(rounds.iter().map(|(_, _, cpu)| place(cpu) * 1e6 / AT_A_TIME as f64))
        };
        println!(
            "| {way} | {:.2} ms | {:.2} ms | {:.0} µs | {:.0} µs | {:.0} µs | {:.0} µs | {:.0} µs |",
            milliseconds(|round| round.0),
            milliseconds(|round| round.1),
            cpu(|cpu| cpu.here),
            cpu(|cpu| cpu.servers[0]),
            cpu(|cpu| cpu.servers[1]),
            cpu(|cpu| cpu.databases[0]),
            cpu(|cpu| cpu.databases[1]),
        );
    }
    neighbours.close();
    Ok(())
}

async fn direct(remote: &World, call: &Call) {
    remote.send(&call.wire()).await.assert_ok("a message");
}

async fn by_relay(home: &World, remote: &World, keys: &[u8], call: &Call) {
    let capsule = Capsule::seal(keys, &call.wire());
    let reply = home.pay(&capsule.call(format!("/relay/{}", remote.domain()))).await;
    capsule.open(&reply).assert_ok("a message through the pipe");
}
