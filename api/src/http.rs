//! A connection to one server: sends requests, reads problem details, and repeats what is safe
//! to repeat. That is the same request with the same token, which pays at most once, after a
//! fault of the server or of the network.

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use url::{Host, Url};

use crate::{
    error::{BoxError, Error, Result},
    request::{Request, Response},
    transport::{Direct, TooLong, Transport},
};

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(1500);
/// The pauses before the second, third and fourth attempt: 0.1, 0.4 and 1.5 seconds.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(SHORTEST_PAUSE)
    .with_factor(4.0)
    .with_max_delay(LONGEST_PAUSE)
    .with_max_times(3);

/// A connection to one server. Clones share it.
#[derive(Debug, Clone)]
pub struct Http {
    base: Url,
    transport: Arc<dyn Transport>,
    /// Whether each try has a way of its own.
    apart: bool,
}

impl Http {
    /// Connects directly to the server at a URL (`https://chat.example.org`).
    ///
    /// # Errors
    /// [`Error::BadServerAddress`].
    pub fn new(server: &str) -> Result<Self> {
        Self::through(server, Direct::new()?)
    }

    /// Connects through another transport.
    ///
    /// # Errors
    /// [`Error::BadServerAddress`].
    pub fn through(server: &str, transport: impl Transport) -> Result<Self> {
        let base = Url::parse(server)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::BadServerAddress(server.to_owned()))?;
        if base.scheme() == "http" && !is_loopback(&base) {
            tracing::warn!(
                "the connection to the server is not encrypted: everybody on the way sees which user and \
                 queues this is, and can use its tokens. Use https, unless the way is protected otherwise"
            );
        }
        Ok(Self { base, transport: Arc::new(transport), apart: false })
    }

    /// The same server as a stranger sees it: each try of a request goes on a connection of its own, which nothing joins
    /// with this one's or with another try's. Who asks again on a connection is a stranger no more.
    pub fn apart(&self) -> Self {
        Self { apart: true, ..self.clone() }
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        self.base.as_str()
    }

    /// Sends, and sends again after a passing fault, with the same token: four times at most,
    /// within two seconds of pauses. The fault may be another domain's homeserver's, where the way leads there.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the server says, [`Error::Unreachable`] and
    /// [`Error::UnexpectedAnswer`].
    pub async fn send(&self, request: &Request) -> Result<Response> {
        (|| self.send_once(request))
            .retry(PAUSES)
            .when(Error::is_repeated)
            .notify(|error, _| tracing::debug!(%error, "trying again"))
            .await
            .map_err(|error| self.transport.given_up(error))
    }

    /// Sends once, and takes no refusal.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_once(&self, request: &Request) -> Result<Response> {
        self.exchange(request).await?.accepted()
    }

    /// Sends once and takes whatever answer comes.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if there is none, and [`Error::UnexpectedAnswer`] for one that is too long.
    pub async fn exchange(&self, request: &Request) -> Result<Response> {
        let url = self
            .base
            .join(request.path())
            .ok()
            // The issuer directory names a URL: no token request goes to somebody else.
            .filter(|url| url.origin() == self.base.origin())
            .ok_or_else(|| Error::UnexpectedAnswer("a URL on another server".to_owned()))?;
        let complete = request.complete(&url)?;
        let transport = if self.apart { self.transport.apart()? } else { None };
        let transport = transport.as_ref().unwrap_or(&self.transport);
        Ok(transport.carry(complete, request.limits()).await.map_err(no_answer)?.into())
    }
}

/// An answer that is too long comes again as long. A transport may know itself what failed.
fn no_answer(error: BoxError) -> Error {
    if let Some(too_long) = error.downcast_ref::<TooLong>() {
        return Error::UnexpectedAnswer(too_long.to_string());
    }
    error.downcast().map_or_else(Error::Unreachable, |error| *error)
}

