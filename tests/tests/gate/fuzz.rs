//! Tokens, token requests and responses that are damaged by somebody who knows what they are made of: nothing
//! panics, nothing is a fault of ours, nothing changes unless it is accepted, and nothing is accepted that was not
//! issued. Most inputs go straight to the code that reads them; some thousands go over HTTP.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use postern_protocol::token::{self, TOKEN_TYPES, Token, TokenType};
use postern_server::{
    aas::{
        issuer::Issuer,
        issuer_key::IssuerKey,
        token_request::{Format, TokenRequest},
    },
    config::{ConnectionString, DatabaseConfig, Limits},
    database::Database,
    home::{self, Home},
    http::SourceAddress,
    keys::{MasterKeys, master_keys::Sources},
};
use postern_tests_kit::{Ask, Asked, Call, Chance, World, home};
use privacypass::amortized_tokens::AmortizedBatchTokenResponse;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};
use voprf::Ristretto255;

const HEADERS: usize = 30_000;
const REQUESTS: usize = 30_000;
const RESPONSES: usize = 10_000;
const OVER_HTTP: usize = 3_000;

/// A message in its parts, of which those from `list` on are counted by a length (RFC 9000 §16) before them.
#[derive(Clone)]
struct Message {
    parts: Vec<Vec<u8>>,
    list: Option<usize>,
}

impl Message {
    fn of(bytes: &[u8], lengths: &[usize]) -> Self {
        let mut rest = bytes;
        let mut parts = Vec::new();
        for length in lengths {
            let (part, more) = rest.split_at(*length);
            parts.push(part.to_vec());
            rest = more;
        }
        assert!(rest.is_empty(), "the lengths are those of all parts");
        Self { parts, list: None }
    }

    /// Type, nonce, challenge digest, key id, authenticator (RFC 9577 §2.2).
    fn token(token: &[u8]) -> Self {
        Self::of(token, &[2, 32, 32, 32, token.len() - 98])
    }

    fn request(ask: &Ask) -> Self {
        let body = ask.body.as_slice();
        match &ask.state {
            Asked::P384(_) | Asked::BlindRsa(_) => Self::of(body, &[2, 1, body.len() - 3]),
            Asked::Batch(_) | Asked::BatchP384(_) => {
                let element = IssuerKey::blinded_len(match ask.state {
                    Asked::Batch(_) => TokenType::PrivateRistretto255,
                    _ => TokenType::PrivateP384,
                });
                let mut parts = vec![body[..2].to_vec(), vec![body[2]]];
                parts.extend(after_length(&body[3..]).chunks(element).map(<[u8]>::to_vec));
                Self { parts, list: Some(2) }
            }
            Asked::Generic(_) => {
                let mut parts = Vec::new();
                let mut rest = after_length(body);
                while !rest.is_empty() {
                    let length = if rest[1] == 1 { 49 } else { 256 };
                    parts.extend(Self::of(&rest[..3 + length], &[2, 1, length]).parts);
                    rest = &rest[3 + length..];
                }
                Self { parts, list: Some(0) }
            }
        }
    }

    fn bytes(&self, chance: &mut StdRng) -> Vec<u8> {
        let list = self.list.unwrap_or(self.parts.len());
        let (mut bytes, listed) = (
            self.parts[..list.min(self.parts.len())].concat(),
            self.parts[list.min(self.parts.len())..].concat(),
        );
        if self.list.is_some() {
            let wrong = chance.random_bool(0.1);
            let said = if wrong {
                *[
                    0,
                    1,
                    listed.len() + 1,
                    listed.len().saturating_sub(1),
                    0x3fff,
                    0x3fff_ffff,
                    usize::MAX >> 2,
                ]
                .choose(chance)
                .unwrap()
            } else {
                listed.len()
            };
            bytes.extend(length(said, if wrong { chance.random_range(0..4) } else { 0 }));
        }
        bytes.extend(listed);
        bytes
    }

