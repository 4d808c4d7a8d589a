//! A server with two faces: a proxy that changes what some connections are shown. A stranger's connection begins with the
//! question, and asks after a client's own has been lied to: a client asks on its own connection first, and then compares. Its
//! own connection may begin with the question, too: an HTTP client opens another one when the last is not back yet.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::http1::{message, with_body};

/// Changes the body of an answer.
type Change = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;

/// A change of what is shown.
struct Lie {
    /// Text in the first line of the requests whose answers are changed.
    named: String,
    /// Whether strangers' are changed, too.
    to_all: bool,
    change: Change,
    /// Whether a client was lied to, and no stranger was answered since.
    is_told: bool,
}

/// Dropping it ends its connections.
pub struct TwoFaces {
    address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    lies: Mutex<Vec<Lie>>,
    /// Text in the first line of strangers' requests that are not answered yet, and how many of them.
    stumbles: Mutex<(String, usize)>,
    closed: watch::Sender<bool>,
}

const STUMBLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

impl TwoFaces {
    pub async fn of(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shows clients something else than strangers.
    pub fn lie(&self, named: &str, lie: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) {
        self.add(named, false, lie);
    }

    /// Shows everybody something else than the server does.
    pub fn lie_to_all(&self, named: &str, lie: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) {
        self.add(named, true, lie);
    }

    /// Answers so many requests of strangers with 503, as a server in trouble does: a client that repeats one on the same
    /// connection is a stranger no more.
    pub fn stumble(&self, named: &str, times: usize) {
        *self.state.stumbles.lock().expect("no panic holds it") = (named.to_owned(), times);
    }

    fn add(&self, named: &str, to_all: bool, lie: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) {
        let mut lies = self.state.lies.lock().expect("no panic holds it");
        lies.push(Lie { named: named.to_owned(), to_all, change: Arc::new(lie), is_told: false });
    }

    /// Shows everybody what the server says.
    pub fn repent(&self) {
        self.state.lies.lock().expect("no panic holds it").clear();
    }
}

impl Drop for TwoFaces {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.closed.send_replace(true);
    }
}

impl State {
    /// Whether it is a stranger who asks, with the first request of a connection or with a later one.
    fn is_stranger(&self, line: &str, is_first: bool) -> bool {
        let lies = self.lies.lock().expect("no panic holds it");
        let lie = lies.iter().find(|lie| line.contains(&lie.named));
        is_first && lie.is_none_or(|lie| lie.is_told)
    }

    fn stumbles(&self, line: &str, is_stranger: bool) -> bool {
        let mut stumbles = self.stumbles.lock().expect("no panic holds it");
        let (named, times) = &mut *stumbles;
        let does = is_stranger && *times > 0 && line.contains(&*named);
        *times -= usize::from(does);
        does
    }

    /// The change of an answer, if there is one.
    fn change(&self, line: &str, is_stranger: bool) -> Option<Change> {
        let mut lies = self.lies.lock().expect("no panic holds it");
        let lie = lies.iter_mut().find(|lie| line.contains(&lie.named))?;
        lie.is_told = !is_stranger;
        (lie.to_all || !is_stranger).then(|| Arc::clone(&lie.change))
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let mut closed = state.closed.subscribe();
            tokio::select! {
                // Either side may go at any time.
                _ = connection(client, server, &state) => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
    }
}

/// Passes request by request: HTTP/1.1 without pipelining, as the client speaks it to a server in clear.
async fn connection(client: TcpStream, server: SocketAddr, state: &State) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let mut is_first = true;
    while let Some((head, request)) = message(&mut from_client).await? {
        let line = head.lines().next().unwrap_or_default();
        let is_stranger = state.is_stranger(line, is_first);
        is_first = false;
        if state.stumbles(line, is_stranger) {
            to_client.write_all(STUMBLE).await?;
            continue;
        }
        to_server.write_all(&request).await?;
        let Some((_, answer)) = message(&mut from_server).await? else { break };
        let answer = match state.change(line, is_stranger) {
            Some(change) => with_body(&answer, &*change),
            None => answer,
        };
        to_client.write_all(&answer).await?;
    }
    Ok(())
}
