//! The bodies of requests. Each is read within bounds of size, time and rate, and all that are held at a moment share one
//! budget of memory: half-sent bodies take no memory and no attention of the server from others (OPS-9).

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Buf;
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, header};
use postern_protocol::{
    federation::Deliveries,
    problem::{Problem, ProblemType},
    signature::SignatureError,
};
use tokio::{
    select,
    time::{Instant, timeout, timeout_at},
};

use super::{
    activity::Arrival,
    answer::Failure,
    memory::{Budget, Memory},
    source::SourceAddress,
};
use crate::config::Limits;

/// Time within which a body must grow by what the least rate asks for.
const WINDOW: Duration = Duration::from_secs(10);
/// The same for a homeserver's body, which comes frame by frame: one comes in this time over the slowest line, also if those of all
/// other lanes come before it.
const SLOW_WINDOW: Duration = Duration::from_secs(32);
const _: () = assert!(
    SLOW_WINDOW.as_secs() >= Deliveries::carriage(Deliveries::LANES as usize * Deliveries::FRAME).as_secs()
);
/// Time for which the rest of a body that was refused is read, and what may come in it: a client that is still sending
/// would not read the refusal.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// The memory for the bodies of all requests, and the bounds of each. Cheap to clone.
#[derive(Clone)]
pub struct Bodies {
    bounds: Bounds,
    budget: Budget,
}

/// The bounds of each body.
#[derive(Clone, Copy)]
struct Bounds {
    bytes: u64,
    /// Time for the whole of it.
    time: Duration,
    /// Time within which it must grow by so many bytes.
    window: Duration,
    least: usize,
    /// The same for one that may come over the slowest line, which must grow by a frame at most.
    slow_window: Duration,
}

/// A whole body, and its part of the budget, which it holds as long as it lives.
pub struct Body {
    bytes: Vec<u8>,
    memory: Memory,
}

/// The admission of a request, with the time within which its body is of use: as long as the signature counts.
pub type Admitted<'a> = BoxFuture<'a, Result<Duration, Failure>>;

/// A body of which nothing was read yet.
pub trait Incoming: Send + 'static {
    /// Reads it to its end, once its request is admitted; of another one nothing is read.
    ///
    /// # Errors
    /// Those of the admission; a body that is too large, too slow, or ends early; a lack of memory for it.
    fn read(self, admitted: Admitted<'_>) -> BoxFuture<'_, Result<Body, Failure>>;
}

/// The body of a request that came over a connection.
pub struct Arriving<S> {
    bodies: Bodies,
    arrival: Arrival,
    announced: Announced,
    max_bytes: u64,
    body: S,
}

/// The announcement of a body in its request's header.
#[derive(Clone, Copy, Default)]
struct Announced {
    length: Option<u64>,
    /// Whether the client sends it only when it is told to go on (RFC 9110 §10.1.1).
    is_held_back: bool,
}