    /// Damages some of it. `known` are parts of other messages, and other things that mean something.
    fn damaged(&self, known: &[Vec<u8>], chance: &mut StdRng) -> Vec<u8> {
        let mut message = self.clone();
        for _ in 0..chance.random_range(1..=3) {
            if message.parts.is_empty() {
                break;
            }
            let at = chance.random_range(0..message.parts.len());
            let other = chance.random_range(0..message.parts.len());
            let part = &mut message.parts[at];
            match chance.random_range(0..11) {
                0 if !part.is_empty() => {
                    let bit = chance.random_range(0..part.len() * 8);
                    part[bit / 8] ^= 1 << (bit % 8);
                }
                1 => part.fill(0),
                2 => part.fill(0xff),
                3 => part.iter_mut().for_each(|byte| *byte = chance.random()),
                4 => part.truncate(chance.random_range(0..=part.len())),
                5 => part.push(chance.random()),
                6 | 7 => {
                    // Rather something of the same length, which gets further.
                    let fitting: Vec<_> = known.iter().filter(|known| known.len() == part.len()).collect();
                    let fits = chance.random_bool(0.8) && !fitting.is_empty();
                    *part = if fits {
                        (*fitting.choose(chance).unwrap()).clone()
                    } else {
                        known.choose(chance).unwrap().clone()
                    };
                }
                8 => {
                    message.parts.remove(at);
                }
                9 => {
                    let copy = message.parts[at].clone();
                    message.parts.insert(other, copy);
                }
                _ => message.parts.swap(at, other),
            }
        }
        let mut bytes = message.bytes(chance);
        match chance.random_range(0..20) {
            0 => bytes.truncate(chance.random_range(0..=bytes.len())),
            1 => bytes.extend(known.choose(chance).unwrap()),
            _ => {}
        }
        bytes
    }
}

/// A length in RFC 9000's encoding, in a longer form than it needs if `longer`.
fn length(value: usize, longer: u32) -> Vec<u8> {
    let needs = [0x3f, 0x3fff, 0x3fff_ffff].iter().filter(|most| value > **most).count() as u32;
    let form = (needs + longer).min(3);
    let size = 1 << form;
    let bytes = ((value as u64) | (u64::from(form) << (size * 8 - 2))).to_be_bytes();
    bytes[8 - size..].to_vec()
}

fn after_length(bytes: &[u8]) -> &[u8] {
    &bytes[1 << (bytes[0] >> 6)..]
}

/// Bytes that mean something in some place: types, elements that are none, and the parts of valid messages.
fn known(messages: &[Message]) -> Vec<Vec<u8>> {
    let mut known: Vec<Vec<u8>> =
        (0..=6).chain([0xda7a, 0xffff]).map(|kind: u16| kind.to_be_bytes().to_vec()).collect();
    // The generator of ristretto255, that of edwards25519, the field's modulus; P-384's point at infinity.
    for element in [
        "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76",
        "5866666666666666666666666666666666666666666666666666666666666666",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "00",
    ] {
        known.push(hex::decode(element).unwrap());
    }
    for message in messages {
        known.extend(message.parts.iter().cloned());
    }
    known
}

