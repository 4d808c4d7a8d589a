//! Calls to the homeserver of another domain: signed by a key of this one (FED-3), at the address that its description
//! gives, within bounds of time and size. Where the other one does not know this one's keys, this one introduces itself.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use postern_api::{BoxError, Carried, Error, Http, Limits, Request, Response, TooLong, Transport};
use postern_protocol::{
    federation::{Description, IntroduceServer},
    name::Domain,
    problem::{Problem, ProblemType},
};
use tokio::select;

use super::{
    Federation,
    discovery::{DiscoveryError, Found},
    places::AnswerMemory,
};
use crate::{
    http::{Failure, SourceAddress},
    outgoing::HomeserverClient,
};

/// The homeserver of another domain, as its description says.
#[derive(Clone)]
pub struct Neighbour {
    pub domain: Domain,
    pub description: Description,
    http: Http,
}

/// The way to another homeserver. Answers take memory from the place of the request that they are for, if it has one.
struct Way {
    client: Arc<HomeserverClient>,
    memory: Option<AnswerMemory>,
    /// Whether each request has a connection of its own.
    is_apart: bool,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way(…)")
    }
}

impl Transport for Way {
    fn carry(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_> {
        Box::pin(async move {
            let clients = Option::clone(&self.client.now());
            let clients = clients.ok_or("no authority is known by which it could be verified")?;
            let client = if self.is_apart { clients.apart } else { clients.shared };
            let mut request = reqwest::Request::try_from(request)?;
            *request.timeout_mut() = Some(limits.time);
            let mut answer = client.execute(request).await.map_err(reqwest::Error::without_url)?;
            let mut response = http::Response::new(Vec::new());
            *response.status_mut() = answer.status();
            *response.headers_mut() = std::mem::take(answer.headers_mut());
            let mut memory = self.memory.as_ref().map(AnswerMemory::for_answer);
            loop {
                let evicted = async {
                    match &memory {
                        Some(memory) => memory.evicted().await,
                        None => std::future::pending().await,
                    }
                };
                let part = select! {
                    part = answer.chunk() => part.map_err(reqwest::Error::without_url)?,
                    failure = evicted => return Err(no_memory(failure)),
                };
                let Some(part) = part else { break };
                let length = response.body().len() + part.len();
                if length > limits.bytes {
                    return Err(BoxError::from(TooLong(limits.bytes)));
                }
                if let Some(memory) = &mut memory {
                    memory.grow_to(length).await.map_err(no_memory)?;
                }
                response.body_mut().extend_from_slice(&part);
            }
            Ok(response)
        })
    }
}

/// This server has no memory for the answer: that says nothing of the other one.
#[derive(Debug, thiserror::Error)]
#[error("no memory for the answer of another homeserver")]
struct NoMemory;

fn no_memory(failure: Failure) -> BoxError {
    tracing::debug!("{NoMemory}: {failure}");
    NoMemory.into()
}

impl Federation {
    /// The homeserver of another domain, after a look at it if one is due. Its answers take `memory`, if the request has a
    /// place.
    ///
    /// # Errors
    /// [`DiscoveryError`].
    pub(super) async fn neighbour(
        &self,
        domain: &Domain,
        found: Found,
        memory: Option<AnswerMemory>,
    ) -> Result<Neighbour, DiscoveryError> {
        let description = Description::from_json(&self.discover(domain, found).await?)?;
        // It may have been kept under another configuration, or other rules.
        self.check_base_url(domain, &description.base_url).await?;
        let way = Way { client: self.client.clone(), memory, is_apart: false };
        let http = Http::through(&description.base_url, way).map_err(|_| DiscoveryError::BaseUrl)?;
        Ok(Neighbour { domain: domain.clone(), description, http })
    }

