//! Whatever a client does or leaves undone, it costs the server little, and others are served (OPS-9).

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use postern_protocol::{problem::ProblemType, qs::QueueKind};
use postern_tests_kit::{Call, Cluster, Private, Server, Way, World, eventually};
use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Far longer than what is to happen at once takes on a busy machine, and shorter than any bound of the server.
const AT_ONCE: Duration = Duration::from_secs(3);
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest body, in bytes.
const LONGEST: usize = 1024 * 1024;

async fn connect(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(server.address()).await.expect("the server listens");
    connection.write_all(bytes).await.expect("it can be sent");
    connection
}

/// Reads until the server closes the connection.
async fn closed(mut connection: TcpStream, within: Duration) -> Vec<u8> {
    let mut answer = Vec::new();
    let end = timeout(within, connection.read_to_end(&mut answer)).await;
    // A reset is an end, too.
    drop(end.unwrap_or_else(|_| panic!("it is still open after {within:?}: {answer:?}")));
    answer
}

/// The header of a request with a body, over HTTP/1.
fn posting(length: usize) -> Vec<u8> {
    format!("POST /as/users HTTP/1.1\r\nhost: x\r\ncontent-type: application/cbor\r\ncontent-length: {length}\r\n\r\n")
        .into_bytes()
}

async fn assert_healthy(server: &Server) {
    let asked = Instant::now();
    let http = reqwest::Client::new();
    let answer = timeout(AT_ONCE, http.get(format!("{}/health", server.url())).send()).await;
    let answer = answer.expect("the server answers at once").expect("the server answers");
    assert_eq!(answer.status(), StatusCode::NO_CONTENT, "after {:?}", asked.elapsed());
}

