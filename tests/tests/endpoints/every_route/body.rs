//! Bodies that are not what the endpoint asks for: of another media type, cut, lengthened, too large, hostile.

use ciborium::Value;
use postern_protocol::problem::{Problem, ProblemType};
use postern_tests_kit::{Call, PATIENCE, Wire, World};
use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::every_request;

const KIB: usize = 1024;

/// Bytes of the largest body that clients send.
pub const LIMIT: usize = KIB * KIB;

/// The most bytes of a body of each route, where they are not 64 KiB: written down here once more, so that a route which takes more
/// than it should is noticed.
const LIMITS: [(&str, usize); 15] = [
    ("POST /ds/groups/{group_id}/messages", LIMIT),
    ("POST /ds/groups", LIMIT),
    ("POST /qs/queues/{queue_id}/addresses", LIMIT),
    ("POST /qs/queues/{queue_id}/addresses/revoke", LIMIT),
    ("POST /qs/queues/{queue_id}/addresses/push", LIMIT),
    ("POST /qs/deliveries", 2 * LIMIT),
    ("PUT /qs/key-packages", LIMIT),
    ("POST /as/eid/commits", LIMIT),
    ("PUT /as/profile", 600 * KIB),
    ("PUT /as/account/name", LIMIT),
    ("POST /relay/{domain}", LIMIT + 9 * KIB),
    ("POST /as/users", 16 * KIB),
    ("POST /as/account/end", 10 * KIB),
    ("POST /as/account/reset", 16 * KIB),
    ("POST /gateway", LIMIT + 9 * KIB),
];

fn with_body(call: &Call, body: Vec<u8>) -> Call {
    Call { body, ..call.clone() }
}

#[tokio::test]
async fn a_body_of_another_media_type_is_refused() {
    let world = World::start().await;
    world.stock(100).await;
    for entry in every_request(&world).await.iter().filter(|entry| entry.valid.call.content_type.is_some()) {
        for content_type in [
            None,
            Some("text/plain"),
            Some("application/octet-stream"),
            Some("application/cbor-seq"),
            Some("application/x-www-form-urlencoded"),
            Some("message/mls"),
            Some("cbor"),
            Some(""),
        ] {
            let call = Call { content_type, ..entry.paid(&world) };
            let what = format!("{} as {content_type:?}", entry.name);
            world.assert_refused(&what, &call.wire(), ProblemType::UnsupportedMediaType).await;
        }
        if entry.has_fields() {
            for content_type in ["application/json", "application/json; charset=utf-8"] {
                let call = Call { content_type: Some(content_type), ..entry.paid(&world) };
                let what = format!("{}: CBOR as {content_type}", entry.name);
                world.assert_refused(&what, &call.wire(), ProblemType::MalformedBody).await;
            }
            let call = Call { content_type: Some("application/cbor"), ..entry.paid(&world).in_json() };
            let what = format!("{}: JSON as CBOR", entry.name);
            world.assert_refused(&what, &call.wire(), ProblemType::MalformedBody).await;
        }
        entry.assert_accepted(&world).await;
    }
    world.close();
}

#[tokio::test]
async fn a_cut_lengthened_or_hostile_body_is_refused() {
    let world = World::start().await;
    world.stock(500).await;
    for entry in every_request(&world).await.iter().filter(|entry| entry.valid.call.content_type.is_some()) {
        let valid = &entry.valid.call;
        let whole = &valid.body;
        let mut bodies: Vec<(String, Call)> = Vec::new();
        let mut lengths = vec![0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 1];
        lengths.dedup();
        for length in lengths.into_iter().filter(|length| *length < whole.len()) {
            bodies.push((format!("cut to {length} bytes"), with_body(valid, whole[..length].to_vec())));
        }
        for (kind, more) in [("a zero byte", &[0][..]), ("itself", whole)] {
            bodies.push((format!("followed by {kind}"), with_body(valid, [whole, more].concat())));
        }
        if entry.has_fields() {
            let json = valid.clone().in_json();
            let half = json.body.len() / 2;
            bodies.push(("cut JSON".to_owned(), with_body(&json, json.body[..half].to_vec())));
            bodies.push(("JSON and more".to_owned(), with_body(&json, [&json.body, &b"{}"[..]].concat())));
            bodies.push(("deep JSON".to_owned(), with_body(&json, b"[".repeat(100_000))));
            bodies.push(("deep JSON objects".to_owned(), with_body(&json, b"{\"a\":".repeat(100_000))));
            bodies.push(("not UTF-8".to_owned(), with_body(&json, vec![b'"', 0xff, b'"'])));
            bodies.push(("deep CBOR".to_owned(), with_body(valid, vec![0x81; 100_000])));
            bodies.push(("deep CBOR tags".to_owned(), with_body(valid, vec![0xc1; 100_000])));
            for (kind, head) in [("string", 0x5b), ("text", 0x7b), ("array", 0x9b), ("map", 0xbb)] {
                let endless = [&[head], &[0x7f; 8][..], &[0; 16]].concat();
                bodies.push((format!("a {kind} that says it is endless"), with_body(valid, endless)));
            }
            bodies.push(("an array".to_owned(), with_body(valid, vec![0x80])));
            bodies.push(("nothing (null)".to_owned(), with_body(valid, vec![0xf6])));
        }
        for (kind, call) in bodies {
            let too_large = call.body.len() > entry.max_body;
            let expected = if too_large { Some(ProblemType::BodyTooLarge) } else { entry.valid.malformed };
            let Some(expected) = expected else { continue };
            let wire = entry.with(&world, call).wire();
            world.assert_refused(&format!("{}, {kind}", entry.name), &wire, expected).await;
        }
        entry.assert_accepted(&world).await;
    }
    world.close();
}