    /// The same homeserver, each request to which has a connection of its own: none breaks that of another one.
    ///
    /// # Errors
    /// [`DiscoveryError::BaseUrl`].
    pub(super) fn apart(&self, neighbour: Neighbour) -> Result<Neighbour, DiscoveryError> {
        let way = Way { client: self.client.clone(), memory: None, is_apart: true };
        let http = Http::through(&neighbour.description.base_url, way);
        Ok(Neighbour { http: http.map_err(|_| DiscoveryError::BaseUrl)?, ..neighbour })
    }

    /// Sends a request to another homeserver, signed by this one, and takes no refusal.
    ///
    /// # Errors
    /// As [`Self::exchange`], and [`Http::send_once`].
    pub(super) async fn call(&self, neighbour: &Neighbour, request: Request) -> Result<Response, Error> {
        self.exchange(neighbour, request).await?.accepted()
    }

    /// Sends a request for a client from this source to another homeserver, as [`Self::call`] does. One that is out of reach
    /// may have moved: it is looked at anew, once a minute at most, so that later requests go where it is (FED-1).
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) async fn hand_on(
        &self,
        neighbour: &Neighbour,
        request: Request,
        source: SourceAddress,
    ) -> Result<Response, Error> {
        let answer = self.call(neighbour, request).await;
        if answer.as_ref().is_err_and(is_out_of_reach)
            && let Ok(found) = Found::find(&self.home, &neighbour.domain, true).await
        {
            // The client does not wait for a look that takes long, and learns of the request, not of the look.
            let _ = self.discover(&neighbour.domain, found.asked_by(source).fresh(false)).await;
        }
        answer
    }

    /// The time for the other homeserver's answer to a request that is handed on. The rest of [`Federation::relayed`]'s is for the
    /// look at one that took the connection and did not answer.
    pub(super) fn answer_time(&self) -> Duration {
        self.relay_time.saturating_sub(REST.min(self.relay_time / 8))
    }

    /// Sends a request to another homeserver, signed by this one, once; and once more if that one did not know this one's
    /// keys and does now. Takes whatever answer comes.
    ///
    /// # Errors
    /// A lack of keys as [`Error::UnexpectedAnswer`], an introduction that is refused; and as [`Http::exchange`].
    pub(super) async fn exchange(&self, neighbour: &Neighbour, request: Request) -> Result<Response, Error> {
        let answer = self.send(neighbour, &request).await?;
        if answer.problem().is_none_or(|problem| problem.kind != ProblemType::NotAllowed) {
            return Ok(answer);
        }
        let introduced = self.introduced.to(&neighbour.domain);
        let mut last = introduced.lock().await;
        if last.is_none_or(|at| at.elapsed() >= INTRODUCTIONS) {
            *last = Some(Instant::now());
            let introduction = IntroduceServer { domain: self.home.domain.clone() };
            self.send(neighbour, &Request::post("/homeservers").cbor(&introduction)).await?.accepted()?;
        }
        drop(last);
        self.send(neighbour, &request).await
    }

    async fn send(&self, neighbour: &Neighbour, request: &Request) -> Result<Response, Error> {
        let keys = self.server_keys.now();
        let signer = keys.signer(|_| true).map_err(|error| Error::UnexpectedAnswer(error.to_string()))?;
        neighbour.http.exchange(&request.clone().signed_by(&signer.key, &neighbour.domain)).await
    }
}

/// Time that a request that is handed on has left when that of the other homeserver to answer is over.
const REST: Duration = Duration::from_secs(2);
/// Time between two introductions to one homeserver.
const INTRODUCTIONS: Duration = Duration::from_secs(10);
/// Homeservers whose introductions are remembered.
const MAX_INTRODUCED: usize = 10_000;

/// The last introductions of this homeserver to others. One that refuses it all the same is not asked again with each
/// request, and a request that comes meanwhile waits for the introduction.
#[derive(Default)]
pub struct Introduced(Mutex<HashMap<Domain, Introduction>>);

type Introduction = Arc<tokio::sync::Mutex<Option<Instant>>>;

