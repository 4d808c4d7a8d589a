//! A host that passes for a homeserver: it speaks TLS, and answers each whole request with the same bytes, or with none.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::{TlsAcceptor, rustls::version::TLS12};

use super::{Certificate, judge::Message};

/// Dropping it ends it.
pub struct FalseHomeserver {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<Vec<u8>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FalseHomeserver {
    /// One that answers with these bytes; none of them: it never answers.
    pub async fn start(files: &Certificate, answer: Vec<u8>) -> Self {
        Self::accepting(files.acceptor(), answer).await
    }

    /// The same, which speaks TLS 1.2 and no other version.
    pub async fn start_with_tls_1_2(files: &Certificate, answer: Vec<u8>) -> Self {
        Self::accepting(files.acceptor_of(&[&TLS12]), answer).await
    }

    async fn accepting(acceptor: TlsAcceptor, answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let (asked, answer) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(answer)));
        let (counted, answers) = (asked.clone(), answer.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answers, counted) = (acceptor.clone(), answers.clone(), counted.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    while Message::read(&mut stream).await.is_some() {
                        // Its answer is settled once it is counted.
                        let answer = answers.lock().expect("no panic holds it").clone();
                        counted.fetch_add(1, Ordering::SeqCst);
                        if !answer.is_empty() && stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, asked, answer, accepting }
    }

    /// Answers with these bytes from now on.
    pub fn answer(&self, answer: Vec<u8>) {
        *self.answer.lock().expect("no panic holds it") = answer;
    }

    /// An answer in JSON.
    pub fn json(body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that came.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for FalseHomeserver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
