//! The web server at a domain whose homeserver is on another host: it hands requests for the description on, and knows
//! nothing else.

use std::{
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener},
    sync::{Arc, Mutex},
};

use postern_protocol::federation::DESCRIPTION_PATH;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

use super::{Certificate, front::connector, judge::Message};

const NOTHING: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// Dropping it ends its connections.
pub struct Signpost {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

/// The homeserver that a signpost points to.
struct Homeserver {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Signpost {
    /// One at this host, with a certificate for the domain, to a homeserver whose certificate is for its address and by this
    /// authority (PEM).
    pub fn start(host: IpAddr, files: &Certificate, homeserver: SocketAddr, authority: &str) -> Self {
        let listener = StdTcpListener::bind((host, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        listener.set_nonblocking(true).expect("it can be");
        let listener = TcpListener::from_std(listener).expect("the test has a runtime");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let homeserver = Homeserver { address: homeserver, connector: connector(authority) };
        let accepting =
            tokio::spawn(accept(listener, files.acceptor(), Arc::new(homeserver), Arc::clone(&asked)));
        Self { address, asked, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first lines of the requests that came: `GET /.well-known/postern HTTP/1.1`
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic holds it").clone()
    }
}

impl Drop for Signpost {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    homeserver: Arc<Homeserver>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (acceptor, homeserver, asked) = (acceptor.clone(), Arc::clone(&homeserver), Arc::clone(&asked));
        connections.spawn(async move {
            let Ok(mut client) = acceptor.accept(client).await else { return };
            while let Some(request) = Message::read(&mut client).await {
                let line = request.first_line();
                let is_description = line.split(' ').nth(1) == Some(DESCRIPTION_PATH);
                asked.lock().expect("no panic holds it").push(line);
                let answer = match is_description {
                    true => homeserver.answer(&request).await,
                    false => None,
                };
                // Either side may go at any time.
                if client.write_all(answer.as_deref().unwrap_or(NOTHING)).await.is_err() {
                    return;
                }
                let _ = client.flush().await;
            }
        });
    }
}

impl Homeserver {
    async fn answer(&self, request: &Message) -> Option<Vec<u8>> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let mut stream = self.connector.connect(ServerName::from(self.address.ip()), stream).await.ok()?;
        stream.write_all(&request.bytes).await.ok()?;
        stream.flush().await.ok()?;
        Some(Message::read(&mut stream).await?.bytes)
    }
}
