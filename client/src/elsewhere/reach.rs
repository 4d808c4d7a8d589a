//! The reach of homeservers of other domains: those that do not answer are left alone for a while.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use postern_api::{BoxError, Carried, Http, Limits, Response, Side, Transport};
use postern_protocol::problem::{Problem, ProblemType};
use tokio::time::timeout;

use crate::{
    error::{Error, Result},
    server::{self, Api},
};

/// Whether the homeserver of another domain answers. One that does not is left alone for a while, and for longer each time:
/// each attempt costs a token of the own homeserver, and errands would spend one with every step.
#[derive(Default)]
pub(crate) struct Reach(Mutex<Failures>);

#[derive(Default)]
struct Failures {
    number: u32,
    last: Option<Failure>,
    /// Answers that made no sense lately, and the time of the last one. Others in between, which do make sense, are no end of
    /// that: it may be one endpoint.
    misread: u32,
    misread_at: Option<Instant>,
}

/// A failure, which is the answer to all that is asked until the homeserver is not left alone any more.
struct Failure {
    side: Side,
    problem: Problem,
    until: Instant,
}

/// The longest time for which a homeserver is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest time for which a homeserver is left alone of which an answer made no sense: it may be one endpoint that does so,
/// and who asked for it pauses for longer.
const LONGEST_MISREAD_PAUSE: Duration = Duration::from_secs(5);
/// Time after which it counts for nothing that an answer made no sense.
const MISREAD_FOR: Duration = Duration::from_secs(60 * 60);
/// Time by which the own homeserver is given longer to answer than the other one.
const GRACE: Duration = Duration::from_secs(10);

/// The error of a homeserver that does not answer in time.
fn silent() -> postern_api::Error {
    let problem = Problem::with_detail(ProblemType::HomeserverUnreachable, "it does not answer in time");
    postern_api::Error::Relay { side: Side::Pipe, problem }
}

/// An answer of another domain's homeserver, unless that one is away or has a fault, as it says itself, or answers with what
/// the protocol does not know: this is a failure on the way there, and nothing that it says passes for one of the own
/// homeserver, which would end all else that there is to do. What may be over at any moment becomes a `fault` of that side,
/// which [`Http::send`] sends again after.
fn answered(answer: http::Response<Vec<u8>>) -> postern_api::Result<http::Response<Vec<u8>>> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let error = match Response::from(answer.clone()).accepted() {
        Err(error) if error.is_passing() || error.problem().is_none() => error,
        _ => return Ok(answer),
    };
    let problem = match error.problem() {
        Some(kind) => Problem::with_detail(ProblemType::Fault, kind.slug()),
        None => Problem::with_detail(ProblemType::HomeserverRefused, error),
    };
    Err(postern_api::Error::Relay { side: Side::Gateway, problem })
}

impl Reach {
    /// Refuses a request to a homeserver that is left alone.
    ///
    /// # Errors
    /// [`postern_api::Error::Relay`]: the last failure.
    pub(crate) fn check(&self) -> Result<(), postern_api::Error> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &failures.last {
            Some(last) if last.until > Instant::now() => {
                Err(postern_api::Error::Relay { side: last.side, problem: last.problem.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Takes note of the end of a request.
    pub(crate) fn note(&self, error: Option<&postern_api::Error>) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            // The own homeserver says so, and will say something else at any moment.
            Some(postern_api::Error::Relay { side: Side::Relay, .. }) => {}
            // It may be over at the next attempt: the last one counts.
            Some(postern_api::Error::Relay { problem, .. }) if problem.kind == ProblemType::Fault => {}
            Some(postern_api::Error::Relay { side, problem }) => {
                // One that has too much to do, perhaps because somebody else sees to that, may have less at any moment.
                if problem.kind != ProblemType::Unavailable || failures.number == 0 {
                    failures.number = (failures.number + 1).min(16);
                }
                let (side, problem) = (*side, problem.clone());
                failures.last =
                    Some(Failure { side, problem, until: Instant::now() + pause(failures.number) });
            }
            Some(_) => {}
            None => (failures.number, failures.last) = (0, None),
        }
    }

    /// Takes note that an answer came and made no sense: to ask again costs as much as to ask one that does not answer.
    pub(crate) fn note_misread(&self) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.misread_at.is_some_and(|at| at.elapsed() > MISREAD_FOR) {
            failures.misread = 0;
        }
        failures.misread = (failures.misread + 1).min(16);
        failures.misread_at = Some(Instant::now());
        let problem = Problem::with_detail(
            ProblemType::HomeserverRefused,
            "its answers are not what the protocol says",
        );
        let until = Instant::now() + pause(failures.misread).min(LONGEST_MISREAD_PAUSE);
        failures.last = Some(Failure { side: Side::Gateway, problem, until });
    }
}

/// The time for which a homeserver is left alone after so many failures.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << (failures - 1)).min(LONGEST_PAUSE)
}

