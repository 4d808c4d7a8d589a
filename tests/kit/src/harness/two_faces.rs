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

use super::cut::message;

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
    closed: watch::Sender<bool>,
}

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
        to_server.write_all(&request).await?;
        let Some((answer_head, answer)) = message(&mut from_server).await? else { break };
        let answer = match state.lie(&head, is_stranger) {
            Some(lie) => changed(&answer_head, &answer, &*lie),
            None => answer,
        };
        to_client.write_all(&answer).await?;
        is_stranger = false;
    }
    Ok(())
}

/// The answer with another body, and the length of that.
fn changed(head: &str, answer: &[u8], lie: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let body = lie(answer[head.len()..].to_vec());
    let lines = head.trim_end().lines();
    let kept = lines.filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head = kept.collect::<Vec<_>>().join("\r\n");
    [format!("{head}\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes(), body].concat()
}
