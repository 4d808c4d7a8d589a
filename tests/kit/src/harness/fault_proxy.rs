//! A bad line between two homeservers: a TCP proxy that passes the TLS of both as it is, and, as its weather says, cuts it,
//! delays it, lets it fall silent or ends each connection after a moment. For a while it can stand in the homeserver's
//! place: it has a certificate, and answers with 500s or garbage.

use std::{
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use super::{Certificate, front::connector, judge::Judge, narrow::Narrow};

/// Bytes of a connection that come through while others wait for their turn on a line that carries little.
const TURN: usize = 2 * 1024;

/// How a line is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// All connections end, and new ones, too.
    Cut,
    /// Bytes come after this time.
    Slow(Duration),
    /// So many bytes come through in a second, in each direction, on all connections together.
    Trickle(usize),
    /// All connections stay, and nothing comes through. When it ends they do.
    Silent,
    /// Each connection ends within a third of a second, in the middle of whatever it carries: what was sent later, on
    /// another one, comes first.
    Brief,
    /// Each request is answered with status 500.
    Failing,
    /// Each request is answered with what is no HTTP, or no answer to it.
    Garbage,
    /// Each request is answered with a body that does not end.
    Endless,
    /// Each request is judged by [`FaultProxy::judge`].
    Judged,
    /// Requests are as large as [`FaultProxy::narrow`] lets through, or their connections end.
    Narrow,
}

impl Weather {
    /// Whether connections that pass the homeservers' own bytes end when it comes.
    fn ends_lines(self) -> bool {
        !matches!(self, Self::Fair | Self::Slow(_) | Self::Trickle(_) | Self::Silent | Self::Brief)
    }
}

/// Dropping it ends its connections.
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
    storm: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    weather: watch::Sender<Weather>,
    /// The processes of the homeserver, which take turns.
    servers: Vec<SocketAddr>,
    connections: AtomicUsize,
    /// The connections that were not fair.
    struck: AtomicUsize,
    acceptor: TlsAcceptor,
    judge: Mutex<Option<Judge>>,
    narrow: Mutex<Option<Narrow>>,
    /// The turns of connections on a line that carries little, in each direction.
    turns: [Turns; 2],
}

type Turns = tokio::sync::Mutex<()>;

impl FaultProxy {
    /// A line to the processes of a homeserver, in fair weather, that begins at this host. The certificate is for the
    /// homeserver.
    pub fn start(host: IpAddr, servers: Vec<SocketAddr>, files: &Certificate) -> Self {
        let listener = StdTcpListener::bind((host, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        listener.set_nonblocking(true).expect("it can be");
        let listener = TcpListener::from_std(listener).expect("the test has a runtime");
        let state = Arc::new(State {
            weather: watch::Sender::new(Weather::Fair),
            servers,
            connections: AtomicUsize::new(0),
            struck: AtomicUsize::new(0),
            acceptor: files.acceptor(),
            judge: Mutex::default(),
            narrow: Mutex::default(),
            turns: Default::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting, storm: Mutex::default() }
    }

    /// Where the line begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
    }

    /// From now on each request is refused with a status, by its body, or let through to the homeserver, whose certificate
    /// is by this authority (PEM).
    pub fn judge(&self, authority: &str, verdict: impl Fn(&[u8]) -> Option<u16> + Send + Sync + 'static) {
        let judge = Judge { connector: connector(authority), verdict: Arc::new(verdict) };
        *self.state.judge.lock().expect("no panic holds it") = Some(judge);
        // Connections under another judge end, too.
        self.set(Weather::Cut);
        self.set(Weather::Judged);
    }

    /// From now on a connection ends under a request whose body has more bytes than these, without an answer. The others are
    /// let through to the homeserver, whose certificate is by this authority (PEM). With `answers_only` it gets the large ones,
    /// too, and connections end before its answers to them. Returns the number of connections that ended so.
    pub fn narrow(&self, authority: &str, most: usize, answers_only: bool) -> Arc<AtomicUsize> {
        let broken = Arc::new(AtomicUsize::new(0));
        let narrow = Narrow { connector: connector(authority), most, answers_only, broken: broken.clone() };
        *self.state.narrow.lock().expect("no panic holds it") = Some(narrow);
        // Connections that were let through by another measure end, too.
        self.set(Weather::Cut);
        self.set(Weather::Narrow);
        broken
    }

    /// Changes the weather by chance, until [`FaultProxy::calm`].
    pub fn storm(&self, mut chance: StdRng) {
        let state = Arc::clone(&self.state);
        let storm = tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(chance.random_range(100..1500))).await;
                let kinds = [
                    Weather::Cut,
                    Weather::Slow(Duration::from_millis(chance.random_range(10..400))),
                    Weather::Silent,
                    Weather::Brief,
                    Weather::Failing,
                    Weather::Garbage,
                    Weather::Endless,
                ];
                state.weather.send_replace(*kinds.choose(&mut chance).expect("there are some"));
                sleep(Duration::from_millis(chance.random_range(100..1500))).await;
                state.weather.send_replace(Weather::Fair);
            }
        });
        if let Some(before) = self.storm.lock().expect("no panic holds it").replace(storm) {
            before.abort();
        }
    }

    /// It is fair from now on. Returns how many connections were not since the last time.
    pub fn calm(&self) -> usize {
        if let Some(storm) = self.storm.lock().expect("no panic holds it").take() {
            storm.abort();
        }
        self.set(Weather::Fair);
        self.state.struck.swap(0, Ordering::SeqCst)
    }

    /// The connections that were not fair since the last [`FaultProxy::calm`].
    pub fn struck(&self) -> usize {
        self.state.struck.load(Ordering::SeqCst)
    }

    /// The connections that came.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.calm();
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        let server = state.servers[number % state.servers.len()];
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let mut weather = state.weather.subscribe();
            let now = *weather.borrow_and_update();
            let strike = || state.struck.fetch_add(1, Ordering::SeqCst);
            if now != Weather::Fair {
                strike();
            }
            match now {
                Weather::Cut => {}
                Weather::Judged => {
                    let judge = state.judge.lock().expect("no panic holds it").clone();
                    let judge = judge.expect("it is set with the weather");
                    tokio::select! {
                        _ = judge.judge(client, &state.acceptor, server) => {}
                        _ = weather.changed() => {}
                    }
                }
                Weather::Narrow => {
                    let narrow = state.narrow.lock().expect("no panic holds it").clone();
                    let narrow = narrow.expect("it is set with the weather");
                    tokio::select! {
                        _ = narrow.pass(client, &state.acceptor, server) => {}
                        _ = weather.changed() => {}
                    }
                }
                Weather::Failing | Weather::Garbage | Weather::Endless => {
                    answer(client, &state.acceptor, now, weather).await;
                }
                Weather::Fair | Weather::Slow(_) | Weather::Trickle(_) | Weather::Silent | Weather::Brief => {
                    if !pass(client, server, weather, &state.turns).await && now == Weather::Fair {
                        strike();
                    }
                }
            }
        });
    }
}

