//! Requests of other homeservers are judged by their heads, before anything of their bodies comes (FED-6).

use postern_protocol::{
    key::SigningKey,
    oblivious::REQUEST_MEDIA_TYPE,
    problem::{Problem, ProblemType},
};
use postern_tests_kit::{Call, Capsule, PATIENCE, Wire, World, signature::Input};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{BLOCKED, PINNED, block, pinned};

/// Bytes of a body that both routes take.
const LARGE: usize = 1024 * 1024;

/// A request of a homeserver with a large body for each route on which it may send one.
fn large() -> [Call; 2] {
    let body = vec![7; LARGE];
    [
        Call::post("/gateway").with_bytes(REQUEST_MEDIA_TYPE, body.clone()),
        Call::post("/qs/deliveries").with_bytes("application/cbor", body),
    ]
}

/// The request without a signature, with a token where one is asked for.
fn unsigned(world: &World, call: &Call) -> Wire {
    let call = call.clone();
    let call = if call.target == "/gateway" { call } else { world.paid(call) };
    call.unsigned()
}

/// Sends the head of a request, and nothing of its body.
async fn send_head(world: &World, wire: &Wire, more: &str) -> TcpStream {
    let mut head = format!("{} {} HTTP/1.1\r\nhost: postern\r\n{more}\r\n", wire.method, wire.target);
    for (name, value) in &wire.headers {
        head += &format!("{name}: {}\r\n", value.to_str().expect("it is text"));
    }
    let mut connection = TcpStream::connect(world.server().address()).await.expect("it listens");
    connection.write_all(format!("{head}\r\n").as_bytes()).await.expect("it takes the head");
    connection
}

/// Reads from a connection until `found` finds something in it.
async fn read<T>(connection: &mut TcpStream, found: impl Fn(&str) -> Option<T>) -> T {
    let mut answer = Vec::new();
    loop {
        let length = timeout(PATIENCE, connection.read_buf(&mut answer)).await.expect("it is answered");
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(length.expect("the connection holds") > 0, "the connection ended after {text}");
        if let Some(found) = found(&text) {
            return found;
        }
    }
}

/// The problem that an answer is, once the whole of it is here.
fn problem(answer: &str) -> Option<ProblemType> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let problem = Problem::from_json(body.as_bytes())?;
    assert!(head.starts_with(&format!("HTTP/1.1 {} ", problem.kind.status().as_u16())), "{head}");
    Some(problem.kind)
}

/// The head of an answer, once it is here.
fn head(answer: &str) -> Option<String> {
    answer.contains("\r\n\r\n").then(|| answer.to_owned())
}

/// One whose body is waited for is `body-too-slow` in the end.
#[tokio::test]
async fn a_homeserver_that_this_one_does_not_deal_with_is_refused_before_its_body_comes() {
    let world = World::builder().tokens(50).start().await;
    let [known, stranger, blocked, distrusted] =
        [pinned(&world).await, SigningKey::generate(), SigningKey::generate(), pinned(&world).await];
    let of = |key: &SigningKey| key.public_key().as_bytes().to_vec();
    for (sql, domain, key) in [
        ("SELECT operator.trust_homeserver_key($1, $2)", BLOCKED, of(&blocked)),
        ("SELECT operator.distrust_homeserver_key($1, $2)", PINNED, of(&distrusted)),
    ] {
        world.admin.execute(sql, &[&domain, &key]).await.expect("the operator may");
    }
    block(&world).await;
    let keyid = format!("\"{}\"", known.public_key().to_base64url());
    let nothing = |_: &mut Input| {};
    let cases: [(&str, &SigningKey, ProblemType, &dyn Fn(&mut Input)); 7] = [
        ("a stranger", &stranger, ProblemType::NotAllowed, &nothing),
        ("one that is blocked", &blocked, ProblemType::HomeserverBlocked, &nothing),
        ("one whose key is distrusted", &distrusted, ProblemType::NotAllowed, &nothing),
        ("a stranger who says it is another one", &stranger, ProblemType::SignatureRequired, &|input| {
            input.set("keyid", keyid.clone());
        }),
        ("one that signs for another domain", &known, ProblemType::SignatureRequired, &|input| {
            "elsewhere.example".clone_into(&mut input.authority);
        }),
        ("one that signed long ago", &known, ProblemType::SignatureRequired, &|input| input.shift(-310)),
        ("one that signs no digest", &known, ProblemType::SignatureRequired, &|input| {
            input.components.retain(|component| *component != "content-digest");
        }),
    ];
    let announced = format!("content-length: {LARGE}");
    for call in large() {
        for length in [announced.as_str(), "transfer-encoding: chunked"] {
            for (who, key, expected, change) in &cases {
                let what = format!("{}, {length}: {who}", call.target);
                let mut wire = unsigned(&world, &call);
                wire.sign(key, change);
                let before = world.snapshot().await;
                let mut connection = send_head(&world, &wire, length).await;
                assert_eq!(read(&mut connection, problem).await, *expected, "{what}");
                world.snapshot().await.assert_same(&before, &what);
                if let Some(nonce) = &wire.nonce {
                    assert!(world.is_spent(nonce).await, "{what}: the token");
                }
            }
            let what = format!("{}, {length}: nobody", call.target);
            let mut connection = send_head(&world, &unsigned(&world, &call), length).await;
            assert_eq!(read(&mut connection, problem).await, ProblemType::SignatureRequired, "{what}");
        }
    }
    world.close();
}

#[tokio::test]
async fn a_homeserver_that_waits_before_it_sends_a_body_is_told_to_go_on_if_it_is_wanted() {
    let world = World::start().await;
    let (known, keys) = (pinned(&world).await, world.gateway_keys().await);
    let call = Capsule::seal(&keys, &Call::get("/as/keys").wire()).call("/gateway");
    let more = format!("expect: 100-continue\r\ncontent-length: {}", call.body.len());
    let wire = call.clone().signed_by(&SigningKey::generate()).wire();
    let refusal = read(&mut send_head(&world, &wire, &more).await, head).await;
    assert!(refusal.starts_with("HTTP/1.1 403 "), "{refusal}");
    let wire = call.signed_by(&known).wire();
    let mut connection = send_head(&world, &wire, &more).await;
    let go_on = read(&mut connection, head).await;
    assert_eq!(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    connection.write_all(&wire.body).await.expect("it takes the body");
    let answer = read(&mut connection, head).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    world.close();
}

#[tokio::test]
async fn a_body_that_its_head_does_not_sign_is_refused_and_uses_nothing_up() {
    let world = World::start().await;
    let (known, keys) = (pinned(&world).await, world.gateway_keys().await);
    let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
    let wire = capsule.call("/gateway").signed_by(&known).wire();
    let used = world.count("aas.used_signatures").await;
    let changes: [fn(&mut Vec<u8>); 3] =
        [|body| body[0] ^= 1, |body| body.truncate(body.len() - 1), |body| body.push(0)];
    for change in changes {
        let mut another = wire.clone();
        change(&mut another.body);
        world.assert_refused("another body", &another, ProblemType::SignatureRequired).await;
    }
    assert_eq!(world.count("aas.used_signatures").await, used);
    capsule.open(&world.send(&wire).await).assert_ok("the body that was signed");
    world.send(&wire).await.assert_problem("the same again", ProblemType::SignatureUsed);
    world.close();
}
