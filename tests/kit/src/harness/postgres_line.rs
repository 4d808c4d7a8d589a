//! A TCP line between a server and PostgreSQL that can fall silent: it stays open and takes what is sent, but nothing
//! comes through any more, as if the host behind it were gone without a word. New connections come through.

use std::{
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, UnixStream},
    select,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
    try_join,
};

use super::{Cluster, PATIENCE};

/// Dropping it ends its connections.
pub struct PostgresLine {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    postgres: PathBuf,
    /// Each time that it fell silent: on connections over which this was sent, or on all.
    silences: watch::Sender<Vec<Option<&'static str>>>,
    /// The number of connections that fell silent.
    silent: watch::Sender<usize>,
    /// The number of connections that were made.
    connections: AtomicUsize,
}

impl PostgresLine {
    pub async fn start(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            postgres: cluster.socket_dir().join(".s.PGSQL.5432"),
            silences: watch::Sender::default(),
            silent: watch::Sender::default(),
            connections: AtomicUsize::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    /// The connection string for a server that goes over the line.
    pub fn server_url(&self) -> String {
        let SocketAddr::V4(address) = self.address else { unreachable!("it was bound so") };
        format!("host={} port={} user=postern_server dbname=postern", address.ip(), address.port())
    }

    /// The number of connections that were ever made over it.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Lets all connections of this moment fall silent, for ever.
    pub fn fall_silent(&self) {
        self.state.silences.send_modify(|silences| silences.push(None));
    }

    /// The same for those connections alone over which the server has sent this text. Returns once one is silent.
    pub async fn fall_silent_for(&self, text: &'static str) {
        let mut silent = self.state.silent.subscribe();
        let before = *silent.borrow_and_update();
        self.state.silences.send_modify(|silences| silences.push(Some(text)));
        let fell = timeout(PATIENCE, silent.wait_for(|silent| *silent > before)).await;
        fell.expect("a connection falls silent").expect("the line lives");
    }
}

impl Drop for PostgresLine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    while let Ok((server, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::Relaxed);
        let mut silences = state.silences.subscribe();
        let before = silences.borrow_and_update().len();
        connections.spawn(connection(server, Arc::clone(&state), silences, before));
    }
}

async fn connection(
    mut server: TcpStream,
    state: Arc<State>,
    silences: watch::Receiver<Vec<Option<&'static str>>>,
    before: usize,
) {
    let Ok(mut postgres) = UnixStream::connect(&state.postgres).await else { return };
    let sent = Mutex::default();
    let (from_server, to_server) = server.split();
    let (from_postgres, to_postgres) = postgres.split();
    let passing =
        async { try_join!(requests(from_server, to_postgres, &sent), answers(from_postgres, to_server)) };
    select! {
        // Either side may go at any time, that is what the tests are about.
        _ = passing => {}
        () = silence(silences, before, &sent) => {
            state.silent.send_modify(|silent| *silent += 1);
            pending::<()>().await;
        }
    }
}

async fn requests(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    sent: &Mutex<Vec<u8>>,
) -> io::Result<()> {
    let mut bytes = vec![0; 8192];
    loop {
        let number = from.read(&mut bytes).await?;
        if number == 0 {
            return to.shutdown().await;
        }
        sent.lock().expect("no panic holds it").extend_from_slice(&bytes[..number]);
        to.write_all(&bytes[..number]).await?;
    }
}

async fn answers(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Returns at the first silence after so many that is for all connections, or for those that have sent what this one has.
async fn silence(
    mut silences: watch::Receiver<Vec<Option<&'static str>>>,
    mut before: usize,
    sent: &Mutex<Vec<u8>>,
) {
    while silences.changed().await.is_ok() {
        let all = silences.borrow_and_update().clone();
        let sent = sent.lock().expect("no panic holds it");
        let has_sent = |text: &str| sent.windows(text.len()).any(|part| part == text.as_bytes());
        if all[before..].iter().any(|text| text.is_none_or(has_sent)) {
            return;
        }
        before = all.len();
    }
    // The line is gone, and its connections end with it.
    pending::<()>().await;
}