impl Introduced {
    fn to(&self, domain: &Domain) -> Introduction {
        let mut introduced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if introduced.len() >= MAX_INTRODUCED {
            introduced.clear();
        }
        introduced.entry(domain.clone()).or_default().clone()
    }
}

/// Whether the connection to another homeserver broke in the middle of a request or its answer. It was there: one that cannot
/// be made is another thing, and so is an answer that does not come in time.
pub(super) fn is_broken(error: &Error) -> bool {
    let Error::Unreachable(error) = error else { return false };
    let error = error.downcast_ref::<reqwest::Error>();
    error.is_some_and(|error| !(error.is_builder() || error.is_connect() || error.is_timeout()))
}

/// Whether another homeserver gave no answer. A lack of memory here says nothing of it.
fn is_out_of_reach(error: &Error) -> bool {
    matches!(error, Error::Unreachable(error) if !error.is::<NoMemory>())
}

/// The problem of an answer that the protocol does not know.
pub(super) fn unexpected(what: &str) -> Problem {
    Problem::with_detail(ProblemType::HomeserverRefused, what)
}

/// The problem that tells a client why its request did not get to another homeserver (FED-5).
pub(super) fn problem(error: &Error) -> Problem {
    match error {
        // Not in its words.
        Error::Refused(Problem { kind: ProblemType::GatewayKeyUnknown, .. }) => {
            ProblemType::GatewayKeyUnknown.into()
        }
        // The detail tells it from this server's own.
        Error::Refused(Problem { kind: ProblemType::Unavailable, .. }) => {
            Problem::with_detail(ProblemType::Unavailable, "the other homeserver cannot do it at this moment")
        }
        Error::Unreachable(error) if error.is::<NoMemory>() => ProblemType::Unavailable.into(),
        Error::Refused(problem) if problem.kind == ProblemType::HomeserverBlocked => Problem::with_detail(
            problem.kind,
            "it is the other one's operator who does not let them deal with each other",
        ),
        Error::Refused(problem) => Problem::with_detail(ProblemType::HomeserverRefused, problem.kind.slug()),
        Error::Unreachable(error) => {
            tracing::debug!("another homeserver does not answer: {error}");
            ProblemType::HomeserverUnreachable.into()
        }
        error => Problem::with_detail(ProblemType::HomeserverRefused, error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpSocket},
    };

    use super::*;

    /// The outcome of a request to a server that reads it, says this, and ends the connection; or never ends it.
    async fn asked(says: &'static [u8], ends: bool) -> Result<(), Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 4096]).await.unwrap();
            assert!(read > 0, "a request came");
            let _ = stream.write_all(says).await;
            if !ends {
                std::future::pending::<()>().await;
            }
        });
        let time = if ends { Duration::from_secs(60) } else { Duration::from_millis(50) };
        let request = reqwest::Client::new().post(url).body("a delivery").timeout(time);
        let answer = async { request.send().await?.bytes().await };
        let answer = answer.await.map(drop).map_err(|error| Error::Unreachable(error.into()));
        server.abort();
        answer
    }

    #[tokio::test]
    async fn a_connection_is_broken_that_was_there_and_ended_before_the_answer_did() {
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
        for says in [&b""[..], HEAD, b"garbage\r\n\r\n"] {
            let error = asked(says, true).await.unwrap_err();
            assert!(is_broken(&error), "{says:?}: {error}");
        }
        for says in [&b""[..], HEAD] {
            let error = asked(says, false).await.unwrap_err();
            assert!(!is_broken(&error), "no answer in time: {error}");
        }
        // It has a port, so that nobody else does, and does not listen there.
        let nobody = TcpSocket::new_v4().unwrap();
        nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}/", nobody.local_addr().unwrap());
        let error = reqwest::get(url).await.unwrap_err();
        assert!(!is_broken(&Error::Unreachable(error.into())), "there is no connection");
        assert!(!is_broken(&Error::UnexpectedAnswer("a long one".to_owned())));
        assert!(!is_broken(&Error::Unreachable("no authority".into())));
    }
}
