//! The way to the homeserver of another domain: through a relay, which learns no endpoint and no content, to the gateway
//! there, which learns no client (RFC 9458, FED-5). A complete request is sealed, the relay is paid for handing it on, and
//! the answer comes back sealed.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use ohttp::{
    ClientRequest, ClientResponse, KeyConfig, SymmetricSuite,
    hpke::{Aead, Kdf},
};
use postern_protocol::{
    Payload,
    encoding::Encoding,
    federation::{DESCRIPTION_PATH, HomeserverShown, MAX_DESCRIPTION_BYTES},
    name::Domain,
    oblivious::{self, ENVELOPE_BYTES, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE},
    problem::{Problem, ProblemType},
};

use crate::{
    error::{BoxError, Error, Result, Side},
    http::Http,
    payment::{Api, PayError, Wallet},
    request::Request,
    transport::{Carried, Limits, TooLong, Transport},
};

/// Suites of which a gateway's key has to have one.
const SUITES: [SymmetricSuite; 2] = [
    SymmetricSuite::new(Kdf::HkdfSha256, Aead::Aes128Gcm),
    SymmetricSuite::new(Kdf::HkdfSha256, Aead::ChaCha20Poly1305),
];

/// Key configurations under way.
pub type Keys<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, BoxError>> + Send + 'a>>;

/// Knows the gateway of one domain.
pub trait Gateway: fmt::Debug + Send + Sync + 'static {
    /// The gateway's key configurations, the one to use first (`application/ohttp-keys`), from a description that was
    /// verified.
    fn keys(&self) -> Keys<'_>;

    /// The same from a description that is fetched anew: the gateway does not know the key that was used.
    fn fresh_keys(&self) -> Keys<'_>;
}

/// A transport to the homeserver of a domain, through a relay that a wallet pays.
pub struct Relayed<W> {
    relay: Api<W>,
    remote: Domain,
    gateway: Arc<dyn Gateway>,
}

impl<W> fmt::Debug for Relayed<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relayed(…)")
    }
}

impl<W> Relayed<W> {
    /// The relay is paid by the wallet of its endpoints.
    pub const fn new(relay: Api<W>, remote: Domain, gateway: Arc<dyn Gateway>) -> Self {
        Self { relay, remote, gateway }
    }
}

impl<W: Wallet + Clone + 'static> Relayed<W>
where
    W::Error: Into<BoxError>,
{
    async fn carry_sealed(
        &self,
        request: http::Request<Vec<u8>>,
        limits: Limits,
    ) -> Result<http::Response<Vec<u8>>, BoxError> {
        let message = oblivious::encode_request(&request, &self.remote);
        let (sealed, opens) = seal(&self.gateway.keys().await.map_err(unsent)?, &message)?;
        let (opens, answer) = match self.hand_over(sealed, limits).await {
            Err(error) if is_stale(error.as_ref()) => {
                let (sealed, opens) = seal(&self.gateway.fresh_keys().await.map_err(unsent)?, &message)?;
                (opens, self.hand_over(sealed, limits).await?)
            }
            answer => (opens, answer?),
        };
        let opened = opens.decapsulate(&answer).map_err(|_| unexpected("an answer that does not open"))?;
        let answer = oblivious::decode_response(&opened).map_err(|_| unexpected("no binary HTTP message"))?;
        if answer.body().len() > limits.bytes {
            return Err(TooLong(limits.bytes).into());
        }
        Ok(answer)
    }

    /// Pays the relay to hand a sealed request over, and returns the sealed answer.
    async fn hand_over(&self, sealed: Vec<u8>, limits: Limits) -> Result<Vec<u8>, BoxError> {
        let request = Request::post(format!("/relay/{}", self.remote))
            .body(REQUEST_MEDIA_TYPE, sealed)
            .accepting(RESPONSE_MEDIA_TYPE)
            .within(limits.time)
            .answered_in(limits.bytes.saturating_add(ENVELOPE_BYTES));
        let answer = self.relay.pay(request, false).await.map_err(|error| match error {
            PayError::Request(Error::Refused(problem))
                if !is_passing(problem.kind) || Side::of(&problem) == Side::Gateway =>
            {
                Error::Relay { side: Side::of(&problem), problem }
            }
            PayError::Request(error) => error,
            PayError::Wallet(error) => unsent(error.into()),
        })?;
        if answer.content_type != RESPONSE_MEDIA_TYPE {
            return Err(unexpected("an answer that is not sealed"));
        }
        Ok(answer.body)
    }
}