/// Takes note of an answer of the homeserver that an API leads to: where that is another domain's and the answer makes no
/// sense, it is left alone for a while. The way there shows no more than that something came.
pub(crate) fn noted<T>(api: &Api, answer: Result<T>) -> Result<T> {
    if let Err(Error::Server(postern_api::Error::UnexpectedAnswer(_))) = &answer {
        api.wallet.reach().note_misread();
    }
    answer
}

/// The way to another domain's homeserver, as far as it answers.
pub(super) struct Watched {
    pub(super) way: Arc<dyn Transport>,
    pub(super) reach: Arc<Reach>,
    pub(super) own: Http,
}

impl Watched {
    /// The error of a request that is not answered in time: the own homeserver, which waits for the other one, tells whose
    /// silence it is by its own.
    async fn unanswered(&self) -> postern_api::Error {
        match server::sign_of_life(&self.own).await {
            Err(error @ postern_api::Error::Unreachable(_)) => error,
            _ => silent(),
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched(…)")
    }
}

impl Transport for Watched {
    fn apart(&self) -> postern_api::Result<Option<Arc<dyn Transport>>> {
        let Some(way) = self.way.apart()? else { return Ok(None) };
        Ok(Some(Arc::new(Self { way, reach: self.reach.clone(), own: self.own.clone() })))
    }

    /// A fault of the other homeserver that did not pass is noted: it has too much to do, or is away.
    fn given_up(&self, error: postern_api::Error) -> postern_api::Error {
        match error {
            postern_api::Error::Relay { side: Side::Gateway, problem }
                if problem.kind == ProblemType::Fault =>
            {
                let problem = Problem { detail: problem.detail, ..Problem::new(ProblemType::Unavailable) };
                let error = postern_api::Error::Relay { side: Side::Gateway, problem };
                self.reach.note(Some(&error));
                error
            }
            error => error,
        }
    }

