//! A TCP line between a server and PostgreSQL that can fall silent: it stays open and takes what is sent, but nothing
//! comes through any more, as if the host behind it were gone without a word. New connections come through.

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    select,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::Cluster;

/// Dropping it ends its connections.
pub struct PostgresLine {
    address: SocketAddr,
    /// The number of times that it fell silent.
    silences: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl PostgresLine {
    pub async fn start(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let silences = watch::Sender::new(0);
        let postgres = cluster.socket_dir().join(".s.PGSQL.5432");
        let accepting = tokio::spawn(accept(listener, postgres, silences.subscribe()));
        Self { address, silences, accepting }
    }

    /// The connection string for a server that goes over the line.
    pub fn server_url(&self) -> String {
        let SocketAddr::V4(address) = self.address else { unreachable!("it was bound so") };
        format!("host={} port={} user=postern_server dbname=postern", address.ip(), address.port())
    }

    /// Lets all connections of this moment fall silent, for ever.
    pub fn fall_silent(&self) {
        self.silences.send_modify(|silences| *silences += 1);
    }
}

impl Drop for PostgresLine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, postgres: PathBuf, silences: watch::Receiver<u64>) {
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    while let Ok((server, _)) = listener.accept().await {
        let mut silences = silences.clone();
        let before = *silences.borrow_and_update();
        let postgres = postgres.clone();
        connections.spawn(async move {
            let Ok(postgres) = UnixStream::connect(&postgres).await else { return };
            connection(server, postgres, async { silences.wait_for(|now| *now > before).await.is_ok() })
                .await;
        });
    }
}

async fn connection(mut server: TcpStream, mut postgres: UnixStream, silent: impl Future<Output = bool>) {
    select! {
        // Either side may go at any time, that is what the tests are about.
        _ = copy_bidirectional(&mut server, &mut postgres) => {}
        is_silent = silent => if is_silent {
            pending::<()>().await;
        }
    }
}
