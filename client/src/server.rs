//! The server as this client calls it: its endpoints, and the wallet that pays.

use std::time::Duration;

use postern_api::Http;

use crate::tokens::Wallet;

pub(crate) type Api = postern_api::Api<Wallet>;

/// Time within which the own homeserver says that it is there, after another answer did not come.
const PROBE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// Asks the own homeserver for a sign of life.
///
/// # Errors
/// [`postern_api::Error::Unreachable`] if it gives none, and another one if it is there and cannot serve.
pub(crate) async fn sign_of_life(own: &Http) -> postern_api::Result<()> {
    own.ready_within(PROBE).await
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use postern_api::{BoxError, Carried, Limits, Side, Transport};
    use postern_protocol::{
        key::SigningKey,
        name::Domain,
        problem::{Problem, ProblemType},
    };

    use super::*;
    use crate::{options::Options, store::Store, tokens::Owner};

    type Answer = Result<http::Response<Vec<u8>>, BoxError>;

    /// The own homeserver, `home.example`, in whose place a test answers; and the client's store.
    pub(crate) struct Home {
        pub store: Arc<Store>,
        pub api: Api,
        asked: Arc<AtomicUsize>,
        _directory: tempfile::TempDir,
    }

    /// The way on which requests come to the test.
    struct Answers {
        answer: Box<dyn Fn(&str) -> Answer + Send + Sync>,
        asked: Arc<AtomicUsize>,
    }

    impl std::fmt::Debug for Answers {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Answers(…)")
        }
    }

    impl Transport for Answers {
        fn carry(&self, request: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let answer = (self.answer)(request.uri().path());
            Box::pin(async move { answer })
        }
    }

    impl Home {
        /// Answers each request by its path.
        pub(crate) fn answering(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::create(directory.path(), &Options::default()).unwrap());
            let asked = Arc::<AtomicUsize>::default();
            let way = Answers { answer: Box::new(answer), asked: asked.clone() };
            let http = Http::through("https://home.example", way).unwrap();
            let domain: Domain = "home.example".parse().unwrap();
            let owner = Owner { domain: domain.clone(), client_key: SigningKey::generate() };
            let wallet = Wallet::new(store.clone(), http.clone(), http.clone(), owner);
            let api = Api::new(http, domain, wallet);
            Self { store, api, asked, _directory: directory }
        }

        /// Answers everything with bytes that mean nothing.
        pub(crate) fn of_nonsense() -> Self {
            Self::answering(|_| Ok(http::Response::new(b"nonsense".to_vec())))
        }

        /// Answers everything with a problem.
        pub(crate) fn of_problem(kind: ProblemType) -> Self {
            Self::answering(move |_| {
                Ok(http::Response::builder().status(kind.status()).body(Problem::new(kind).to_json())?)
            })
        }

        /// Is behind a relay that hands nothing on to it, for this reason.
        pub(crate) fn behind_relay(kind: ProblemType) -> Self {
            Self::answering(move |_| {
                Err(postern_api::Error::Relay { side: Side::Relay, problem: kind.into() }.into())
            })
        }

        /// How many requests came.
        pub(crate) fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }
}