#[tokio::test]
async fn every_field_is_needed_and_is_of_its_type_and_unknown_ones_are_ignored() {
    let world = World::start().await;
    world.stock(300).await;
    for entry in every_request(&world).await.iter().filter(|entry| entry.has_fields()) {
        let valid = &entry.valid.call;
        let fields = valid.fields();
        for (name, value) in &fields {
            let what = format!("{}, {name}", entry.name);
            if !entry.valid.optional.contains(&name.as_str()) {
                let without = fields.iter().filter(|(found, _)| found != name).cloned().collect();
                let wire = entry.with(&world, valid.with_fields(without)).wire();
                world.assert_refused(&format!("{what} left out"), &wire, ProblemType::MalformedBody).await;
                let wire = entry.with(&world, valid.with_field(name, Value::Null)).wire();
                world.assert_refused(&format!("{what} null"), &wire, ProblemType::MalformedBody).await;
            }
            for (kind, wrong) in [
                ("a negative number", Value::from(-1)),
                ("a truth", Value::from(true)),
                ("another text", Value::from("everything else")),
                ("a map", Value::Map(Vec::new())),
            ] {
                if value.is_bool() && wrong.is_bool() {
                    continue;
                }
                let wire = entry.with(&world, valid.with_field(name, wrong)).wire();
                world.assert_refused(&format!("{what} {kind}"), &wire, ProblemType::MalformedBody).await;
            }
            let twice = [fields.clone(), vec![(name.clone(), value.clone())]].concat();
            let wire = entry.with(&world, valid.with_fields(twice)).wire();
            world.assert_refused(&format!("{what} twice"), &wire, ProblemType::MalformedBody).await;
        }
        for (name, expected) in &entry.valid.cut {
            let (_, value) =
                fields.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name}"));
            let mut bytes = value.clone().into_bytes().expect("what is cut are byte strings");
            bytes.pop();
            let wire = entry.with(&world, valid.with_field(name, Value::Bytes(bytes))).wire();
            world.assert_refused(&format!("{}, {name} cut", entry.name), &wire, *expected).await;
        }
        let more = [fields, vec![("of tomorrow".to_owned(), Value::from(1))]].concat();
        let reply = world.send(&entry.with(&world, valid.with_fields(more)).wire()).await;
        assert_eq!(reply.status, entry.valid.status, "{} with an unknown field: {reply:?}", entry.name);
    }
    world.close();
}

