//! Random damage: every request is refused or accepted, none makes a fault or a panic, and nothing changes unless one
//! is accepted. The seed is fixed, so that findings repeat.

use std::collections::HashMap;

use ciborium::Value;
use postern_tests_kit::{Call, Wire, World};
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::header::{HeaderName, HeaderValue};

use super::every_request;

const SEED: u64 = 20;
const BODIES: usize = 150;
const HEADERS: usize = 50;

fn mutate(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=3) {
        if bytes.is_empty() {
            return bytes.push(rng.random());
        }
        let place = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes[place] ^= 1 << rng.random_range(0..8),
            1 => bytes[place] = rng.random(),
            2 => bytes[place] = [0x00, 0x01, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            3 => bytes.insert(place, rng.random()),
            4 => {
                bytes.remove(place);
            }
            _ => {
                let end = (place + rng.random_range(1..40)).min(bytes.len());
                let part = bytes[place..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
}

/// Damages what a byte string holds and leaves the body well-formed, which gets the damage past the door.
fn mutate_field(call: &Call, rng: &mut StdRng) -> Call {
    let mut fields = call.fields();
    fields.retain(|(_, value)| value.is_bytes());
    if fields.is_empty() {
        return call.clone();
    }
    let (name, value) = fields.swap_remove(rng.random_range(0..fields.len()));
    let mut bytes = value.into_bytes().expect("others were left out");
    mutate(&mut bytes, rng);
    call.with_field(&name, Value::Bytes(bytes))
}

/// Damages one header; what cannot be sent is left as it is.
fn mutate_header(wire: &mut Wire, rng: &mut StdRng) {
    let mut names: Vec<HeaderName> = wire.headers.keys().cloned().collect();
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    if names.is_empty() {
        return;
    }
    let name = names.swap_remove(rng.random_range(0..names.len()));
    let mut value = wire.headers[&name].as_bytes().to_vec();
    mutate(&mut value, rng);
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        wire.headers.insert(name, value);
    }
}

#[tokio::test]
async fn no_damage_to_a_request_is_a_fault_or_changes_anything_unless_accepted() {
    let world = World::start().await;
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut answers: HashMap<u16, usize> = HashMap::new();
    for entry in every_request(&world).await {
        world.restock(BODIES + HEADERS).await;
        let mut before = world.snapshot().await;
        for number in 0..BODIES + HEADERS {
            let in_body = number < BODIES;
            let mut call = entry.paid(&world);
            if in_body {
                if call.content_type.is_none() {
                    continue;
                }
                match number % 3 {
                    0 if entry.has_fields() => call = mutate_field(&call, &mut rng),
                    1 if entry.has_fields() => {
                        call = call.in_json();
                        mutate(&mut call.body, &mut rng);
                    }
                    _ => mutate(&mut call.body, &mut rng),
                }
            }
            let mut wire = call.wire();
            if !in_body {
                mutate_header(&mut wire, &mut rng);
            }
            let reply = world.send(&wire).await;
            *answers.entry(reply.status.as_u16()).or_default() += 1;
            let what = format!("{} damaged, number {number} of seed {SEED}", entry.name);
            // A damaged name may be another homeserver's, which is looked at.
            if reply.status.is_success() || reply.is_problem("homeserver-unknown") {
                before = world.snapshot().await;
                continue;
            }
            // A damaged domain is one that cannot be found.
            let is_refused = reply.status.is_client_error() || reply.is_problem("homeserver-unknown");
            assert!(is_refused, "{what}: {reply:?}\n{wire:?}", wire = wire.body);
            reply.problem(&what);
            if number % 25 == 24 {
                world.snapshot().await.assert_same(&before, &what);
            }
        }
        world.snapshot().await.assert_same(&before, &entry.name);
    }
    println!("answers by status: {answers:?}");
    for status in [200, 400, 401, 409, 422] {
        assert!(answers.contains_key(&status), "the damage is of many kinds: {answers:?}");
    }
    world.close();
}