impl<W: Wallet + Clone + 'static> Transport for Relayed<W>
where
    W::Error: Into<BoxError>,
{
    /// Through the relay nothing tells who asks, whichever connection leads to it; another one hides from the relay, too,
    /// that it is the same sender.
    fn apart(&self) -> Result<Option<Arc<dyn Transport>>> {
        let relay = Api { http: self.relay.http.apart(), ..self.relay.clone() };
        Ok(Some(Arc::new(Self::new(relay, self.remote.clone(), self.gateway.clone()))))
    }

    fn carry(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_> {
        Box::pin(self.carry_sealed(request, limits))
    }
}

impl Http {
    /// `GET /.well-known/postern`: what the homeserver says of itself, in JSON. The caller verifies it.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn describe_server(&self) -> Result<Vec<u8>> {
        let request = Request::get(DESCRIPTION_PATH)
            .accepting(Encoding::Json.media_type())
            .answered_in(MAX_DESCRIPTION_BYTES);
        Ok(self.send(&request).await?.body)
    }
}

impl<W: Wallet> Api<W> {
    /// `GET /homeservers/{domain}`: the description of another domain's homeserver, in JSON. With `fresh` it is fetched anew
    /// if it is more than a minute old. The caller verifies it.
    ///
    /// # Errors
    /// [`Error::Relay`] with `homeserver-blocked` or `homeserver-unknown`; and as [`Api::paid`].
    pub async fn show_homeserver(&self, domain: &Domain, fresh: bool) -> Result<Payload, W::Error> {
        let query = if fresh { "?fresh=true" } else { "" };
        let request =
            Request::get(format!("/homeservers/{domain}{query}")).answered_in(2 * MAX_DESCRIPTION_BYTES);
        let shown = self.pay(request, false).await.map_err(of_the_way)?;
        Ok(shown.decode::<HomeserverShown>()?.description)
    }

    /// `POST /relay/{domain}/token-request`: blinded tokens of another domain's issuer, as [`Http::issue_tokens`] has them of
    /// the own one. The own homeserver asks for them in its name.
    ///
    /// # Errors
    /// [`Error::Relay`]; `allowance-used-up`, `unknown-token-key` and `invalid-token-request`, as the other one says;
    /// and as [`Api::paid`].
    pub async fn relay_token_request(
        &self,
        domain: &Domain,
        media_types: (&'static str, &'static str),
        request: Vec<u8>,
    ) -> Result<Vec<u8>, W::Error> {
        let request = Request::post(format!("/relay/{domain}/token-request"))
            .body(media_types.0, request)
            .accepting(media_types.1);
        let answer = self.pay(request, false).await.map_err(of_the_way)?;
        if answer.content_type != media_types.1 {
            return Err(Error::UnexpectedAnswer("tokens of another media type".to_owned()).into());
        }
        Ok(answer.body)
    }
}

/// The error of a request that the own homeserver answers itself, if it is not the way to another one that failed.
fn of_the_way<E: From<Error>>(error: PayError<E>) -> E {
    use ProblemType::{HomeserverBlocked, HomeserverRefused, HomeserverUnknown, HomeserverUnreachable};
    let is_of_the_way = |kind| {
        matches!(kind, HomeserverBlocked | HomeserverRefused | HomeserverUnknown | HomeserverUnreachable)
    };
    match error {
        PayError::Request(Error::Refused(problem))
            if is_of_the_way(problem.kind) || Side::of(&problem) == Side::Gateway =>
        {
            Error::Relay { side: Side::of(&problem), problem }.into()
        }
        PayError::Request(error) => error.into(),
        PayError::Wallet(error) => error,
    }
}

/// Seals a message for the first of these key configurations that can be used.
fn seal(keys: &[u8], message: &[u8]) -> Result<(Vec<u8>, ClientResponse), BoxError> {
    // The library takes the first suite of a key, and there may be none that it knows.
    let is_usable = |key: &KeyConfig| SUITES.iter().any(|suite| key.select(*suite).is_ok());
    let key = KeyConfig::decode_list(keys).ok().and_then(|keys| keys.into_iter().find(is_usable));
    let sealed = key.and_then(|mut key| ClientRequest::from_config(&mut key).ok()?.encapsulate(message).ok());
    sealed.ok_or_else(|| unexpected("no key of the gateway that can be used"))
}