/// Sends a request as it is written, chunk by chunk if it does not say its length; reads the answer even when it
/// comes before the end of the request.
async fn send_raw(world: &World, wire: &Wire, chunked: bool) -> (StatusCode, Problem) {
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: {}\r\n", wire.method, wire.target, world.server().address());
    for (name, value) in &wire.headers {
        head += &format!("{name}: {}\r\n", value.to_str().expect("it is text"));
    }
    head += &match chunked {
        true => "transfer-encoding: chunked\r\n\r\n".to_owned(),
        false => format!("content-length: {}\r\n\r\n", wire.body.len()),
    };
    let (mut from, mut to) =
        TcpStream::connect(world.server().address()).await.expect("it listens").into_split();
    let body = wire.body.clone();
    let sending = tokio::spawn(async move {
        to.write_all(head.as_bytes()).await?;
        for part in body.chunks(64 * 1024) {
            if chunked {
                to.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
            }
            to.write_all(part).await?;
            if chunked {
                to.write_all(b"\r\n").await?;
            }
        }
        if chunked {
            to.write_all(b"0\r\n\r\n").await?;
        }
        Ok::<_, std::io::Error>(to)
    });
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let (status, problem) = loop {
        let length = timeout(PATIENCE, from.read(&mut buffer))
            .await
            .expect("there is an answer")
            .expect("a whole one");
        assert!(length > 0, "the connection ended after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Some(problem) = Problem::from_json(body.as_bytes())
        {
            let status =
                head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it has a status");
            assert!(head.contains("content-type: application/problem+json"), "{head}");
            break (StatusCode::from_u16(status).expect("it is one"), problem);
        }
    };
    sending.abort();
    (status, problem)
}

#[tokio::test]
async fn an_oversized_body_is_refused_whether_or_not_it_says_how_long_it_is() {
    let world = World::start().await;
    for entry in every_request(&world).await.iter().filter(|entry| entry.valid.call.content_type.is_some()) {
        let most = entry.max_body;
        for (length, chunked) in [(most + 1, false), (most + 1, true), (8 * LIMIT, false), (8 * LIMIT, true)]
        {
            let what =
                format!("{} with {length} bytes{}", entry.name, if chunked { ", chunked" } else { "" });
            let mut body = entry.valid.call.body.clone();
            body.resize(length, 0);
            let wire = entry.with(&world, with_body(&entry.valid.call, body)).wire();
            let before = world.snapshot().await;
            let (status, problem) = send_raw(&world, &wire, chunked).await;
            assert_eq!(
                (status, problem.kind),
                (StatusCode::PAYLOAD_TOO_LARGE, ProblemType::BodyTooLarge),
                "{what}"
            );
            world.snapshot().await.assert_same(&before, &what);
            if let Some(nonce) = &wire.nonce {
                assert!(world.is_spent(nonce).await, "{what}: the token");
            }
        }
        entry.assert_accepted(&world).await;
    }
    world.close();
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let world = World::start().await;
    for entry in every_request(&world).await.iter().filter(|entry| entry.valid.call.content_type.is_some()) {
        let wire = entry.paid(&world).wire();
        let before = world.snapshot().await;
        let mut head = format!("{} {} HTTP/1.1\r\nhost: postern\r\n", wire.method, wire.target);
        for (name, value) in &wire.headers {
            head += &format!("{name}: {}\r\n", value.to_str().expect("it is text"));
        }
        head += &format!("content-length: {}\r\n\r\n", wire.body.len());
        let mut connection = TcpStream::connect(world.server().address()).await.expect("it listens");
        connection.write_all(head.as_bytes()).await.expect("it takes the head");
        connection.write_all(&wire.body[..wire.body.len() - 1]).await.expect("it takes most of the body");
        connection.shutdown().await.expect("it can be ended");
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, connection.read_to_end(&mut answer)).await;
        read.expect("the server does not wait for more").expect("the connection ends");
        world.snapshot().await.assert_same(&before, &entry.name);
        entry.assert_accepted(&world).await;
    }
    world.close();
}

/// A body that is too large for its route is refused before any of it is read: nobody keeps the server's memory busy with
/// what no endpoint takes.
#[tokio::test]
async fn small_requests_have_small_bodies_and_are_refused_by_the_length_that_they_announce() {
    let world = World::start().await;
    let entries = every_request(&world).await;
    let mut told = 0;
    for entry in &entries {
        let (route, number) = entry.name.rsplit_once(' ').expect("a number follows");
        let other = LIMITS.iter().find(|(name, _)| *name == route);
        assert_eq!(entry.max_body, other.map_or(64 * KIB, |(_, limit)| *limit), "{route}");
        told += usize::from(other.is_some() && number == "(0)");
    }
    assert_eq!(told, LIMITS.len(), "each is a route's");
    for entry in entries.iter().filter(|entry| entry.valid.call.content_type.is_some()) {
        let wire = entry.paid(&world).wire();
        let mut head = format!("{} {} HTTP/1.1\r\nhost: postern\r\n", wire.method, wire.target);
        for (name, value) in &wire.headers {
            head += &format!("{name}: {}\r\n", value.to_str().expect("it is text"));
        }
        head += &format!("content-length: {}\r\n\r\n", entry.max_body + 1);
        let mut connection = TcpStream::connect(world.server().address()).await.expect("it listens");
        connection.write_all(head.as_bytes()).await.expect("it takes the head");
        let mut answer = [0; 64];
        let length = timeout(PATIENCE, connection.read(&mut answer)).await.expect("it is answered").unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{}: {answer}", entry.name);
    }
    world.close();
}
