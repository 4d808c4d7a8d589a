//! A server with two faces: a proxy that changes what some connections are shown. A stranger's connection begins with the
//! question; one on which other requests came before is a client's own.

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
type Lie = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;

/// Dropping it ends its connections.
pub struct TwoFaces {
    address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Text in the first line of the requests whose answers are changed, whether strangers' are, too, and the change.
    lies: Mutex<Vec<(String, bool, Lie)>>,
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
        lies.push((named.to_owned(), to_all, Arc::new(lie)));
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
    fn stumbles(&self, head: &str, is_stranger: bool) -> bool {
        let mut stumbles = self.stumbles.lock().expect("no panic holds it");
        let (named, times) = &mut *stumbles;
        let does =
            is_stranger && *times > 0 && head.lines().next().is_some_and(|line| line.contains(&*named));
        *times -= usize::from(does);
        does
    }

    fn lie(&self, head: &str, is_stranger: bool) -> Option<Lie> {
        let line = head.lines().next().unwrap_or_default();
        let lies = self.lies.lock().expect("no panic holds it");
        let found = lies.iter().find(|(named, to_all, _)| line.contains(named) && (*to_all || !is_stranger));
        found.map(|(_, _, lie)| lie.clone())
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
    let mut is_stranger = true;
    while let Some((head, request)) = message(&mut from_client).await? {
        if state.stumbles(&head, is_stranger) {
            to_client.write_all(STUMBLE).await?;
            is_stranger = false;
            continue;
        }
        to_server.write_all(&request).await?;
        let Some((_, answer)) = message(&mut from_server).await? else { break };
        let answer = match state.lie(&head, is_stranger) {
            Some(lie) => with_body(&answer, &*lie),
            None => answer,
        };
        to_client.write_all(&answer).await?;
        is_stranger = false;
    }
    Ok(())
}
