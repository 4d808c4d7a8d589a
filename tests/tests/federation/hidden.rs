//! People who hide from their own homeserver behind a neighbour's (FED-7).

use std::{
    net::SocketAddr,
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use postern_client::{Error, Event, HomeserverError, Options};
use postern_protocol::token::DIRECTORY_PATH;
use postern_tests_kit::{BadLine, Neighbours, PATIENCE, World, binary, with};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    join,
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinHandle,
    time::sleep,
};

use crate::groups::operate;

/// Requests of a client that go to its own homeserver directly when it hides: those that name its user, and the way to the
/// neighbour.
const DIRECT: [&str; 4] =
    [DIRECTORY_PATH, "/aas/token-request", "/homeservers/b.example", "/relay/b.example/token-request"];

fn hiding_behind(neighbour: &World) -> Options {
    Options {
        durable: false,
        relay: Some(neighbour.domain().clone()),
        relay_server: Some(neighbour.url_of(neighbour.server())),
        ..Options::default()
    }
}

/// The direct way to a homeserver, which notes what goes on it.
async fn watched(home: &World) -> BadLine {
    let url = home.url_of(home.server());
    let address = url.trim_start_matches("http://").parse().expect("it is an address");
    BadLine::to(address).await
}

/// The paths of what was asked directly since the last time.
fn asked(line: &BadLine) -> Vec<String> {
    let path = |request: &String| {
        let target = request.split(' ').nth(1).expect("it is a request");
        target.split('?').next().expect("there is a first part").to_owned()
    };
    line.take_requests().iter().map(path).collect()
}

