//! The views that the operators of relay and gateway have of a client that uses another domain's services: logs and
//! dumps of both are searched for what the other one knows (FED-5, PRIV-4).

use std::{collections::BTreeSet, net::Ipv4Addr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use postern_protocol::{
    key::SigningKey,
    qs::{CreateQueue, QueueKind},
    token::TokenType,
};
use postern_tests_kit::{
    Ask, Call, Capsule, Neighbours, Server, User, Wire, World, challenge, deposited, depositing, dump,
    fetching, fresh_address, fresh_token, hpke_key,
};

use crate::groups::operate;

/// Bytes to whose multiples messages are padded before they are sealed.
const STEP: usize = 256;
/// Everything that the server can be made to say.
const FILTER: &str = "postern_server=trace,info";

/// The group or queue that a path names: base64url of 16 bytes, after which a group has its domain.
fn named(target: &str) -> Option<[u8; 16]> {
    let decoded = |part| URL_SAFE_NO_PAD.decode(part).ok();
    target.split('/').find_map(|part| decoded(part)?.first_chunk().copied())
}

/// The texts of a request that are its sender's, and the bytes that they stand for.
fn private(wire: &Wire) -> (Vec<String>, Vec<Vec<u8>>) {
    let mut texts = wire.private_texts();
    texts.extend(named(&wire.target).map(hex::encode));
    let mut bytes: Vec<Vec<u8>> = wire.nonce.iter().cloned().collect();
    for text in &texts {
        bytes.extend(hex::decode(text).ok());
        bytes.push(text.as_bytes().to_vec());
    }
    bytes.retain(|value| value.len() >= dump::TELLING);
    (texts, bytes)
}

/// The logs of a world's servers and of its PostgreSQL.
fn logs(world: &World) -> Vec<String> {
    world.servers.iter().map(Server::log).chain([world.cluster.log()]).collect()
}

/// The lines that came into a world's logs since then.
fn since(world: &World, then: &[String]) -> String {
    logs(world).iter().zip(then).map(|(log, before)| &log[before.len()..]).collect()
}

async fn assert_knows_nothing(world: &World, wires: &[Wire], what: &str) {
    let log = logs(world).concat();
    let rows = dump::rows(&world.cluster.dump().await);
    for wire in wires {
        let (texts, bytes) = private(wire);
        assert!(!bytes.is_empty(), "{what}: there is something to look for");
        for text in texts {
            assert!(!log.contains(&text), "{what}: {text} of {} in the log:\n{log}", wire.target);
        }
        for row in &rows {
            for value in &row.values {
                let found = bytes.iter().find(|private| dump::contains(value, private));
                assert_eq!(found, None, "{what}: {} shows {}", row.table, wire.target);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_learns_no_endpoint_and_the_gateway_no_address() {
    let neighbours = Neighbours::builder().setting("POSTERN_LOG_FILTER", FILTER).tokens(100).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    let bob = User::at(remote.domain(), "bartholomew");
    remote.register(&bob).await;
    let mut mailbox = remote.mailbox(QueueKind::Contact).await;
    let address = remote.address(&mailbox).await;
    let keys = remote.gateway_keys().await;
    let (owner, hpke_key) = (SigningKey::generate(), hpke_key());
    let path = format!("/as/users/{}", bob.name.path_segment());
    let mut group = remote.group(1).await;
    let message = group.party(0).say(b"and where it ends");
    let queue = CreateQueue { kind: QueueKind::Group, hpke_key };
    let calls = [
        Call::get(path),
        depositing(address, b"meet me where the road bends"),
        Call::post("/qs/queues").with(&queue).signed_by(&owner),
        fetching(fresh_token()),
        Call::post("/ds/group-ids"),
        group.submit(0, &message, None),
        group.ask_for_info(&group.members[0].party.key),
        mailbox.adding(vec![fresh_address()]),
    ];
    operate(home, "set_federation_limit('relayed_tokens', 10)").await;
    let (at_home, at_remote) = (logs(home), logs(remote));
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    let mut sizes = BTreeSet::new();
    // Where it is, and tokens of it, come through the own homeserver, too.
    let look = home.paid(Call::get(format!("/homeservers/{}", remote.domain()))).wire();
    home.send(&look).await.assert_ok("a look");
    let issuer_key = remote.issuer_key(TokenType::PrivateRistretto255).await;
    let ask = Ask::batch_for(&issuer_key, 10, &challenge(remote.domain()));
    let asking = Call::post(format!("/relay/{}/token-request", remote.domain()));
    let asking = home.paid(asking.with_bytes(ask.media_type, ask.body.clone())).wire();
    let answer = home.send(&asking).await;
    answer.assert_ok("a token request");
    let mut tokens = ask.open(&answer.body);
    outer.extend([look, asking]);
    for call in calls {
        let token = tokens.pop().expect("there are ten");
        let sealed = call.at(remote.domain()).paid_with(token).wire();
        let capsule = Capsule::seal(&keys, &sealed);
        let handed_in = home.paid(capsule.call(format!("/relay/{}", remote.domain()))).wire();
        let answer = home.send(&handed_in).await;
        answer.assert_ok(&sealed.target);
        sizes.extend([("asked", capsule.sealed.len() % STEP), ("answered", answer.body.len() % STEP)]);
        let answered = capsule.open(&answer);
        if named(&sealed.target).is_some() {
            answered.assert_ok(&sealed.target);
        }
        inner.push(sealed);
        outer.push(handed_in);
    }
    assert_eq!(
        inner.iter().filter(|wire| named(&wire.target).is_some()).count(),
        3,
        "groups and queues are named"
    );
    assert_eq!(sizes.len(), 2, "sizes come in steps, which tell little of an endpoint: {sizes:?}");
    let received = remote.read(&mut mailbox).await;
    assert_eq!(deposited(&received[0]), "meet me where the road bends");

    assert_knows_nothing(home, &inner, "the relay").await;
    let seen = since(home, &at_home);
    let is_between = |letter: char| !letter.is_ascii_alphanumeric() && !"._/".contains(letter);
    for service in ["/as/", "/qs/", "/ds/", "auth.", "qs.", "ds."] {
        let named = seen.split(is_between).find(|word| word.starts_with(service));
        assert_eq!(named, None, "the relay's log names {service}:\n{seen}");
    }
    // The requests that were handed in have the capsule as their body, which both see.
    let outer: Vec<Wire> = outer.into_iter().map(|wire| Wire { body: Vec::new(), ..wire }).collect();
    assert_knows_nothing(remote, &outer, "the gateway").await;
    let seen = since(remote, &at_remote);
    // A duration or a size may have the digits of one.
    let is_around = |letter: char| !letter.is_ascii_digit() && letter != '.';
    let words = seen.split(is_around).map(|word| word.trim_matches('.'));
    let found = words.filter_map(|word| word.parse::<Ipv4Addr>().ok()).find(Ipv4Addr::is_loopback);
    assert_eq!(found, None, "the gateway's log has an address:\n{seen}");
    neighbours.close();
}