/// A token as somebody might write it.
fn authorization(token: &[u8], chance: &mut StdRng) -> Vec<u8> {
    let mut pick = |usual: &'static str, others: &[&'static str]| {
        if chance.random_bool(0.85) { usual } else { *others.choose(chance).unwrap() }
    };
    let scheme = pick(
        "PrivateToken",
        &["privatetoken", "PRIVATETOKEN", "Private", "Bearer", "", "PrivateToken PrivateToken"],
    );
    let space = pick(" ", &["", "  ", "\t", " ,", ", "]);
    let name = pick("token", &["Token", "token ", " token", "challenge", "", "extensions"]);
    let equals = pick("=", &["", "==", " = ", ":"]);
    let (before, after) = (pick("\"", &["", "'", "\\\""]), pick("\"", &["", "'", "\\\"", "\" "]));
    let more = pick("", &[", token=\"AAUA\"", ", PrivateToken token=\"AAUA\"", "; q=1", ",", "\0", "="]);
    let mut base64 = if chance.random_bool(0.95) { URL_SAFE.encode(token) } else { STANDARD.encode(token) };
    match chance.random_range(0..12) {
        0 => base64 = base64.trim_end_matches('=').to_owned(),
        1 => base64.push('='),
        2 => {
            base64.pop();
        }
        3 if !base64.is_empty() => base64.insert(
            chance.random_range(0..base64.len()),
            *['*', ' ', '"', '=', '/', '%'].choose(chance).unwrap(),
        ),
        _ => {}
    }
    let mut value = format!("{scheme}{space}{name}{equals}{before}{base64}{after}{more}").into_bytes();
    if chance.random_bool(0.02) && !value.is_empty() {
        let place = chance.random_range(0..value.len());
        value[place] = chance.random();
    }
    value
}

/// Tokens of every type that were issued, and what they are made of.
async fn tokens(gate: &World) -> Vec<Vec<u8>> {
    let client = gate.client("alice").await;
    let mut tokens = Vec::new();
    for ask in asks(gate).await {
        tokens.extend(gate.tokens(0, &client, &ask).await);
    }
    tokens
}

/// A request in every format, of every type that it has.
async fn asks(gate: &World) -> Vec<Ask> {
    let (ristretto255, p384, rsa) = (
        gate.issuer_key(TokenType::PrivateRistretto255).await,
        gate.issuer_key(TokenType::PrivateP384).await,
        gate.issuer_key(TokenType::Public).await,
    );
    vec![
        Ask::p384(&p384),
        Ask::blind_rsa(&rsa),
        Ask::batch(&ristretto255, 10),
        Ask::batch(&ristretto255, 1),
        Ask::batch_p384(&p384, 1),
        Ask::generic(&p384, &rsa),
    ]
}

