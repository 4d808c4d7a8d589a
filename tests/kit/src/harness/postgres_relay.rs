//! A Unix socket between a server and PostgreSQL. It reads along what the server asks, so a test can count
//! statements; it can hold PostgreSQL's answers back, so a test can stop the server at the one moment when
//! the database has accepted and the server does not know; and it can put other statements in the place of the server's.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use super::{Cluster, PATIENCE};

const SOCKET: &str = ".s.PGSQL.5432";

/// Dropping it ends its connections.
pub struct PostgresRelay {
    dir: TempDir,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

struct State {
    paused: watch::Sender<bool>,
    pause_at: Mutex<Option<String>>,
    statements: Mutex<Vec<String>>,
    closed: watch::Sender<bool>,
    translate: fn(&str) -> String,
}

impl PostgresRelay {
    pub fn start(cluster: &Cluster) -> Self {
        Self::translating(cluster, str::to_owned)
    }

    /// Puts another text in the place of each statement that the server prepares.
    pub fn translating(cluster: &Cluster, translate: fn(&str) -> String) -> Self {
        let dir =
            tempfile::Builder::new().prefix("postern-relay-").tempdir_in("/tmp").expect("/tmp is writable");
        let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("a fresh directory has no socket");
        let state = Arc::new(State {
            paused: watch::Sender::new(false),
            pause_at: Mutex::default(),
            statements: Mutex::default(),
            closed: watch::Sender::new(false),
            translate,
        });
        let accepting = tokio::spawn(accept(listener, cluster.socket_dir().join(SOCKET), Arc::clone(&state)));
        Self { dir, state, accepting }
    }

    /// The connection string for a server that goes through the relay.
    pub fn server_url(&self) -> String {
        format!("host={} user=postern_server dbname=postern", self.dir.path().display())
    }

    /// Holds back all answers once a statement is executed whose text contains this.
    pub fn pause_at(&self, text: &str) {
        *self.state.pause_at.lock().expect("no panic holds it") = Some(text.to_owned());
    }

    /// Returns once [`PostgresRelay::pause_at`] has struck. PostgreSQL then has the statement, and the server waits.
    pub async fn paused(&self) {
        let mut paused = self.state.paused.subscribe();
        let struck = tokio::time::timeout(PATIENCE, paused.wait_for(|paused| *paused)).await;
        struck.expect("the statement comes").expect("the relay lives");
    }

    /// Hands out what was held back.
    pub fn resume(&self) {
        self.state.paused.send_replace(false);
    }

    /// Takes the texts of the statements that PostgreSQL has answered since the last time, over all connections, in
    /// order.
    pub fn take_statements(&self) -> Vec<String> {
        std::mem::take(&mut self.state.statements.lock().expect("no panic holds it"))
    }
}

impl Drop for PostgresRelay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.closed.send_replace(true);
    }
}

async fn accept(listener: UnixListener, postgres: PathBuf, state: Arc<State>) {
    while let Ok((server, _)) = listener.accept().await {
        let (postgres, state) = (postgres.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let mut closed = state.closed.subscribe();
            tokio::select! {
                // Either side may go at any time, that is what the tests are about.
                _ = connection(server, &postgres, &state) => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
    }
}

async fn connection(server: UnixStream, postgres: &Path, state: &State) -> io::Result<()> {
    let (from_server, to_server) = server.into_split();
    let (from_postgres, to_postgres) = UnixStream::connect(postgres).await?.into_split();
    // The first ReadyForQuery ends the start of the session.
    let asked = Mutex::new((VecDeque::from([Vec::new()]), Vec::new()));
    tokio::select! {
        ended = requests(from_server, to_postgres, state, &asked) => ended,
        ended = answers(from_postgres, to_server, state, &asked) => ended,
    }
}

/// The statements that each ReadyForQuery to come is the end of, and those of the one that is not asked for yet.
type Asked = Mutex<(VecDeque<Vec<String>>, Vec<String>)>;

/// Passes message by message, so that a statement is noted before the server knows its end.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    asked: &Asked,
) -> io::Result<()> {
    let mut paused = state.paused.subscribe();
    loop {
        let kind = from.read_u8().await?;
        let message = body(&mut from).await?;
        let _ = paused.wait_for(|paused| !*paused).await;
        if kind == b'Z' {
            let ended = asked.lock().expect("no panic holds it").0.pop_front().unwrap_or_default();
            state.statements.lock().expect("no panic holds it").extend(ended);
        }
        to.write_all(&[&[kind], message.as_slice()].concat()).await?;
    }
}

/// Passes message by message, so as to see each before PostgreSQL does.
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    asked: &Asked,
) -> io::Result<()> {
    // The first message, alone, has no type.
    let startup = body(&mut from).await?;
    to.write_all(&startup).await?;
    let mut prepared: HashMap<Vec<u8>, String> = HashMap::new();
    loop {
        let kind = from.read_u8().await?;
        let mut message = body(&mut from).await?;
        if kind == b'P' {
            message = translated(&message[4..], state.translate);
        }
        let executed = look(kind, &message[4..], &mut prepared, state);
        {
            let (asked, now) = &mut *asked.lock().expect("no panic holds it");
            now.extend(executed);
            if matches!(kind, b'S' | b'Q') {
                asked.push_back(std::mem::take(now));
            }
        }
        to.write_all(&[&[kind], message.as_slice()].concat()).await?;
    }
}

/// A message's length, which counts itself, and the rest.
async fn body(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize((length as usize).max(4), 0);
    from.read_exact(&mut message[4..]).await?;
    Ok(message)
}

/// A message that prepares another statement: its length, then name, text, and the types of parameters.
fn translated(message: &[u8], translate: fn(&str) -> String) -> Vec<u8> {
    let mut parts = message.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (name, text, types) = (next(), next(), next());
    let text = translate(&String::from_utf8_lossy(text));
    let rest = [name, text.as_bytes(), types].join(&0);
    let length = u32::try_from(4 + rest.len()).expect("a statement is short");
    [&length.to_be_bytes(), rest.as_slice()].concat()
}

/// Returns the statement that a message executes. Parse: name, text. Bind: portal, name of a prepared statement.
/// Query: text. All end with a zero byte.
fn look(kind: u8, message: &[u8], prepared: &mut HashMap<Vec<u8>, String>, state: &State) -> Option<String> {
    let mut strings = message.split(|byte| *byte == 0);
    let mut next = || strings.next().unwrap_or_default();
    let executed = match kind {
        b'P' => {
            let name = next().to_vec();
            prepared.insert(name, String::from_utf8_lossy(next()).into_owned());
            return None;
        }
        b'B' => {
            next();
            prepared.get(next()).cloned().unwrap_or_default()
        }
        b'Q' => String::from_utf8_lossy(next()).into_owned(),
        _ => return None,
    };
    let mut pause_at = state.pause_at.lock().expect("no panic holds it");
    if pause_at.as_ref().is_some_and(|text| executed.contains(text)) {
        *pause_at = None;
        state.paused.send_replace(true);
    }
    Some(executed)
}