/// Passes both directions until either side ends, or the weather does it; returns whether it was the former.
async fn pass(
    mut client: TcpStream,
    server: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    [there, back]: &[Turns; 2],
) -> bool {
    let Ok(mut server) = TcpStream::connect(server).await else { return true };
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let mut brief = weather.clone();
    let too_brief = async move {
        let _ = brief.wait_for(|now| *now == Weather::Brief).await;
        sleep(Duration::from_millis(rand::random_range(1..300))).await;
    };
    tokio::select! {
        held = pump(from_client, to_server, weather.clone(), there) => !held,
        held = pump(from_server, to_client, weather.clone(), back) => !held,
        _ = weather.wait_for(|now| now.ends_lines()) => false,
        () = too_brief => false,
    }
}

/// Passes one direction until it ends; returns whether that was after a silence.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    turns: &Turns,
) -> bool {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read.unwrap_or_default(),
            _ = weather.wait_for(|now| *now == Weather::Silent) => 0,
        };
        // Nothing of later comes through, however late this is.
        if let Some(silent) = ended(&mut weather).await {
            return silent;
        }
        let now = *weather.borrow();
        if let Weather::Slow(time) = now {
            sleep(time).await;
        }
        for part in bytes[..read].chunks(TURN) {
            let now = *weather.borrow();
            if let Weather::Trickle(rate) = now {
                let _turn = turns.lock().await;
                sleep(Duration::from_secs_f64(part.len() as f64 / rate as f64)).await;
            }
            // The weather may have changed meanwhile.
            if let Some(silent) = ended(&mut weather).await {
                return silent;
            }
            if to.write_all(part).await.is_err() {
                return false;
            }
        }
        if read == 0 {
            return false;
        }
    }
}

/// Whether a direction ends in this weather, at once or after a silence, which has passed then; none: it goes on.
async fn ended(weather: &mut watch::Receiver<Weather>) -> Option<bool> {
    let now = *weather.borrow_and_update();
    if now == Weather::Silent {
        let _ = weather.wait_for(|now| *now != Weather::Silent).await;
        return Some(true);
    }
    now.ends_lines().then_some(false)
}

/// Answers in the homeserver's place while the weather is such.
async fn answer(
    client: TcpStream,
    acceptor: &TlsAcceptor,
    now: Weather,
    mut weather: watch::Receiver<Weather>,
) {
    let answering = async {
        let Ok(mut stream) = acceptor.accept(client).await else { return };
        let mut request = vec![0; 64 * 1024];
        while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
            let garbage: [u8; 64] = rand::random();
            if now == Weather::Endless {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\n\r\n").await;
                // As fast as over a good line, not as fast as this machine is.
                while stream.write_all(&[b'a'; 64 * 1024]).await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
                return;
            }
            let answer: &[u8] = match (now, rand::random_range(0..3)) {
                (Weather::Failing, _) => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
                (_, 0) => &garbage,
                (_, 1) => b"HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\ncontent-length: 3\r\n\r\n\xff\xff\xff",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\ncut",
            };
            if stream.write_all(answer).await.is_err() || now == Weather::Garbage {
                return;
            }
        }
    };
    tokio::select! {
        () = answering => {}
        _ = weather.changed() => {}
    }
}