impl<S, B> Incoming for Arriving<S>
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf + Send + 'static,
{
    fn read(self, admitted: Admitted<'_>) -> BoxFuture<'_, Result<Body, Failure>> {
        let Self { bodies, arrival, announced, max_bytes, body } = self;
        Box::pin(async move {
            let body = bodies.read(arrival.source(), announced, body, max_bytes, admitted).await;
            arrival.is_over();
            body
        })
    }
}

/// A body that came in another one, and is here.
impl Incoming for Body {
    fn read(self, admitted: Admitted<'_>) -> BoxFuture<'_, Result<Body, Failure>> {
        Box::pin(async move {
            admitted.await?;
            Ok(self)
        })
    }
}

impl Bodies {
    pub fn new(limits: &Limits) -> Self {
        let least = limits.body_bytes_per_second.saturating_mul(WINDOW.as_secs());
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        let (bytes, time) = (limits.largest_body(), limits.body_timeout());
        let bounds = Bounds { bytes, time, window: WINDOW, least, slow_window: SLOW_WINDOW };
        Self::within(bounds, limits.bodies_bytes)
    }

    fn within(bounds: Bounds, budget: u64) -> Self {
        Self { bounds, budget: Budget::new(budget, bounds.bytes) }
    }

    /// The same bodies, each of which may take so much longer in all, if that is some time at all, and then come as slowly as over
    /// the slowest line, whatever the operator asks of others.
    pub fn lasting(&self, longer: Duration) -> Self {
        if longer.is_zero() {
            return self.clone();
        }
        let Bounds { time, least, slow_window, .. } = self.bounds;
        let (time, least) = (time.saturating_add(longer), least.min(Deliveries::FRAME));
        let bounds = Bounds { time, window: slow_window, least, ..self.bounds };
        Self { bounds, budget: self.budget.clone() }
    }

    /// The body that comes with a request of these headers, of at most so many bytes.
    pub fn arriving<S>(&self, arrival: Arrival, headers: &HeaderMap, body: S, max_bytes: u64) -> Arriving<S> {
        Arriving { bodies: self.clone(), arrival, announced: Announced::by(headers), max_bytes, body }
    }

    /// Reads a body of at most so many bytes to its end, whether or not its length was announced. One that announces too
    /// much, and one whose request is not admitted, is refused before anything is read.
    ///
    /// # Errors
    /// `body-too-large`, `body-too-slow`, `malformed-request` for a body that ends early, `signature-required` for one that takes
    /// longer than its signature counts; a lack of memory for it; those of the admission.
    async fn read<S, B>(
        &self,
        source: SourceAddress,
        announced: Announced,
        body: S,
        max_bytes: u64,
        admitted: Admitted<'_>,
    ) -> Result<Body, Failure>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
        B: Buf + Send + 'static,
    {
        let mut body: Pin<Box<S>> = Box::pin(body);
        let bounds = Bounds { bytes: self.bounds.bytes.min(max_bytes), ..self.bounds };
        let admitted = match announced.length {
            Some(length) if length > bounds.bytes => Err(bounds.too_large().into()),
            _ => admitted.await,
        };
        let left = match admitted {
            Ok(left) => left,
            Err(failure) => {
                // To read on would tell a client that holds the body back to send it.
                if !announced.is_held_back {
                    tokio::spawn(timeout(LINGER, discard(body)));
                }
                return Err(failure);
            }
        };
        let whole = timeout(left, self.read_whole(source, body.as_mut(), bounds)).await;
        let whole = whole.unwrap_or_else(|_| Err(outdated().into()));
        if matches!(&whole, Err(Failure::Refused(problem)) if problem.kind == ProblemType::BodyTooLarge) {
            tokio::spawn(timeout(LINGER, discard(body)));
        }
        whole
    }

    async fn read_whole<B: Buf>(
        &self,
        source: SourceAddress,
        mut body: Pin<&mut impl Stream<Item = Result<B, warp::Error>>>,
        bounds: Bounds,
    ) -> Result<Body, Failure> {
        let mut memory = self.budget.for_body(source);
        let mut bytes = Vec::new();
        let mut pace = Pace::new(bounds);
        loop {
            let chunk = select! {
                chunk = pace.next(body.as_mut()) => chunk?,
                evicted = memory.evicted() => return Err(evicted),
            };
            let Some(chunk) = chunk else { break };
            let mut chunk = chunk
                .map_err(|_| Problem::with_detail(ProblemType::MalformedRequest, "the body ended early"))?;
            if (bytes.len() + chunk.remaining()) as u64 > bounds.bytes {
                return Err(bounds.too_large().into());
            }
            memory.grow_to(bytes.len() + chunk.remaining()).await?;
            pace.received(chunk.remaining());
            while chunk.has_remaining() {
                let part = chunk.chunk();
                bytes.extend_from_slice(part);
                let length = part.len();
                chunk.advance(length);
            }
        }
        memory.complete()?;
        Ok(Body { bytes, memory })
    }
}

impl Bounds {
    fn too_large(self) -> Problem {
        let detail = format_args!("a body can have at most {} bytes here", self.bytes);
        Problem::with_detail(ProblemType::BodyTooLarge, detail)
    }
}

/// The problem of a request whose signature ended while its body came: one of the two clocks may be wrong.
fn outdated() -> Problem {
    Problem::with_detail(ProblemType::SignatureRequired, SignatureError::NotFresh)
}

impl Announced {
    fn by(headers: &HeaderMap) -> Self {
        let length = announced_length(headers);
        let expects = headers.get(header::EXPECT).map(HeaderValue::as_bytes);
        let is_held_back = expects.is_some_and(|word| word.eq_ignore_ascii_case(b"100-continue"));
        Self { length, is_held_back }
    }
}

/// The length of the body that comes with a request of these headers, if it is said.
pub fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Body {
    /// Waits for something. Meanwhile the body gives way to those of others, as one does that is not whole yet.
    ///
    /// # Errors
    /// Those of the wait; a body that gave way.
    pub async fn while_waiting<T>(
        &mut self,
        wait: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut wait = pin!(wait);
        if let Some(at_once) = wait.as_mut().now_or_never() {
            return at_once;
        }
        self.memory.wait();
        let waited = select! {
            biased;
            evicted = self.memory.evicted() => return Err(evicted),
            waited = wait => waited?,
        };
        self.memory.complete()?;
        Ok(waited)
    }

    /// Another body, which was in this one and takes what it needs of its part of the budget.
    pub fn replaced_by(mut self, bytes: Vec<u8>) -> Self {
        self.memory.shrink_to(bytes.len());
        Self { bytes, ..self }
    }

    /// The bytes, which go elsewhere: they count until this is dropped.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The pace at which a body comes: it has a time in all, and must grow by so much in each window.
struct Pace {
    bounds: Bounds,
    end: Instant,
    window_end: Instant,
    /// Bytes that are missing in this window.
    missing: usize,
}

impl Pace {
    fn new(bounds: Bounds) -> Self {
        let now = Instant::now();
        Self { bounds, end: now + bounds.time, window_end: now + bounds.window, missing: bounds.least }
    }

    /// The next part of the body.
    async fn next<T>(&mut self, mut body: Pin<&mut impl Stream<Item = T>>) -> Result<Option<T>, Problem> {
        loop {
            if let Ok(next) = timeout_at(self.end.min(self.window_end), body.next()).await {
                return Ok(next);
            }
            if Instant::now() >= self.end || self.missing > 0 {
                return Err(ProblemType::BodyTooSlow.into());
            }
            self.window_end = Instant::now() + self.bounds.window;
            self.missing = self.bounds.least;
        }
    }

    fn received(&mut self, bytes: usize) {
        self.missing = self.missing.saturating_sub(bytes);
    }
}

/// Reads what still comes of a body, up to a bound.
async fn discard<B: Buf>(mut body: Pin<Box<impl Stream<Item = Result<B, warp::Error>>>>) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(chunk)) = body.next().await {
        left = left.saturating_sub(chunk.remaining());
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const WINDOW: Duration = Duration::from_millis(200);
    const LAX: Bounds = Bounds { bytes: 100_000, time: HOUR, window: HOUR, least: 0, slow_window: HOUR };

    fn source(last: u8) -> SourceAddress {
        SourceAddress::of([192, 0, 2, last].into())
    }

    /// A body that comes in parts, with a pause before each.
    fn parts(
        number: usize,
        size: usize,
        pause: Duration,
    ) -> impl Stream<Item = Result<Bytes, warp::Error>> + Send + 'static {
        stream::iter(0..number).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from(vec![7; size]))
        })
    }

    /// The admission of a request of anybody's.
    fn admitted() -> Admitted<'static> {
        Box::pin(std::future::ready(Ok(Duration::MAX)))
    }

    async fn read(
        bounds: Bounds,
        body: impl Stream<Item = Result<Bytes, warp::Error>> + Send + 'static,
    ) -> Result<usize, String> {
        let bodies = Bodies::within(bounds, 1_000_000);
        let read = bodies.read(source(1), Announced::default(), body, u64::MAX, admitted()).await;
        read.map(|body| body.len()).map_err(|failure| failure.to_string())
    }

    #[tokio::test]
    async fn a_body_has_a_size_a_time_and_a_rate() {
        let pause = Duration::from_millis(5);
        let (slow, large) = (ProblemType::BodyTooSlow.title(), ProblemType::BodyTooLarge.title());
        assert_eq!(read(LAX, parts(50, 1000, pause)).await, Ok(50_000));
        assert_eq!(read(LAX, parts(0, 0, pause)).await, Ok(0));
        assert_eq!(read(LAX, parts(101, 1000, pause)).await, Err(large.to_owned()));
        let rate = Bounds { window: WINDOW, least: 20, ..LAX };
        assert_eq!(read(rate, parts(100, 500, pause)).await, Ok(50_000), "over several windows");
        assert_eq!(read(rate, parts(1, 500, HOUR)).await, Err(slow.to_owned()), "nothing comes");
        let stalls = parts(1, 500, pause).chain(parts(1, 500, HOUR));
        assert_eq!(read(rate, stalls).await, Err(slow.to_owned()), "nothing comes any more");
        let rate = Bounds { least: 1000, ..rate };
        assert_eq!(read(rate, parts(10_000, 1, pause)).await, Err(slow.to_owned()), "little comes");
        let time = Bounds { time: WINDOW, ..LAX };
        assert_eq!(read(time, parts(10_000, 1, pause)).await, Err(slow.to_owned()), "it takes too long");
    }

    #[tokio::test]
    async fn a_body_that_may_take_longer_than_others_does() {
        let bodies = Bodies::within(Bounds { time: WINDOW, ..LAX }, 1_000_000);
        let whole = async |bodies: &Bodies| {
            let body = parts(50, 1000, Duration::from_millis(10));
            let read = bodies.read(source(1), Announced::default(), body, u64::MAX, admitted()).await;
            read.map(|body| body.len()).map_err(|failure| failure.to_string())
        };
        assert_eq!(whole(&bodies).await, Err(ProblemType::BodyTooSlow.title().to_owned()));
        assert_eq!(whole(&bodies.lasting(HOUR)).await, Ok(50_000));
    }

    /// Nothing is to be seen of a frame before it is whole.
    #[tokio::test]
    async fn a_body_that_may_come_over_the_slowest_line_comes_frame_by_frame() {
        const FRAME: usize = Deliveries::FRAME;
        let slow = || Err(ProblemType::BodyTooSlow.title().to_owned());
        let bounds = Bounds { window: WINDOW, least: usize::MAX, ..LAX };
        let bodies = Bodies::within(bounds, 1_000_000);
        let whole = async |bodies: &Bodies, part: usize| {
            let body = parts(3, part, 2 * WINDOW);
            let read = bodies.read(source(1), Announced::default(), body, u64::MAX, admitted()).await;
            read.map(|body| body.len()).map_err(|failure| failure.to_string())
        };
        assert_eq!(whole(&bodies, FRAME).await, slow());
        assert_eq!(whole(&bodies.lasting(Duration::ZERO), FRAME).await, slow());
        assert_eq!(whole(&bodies.lasting(HOUR), FRAME).await, Ok(3 * FRAME));
        let bodies = Bodies::within(Bounds { slow_window: WINDOW, ..bounds }, 1_000_000);
        assert_eq!(whole(&bodies.lasting(HOUR), FRAME / 2).await, slow(), "none is whole in time");
        for (least, of_homeservers) in [(usize::MAX, FRAME), (FRAME + 1, FRAME), (1, 1)] {
            let bodies = Bodies::within(Bounds { least, ..bounds }, 1_000_000);
            assert_eq!(bodies.lasting(HOUR).bounds.least, of_homeservers, "a frame in a window is enough");
        }
    }

    #[test]
    fn a_frame_comes_over_the_slowest_line_before_anybody_asks_for_a_sign_of_life() {
        let frame = Deliveries::carriage(Deliveries::LANES_AT_ONCE * Deliveries::FRAME);
        assert!(2 * frame < Limits::default().http2_ping(), "{frame:?}");
    }

    #[tokio::test]
    async fn a_body_that_outlives_its_signature_says_something_of_clocks() {
        for (time, expected) in
            [(HOUR, ProblemType::SignatureRequired), (WINDOW / 4, ProblemType::BodyTooSlow)]
        {
            let bodies = Bodies::within(Bounds { time, ..LAX }, 1_000_000);
            let ends = Box::pin(std::future::ready(Ok::<_, Failure>(WINDOW)));
            let body = parts(10_000, 1, Duration::from_millis(5));
            let read = bodies.read(source(1), Announced::default(), body, u64::MAX, ends).await;
            let problem = read.err().map(Failure::into_problem).expect("it takes too long");
            assert_eq!(problem.kind, expected);
            let says_so = problem.detail.is_some_and(|detail| detail.contains("check the clock"));
            assert_eq!(says_so, expected == ProblemType::SignatureRequired);
        }
    }

    #[tokio::test]
    async fn a_wait_ends_when_the_body_gives_way() {
        let bounds = Bounds { bytes: 10_000, ..LAX };
        let bodies = Bodies::within(bounds, 40_000);
        let whole = async |last, bytes| {
            let body = parts(1, bytes, Duration::ZERO);
            bodies.read(source(last), Announced::default(), body, u64::MAX, admitted()).await
        };
        let mut held = Vec::new();
        for last in 1..=3 {
            held.push(whole(last, 10_000).await.expect("there is room"));
        }
        let mut waiting = held.remove(0);
        let never = std::future::pending::<Result<(), Failure>>();
        // The second one holds less than the one that waits.
        let others = async { (whole(4, 10_000).await, whole(5, 5_000).await) };
        let (ended, (fourth, fifth)) = tokio::join!(waiting.while_waiting(never), others);
        assert!(ended.is_err() && fourth.is_ok());
        let mut waiting = fifth.expect("there is room for it");
        waiting.while_waiting(async { Ok(()) }).await.expect("it need not wait");
        let pause = async {
            tokio::time::sleep(WINDOW).await;
            Ok(7)
        };
        assert_eq!(waiting.while_waiting(pause).await.expect("nobody needs its memory"), 7);
    }

    #[tokio::test]
    async fn a_body_that_has_waited_gives_way_no_more() {
        let bounds = Bounds { bytes: 10_000, ..LAX };
        let bodies = Bodies::within(bounds, 20_000);
        let whole = async |last, bytes| {
            let body = parts(1, bytes, Duration::ZERO);
            bodies.read(source(last), Announced::default(), body, u64::MAX, admitted()).await
        };
        let mut first = whole(1, 10_000).await.expect("there is room");
        let second = whole(2, 10_000).await.expect("there is room");
        let pause = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        };
        first.while_waiting(pause).await.expect("nobody needs its memory");
        assert!(whole(3, 1000).await.is_err(), "it is in use, as the other one is");
        drop((first, second));
        whole(3, 1000).await.expect("there is room again");
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, "100001".parse().unwrap())]);
        let short = Announced { length: Some(1001), ..Announced::default() };
        for (announced, most) in [(Announced::by(&headers), u64::MAX), (short, 1000)] {
            let bodies = Bodies::within(LAX, 1_000_000);
            // Nobody even asks whether it is admitted.
            let never = Box::pin(std::future::pending::<Result<Duration, Failure>>());
            let read = bodies.read(source(1), announced, parts(2, 1000, HOUR), most, never).await;
            let refused = read.err().map(|failure| failure.to_string());
            assert_eq!(refused.as_deref(), Some("The body is too large"));
        }
    }

    #[tokio::test]
    async fn nothing_is_read_of_a_body_whose_request_is_not_admitted() {
        let headers = HeaderMap::from_iter([(header::EXPECT, "100-Continue".parse().unwrap())]);
        let announced = Announced::by(&headers);
        assert!(announced.is_held_back && !Announced::by(&HeaderMap::new()).is_held_back);
        let bodies = Bodies::within(LAX, 1_000_000);
        let (asked, body) = (Arc::new(Mutex::new(0)), parts(2, 1000, Duration::ZERO));
        let counted = asked.clone();
        let body = body.inspect(move |_| *counted.lock().unwrap() += 1);
        let refused = Err::<Duration, _>(Failure::from(ProblemType::NotAllowed));
        let refused = Box::pin(std::future::ready(refused));
        let read = bodies.read(source(1), announced, body, u64::MAX, refused).await;
        let problem = read.err().map(|failure| failure.to_string());
        assert_eq!(problem.as_deref(), Some(ProblemType::NotAllowed.title()));
        assert_eq!(*asked.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_route_that_takes_little_reads_no_more_than_that() {
        let bodies = Bodies::within(LAX, 1_000_000);
        let (sent, body) = (Arc::new(Mutex::new(0)), parts(50, 1000, Duration::ZERO));
        let counted = sent.clone();
        let body = body.inspect(move |_| *counted.lock().unwrap() += 1);
        let read = bodies.bounds;
        let read = bodies.read_whole(source(1), std::pin::pin!(body), Bounds { bytes: 4000, ..read }).await;
        assert_eq!(read.err().map(|failure| failure.to_string()).as_deref(), Some("The body is too large"));
        assert_eq!(*sent.lock().unwrap(), 5, "the part that is too much is the last one");
    }
}