/// The issuer of the gate's database, in this process.
async fn issuer(gate: &World) -> Issuer {
    let database =
        Database::new(&ConnectionString::new(gate.cluster.server_url()), &DatabaseConfig::default()).unwrap();
    let (_, stopping) = tokio::sync::watch::channel(false);
    let file = gate.homes.path().join("master.key");
    fs::write(&file, gate.cluster.master_key()).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let sources = Sources { file: Some(file), next_file: None };
    let master_key = MasterKeys::load(&database, sources).await.unwrap();
    let (domain, limits) = (home(), Limits::default());
    Issuer::load(&Home::new(home::Shared { domain, database, master_key, limits, stopping })).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damaged_token_is_taken_or_is_a_fault() {
    let gate = World::builder().start().await;
    let (issuer, mut chance) = (issuer(&gate).await, Chance::new().of(0));
    let tokens = tokens(&gate).await;
    let messages: Vec<Message> = tokens.iter().map(|token| Message::token(token)).collect();
    let known = known(&messages);
    let (mut read, mut taken) = (0, 0);
    let source = SourceAddress::of(Ipv4Addr::LOCALHOST.into());
    for number in 0..HEADERS {
        let message = messages.choose(&mut chance).unwrap();
        // In a third only the spelling is damaged.
        let whole = number % 3 == 0;
        let bytes = if whole { message.parts.concat() } else { message.damaged(&known, &mut chance) };
        let value = authorization(&bytes, &mut chance);
        let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
        let Ok(token) = token::parse_authorization(&value) else { continue };
        read += 1;
        // These are the bytes that were read: the damage to the spelling may undo that to the token.
        let bytes = match &token {
            Token::PrivateP384(token) => token::to_bytes(token.as_ref()),
            Token::Public(token) => token::to_bytes(token.as_ref()),
            Token::PrivateRistretto255(token) => token::to_bytes(token.as_ref()),
        };
        if let Some(redeemed) = issuer.redeem(token, source).await.expect("the database answers") {
            taken += 1;
            assert!(tokens.contains(&bytes), "nobody issued {}", hex::encode(&bytes));
            assert_eq!(redeemed.nonce, bytes[2..34]);
        }
    }
    eprintln!("of {HEADERS} headers {read} were tokens, {taken} good ones");
    assert!(read > HEADERS / 10 && taken > HEADERS / 20 && read > taken * 5 / 4, "damage of all depths");
}

#[tokio::test]
async fn tokens_of_any_bytes_do_not_panic_the_key_that_verifies_them() {
    let keys = TOKEN_TYPES.map(|kind| IssuerKey::generate(kind).unwrap().0);
    let mut chance = Chance::new().of(0);
    for number in 0..HEADERS / 3 {
        let key = &keys[number % keys.len()];
        let authenticator = match key.token_type() {
            TokenType::PrivateP384 => 48,
            TokenType::Public => 256,
            TokenType::PrivateRistretto255 => 64,
        };
        // P-384 is slow; nothing in it depends on the bytes but the hash.
        if key.token_type() == TokenType::PrivateP384 && number % 30 != 1 {
            continue;
        }
        let mut bytes = (key.token_type() as u16).to_be_bytes().to_vec();
        bytes.extend((0..64).map(|_| chance.random::<u8>()));
        bytes.extend(key.id());
        let fill: Option<u8> = *[None, None, Some(0), Some(0xff), Some(1)].choose(&mut chance).unwrap();
        bytes.extend((0..authenticator).map(|_| fill.unwrap_or_else(|| chance.random())));
        assert!(!key.verify(&Token::from_bytes(&bytes).expect("it has its type's length")));
    }
}

#[tokio::test]
async fn no_damaged_token_request_is_a_fault() {
    let gate = World::builder().start().await;
    let (issuer, mut chance) = (issuer(&gate).await, Chance::new().of(0));
    let asks = asks(&gate).await;
    let messages: Vec<Message> = asks.iter().map(Message::request).collect();
    for (message, ask) in messages.iter().zip(&asks) {
        let list = message.list.unwrap_or(message.parts.len());
        let listed = message.parts[list..].concat();
        let prefix = if message.list.is_some() { length(listed.len(), 0) } else { Vec::new() };
        assert_eq!(
            [message.parts[..list].concat(), prefix, listed].concat(),
            ask.body,
            "taken apart rightly"
        );
    }
    let known = known(&messages);
    let ring = issuer.ring();
    let mut depth: HashMap<&str, usize> = HashMap::new();
    for _ in 0..REQUESTS {
        let at = chance.random_range(0..asks.len());
        let body = messages[at].damaged(&known, &mut chance);
        let format = if chance.random_bool(0.9) {
            Format::ALL.into_iter().find(|format| format.request_media_type() == asks[at].media_type).unwrap()
        } else {
            *Format::ALL.choose(&mut chance).unwrap()
        };
        let Ok(parsed) = TokenRequest::parse(format, &body) else {
            *depth.entry("no request").or_default() += 1;
            continue;
        };
        assert!(!parsed.keys().is_empty());
        let Ok(issuable) = parsed.check(&ring) else {
            *depth.entry("no key or element").or_default() += 1;
            continue;
        };
        let number: i32 = issuable.numbers().iter().map(|(_, number)| number).sum();
        assert!((1..=100).contains(&number), "{number}");
        *depth.entry("issuable").or_default() += 1;
        // Milliseconds for each.
        if depth["issuable"].is_multiple_of(8) {
            let issued =
                issuable.issue().unwrap_or_else(|problem| panic!("{problem}: {}", hex::encode(&body)));
            assert!(!issued.response.is_empty());
        }
    }
    eprintln!("{REQUESTS} token requests: {depth:?}");
    assert!(depth.len() == 3 && depth.values().all(|number| *number > REQUESTS / 50), "damage of all depths");
}

#[tokio::test]
async fn no_damaged_response_gives_a_client_other_tokens_or_a_panic() {
    let gate = World::builder().start().await;
    let mut chance = Chance::new().of(0);
    let client = gate.client("alice").await;
    let ask = Ask::batch(&gate.issuer_key(TokenType::PrivateRistretto255).await, 1);
    let reply = gate.ask(0, &client, ask.media_type, &ask.body).await;
    let Asked::Batch(state) = &ask.state else { panic!("it is a batch") };
    let tokens = ask.open(&reply.body);
    // Evaluated element, then the proof: challenge and response.
    let proof = reply.body.len() - 64;
    let element = after_length(&reply.body[..proof]).to_vec();
    let message = Message::of(&reply.body, &[proof - 32, 32, 32, 32]);
    let mut known = known(std::slice::from_ref(&message));
    known.push(element);
    known.extend([length(32, 0), length(32, 1), length(64, 0), length(usize::MAX >> 2, 0)]);
    let mut read = 0;
    for _ in 0..RESPONSES {
        let bytes = message.damaged(&known, &mut chance);
        let Ok(response) = AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&bytes) else {
            continue;
        };
        read += 1;
        if let Ok(opened) = response.issue_tokens(state) {
            assert_eq!(
                opened.iter().map(token::to_bytes).collect::<Vec<_>>(),
                tokens,
                "{}",
                hex::encode(bytes)
            );
        }
    }
    eprintln!("of {RESPONSES} responses {read} parsed");
    assert!(read > RESPONSES / 20, "damage of all depths: {read}");
}

