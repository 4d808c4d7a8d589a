//! A judge between two homeservers, who stands in the place of the second one with its certificate, reads each request, and
//! answers it or lets it through, as a proxy or a failing homeserver would.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

/// The status with which a request is refused, by its body; none: it is let through.
type Verdict = dyn Fn(&[u8]) -> Option<u16> + Send + Sync;

#[derive(Clone)]
pub(super) struct Judge {
    pub connector: TlsConnector,
    pub verdict: Arc<Verdict>,
}

/// A message of HTTP/1.1.
pub(super) struct Message {
    pub bytes: Vec<u8>,
    /// Where the body begins.
    body: usize,
}

impl Message {
    /// Reads the next one; none at the end of the connection.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let (mut bytes, mut part) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|place| place + 4);
            if let Some(body) = end
                && bytes.len() >= body + content_length(&bytes[..body])
            {
                return Some(Self { bytes, body });
            }
            match from.read(&mut part).await {
                Ok(read) if read > 0 => bytes.extend_from_slice(&part[..read]),
                _ => return None,
            }
        }
    }

    /// Its first line, which says what a request asks for.
    pub fn first_line(&self) -> String {
        let end = self.bytes.windows(2).position(|two| two == b"\r\n").unwrap_or(self.bytes.len());
        String::from_utf8_lossy(&self.bytes[..end]).into_owned()
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| *name == "content-length");
    length.map_or(0, |(_, value)| value.trim().parse().expect("it is a number"))
}

impl Judge {
    /// Judges the requests of a connection, until either side ends it.
    pub async fn judge(
        &self,
        client: TcpStream,
        acceptor: &TlsAcceptor,
        server: std::net::SocketAddr,
    ) -> Option<()> {
        let mut client = acceptor.accept(client).await.ok()?;
        let stream = TcpStream::connect(server).await.ok()?;
        let mut server = self.connector.connect(ServerName::from(server.ip()), stream).await.ok()?;
        loop {
            let request = Message::read(&mut client).await?;
            let answer = match (self.verdict)(&request.bytes[request.body..]) {
                Some(status) => format!("HTTP/1.1 {status} Judged\r\ncontent-length: 0\r\n\r\n").into_bytes(),
                None => {
                    server.write_all(&request.bytes).await.ok()?;
                    server.flush().await.ok()?;
                    Message::read(&mut server).await?.bytes
                }
            };
            client.write_all(&answer).await.ok()?;
            client.flush().await.ok()?;
        }
    }
}
