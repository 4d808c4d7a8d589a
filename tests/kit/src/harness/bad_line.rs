//! A bad line between a client and a server: a TCP proxy that passes every request, and of the answers as much as a
//! test wants. So the server has acted, and the client does not know.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use postern_protocol::problem::{MEDIA_TYPE, Problem, ProblemType};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use super::http1::{message, with_body};

/// A rule about the answers to the requests that it names.
#[derive(Debug, Clone)]
struct Rule {
    /// Text in the request's head, its first line most often.
    named: String,
    /// How many such requests pass untouched first.
    spared: usize,
    /// How many answers are cut after that.
    times: usize,
    /// How many bytes of each are passed before the connection ends.
    bytes: usize,
    /// The answer that takes the server's place, which never hears of the request.
    instead: Option<Vec<u8>>,
}

/// An answer's body, changed on the way.
type Rewrite = dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync;

#[derive(Default)]
struct State {
    rule: Mutex<Option<Rule>>,
    /// The changes of bodies, each with the text in the head of the requests that it is for.
    rewrites: Mutex<Vec<(String, Arc<Rewrite>)>>,
    /// The first line of every request, in order.
    requests: Mutex<Vec<String>>,
    cuts: AtomicUsize,
    /// The lengths of the answer that was cut last: of its head, and of the whole of it.
    lengths: Mutex<(usize, usize)>,
    away: watch::Sender<bool>,
}

/// Dropping it ends its connections.
pub struct BadLine {
    address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

impl BadLine {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Loses the answers to the next `times` requests whose head contains `named`: the connection ends after so many
    /// bytes of each.
    pub fn cut(&self, named: &str, times: usize, bytes: usize) {
        self.rule(Rule { named: named.to_owned(), spared: 0, times, bytes, instead: None });
    }

    /// As [`BadLine::cut`] with no byte, but lets `spared` such requests pass first.
    pub fn cut_after(&self, named: &str, spared: usize, times: usize) {
        self.rule(Rule { named: named.to_owned(), spared, times, bytes: 0, instead: None });
    }

    /// The lengths of the answer that was cut last: of its head, and of the whole of it.
    pub fn lengths(&self) -> (usize, usize) {
        *self.state.lengths.lock().expect("no panic holds it")
    }

    /// Answers the next `times` requests whose head contains `named` in the server's place.
    pub fn answer(&self, named: &str, times: usize, answer: &[u8]) {
        let instead = Some(answer.to_vec());
        self.rule(Rule { named: named.to_owned(), spared: 0, times, bytes: usize::MAX, instead });
    }

    /// The answer to a request that a server refuses.
    pub fn refusal(kind: ProblemType) -> Vec<u8> {
        let (status, problem) = (kind.status(), Problem::new(kind).to_json());
        let length = problem.len();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {length}\r\n\r\n");
        [head.into_bytes(), problem].concat()
    }

    /// Changes the bodies of all answers to requests whose head contains `named`, as a server would that lies,
    /// until [`BadLine::mend`]. An earlier change of the same name ends.
    pub fn rewrite(&self, named: &str, change: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) {
        let mut rewrites = self.state.rewrites.lock().expect("no panic holds it");
        rewrites.retain(|(other, _)| other != named);
        rewrites.push((named.to_owned(), Arc::new(change)));
    }

    fn rule(&self, rule: Rule) {
        self.state.cuts.store(0, Ordering::SeqCst);
        *self.state.rule.lock().expect("no panic holds it") = Some(rule);
    }

    /// Passes everything again. Returns how many answers were cut, or given.
    pub fn mend(&self) -> usize {
        *self.state.rule.lock().expect("no panic holds it") = None;
        self.state.rewrites.lock().expect("no panic holds it").clear();
        self.state.away.send_replace(false);
        self.state.cuts.swap(0, Ordering::SeqCst)
    }

    /// The server cannot be reached until [`BadLine::mend`].
    pub fn go_away(&self) {
        self.state.away.send_replace(true);
    }

    /// Takes the first lines of all requests since the last time, in order.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.requests.lock().expect("no panic holds it"))
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.away.send_replace(true);
    }
}

impl State {
    /// The fate of a request with this head: it is passed whole if there is nothing to say.
    fn judge(&self, head: &str) -> Option<Rule> {
        let line = head.lines().next().unwrap_or_default().to_owned();
        self.requests.lock().expect("no panic holds it").push(line);
        let mut rule = self.rule.lock().expect("no panic holds it");
        let found = rule.as_mut().filter(|rule| head.contains(&rule.named))?;
        if found.spared > 0 {
            found.spared -= 1;
            return None;
        }
        found.times = found.times.checked_sub(1)?;
        self.cuts.fetch_add(1, Ordering::SeqCst);
        Some(found.clone())
    }
}

impl State {
    /// The answer to a request with this head, as it is passed on.
    fn rewritten(&self, head: &str, answer: Vec<u8>) -> Vec<u8> {
        let rewrites = self.rewrites.lock().expect("no panic holds it");
        let Some((_, change)) = rewrites.iter().find(|(named, _)| head.contains(named)) else {
            return answer;
        };
        let change = Arc::clone(change);
        drop(rewrites);
        with_body(&answer, &*change)
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let mut away = state.away.subscribe();
            tokio::select! {
                // Either side may go at any time, that is what the tests are about.
                _ = connection(client, server, &state) => {}
                _ = away.wait_for(|away| *away) => {}
            }
        });
    }
}

/// Passes request by request: HTTP/1.1 without pipelining, as the client speaks it to a server in clear.
async fn connection(client: TcpStream, server: SocketAddr, state: &State) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let mut upstream: Option<(OwnedReadHalf, OwnedWriteHalf)> = None;
    loop {
        let Some((head, request)) = message(&mut from_client).await? else { return Ok(()) };
        let rule = state.judge(&head);
        if let Some(Rule { instead: Some(answer), .. }) = &rule {
            to_client.write_all(answer).await?;
            continue;
        }
        let (from_server, to_server) = match &mut upstream {
            Some(upstream) => upstream,
            None => upstream.insert(TcpStream::connect(server).await?.into_split()),
        };
        to_server.write_all(&request).await?;
        let Some((answer_head, answer)) = message(from_server).await? else { return Ok(()) };
        match rule {
            Some(rule) => {
                *state.lengths.lock().expect("no panic holds it") = (answer_head.len(), answer.len());
                let passed = answer.len().min(rule.bytes);
                return to_client.write_all(&answer[..passed]).await;
            }
            None => to_client.write_all(&state.rewritten(&head, answer)).await?,
        }
    }
}
