//! Whatever a client does or leaves undone, it costs the server little, and others are served (OPS-9).

use std::{
    collections::BTreeMap,
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
const AT_ONCE: Duration = Duration::from_secs(9);
/// The time within which the server ends what it does not wait for any longer, on a busy machine.
const AT_LAST: Duration = Duration::from_secs(50);
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
    // The clients that ask for its health below have sent that by then, also on a busy machine.
    let server = Server::builder(&cluster).env("POSTERN_HEADER_TIMEOUT_SECONDS", "5").start().await;
    let begun = Instant::now();
    let starts: [&[u8]; 6] =
        [b"", b"P", &HTTP2_PREFACE[..20], HTTP2_PREFACE, b"GET /health HTTP/1.1\r\n", &posting(9)[..40]];
    let connections = join_all(starts.iter().map(|start| connect(&server, start))).await;
    join_all(connections.into_iter().map(|connection| closed(connection, AT_LAST))).await;
    assert!(begun.elapsed() >= Duration::from_secs(5), "after {:?}", begun.elapsed());
    assert_healthy(&server).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_silent_long_poll_is_not_idle() {
    let mut world = World::builder().tokens(10).start().await;
    let mailbox = world.mailbox(QueueKind::Group).await;
    // The world's own connections are kept for longer, by the first server.
    let impatient = Server::builder(&world.cluster)
        .env("POSTERN_HEADER_TIMEOUT_SECONDS", "6")
        .env("POSTERN_IDLE_TIMEOUT_SECONDS", "3")
        .env("POSTERN_HTTP2_PING_SECONDS", "3");
    world.servers.push(impatient.start().await);
    let server = &world.servers[1];
    for http in [reqwest::Client::builder().http1_only(), reqwest::Client::builder().http2_prior_knowledge()]
    {
        let way = Way::new(&http.build().unwrap(), server.url(), &Private::default());
        let begun = Instant::now();
        way.send(&world.paid(mailbox.waiting(8)).wire()).await.assert_ok("a long-poll");
        assert!(begun.elapsed() >= Duration::from_secs(8), "after {:?}", begun.elapsed());
    }

    let http1 = connect(server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(closed(http1, AT_LAST).await.starts_with(b"HTTP/1.1 204"));
    // Its settings, and a request (RFC 9113 §6.2): method, scheme and path by HPACK's table, and an authority.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [&[0, 0, 14, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 4, 7][..], b"/health", &[1, 1, b'x']].concat();
    let http2 = connect(server, &[HTTP2_PREFACE, &settings, &headers].concat()).await;
    let answer = closed(http2, AT_LAST).await;
    // A frame of type HEADERS on stream 1.
    assert!(answer.windows(6).any(|frame| frame[0] == 1 && frame[2..] == [0, 0, 0, 1]), "{answer:?}");
    world.close();
}

#[tokio::test]
async fn a_connection_has_as_many_streams_as_the_operator_allows() {
    let cluster = Cluster::start().await;
    let server = Server::builder(&cluster)
        .env("POSTERN_HTTP2_STREAMS", "7")
        .env("POSTERN_HTTP2_PING_SECONDS", "1")
        .start()
        .await;
    // Eight requests whose bodies do not come (RFC 9113 §6.2): method, scheme and path by HPACK's table, and an authority.
    let opened = (0..8u8).flat_map(|number| {
        let header = [0, 0, 16, 1, 4, 0, 0, 0, 2 * number + 1, 0x83, 0x86, 4, 9];
        [&header[..], b"/as/users", &[1, 1, b'x']].concat()
    });
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let bytes = [HTTP2_PREFACE, &settings, &opened.collect::<Vec<_>>()].concat();
    let answer = closed(connect(&server, &bytes).await, AT_LAST).await;
    // The server's settings (RFC 9113 §6.5.2), and a frame RST_STREAM: REFUSED_STREAM.
    assert!(answer.windows(6).any(|setting| setting == [0, 3, 0, 0, 0, 7]), "{answer:?}");
    let refused = [0, 0, 4, 3, 0, 0, 0, 0, 15, 0, 0, 0, 7];
    assert!(answer.windows(13).any(|frame| frame == refused), "{answer:?}");
    assert_healthy(&server).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_refused_and_one_that_announces_too_much_is_refused_before_it_comes() {
    let cluster = Cluster::start().await;
    let server = Server::start(&cluster).await;
    let large = closed(connect(&server, &posting(LONGEST + 1)).await, AT_LAST).await;
    assert!(large.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&large));

    let stalled = connect(&server, &[posting(100), vec![0; 50]].concat()).await;
    // Long before the time that a body may take in all.
    let answer = closed(stalled, AT_LAST).await;
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    assert!(String::from_utf8_lossy(&answer).contains(ProblemType::BodyTooSlow.slug()));
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
    let answer = closed(connection, AT_LAST).await;
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
    let nonce = call.wire().nonce.expect("a token pays");
    let waiting = tokio::spawn(async move { way.try_send(&call).await });
    eventually("it is under way", async || world.is_spent(&nonce).await.then_some(())).await;

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
            // Bodies for which there is no room are refused.
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

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field with a name of HPACK's static table, by its number, and a value that no table keeps (RFC 7541 §6.2.2).
fn field(number: u8, value: &str) -> Vec<u8> {
    let mut field = if number < 15 { vec![number] } else { vec![15, number - 15] };
    match value.len().checked_sub(127) {
        None => field.push(value.len() as u8),
        Some(mut rest) => {
            field.push(127);
            while rest >= 128 {
                field.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            field.push(rest as u8);
        }
    }
    field.extend_from_slice(value.as_bytes());
    field
}

/// One HTTP/2 connection with a request on each of its streams, whose bodies come as far as the server takes them.
struct Streams {
    connection: TcpStream,
    received: Vec<u8>,
    /// Bytes that the server takes on the connection now (RFC 9113 §6.9).
    room: i64,
    /// The same for each stream at its beginning.
    first_room: i64,
    /// The same for each stream that is open, and the bytes that it sent.
    open: BTreeMap<u32, (i64, usize)>,
}

impl Streams {
    async fn open(server: &Server, number: u32, token: &str) -> Self {
        let fields = [
            vec![0x83, 0x86],
            field(4, "/ds/groups"),
            field(1, "x"),
            field(31, "application/cbor"),
            field(23, token),
            field(28, &LONGEST.to_string()),
        ];
        let mut bytes = [HTTP2_PREFACE, &frame(4, 0, 0, &[])].concat();
        let streams = (0..number).map(|number| 2 * number + 1);
        for stream in streams.clone() {
            bytes.extend(frame(1, 4, stream, &fields.concat()));
        }
        let open = streams.map(|stream| (stream, (65_535, 0))).collect();
        let connection = connect(server, &bytes).await;
        Self { connection, received: Vec::new(), room: 65_535, first_room: 65_535, open }
    }

    /// Sends so much of each body, unless the server closes, or has taken `least` in all and takes nothing for a while;
    /// returns how much it sent.
    async fn fill(&mut self, bytes: usize, least: usize) -> usize {
        let (mut all, mut sent_last) = (0, Instant::now());
        let patience = |all: usize| if all > least { Duration::from_secs(2) } else { AT_LAST };
        while sent_last.elapsed() < patience(all) && self.open.values().any(|(_, sent)| *sent < bytes) {
            let mut frames = Vec::new();
            for (stream, (room, sent)) in &mut self.open {
                let most = (*room).min(self.room).min((bytes - *sent).min(16_384) as i64);
                if let Ok(length @ 1..) = usize::try_from(most) {
                    frames.extend(frame(0, 0, *stream, &vec![0; length]));
                    (*room, self.room, *sent) = (*room - most, self.room - most, *sent + length);
                    all += length;
                }
            }
            if !frames.is_empty() {
                sent_last = Instant::now();
            }
            let mut read = [0; 65_536];
            let is_open = self.connection.write_all(&frames).await.is_ok()
                && match timeout(Duration::from_millis(20), self.connection.read(&mut read)).await {
                    Ok(Ok(0) | Err(_)) => false,
                    Ok(Ok(length)) => {
                        self.received.extend_from_slice(&read[..length]);
                        let answer = self.take_frames();
                        self.connection.write_all(&answer).await.is_ok()
                    }
                    Err(_) => true,
                };
            if !is_open {
                break;
            }
        }
        all
    }

    /// Takes the whole frames that came, and returns those that answer them.
    fn take_frames(&mut self) -> Vec<u8> {
        let mut answer = Vec::new();
        while let Some(header) = self.received.first_chunk::<9>() {
            let length =
                (usize::from(header[0]) << 16) | (usize::from(header[1]) << 8) | usize::from(header[2]);
            let (kind, flags) = (header[3], header[4]);
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            if self.received.len() < 9 + length {
                break;
            }
            let payload = self.received.drain(..9 + length).skip(9).collect::<Vec<_>>();
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| (number << 8) | i64::from(*byte));
            match kind {
                // The end of an answer, or of the stream.
                0 | 1 if flags & 1 == 1 => _ = self.open.remove(&stream),
                3 => _ = self.open.remove(&stream),
                4 if flags & 1 == 0 => {
                    for setting in payload.chunks_exact(6).filter(|setting| setting[..2] == [0, 4]) {
                        let room = number(&setting[2..]);
                        let more = room - self.first_room;
                        self.open.values_mut().for_each(|(room, _)| *room += more);
                        self.first_room = room;
                    }
                    answer.extend(frame(4, 1, 0, &[]));
                }
                6 if flags & 1 == 0 => answer.extend(frame(6, 1, 0, &payload)),
                8 if stream == 0 => self.room += number(&payload),
                8 => {
                    if let Some((room, _)) = self.open.get_mut(&stream) {
                        *room += number(&payload);
                    }
                }
                _ => {}
            }
        }
        answer
    }
}

#[tokio::test]
async fn bodies_on_many_streams_of_one_connection_take_a_bounded_part_of_the_memory() {
    let world = World::builder().tokens(1).start().await;
    let server = world.server();
    assert_healthy(server).await;
    let before = memory(server);
    // One token is enough for many requests until the first has all its body.
    let wire = world.paid(Call::post("/ds/groups")).wire();
    let token = wire.headers["authorization"].to_str().expect("it is text");
    let mut streams = Streams::open(server, 100, token).await;
    let sent = streams.fill(LONGEST - 1, 10 * LONGEST).await;
    let taken = memory(server).saturating_sub(before);
    assert!(sent > 10 * LONGEST, "the server reads them: {sent} bytes");
    assert!(taken < 80 * 1024, "they take {taken} kB");
    assert_healthy(server).await;
    drop(streams);
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
    // The server knows whose each of these is before the next one comes.
    let used = async |client| {
        let mut connection = connect(&server, &[&proxied(client)[..], request].concat()).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(connection.read_u8().await.expect("it is answered"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 204"));
        connection
    };
    let mut others = used(other).await;
    let first = used(one).await;
    let mut second = used(one).await;
    let third = connect(&server, &[&proxied(one)[..], request].concat()).await;
    assert!(closed_or_answered(third).await.starts_with("HTTP/1.1 204"));
    assert!(closed(first, AT_ONCE).await.is_empty(), "the one goes that has been silent for longest");
    others.write_all(request).await.expect("the other source's is open");
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