#[tokio::test]
async fn over_http_no_damage_is_a_fault_or_changes_anything_unless_accepted() {
    let mut gate = World::builder().start().await;
    let mut chance = Chance::new().of(0);
    let client = gate.client("bob").await;
    let tokens = tokens(&gate).await;
    let messages: Vec<Message> = tokens.iter().map(|token| Message::token(token)).collect();
    let parts = known(&messages);
    let mut answers: HashMap<StatusCode, i64> = HashMap::new();
    for number in 0..OVER_HTTP {
        let message = messages.choose(&mut chance).unwrap();
        let bytes =
            if number % 3 == 0 { message.parts.concat() } else { message.damaged(&parts, &mut chance) };
        let Ok(value) = HeaderValue::from_bytes(&authorization(&bytes, &mut chance)) else { continue };
        let mut wire = Call::post("/ds/group-ids").wire();
        wire.headers.insert(AUTHORIZATION, value.clone());
        let reply = gate.send(&wire).await;
        assert!(
            matches!(reply.status, StatusCode::CREATED | StatusCode::UNAUTHORIZED),
            "{value:?}: {}",
            reply.text()
        );
        *answers.entry(reply.status).or_default() += 1;
    }
    let accepted = answers.get(&StatusCode::CREATED).copied().unwrap_or_default();
    assert!(accepted > 0 && accepted <= tokens.len() as i64, "{answers:?}");
    assert_eq!(gate.value::<i64>("SELECT count(*) FROM ds.reservations").await, accepted);
    assert_eq!(gate.value::<i64>("SELECT count(*) FROM aas.spent").await, accepted);

    let asks = asks(&gate).await;
    let messages: Vec<Message> = asks.iter().map(Message::request).collect();
    let parts = known(&messages);
    let mut issued = gate.issued().await;
    for _ in 0..OVER_HTTP / 2 {
        let at = chance.random_range(0..asks.len());
        let body = messages[at].damaged(&parts, &mut chance);
        let reply = gate.ask(0, &client, asks[at].media_type, &body).await;
        // Nobody is refused so often in an hour.
        gate.admin.execute("DELETE FROM operator.attempts", &[]).await.unwrap();
        let now = gate.issued().await;
        match reply.status.as_u16() {
            200 | 206 => {}
            400 | 422 => assert_eq!(now, issued, "{}: {}", reply.text(), hex::encode(body)),
            _ => panic!("{}: {}", reply.text(), hex::encode(body)),
        }
        issued = now;
    }
    let server = gate.servers.remove(0);
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}