/// The memory of a process, in kilobytes.
fn memory(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

#[tokio::test]
async fn a_connection_without_a_whole_header_is_closed_from_its_first_byte_on() {
    let cluster = Cluster::start().await;
    let server = Server::builder(&cluster).env("POSTERN_HEADER_TIMEOUT_SECONDS", "1").start().await;
    let begun = Instant::now();
    let starts: [&[u8]; 6] =
        [b"", b"P", &HTTP2_PREFACE[..20], HTTP2_PREFACE, b"GET /health HTTP/1.1\r\n", &posting(9)[..40]];
    let connections = join_all(starts.iter().map(|start| connect(&server, start))).await;
    join_all(connections.into_iter().map(|connection| closed(connection, 2 * AT_ONCE))).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "after {:?}", begun.elapsed());
    assert_healthy(&server).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_silent_long_poll_is_not_idle() {
    let world = World::builder()
        .tokens(10)
        .setting("POSTERN_HEADER_TIMEOUT_SECONDS", "1")
        .setting("POSTERN_IDLE_TIMEOUT_SECONDS", "1")
        .setting("POSTERN_HTTP2_PING_SECONDS", "1")
        .start()
        .await;
    let mailbox = world.mailbox(QueueKind::Group).await;
    for http in [reqwest::Client::builder().http1_only(), reqwest::Client::builder().http2_prior_knowledge()]
    {
        let way = Way::new(&http.build().unwrap(), world.server().url(), &Private::default());
        let begun = Instant::now();
        way.send(&world.paid(mailbox.waiting(4)).wire()).await.assert_ok("a long-poll");
        assert!(begun.elapsed() >= Duration::from_secs(4), "after {:?}", begun.elapsed());
    }

    let http1 = connect(world.server(), b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(closed(http1, 2 * AT_ONCE).await.starts_with(b"HTTP/1.1 204"));
    // Its settings, and a request (RFC 9113 §6.2): method, scheme and path by HPACK's table, and an authority.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [&[0, 0, 14, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 4, 7][..], b"/health", &[1, 1, b'x']].concat();
    let http2 = connect(world.server(), &[HTTP2_PREFACE, &settings, &headers].concat()).await;
    let answer = closed(http2, 2 * AT_ONCE).await;
    // A frame of type HEADERS on stream 1.
    assert!(answer.windows(6).any(|frame| frame[0] == 1 && frame[2..] == [0, 0, 0, 1]), "{answer:?}");
    world.close();
}

#[tokio::test]
async fn a_body_that_stalls_is_refused_and_one_that_announces_too_much_is_refused_before_it_comes() {
    let cluster = Cluster::start().await;
    let server = Server::start(&cluster).await;
    let begun = Instant::now();
    let large = closed(connect(&server, &posting(LONGEST + 1)).await, 2 * AT_ONCE).await;
    assert!(large.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&large));

    let stalled = connect(&server, &[posting(100), vec![0; 50]].concat()).await;
    let answer = closed(stalled, Duration::from_secs(20)).await;
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    assert!(String::from_utf8_lossy(&answer).contains(ProblemType::BodyTooSlow.slug()));
    assert!(begun.elapsed() < Duration::from_secs(15), "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_peer_that_reads_none_of_its_answers_loses_its_connection() {
    let cluster = Cluster::start().await;
    let server = Server::builder(&cluster).env("POSTERN_HTTP2_PING_SECONDS", "300").start().await;
    // Its settings (RFC 9113 §6.5.2): the server may send nothing on a stream. Then a request.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let headers = [&[0, 0, 15, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 4, 8][..], b"/as/keys", &[1, 1, b'x']].concat();
    let begun = Instant::now();
    let connection = connect(&server, &[HTTP2_PREFACE, &settings, &headers].concat()).await;
    let answer = closed(connection, Duration::from_secs(30)).await;
    assert!(begun.elapsed() > Duration::from_secs(9), "after {:?}", begun.elapsed());
    let has_frame = |kind| answer.windows(6).any(|frame| frame[0] == kind && frame[2..] == [0, 0, 0, 1]);
    assert!(has_frame(1), "the answer's header is there");
    assert_healthy(&server).await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out_however_few_files_the_server_may_open() {
    let mut world = World::builder().servers(0).start().await;
    world.servers.push(Server::builder(&world.cluster).open_files(256).start().await);
    world.stock(10).await;
    let mailbox = world.mailbox(QueueKind::Group).await;
    let (way, call) = (world.way(0), world.paid(mailbox.waiting(5)));
    let waiting = tokio::spawn(async move { way.try_send(&call).await });

    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(connect(world.server(), b"").await);
    }
    for _ in 0..20 {
        assert_healthy(world.server()).await;
    }
    waiting.await.unwrap().expect("a request under way is not given up");
    assert!(!world.server().log().contains("cannot accept"), "{}", world.server().log());
    drop(silent);
    world.close();
}

#[tokio::test]
async fn half_sent_bodies_take_a_bounded_part_of_the_memory() {
    let world = World::builder().tokens(1).start().await;
    let server = world.server();
    assert_healthy(server).await;
    let before = memory(server);
    // Large ones are for those with a token; one is enough for many requests until the first has all its body.
    let wire = world.paid(Call::post("/ds/groups")).wire();
    let token = wire.headers["authorization"].to_str().expect("it is text");
    let header = format!(
        "POST /ds/groups HTTP/1.1\r\nhost: x\r\ncontent-type: application/cbor\r\nauthorization: {token}\r\ncontent-length: {LONGEST}\r\n\r\n"
    );
    let half = [header.into_bytes(), vec![0; LONGEST - 1]].concat();
    let mut half_sent = Vec::new();
    for _ in 0..200 {
        let mut connection = connect(server, b"").await;
        let half = half.clone();
        half_sent.push(tokio::spawn(async move {
            // Those for which there is no room are refused.
            let _ = connection.write_all(&half).await;
            connection
        }));
    }
    eventually("most are refused", async || {
        let ended = half_sent.iter().filter(|sending| sending.is_finished()).count();
        (ended > 150).then_some(())
    })
    .await;
    let taken = memory(server).saturating_sub(before);
    assert!(taken < 80 * 1024, "they take {taken} kB");
    assert_healthy(server).await;
    // A small body finds room, and is read: then it is no registration.
    let answer = closed_or_answered(connect(server, &[posting(1), vec![0xff]].concat()).await).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// The first part of an answer.
async fn closed_or_answered(mut connection: TcpStream) -> String {
    let mut answer = [0; 1024];
    let length = timeout(AT_ONCE, connection.read(&mut answer)).await.expect("it is answered").unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// A header of the PROXY protocol, version 2, for a client with this address.
fn proxied(client: Ipv4Addr) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&start[..], &client.octets(), &[127, 0, 0, 1], &[0x10, 0, 0x1f, 0x48]].concat()
}

#[tokio::test]
async fn a_source_has_a_bounded_number_of_connections_and_a_proxy_names_it() {
    let cluster = Cluster::start().await;
    let (one, other) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let server = Server::builder(&cluster)
        .env("POSTERN_PROXY_ADDRESSES", "127.0.0.1")
        .env("POSTERN_PROXY_SOURCE", "proxy-protocol")
        .env("POSTERN_MAX_CONNECTIONS_PER_SOURCE", "2")
        .start()
        .await;
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut used = connect(&server, &[&proxied(other)[..], request].concat()).await;
    let mut answer = [0; 12];
    used.read_exact(&mut answer).await.expect("it is answered");
    assert_eq!(&answer, b"HTTP/1.1 204");

    let first = connect(&server, &proxied(one)).await;
    let second = connect(&server, &proxied(one)).await;
    let third = connect(&server, &[&proxied(one)[..], request].concat()).await;
    assert!(closed_or_answered(third).await.starts_with("HTTP/1.1 204"));
    assert!(closed(first, AT_ONCE).await.is_empty(), "the one goes that has been silent for longest");
    used.write_all(request).await.expect("the other source's is open");
    let mut second = second;
    second.write_all(request).await.expect("the second is open");
    assert!(closed_or_answered(second).await.starts_with("HTTP/1.1 204"));

    // Nothing is taken from a proxy that does not say for whom it speaks.
    assert!(closed(connect(&server, request).await, AT_ONCE).await.is_empty());
}

#[tokio::test]
async fn the_two_settings_about_proxies_go_together() {
    let cluster = Cluster::start().await;
    for setting in [("POSTERN_PROXY_ADDRESSES", "10.0.0.0/8"), ("POSTERN_PROXY_SOURCE", "forwarded")] {
        let refusal = Server::builder(&cluster).env(setting.0, setting.1).try_start().await.err();
        let refusal = refusal.expect("it does not start");
        assert!(refusal.contains("proxy.addresses and proxy.source go together"), "{refusal}");
    }
}