    fn carry(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_> {
        Box::pin(async move {
            self.reach.check()?;
            let carried = self.way.carry(request, Limits { time: limits.time + GRACE, ..limits });
            let answer = match timeout(limits.time, carried).await {
                Ok(answer) => answer.and_then(|answer| answered(answer).map_err(BoxError::from)),
                Err(_) => Err(self.unanswered().await.into()),
            };
            match &answer {
                Ok(_) => self.reach.note(None),
                Err(error) => {
                    if let Some(error) = error.downcast_ref() {
                        self.reach.note(Some(error));
                    }
                }
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use postern_api::Request;
    use postern_protocol::{
        Payload,
        aas::TokenKey,
        encoding::Encoding,
        federation::{Description, HomeserverShown},
        key::SigningKey,
        token::{BATCH_RESPONSE_MEDIA_TYPE, BATCH_SIZES, TOKEN_TYPE},
    };

    use super::{
        super::tests::{api_of_nobody, described_with, domain},
        *,
    };
    use crate::{clock::Clock, error::goes_on, server::tests::Home, tokens::Wallet};

    /// A way on which no answer comes.
    #[derive(Debug)]
    struct Silence;

    impl Transport for Silence {
        fn carry(&self, _: http::Request<Vec<u8>>, limits: Limits) -> Carried<'_> {
            Box::pin(async move {
                tokio::time::sleep(limits.time).await;
                Err("no answer".into())
            })
        }
    }

    /// A way on which something is answered.
    #[derive(Debug)]
    struct Presence;

    impl Transport for Presence {
        fn carry(&self, _: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            Box::pin(async { Ok(http::Response::new(Vec::new())) })
        }
    }

    /// A way on which this status and body are answered.
    #[derive(Debug)]
    struct Says(u16, Vec<u8>);

    impl Transport for Says {
        fn carry(&self, _: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            Box::pin(async { Ok(http::Response::builder().status(self.0).body(self.1.clone())?) })
        }
    }

    /// A way on which this problem is answered so many times, and then something else.
    #[derive(Debug)]
    struct Recovers(Mutex<u32>, ProblemType);

    impl Transport for Recovers {
        fn carry(&self, _: http::Request<Vec<u8>>, _: Limits) -> Carried<'_> {
            let mut left = self.0.lock().unwrap();
            let has_failed = *left > 0;
            *left = left.saturating_sub(1);
            let (status, body) = if has_failed {
                (self.1.status(), Problem::new(self.1).to_json())
            } else {
                (http::StatusCode::OK, Vec::new())
            };
            Box::pin(async move { Ok(http::Response::builder().status(status).body(body)?) })
        }
    }

    /// A way to another homeserver that does not answer, by this way to the own one.
    fn watched(own: impl Transport) -> Watched {
        between(own, Silence)
    }

    /// A way to the own homeserver, and one to another through it.
    fn between(own: impl Transport, way: impl Transport) -> Watched {
        let own = Http::through("https://home.example", own).unwrap();
        Watched { way: Arc::new(way), reach: Arc::default(), own }
    }

    /// Has a homeserver that is left alone be so for longer than any test takes.
    fn stays_left_alone(reach: &Reach) {
        let mut failures = reach.0.lock().unwrap();
        failures.last.as_mut().expect("it is left alone").until += Duration::from_secs(1000);
    }

    #[tokio::test]
    async fn a_homeserver_that_does_not_answer_is_away_and_the_own_one_is_not() {
        let way = watched(Presence);
        let limits = Limits { time: Duration::from_millis(10), bytes: 1 };
        let request = || http::Request::get("https://x.example/").body(Vec::new()).unwrap();
        let error = way.carry(request(), limits).await.unwrap_err();
        let error = Error::from(*error.downcast::<postern_api::Error>().unwrap());
        assert!(error.another_is_away() && !error.server_is_away(), "{error}");
        // That is noted.
        stays_left_alone(&way.reach);
        let limits = Limits { time: Duration::from_secs(1000), ..limits };
        assert!(way.carry(request(), limits).await.is_err(), "it is left alone for a while");
    }

    #[tokio::test]
    async fn the_own_homeserver_is_away_if_it_says_nothing_at_all_and_the_other_one_is_not_blamed() {
        let way = watched(Silence);
        let limits = Limits { time: Duration::from_millis(10), bytes: 1 };
        let request = http::Request::get("https://x.example/").body(Vec::new()).unwrap();
        let error = way.carry(request, limits).await.unwrap_err();
        let error = Error::from(*error.downcast::<postern_api::Error>().unwrap());
        assert!(error.server_is_away() && !error.another_is_away(), "{error}");
        assert!(way.reach.check().is_ok(), "it is asked again at once");
    }

    #[tokio::test]
    async fn nothing_that_another_homeserver_answers_passes_for_the_own_one_being_away() {
        let problem = |kind: &ProblemType| (kind.status().as_u16(), Problem::new(*kind).to_json());
        let plain = [302, 400, 404, 429, 500, 502, 503, 504].map(|status| (status, b"<html>".to_vec()));
        // All at once: some are sent again after pauses.
        let mut asked = tokio::task::JoinSet::new();
        for (status, body) in ProblemType::ALL.iter().map(problem).chain(plain) {
            asked.spawn(async move {
                let said = format!("{status} {}", String::from_utf8_lossy(&body));
                let way = between(Presence, Says(status, body));
                let reach = way.reach.clone();
                let http = Http::through("https://x.example", way).unwrap();
                let once = Error::from(http.send_once(&Request::get("/as/keys")).await.unwrap_err());
                assert!(!once.server_is_away(), "{said}: {once}");
                *reach.0.lock().unwrap() = Failures::default();
                (said, reach, http.send(&Request::get("/as/keys")).await.unwrap_err())
            });
        }
        while let Some(asked) = asked.join_next().await {
            let (said, reach, error) = asked.unwrap();
            let kind = error.problem();
            let (is_problem, error) = (kind.is_some(), Error::from(error));
            assert!(!error.server_is_away(), "{said}: {error}");
            assert_eq!(error.another_is_away(), !is_problem, "{said}: {error}");
            let is_left_alone = reach.0.lock().unwrap().last.is_some();
            assert_eq!(is_left_alone, !is_problem, "{said}: one that failed is left alone for a while");
            assert!(kind.is_none_or(|kind| !postern_api::Error::Refused(kind.into()).is_passing()), "{said}");
            assert!(goes_on::<()>(Err(error)).is_ok(), "{said}: the other errands go on");
        }
    }

    #[tokio::test]
    async fn a_short_fault_of_another_homeserver_fails_nothing_and_is_not_noted() {
        use ProblemType::{BodyTooSlow, Fault, SignatureUsed, Unavailable};
        for kind in [Unavailable, Fault, SignatureUsed, BodyTooSlow] {
            let way = between(Presence, Recovers(Mutex::new(1), kind));
            let reach = way.reach.clone();
            let http = Http::through("https://x.example", way).unwrap();
            let answer = http.send(&Request::get("/as/keys")).await;
            assert!(answer.is_ok_and(|answer| answer.status == 200), "{}", kind.slug());
            assert!(reach.0.lock().unwrap().last.is_none(), "{}", kind.slug());
        }
    }

    #[tokio::test]
    async fn a_lasting_fault_of_another_homeserver_is_told_as_one() {
        let http = Http::through("https://x.example", between(Presence, Says(502, Vec::new()))).unwrap();
        let error = http.send(&Request::get("/as/keys")).await.unwrap_err();
        let is_unavailable = matches!(
            &error,
            postern_api::Error::Relay { side: Side::Gateway, problem } if problem.kind == ProblemType::Unavailable
        );
        assert!(is_unavailable, "{error}");
    }

    #[test]
    fn a_homeserver_that_has_too_much_to_do_is_asked_again_in_a_second() {
        // At least and at most, since it takes time to ask.
        let pause = |kind: ProblemType| {
            let (reach, before) = (Reach::default(), Instant::now());
            for _ in 0..10 {
                let problem = Problem::with_detail(kind, "it is the other one");
                reach.note(Some(&postern_api::Error::Relay { side: Side::Gateway, problem }));
            }
            let until = reach.0.lock().unwrap().last.as_ref().map(|last| last.until);
            let until = until.expect("it is left alone");
            (until - Instant::now(), until - before)
        };
        assert!(pause(ProblemType::Unavailable).0 <= Duration::from_secs(1));
        assert!(pause(ProblemType::HomeserverUnreachable).1 > Duration::from_secs(30));
    }

    #[test]
    fn a_homeserver_whose_answers_make_no_sense_is_left_alone_for_some_seconds() {
        let reach = Reach::default();
        let until = || reach.0.lock().unwrap().last.as_ref().map(|last| last.until);
        for _ in 0..7 {
            reach.note_misread();
            assert!(until().is_some());
            // Something else that was asked makes sense.
            reach.note(None);
            assert!(until().is_none());
        }
        let before = Instant::now();
        reach.note_misread();
        let until = until().expect("it is left alone");
        let (at_least, at_most) = (until - Instant::now(), until - before);
        assert!(
            at_most > Duration::from_secs(1) && at_least <= LONGEST_MISREAD_PAUSE,
            "{at_least:?} {at_most:?}"
        );
    }

    #[tokio::test]
    async fn an_answer_that_makes_no_sense_is_noted_of_the_homeserver_that_gave_it() {
        let home = tempfile::tempdir().unwrap();
        let wallet = Wallet::elsewhere(&api_of_nobody(home.path()), &domain());
        let way = between(Presence, Says(200, b"nonsense".to_vec()));
        let way = Watched { reach: wallet.reach(), ..way };
        let other = Api::new(Http::through("https://x.example", way).unwrap(), domain(), wallet);
        let read = async || noted(&other, other.http.authentication_keys().await.map_err(Error::from));
        let error = read().await.unwrap_err();
        assert!(!error.is_passing(), "it came: {error}");
        assert_eq!(other.wallet.reach().0.lock().unwrap().misread, 1);
        stays_left_alone(&other.wallet.reach());
        let error = read().await.unwrap_err();
        assert!(error.another_is_away(), "it is not asked again at once: {error}");
    }

    /// A key that tokens are issued with: the base point of Ristretto255 (RFC 9496 §4).
    const TOKEN_KEY: &str = "4vKuCmq8TnGohKlhxQBRX1jjC2qlgt2NtqZZReCNLXY=";

    #[tokio::test]
    async fn tokens_that_do_not_verify_are_noted_of_the_homeserver_that_issued_them() {
        let signer = SigningKey::generate();
        let home = Home::answering(move |path| {
            let (media_type, body) = if path.ends_with("/token-request") {
                (BATCH_RESPONSE_MEDIA_TYPE, b"nonsense".to_vec())
            } else {
                let key =
                    TokenKey { token_type: TOKEN_TYPE, token_key: TOKEN_KEY.to_owned(), not_before: None };
                let with_key = |it: &mut Description| it.issuer.token_keys.push(key);
                let description = described_with(&[&signer], Clock::default().now(), 0, with_key);
                let shown = HomeserverShown { description: Payload::new(description) };
                (Encoding::Cbor.media_type(), Encoding::Cbor.encode(&shown))
            };
            Ok(http::Response::builder().header("content-type", media_type).body(body)?)
        });
        // The own homeserver is paid for handing requests on: there are so many of its tokens that no others are fetched.
        let sql = "WITH RECURSIVE numbers (number) AS
                       (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 100)
                   INSERT INTO tokens (token, domain, issuer_key)
                   SELECT CAST(number AS BLOB), 'home.example', x'00' FROM numbers";
        home.store.write(|tx| Ok(tx.sql().execute(sql, [])?)).unwrap();
        let wallet = Wallet::elsewhere(&home.api, &domain());
        let error = wallet.fetch(BATCH_SIZES[0]).await.unwrap_err();
        assert!(error.to_string().contains("tokens that do not verify"), "{error}");
        assert_eq!(wallet.reach().0.lock().unwrap().misread, 1);
        stays_left_alone(&wallet.reach());
        let error = wallet.fetch(BATCH_SIZES[0]).await.unwrap_err();
        assert!(error.another_is_away(), "it is not asked again at once: {error}");
    }

    #[tokio::test]
    async fn no_token_is_bought_of_a_homeserver_that_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let wallet = Wallet::elsewhere(&api_of_nobody(home.path()), &domain());
        wallet.reach().note(Some(&silent()));
        stays_left_alone(&wallet.reach());
        let error = wallet.take().await.err().expect("there is none");
        assert!(error.another_is_away(), "the own homeserver, which would take one, is not asked: {error}");
        let problem = ProblemType::HomeserverBlocked.into();
        wallet.reach().note(Some(&postern_api::Error::Relay { side: Side::Gateway, problem }));
        stays_left_alone(&wallet.reach());
        let error = wallet.take().await.err().expect("there is none");
        assert!(error.to_string().contains("blocked"), "the reason is told meanwhile: {error}");
    }
}