/// Whether a problem of the relay may be over at any moment: then it is the request's own.
fn is_passing(kind: ProblemType) -> bool {
    Error::Refused(kind.into()).is_passing()
}

fn is_stale(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let stale = ProblemType::GatewayKeyUnknown;
    matches!(error.downcast_ref(), Some(Error::Relay { problem, .. }) if problem.kind == stale)
}

/// A step before the request is sent failed.
fn unsent(error: BoxError) -> Error {
    error.downcast().map_or_else(Error::Unsent, |error| *error)
}

/// The other side, or the relay in its name, sent something else than the protocol says.
fn unexpected(what: &str) -> BoxError {
    let problem = Problem::with_detail(ProblemType::HomeserverRefused, what);
    Error::Relay { side: Side::Gateway, problem }.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ohttp::{Server, hpke::Kem};
    use postern_protocol::problem;

    use super::*;
    use crate::Token;

    /// Pays with the same token each time, and counts.
    #[derive(Clone, Default)]
    struct Purse(Arc<Mutex<usize>>);

    impl Wallet for Purse {
        type Error = Error;

        async fn take(&self, _: &Domain) -> Result<Token> {
            *self.0.lock().unwrap() += 1;
            Ok(Token::new(vec![7; 130]))
        }

        async fn drop_stale(&self, _: &Domain) -> Result<()> {
            Ok(())
        }
    }

    /// A relay that is a gateway at the same time: what it opens it answers with what it was asked for.
    #[derive(Debug)]
    struct Gate {
        keys: Vec<Server>,
        /// The problem that it answers with instead.
        refusal: Mutex<Option<Problem>>,
    }

    impl Transport for Gate {
        fn carry(&self, request: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            assert_eq!(request.uri().path(), "/relay/x.example");
            let answer = |status: u16, media_type: &str, body: Vec<u8>| {
                http::Response::builder()
                    .status(status)
                    .header("content-type", media_type)
                    .body(body)
                    .unwrap()
            };
            let refused = |problem: Problem| {
                answer(problem.kind.status().as_u16(), problem::MEDIA_TYPE, problem.to_json())
            };
            let opened = self.keys.iter().find_map(|key| key.decapsulate(request.body()).ok());
            let response = match (self.refusal.lock().unwrap().take(), opened) {
                (Some(problem), _) => refused(problem),
                (None, None) => refused(ProblemType::GatewayKeyUnknown.into()),
                (None, Some((message, seals))) => {
                    let asked = oblivious::decode_request(&message).unwrap();
                    let said = format!("{} {}", asked.method(), asked.uri());
                    let inner = answer(200, "text/plain", said.into_bytes());
                    let sealed = seals.encapsulate(&oblivious::encode_response(&inner)).unwrap();
                    answer(200, RESPONSE_MEDIA_TYPE, sealed)
                }
            };
            Box::pin(async move { Ok(response) })
        }
    }

    /// Knows a key that is stale, and the one that a look at the description shows.
    #[derive(Debug)]
    struct Known {
        old: Vec<u8>,
        new: Vec<u8>,
        looks: Mutex<usize>,
    }

    impl Gateway for Known {
        fn keys(&self) -> Keys<'_> {
            let keys = if *self.looks.lock().unwrap() > 0 { &self.new } else { &self.old };
            Box::pin(async move { Ok(keys.clone()) })
        }

        fn fresh_keys(&self) -> Keys<'_> {
            *self.looks.lock().unwrap() += 1;
            self.keys()
        }
    }

    fn key(id: u8) -> Server {
        Server::new(KeyConfig::new(id, Kem::X25519Sha256, SUITES.to_vec()).unwrap()).unwrap()
    }

    #[test]
    fn a_key_without_a_known_suite_is_none() {
        let mut keys = published(&key(1));
        assert!(seal(&keys, b"message").is_ok());
        // Both suites are of a kind that nobody knows.
        let end = keys.len();
        keys[end - 1] = 0x77;
        keys[end - 5] = 0x77;
        for keys in [&keys[..], &[], &[1, 2, 3]] {
            assert!(seal(keys, b"message").is_err());
        }
    }

    fn published(key: &Server) -> Vec<u8> {
        KeyConfig::encode_list(&[key.config()]).unwrap()
    }

    fn way(refusal: Option<Problem>, known: Known, gate_keys: Vec<Server>) -> (Http, Purse, Arc<Known>) {
        let (purse, known) = (Purse::default(), Arc::new(known));
        let gate = Gate { keys: gate_keys, refusal: Mutex::new(refusal) };
        let relay = Api::new(
            Http::through("https://h.example", gate).unwrap(),
            "h.example".parse().unwrap(),
            purse.clone(),
        );
        let relayed = Relayed::new(relay, "x.example".parse().unwrap(), known.clone());
        (Http::through("https://x.example", relayed).unwrap(), purse, known)
    }

    #[tokio::test]
    async fn a_request_gets_its_answer_and_a_stale_key_is_fetched_anew_once() {
        let (old, new, gone) = (key(1), key(2), key(3));
        let known = |old: &Server, new: &Server| Known {
            old: published(old),
            new: published(new),
            looks: Mutex::new(0),
        };
        let ask = async |http: &Http| http.send(&Request::get("/as/keys?x=y")).await;
        let (http, purse, knows) = way(None, known(&old, &new), vec![old.clone(), new.clone()]);
        let answer = ask(&http).await.unwrap();
        assert_eq!(answer.body, b"GET https://x.example/as/keys?x=y");
        assert_eq!((*purse.0.lock().unwrap(), *knows.looks.lock().unwrap()), (1, 0));

        let (http, purse, knows) = way(None, known(&gone, &new), vec![old.clone(), new.clone()]);
        for _ in 0..2 {
            assert_eq!(ask(&http).await.unwrap().status, 200);
        }
        assert_eq!((*purse.0.lock().unwrap(), *knows.looks.lock().unwrap()), (3, 1), "a look for good");

        let (http, purse, _) = way(None, known(&gone, &gone), vec![old, new]);
        let error = ask(&http).await.unwrap_err();
        assert!(matches!(error, Error::Relay { side: Side::Gateway, .. }), "{error}");
        assert_eq!(*purse.0.lock().unwrap(), 2, "once is enough");
    }

    /// A homeserver that spends a token before it finds out that another one has a fault.
    #[derive(Debug, Default)]
    struct Faulty(Mutex<bool>);

    impl Transport for Faulty {
        fn carry(&self, _: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            let is_spent = std::mem::replace(&mut *self.0.lock().unwrap(), true);
            let kind = if is_spent { ProblemType::TokenSpent } else { ProblemType::Unavailable };
            let answer = http::Response::builder()
                .status(kind.status())
                .header("content-type", problem::MEDIA_TYPE)
                .body(Problem::new(kind).to_json())
                .unwrap();
            Box::pin(async move { Ok(answer) })
        }
    }

    #[tokio::test]
    async fn another_homeservers_fault_passes_and_costs_one_token() {
        let purse = Purse::default();
        let faulty = || {
            let http = Http::through("https://h.example", Faulty::default()).unwrap();
            Api::new(http, "h.example".parse().unwrap(), purse.clone())
        };
        let remote = "x.example".parse().unwrap();
        let look = faulty().show_homeserver(&remote, false).await.unwrap_err();
        let tokens = faulty().relay_token_request(&remote, ("a/b", "a/c"), Vec::new()).await.unwrap_err();
        assert!(look.is_passing() && tokens.is_passing(), "{look} {tokens}");
        assert_eq!(*purse.0.lock().unwrap(), 2);
    }

    #[tokio::test]
    async fn an_error_says_which_side_failed() {
        let one = key(1);
        for (problem, expected) in [
            (Problem::new(ProblemType::HomeserverBlocked), Side::Relay),
            (Problem::with_detail(ProblemType::HomeserverBlocked, "the other one"), Side::Gateway),
            (Problem::with_detail(ProblemType::Unavailable, "the other one"), Side::Gateway),
            (Problem::new(ProblemType::NotFound), Side::Relay),
            (Problem::new(ProblemType::HomeserverUnknown), Side::Pipe),
            (Problem::new(ProblemType::HomeserverUnreachable), Side::Pipe),
            (Problem::new(ProblemType::HomeserverRefused), Side::Gateway),
        ] {
            let known = Known { old: published(&one), new: published(&one), looks: Mutex::new(0) };
            let (http, _, _) = way(Some(problem.clone()), known, vec![one.clone()]);
            match http.send(&Request::get("/as/keys")).await {
                Err(Error::Relay { side, problem: found }) => {
                    assert_eq!((side, found), (expected, problem));
                }
                other => panic!("{problem}: {other:?}"),
            }
        }
    }
}