fn assert_hidden(asked: &[String]) {
    assert!(asked.iter().all(|path| DIRECT.contains(&path.as_str())), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_through_a_neighbour_goes_by_no_way_of_its_own() {
    let neighbours = Neighbours::builder().start().await;
    let (home, neighbour) = (&neighbours[0], &neighbours[1]);
    operate(home, "set_federation_limit('relayed_tokens', 10)").await;
    let alice = home.person("alice").await;
    let group = alice.create_group("alone").await.unwrap().id().clone();
    let hiding = hiding_behind(neighbour);
    let alice = with(alice, hiding.clone());
    alice.look_up(alice.user()).await.unwrap();
    // The own homeserver is not reached directly any more: tokens are at hand, and everything else goes round.
    let server = Some("http://127.0.0.1:1".to_owned());
    let alice = with(alice, Options { server, ..hiding.clone() });
    alice.group_with_id(&group).send("through a neighbour").await.unwrap();
    let alice = with(alice, hiding);
    alice.sync(Duration::from_secs(1)).await.unwrap();
    assert_eq!(alice.group_with_id(&group).history(10).unwrap().len(), 1);
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_client_waits_for_messages_and_fetches_tokens_and_its_homeserver_sees_only_these() {
    const SAID: usize = 15;
    let neighbours = Neighbours::builder().start().await;
    let (home, neighbour) = (&neighbours[0], &neighbours[1]);
    operate(home, "set_federation_limit('relayed_tokens', 10)").await;
    let (alice, carol, group) = home.friends(["alice", "carol"], "at home").await;
    let line = watched(home).await;
    let alice = with(alice, Options { server: Some(line.url()), ..hiding_behind(neighbour) });
    for number in 0..SAID {
        alice.group_with_id(&group).send(&format!("number {number}")).await.expect("it goes round");
    }
    // Longer than the relay keeps a place for what is quick, and long before the end of the wait, which is 50 seconds.
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "after a while");
    let hearing = async { (alice.sync_until(PATIENCE, said).await, Instant::now()) };
    let ((heard, heard_at), said_at) = join!(hearing, async {
        sleep(Duration::from_secs(6)).await;
        carol.group_with_id(&group).send("after a while").await.expect("a member can speak");
        Instant::now()
    });
    let heard = heard.expect("the queue can be read");
    assert!(heard.iter().any(said), "{heard:?}");
    let took = heard_at.saturating_duration_since(said_at);
    assert!(took < Duration::from_secs(25), "it comes at once: {took:?}");

    let asked = asked(&line);
    assert_hidden(&asked);
    let times = |wanted: &str| asked.iter().filter(|path| *path == wanted).count();
    assert!(times("/relay/b.example/token-request") > 1, "ten at a time: {asked:?}");
    assert!(times("/homeservers/b.example") >= 1, "{asked:?}");
    neighbours.close();
}

/// A way to an address that notes which paths are asked for on each connection, by HTTP/1.1. Dropping it ends it.
struct Connections {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    accepting: JoinHandle<()>,
}

impl Connections {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let asked: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let noted = asked.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(note(client, server, noted.clone()));
            }
        });
        Self { address, asked, accepting }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn note(client: TcpStream, server: SocketAddr, asked: Arc<Mutex<Vec<Vec<String>>>>) {
    const END: &[u8] = b" HTTP/1.1\r\n";
    let Ok(server) = TcpStream::connect(server).await else { return };
    let number = {
        let mut asked = asked.lock().expect("no panic holds it");
        asked.push(Vec::new());
        asked.len() - 1
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let (mut seen, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = from_client.read(&mut part).await {
            seen.extend_from_slice(&part[..read]);
            while let Some(end) = seen.windows(END.len()).position(|found| found == END) {
                let path = seen[..end].rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                let path = String::from_utf8_lossy(path).into_owned();
                asked.lock().expect("no panic holds it")[number].push(path);
                seen.drain(..end + END.len());
            }
            if to_server.write_all(&part[..read]).await.is_err() {
                return;
            }
        }
    };
    // Either side may go at any time.
    tokio::select! {
        () = requests => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_the_neighbour_is_asked_for_on_no_connection_that_names_the_user() {
    let neighbours = Neighbours::builder().start().await;
    let (home, neighbour) = (&neighbours[0], &neighbours[1]);
    let (alice, url) = (home.person("alice").await, home.url_of(home.server()));
    let connections = Connections::to(url.trim_start_matches("http://").parse().unwrap()).await;
    let server = Some(format!("http://{}", connections.address));
    let alice = with(alice, Options { server, ..hiding_behind(neighbour) });
    for _ in 0..2 {
        alice.wallet().fetch(1).await.expect("in her name");
        alice.look_up(alice.user()).await.expect("in nobody's");
    }
    let asked = connections.asked.lock().expect("no panic holds it").clone();
    let is_named = |path: &String| path == "/aas/token-request";
    let leads_on = |path: &String| path.contains("b.example");
    assert!(asked.iter().flatten().any(is_named), "{asked:?}");
    assert!(asked.iter().flatten().any(leads_on), "{asked:?}");
    for connection in &asked {
        assert!(!(connection.iter().any(is_named) && connection.iter().any(leads_on)), "{asked:?}");
    }
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hides_behind_a_homeserver_that_relays_for_its_own_people_only() {
    let neighbours = Neighbours::builder().start().await;
    let (home, neighbour) = (&neighbours[0], &neighbours[1]);
    operate(neighbour, "set_federation_limit('relays_for_others', 0)").await;
    let (alice, line) = (home.person("alice").await, watched(home).await);
    let alice = with(alice, Options { server: Some(line.url()), ..hiding_behind(neighbour) });
    let refused = alice.look_up(alice.user()).await.expect_err("it says that it does not");
    let expected = HomeserverError::NoRelay(neighbour.domain().clone());
    assert!(matches!(&refused, Error::Homeserver(found) if *found == expected), "{refused}");
    // It is not asked directly in its place.
    assert_hidden(&asked(&line));
    let taken = neighbour.count("aas.takers WHERE domain IS NOT NULL").await;
    assert_eq!(taken, 0, "nothing was asked of it");
    neighbours.close();
}

/// A proxy by which programs that do not know the tests' hosts reach one of them. Dropping it ends it.
struct Gate {
    address: SocketAddr,
    led: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Gate {
    /// Leads connections to port 443 of a host to an address.
    async fn to(host: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let own = listener.local_addr().expect("it has an address");
        let (led, asked) = (Arc::new(AtomicUsize::new(0)), format!("CONNECT {host}:443 "));
        let counted = led.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(lead(client, asked.clone(), address, counted.clone()));
            }
        });
        Self { address: own, led, accepting }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn lead(mut client: TcpStream, asked: String, to: SocketAddr, led: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    if !head.starts_with(asked.as_bytes()) {
        return;
    }
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    led.fetch_add(1, Ordering::SeqCst);
    if client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
        // Either side may go at any time.
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

/// Runs a command of somebody who hides, in an environment that leads to the neighbour.
async fn run(state: &Path, environment: &[(&str, String)], arguments: &[&str]) -> Output {
    Command::new(binary("postern-client"))
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .arg("--state")
        .arg(state)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_a_neighbour_is_named_by_its_domain_and_found_by_its_description() {
    hides_at_a_terminal(Neighbours::builder().start().await, "b.example").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_a_neighbour_is_named_by_its_domain_wherever_it_is() {
    // No way leads to its domain.
    hides_at_a_terminal(Neighbours::builder().on_other_hosts().start().await, "chat.b.example").await;
}

/// Somebody hides behind b.example, which is at this host.
async fn hides_at_a_terminal(neighbours: Neighbours, host: &str) {
    let (home, neighbour) = (&neighbours[0], &neighbours[1]);
    let alice = home.person("alice").await;
    let state = alice.directory().to_owned();
    drop(alice);
    let line = watched(home).await;
    let gate = Gate::to(host, neighbour.server().address()).await;
    let environment = [
        ("HTTPS_PROXY", format!("http://{}", gate.address)),
        ("SSL_CERT_FILE", neighbours.authority.file().display().to_string()),
        ("POSTERN_SERVER", line.url()),
    ];
    for arguments in [
        &["--relay", "b.example", "create-group", "hidden"][..],
        &["--relay", "b.example", "send", "hidden", "hello"],
    ] {
        let done = run(&state, &environment, arguments).await;
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(gate.led.load(Ordering::SeqCst) > 0, "the neighbour is asked at the address that it tells");
    assert_hidden(&asked(&line));
    assert_eq!(home.count("ds.groups").await, 1, "the own homeserver has the group");
    // Without it, everything goes directly.
    let done = run(&state, &environment, &["send", "hidden", "hello again"]).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(asked(&line).iter().any(|path| path.starts_with("/ds/groups/")));
    neighbours.close();
}