/// Whether what is said to a server in clear stays on this machine (RFC 6761 §6.3).
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use backon::BackoffBuilder as _;

    use super::*;
    use crate::{
        Token,
        transport::{Carried, Limits},
    };

    /// Answers with one status after the other; none: there is no answer. Keeps what it carried.
    #[derive(Debug, Default)]
    struct Scripted {
        answers: Mutex<Vec<Option<u16>>>,
        carried: Arc<Mutex<Vec<http::Request<Vec<u8>>>>>,
    }

    impl Transport for Scripted {
        fn carry(&self, request: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            self.carried.lock().unwrap().push(request);
            let answer = self.answers.lock().unwrap().remove(0);
            Box::pin(async move {
                let status = answer.ok_or_else(|| BoxError::from("the network is away"))?;
                Ok(http::Response::builder().status(status).body(Vec::new())?)
            })
        }
    }

    type Sent = Arc<Mutex<Vec<http::Request<Vec<u8>>>>>;

    fn scripted(answers: &[Option<u16>]) -> (Http, Sent) {
        let transport = Scripted { answers: Mutex::new(answers.to_vec()), ..Scripted::default() };
        let carried = transport.carried.clone();
        (Http::through("https://example.org", transport).unwrap(), carried)
    }

    #[test]
    fn only_http_addresses_are_servers() {
        assert!(Http::new("http://127.0.0.1:8080").is_ok());
        for bad in ["127.0.0.1:8080", "ftp://example.org", "example.org", ""] {
            assert!(matches!(Http::new(bad), Err(Error::BadServerAddress(_))), "{bad}");
        }
    }

    #[test]
    fn only_loopback_addresses_are_safe_in_clear() {
        for safe in [
            "http://127.0.0.1:8008",
            "http://127.9.9.9",
            "http://[::1]:1",
            "http://localhost",
            "http://a.localhost",
        ] {
            assert!(is_loopback(&Url::parse(safe).unwrap()), "{safe}");
        }
        for open in
            ["http://192.168.0.1", "http://localhost.example.org", "http://chat.example.org", "http://[::2]"]
        {
            assert!(!is_loopback(&Url::parse(open).unwrap()), "{open}");
        }
    }

    /// A server that answers each request with these bytes.
    async fn answering(answer: Vec<u8>) -> Http {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Http::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        server
    }

    #[tokio::test]
    async fn an_answer_is_read_as_far_as_its_call_allows() {
        let answer = |length: usize| {
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            [head.into_bytes(), vec![7; length]].concat()
        };
        let server = answering(answer(1000)).await;
        let request = Request::get("/health");
        let read = server.send_once(&request.clone().answered_in(1000)).await.unwrap();
        assert_eq!(read.body.len(), 1000);
        let refused = server.send(&request.clone().answered_in(999)).await;
        assert!(matches!(refused, Err(Error::UnexpectedAnswer(_))), "{refused:?}");
        // No length is told: it goes on for ever.
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![7; 1 << 20]].concat();
        let refused = answering(endless).await.send(&request).await;
        assert!(matches!(refused, Err(Error::UnexpectedAnswer(_))), "{refused:?}");
    }

    #[test]
    fn four_attempts_have_three_pauses_between_them() {
        let pauses: Vec<_> = PAUSES.build().map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [100, 400, 1500]);
    }

    #[tokio::test]
    async fn passing_faults_are_tried_again_with_the_same_token() {
        let (http, sent) = scripted(&[None, Some(502), Some(204)]);
        let request = Request::post("/qs/deposits").paid_with(Token::new(vec![7; 130]));
        assert_eq!(http.send(&request).await.unwrap().status, 204);
        let sent = sent.lock().unwrap();
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|request| request.headers() == sent[0].headers()));
    }

    #[tokio::test]
    async fn a_refusal_is_told_at_once() {
        let (http, sent) = scripted(&[Some(404)]);
        assert!(matches!(http.send(&Request::get("/health")).await, Err(Error::UnexpectedAnswer(_))));
        assert_eq!(sent.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn no_request_goes_to_another_server() {
        let (http, sent) = scripted(&[]);
        let elsewhere = http.send_once(&Request::get("https://example.net/")).await;
        assert!(matches!(elsewhere, Err(Error::UnexpectedAnswer(_))));
        assert!(sent.lock().unwrap().is_empty());
    }
}
