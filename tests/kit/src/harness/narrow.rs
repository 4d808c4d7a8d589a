//! A narrow place on the line between two homeservers: a proxy in the place of the second one, with its certificate, which
//! speaks HTTP/2 to both. Under a request whose body is larger than it likes the connection ends, with all that is on it, and
//! nothing is answered.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::TcpStream,
    select,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{ClientConfig, ServerConfig, pki_types::ServerName},
};

/// Bytes with which a client begins (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Bytes of a frame before its payload: the length of that, type, flags and stream (RFC 9113 §4.1).
const HEAD: usize = 9;
/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;

#[derive(Clone)]
pub(super) struct Narrow {
    pub connector: TlsConnector,
    /// Bytes of a request's body that come through, at most.
    pub most: usize,
    /// Whether the homeserver gets a larger one all the same, and it is the answer that does not come through.
    pub answers_only: bool,
    /// Connections that ended for that.
    pub broken: Arc<AtomicUsize>,
}

/// The streams of a connection whose requests are too large.
type Large = Mutex<HashSet<u32>>;

struct Frame(Vec<u8>);

impl Frame {
    /// Reads the next one; none at the end of the connection.
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut bytes = vec![0; HEAD];
        from.read_exact(&mut bytes).await.ok()?;
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        bytes.resize(HEAD + usize::try_from(length).expect("it has 24 bits"), 0);
        from.read_exact(&mut bytes[HEAD..]).await.ok()?;
        Some(Self(bytes))
    }

    async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> Option<()> {
        to.write_all(&self.0).await.ok()?;
        to.flush().await.ok()
    }

    fn is(&self, kind: u8) -> bool {
        self.0[3] == kind
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes([self.0[5], self.0[6], self.0[7], self.0[8]])
    }
}

impl Narrow {
    /// Passes a connection until either side ends it, or something is too large.
    pub async fn pass(&self, client: TcpStream, acceptor: &TlsAcceptor, server: SocketAddr) -> Option<()> {
        let protocols = vec![b"h2".to_vec()];
        let mut config = ServerConfig::clone(acceptor.config());
        config.alpn_protocols.clone_from(&protocols);
        let client = TlsAcceptor::from(Arc::new(config)).accept(client).await.ok()?;
        let mut config = ClientConfig::clone(self.connector.config());
        config.alpn_protocols = protocols;
        let stream = TcpStream::connect(server).await.ok()?;
        let connector = TlsConnector::from(Arc::new(config));
        let server = connector.connect(ServerName::from(server.ip()), stream).await.ok()?;
        let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
        let large = Large::default();
        select! {
            ended = self.pass_requests(from_client, to_server, &large) => ended,
            ended = self.pass_answers(from_server, to_client, &large) => ended,
        }
    }

    async fn pass_requests(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        large: &Large,
    ) -> Option<()> {
        let mut preface = [0; PREFACE];
        from.read_exact(&mut preface).await.ok()?;
        to.write_all(&preface).await.ok()?;
        let mut bodies: HashMap<u32, usize> = HashMap::new();
        loop {
            let frame = Frame::read(&mut from).await?;
            if frame.is(DATA) {
                let body = bodies.entry(frame.stream()).or_default();
                *body += frame.0.len() - HEAD;
                if *body > self.most && !self.answers_only {
                    return self.end();
                }
                if *body > self.most {
                    large.lock().expect("no panic holds it").insert(frame.stream());
                }
            }
            frame.write(&mut to).await?;
        }
    }

    async fn pass_answers(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        large: &Large,
    ) -> Option<()> {
        loop {
            let frame = Frame::read(&mut from).await?;
            if frame.is(HEADERS) && large.lock().expect("no panic holds it").contains(&frame.stream()) {
                return self.end();
            }
            frame.write(&mut to).await?;
        }
    }

    /// Counts a connection that ends now.
    fn end(&self) -> Option<()> {
        self.broken.fetch_add(1, Ordering::SeqCst);
        None
    }
}
