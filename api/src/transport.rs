//! The way of a complete request to the server, and of its answer back: direct, or another that
//! hides the sender.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::error::{BoxError, Error, Result};

/// How long it may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer under way.
pub type Carried<'a> = Pin<Box<dyn Future<Output = Result<http::Response<Vec<u8>>, BoxError>> + Send + 'a>>;

/// Bounds of an answer. A server, or somebody between, that takes more is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for the whole of it, from connecting to the last byte.
    pub time: Duration,
    /// Bytes of the body.
    pub bytes: usize,
}

/// The answer has more bytes than its call can have.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {0} bytes")]
pub struct TooLong(pub usize);

/// Carries a request to the server that its URI names.
///
/// The request is complete: its URI is absolute, its headers hold token and signature. An
/// implementation sends it as it is and once, follows no redirect (a signature holds for one
/// target only), and returns any answer of the server's, whatever its status. An error means that
/// there is no answer within the limits; [`TooLong`] tells of the one for which there is. A way to
/// another domain's homeserver may tell of a failure of that one by an error, too: its answer is
/// then none of the server's that this client depends on.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    fn carry(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_>;

    /// Another way to the server, on which nothing tells that it is the same sender's: no connection and no session of
    /// TLS. `None`: this way has no sender that the server could tell.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when it cannot be set up.
    fn apart(&self) -> Result<Option<Arc<dyn Transport>>> {
        Ok(None)
    }

    /// The error of a request that is not sent again any more. A way to another domain's homeserver learns by it that the
    /// failure was no short one.
    fn given_up(&self, error: Error) -> Error {
        error
    }
}

/// Straight to the server, over TLS where its URL says so.
#[derive(Debug, Clone)]
pub struct Direct(reqwest::Client);

impl Direct {
    /// A way with connections of its own.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when TLS cannot be set up.
    pub fn new() -> Result<Self> {
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(|error| Error::Unreachable(error.into()))
    }
}

impl Transport for Direct {
    fn apart(&self) -> Result<Option<Arc<dyn Transport>>> {
        Ok(Some(Arc::new(Self::new()?)))
    }

    fn carry(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_> {
        Box::pin(async move {
            let mut request = reqwest::Request::try_from(request)?;
            *request.timeout_mut() = Some(limits.time);
            let mut answer = self.0.execute(request).await?;
            let mut response = http::Response::new(Vec::new());
            *response.status_mut() = answer.status();
            *response.headers_mut() = std::mem::take(answer.headers_mut());
            while let Some(part) = answer.chunk().await? {
                if part.len() > limits.bytes - response.body().len() {
                    return Err(TooLong(limits.bytes).into());
                }
                response.body_mut().extend_from_slice(&part);
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A server whose answers have a body of so many bytes, and say so or do not.
    async fn answering(bytes: usize, announced: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let url = format!("http://{}/", listener.local_addr().expect("it has an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let length = if announced { format!("content-length: {bytes}\r\n") } else { String::new() };
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{length}\r\n");
                let _ = stream.write_all(&[head.as_bytes(), &vec![b'a'; bytes]].concat()).await;
            }
        });
        url
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_limit_whether_or_not_it_says_how_long_it_is() {
        let transport = Direct::new().expect("TLS is there");
        let limits = Limits { time: Duration::from_secs(20), bytes: 100_000 };
        for (bytes, announced, fits) in
            [(100_000, true, true), (100_000, false, true), (100_001, true, false), (300_000, false, false)]
        {
            let url = answering(bytes, announced).await;
            let request = http::Request::get(url).body(Vec::new()).expect("it is a request");
            match transport.carry(request, limits).await {
                Ok(answer) => assert!(fits && answer.body().len() == bytes, "{bytes}, {announced}"),
                Err(error) => assert!(!fits && error.is::<TooLong>(), "{bytes}, {announced}: {error}"),
            }
        }
    }
}
