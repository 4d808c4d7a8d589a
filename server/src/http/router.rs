//! The router: it makes one warp filter of the routes, and leads each request through its door.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Buf;
use futures_util::{FutureExt, Stream, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use postern_protocol::{
    problem::{Problem, ProblemType},
    signature::{VerifiedHead, normalized},
    token::{self, TokenType},
};
use tokio::sync::oneshot;
use warp::{Filter, filters::BoxedFilter, path::FullPath};

use super::{
    activity::Arrival,
    answer::{Failure, Outcome, Response, problem_response},
    body::{Bodies, Body, Incoming, announced_length},
    cors::Origins,
    enclosed::Enclosed,
    gate::Gate,
    observed::{Observation, RequestFigures, TokenFate, Via},
    payment::Payment,
    rate_limit::RateLimit,
    request::{RawRequest, Request, UsedSignature},
    route::{Admission, Door, Route},
    shown_tokens::{Fate, ShownTokens},
    source::SourceAddress,
};
use crate::home::Home;

/// The part that all routes share: the home, the gate, the memory for bodies, and the services' state.
struct Server<S> {
    home: Home,
    gate: Arc<dyn Gate>,
    bodies: Bodies,
    state: S,
    routes: Vec<Route<S>>,
    shown: Arc<ShownTokens>,
    origins: Origins,
    figures: RequestFigures,
}

/// The routes as one warp filter, which answers requests that no route takes with a problem.
pub fn filter<S: Clone + Send + Sync + 'static>(
    home: &Home,
    gate: Arc<dyn Gate>,
    state: S,
    routes: Vec<Route<S>>,
    origins: Origins,
    figures: RequestFigures,
) -> BoxedFilter<(warp::reply::Response,)> {
    let shown = Arc::new(ShownTokens::new(home.limits.remembered_tokens));
    let bodies = Bodies::new(&home.limits);
    figures.begin(&routes);
    let home = home.clone();
    let server = Arc::new(Server { home, gate, bodies, state, routes, shown, origins, figures });
    warp::method()
        .and(warp::path::full())
        .and(warp::query::raw().map(Some).or(warp::any().map(|| None)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Arrival>())
        .and(warp::body::stream())
        .then(move |method, path, query, headers, arrival, body| {
            let server = server.clone();
            async move { server.respond(method, path, query, headers, arrival, body).await }
        })
        .boxed()
}

/// The entry of the table of routes for a path and method.
enum Found<'a, S> {
    /// A route, and the parameters in the path.
    Route(&'a Route<S>, Vec<String>),
    /// The path's methods (RFC 9110 §10.2.1), of which none is the request's.
    OtherMethods(HeaderValue),
    Nothing,
}

impl<S: Clone + Send + Sync + 'static> Server<S> {
    async fn respond<B: Buf + Send + 'static>(
        self: Arc<Self>,
        method: Method,
        path: FullPath,
        query: Option<String>,
        headers: HeaderMap,
        arrival: Arrival,
        body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
    ) -> warp::reply::Response {
        let origin = headers.get(header::ORIGIN).cloned();
        let mut observation = self.figures.observe(Via::Connection);
        let mut response = match self.find(&method, path.as_str()) {
            Found::Nothing => problem_response(&ProblemType::NotFound.into(), None),
            Found::OtherMethods(allow) => {
                self.origins.preflight(&method, &headers, &allow).unwrap_or_else(|| {
                    problem_response(&ProblemType::MethodNotAllowed.into(), Some((header::ALLOW, allow)))
                })
            }
            Found::Route(route, segments) => {
                observation.goes_to(route);
                let authority = self.home.domain.clone();
                let (method, signature) = (method.clone(), UsedSignature::default());
                let (source, path) = (arrival.source(), path.as_str().to_owned());
                let max_body = route.max_body(self.home.limits.max_body_bytes);
                let bodies = self.bodies.lasting(route.more_time(announced_length(&headers)));
                let body = bodies.arriving(arrival, &headers, body, max_body);
                let head = None;
                let raw =
                    RawRequest { method, authority, path, segments, query, headers, source, head, signature };
                self.clone().enter(route, raw, body).await
            }
        };
        self.origins.mark(origin, &mut response);
        observation.end(&response);
        finish(&method, response)
    }

    /// The answer to a request that was enclosed in another one of this source.
    fn respond_enclosed(
        self: Arc<Self>,
        source: SourceAddress,
        request: Result<http::Request<Body>, Problem>,
    ) -> BoxFuture<'static, Response> {
        Box::pin(async move {
            let mut observation = self.figures.observe(Via::Gateway);
            let response = self.answer_enclosed(source, request, &mut observation).await;
            observation.end(&response);
            response
        })
    }

    async fn answer_enclosed(
        self: Arc<Self>,
        source: SourceAddress,
        request: Result<http::Request<Body>, Problem>,
        observation: &mut Observation,
    ) -> Response {
        let (head, body) = match request {
            Ok(request) => request.into_parts(),
            Err(problem) => return problem_response(&problem, None),
        };
        let refused = |kind: ProblemType| problem_response(&kind.into(), None);
        if head.uri.authority().map(http::uri::Authority::as_str) != Some(self.home.domain.as_str()) {
            return refused(ProblemType::ForeignDomain);
        }
        let (route, segments) = match self.find(&head.method, head.uri.path()) {
            Found::Route(route, segments) if route.takes_enclosed() => (route, segments),
            _ => return refused(ProblemType::NotFound),
        };
        observation.goes_to(route);
        if body.len() as u64 > route.max_body(self.home.limits.max_body_bytes) {
            return refused(ProblemType::BodyTooLarge);
        }
        let is_head = head.method == Method::HEAD;
        let raw = RawRequest {
            method: head.method,
            authority: self.home.domain.clone(),
            path: head.uri.path().to_owned(),
            segments,
            query: head.uri.query().map(str::to_owned),
            headers: head.headers,
            source,
            head: None,
            signature: UsedSignature::default(),
        };
        let mut response = self.clone().enter(route, raw, body).await;
        if is_head {
            response.body_mut().clear();
        }
        response
    }

    fn find(&self, method: &Method, path: &str) -> Found<'_, S> {
        let path = normalized(path);
        let segments: Vec<_> = path.split('/').skip(1).collect();
        let mut methods = Vec::new();
        for route in &self.routes {
            let Some(parameters) = route.parameters(&segments) else { continue };
            if route.takes(method) {
                return Found::Route(route, parameters);
            }
            methods.extend(route.methods());
        }
        if methods.is_empty() {
            return Found::Nothing;
        }
        let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
        let allow = HeaderValue::try_from(methods.join(", ")).expect("methods are visible ASCII");
        Found::OtherMethods(allow)
    }

    async fn enter(self: Arc<Self>, route: &Route<S>, raw: RawRequest, body: impl Incoming) -> Response {
        if !raw.method.is_safe() && self.home.commits_hang() {
            return self.answer(Err(ProblemType::Unavailable.into()));
        }
        let admission = route.admission;
        let outcome = match route.door {
            Door::Open(endpoint) => {
                let outcome = async {
                    let request = self.whole(admission, raw, body).await?;
                    endpoint(&self.state, request).await
                };
                outcome.await
            }
            Door::Enclosing(endpoint) => {
                let outcome = async {
                    let request = self.whole(admission, raw, body).await?;
                    let Enclosed { source, request, hand_over } = endpoint(&self.state, request).await?;
                    hand_over(self.clone().respond_enclosed(source, request)).await
                };
                outcome.await
            }
            Door::Paid(endpoint) => match self.redeem(route.name, &raw).await {
                Ok((kind, payment)) => {
                    let handled = {
                        let (server, payment) = (self.clone(), payment.clone());
                        async move {
                            let mut request = server.whole(admission, raw, body).await?;
                            let turn = payment.take_turn(&server.shown, &server.home.database);
                            request.while_waiting(turn).await?;
                            endpoint(&server.state, request, payment).await
                        }
                    };
                    let outcome = self.clone().settled(payment, handled).await;
                    self.figures.token(kind, TokenFate::of(&outcome));
                    outcome
                }
                Err(failure) => Err(failure),
            },
        };
        self.answer(outcome)
    }

    /// The request with its body, which is read once the request's signer is admitted, if the route asks for that.
    async fn whole(
        &self,
        admission: Option<Admission<S>>,
        mut raw: RawRequest,
        body: impl Incoming,
    ) -> Result<Request, Failure> {
        let admitted = async {
            let Some(admit) = admission else { return Ok(Duration::MAX) };
            let signer = raw.verify_head()?;
            admit(&self.state, signer, raw.source).await?;
            Ok::<_, Failure>(raw.head.map_or(Duration::MAX, VerifiedHead::left))
        };
        let body = body.read(Box::pin(admitted)).await?;
        Ok(raw.with_body(body)?)
    }

    /// Verifies the request's token, unless it is known to be spent. The database finds out later whether it was spent
    /// before.
    async fn redeem(
        &self,
        endpoint: &'static str,
        raw: &RawRequest,
    ) -> Result<(TokenType, Payment), Failure> {
        let shown = raw.headers.get(header::AUTHORIZATION);
        let token = shown.and_then(|value| token::parse_authorization(value).ok());
        let token = token.ok_or(ProblemType::TokenRequired)?;
        let (kind, id) = (token.token_type(), self.shown.id(&token));
        if self.shown.fate(id) == Some(Fate::Spent) {
            self.figures.token(kind, TokenFate::SpentBefore);
            return Err(ProblemType::TokenSpent.into());
        }
        let Some(token) = self.gate.redeem(token, raw.source).await? else {
            self.figures.token(kind, TokenFate::Unknown);
            return Err(ProblemType::TokenRequired.into());
        };
        Ok((kind, Payment::new(token, endpoint, raw.signature.clone(), id)))
    }

    /// Handles a request and settles its token, in a task of its own: a client that hangs up meanwhile pays as others
    /// do. Once the token is settled there is nothing more to do for nobody, such as to wait for messages.
    async fn settled(
        self: Arc<Self>,
        payment: Payment,
        handled: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        let (waiting, gone) = oneshot::channel::<Infallible>();
        let task = tokio::spawn(async move {
            let nobody = async {
                let _ = gone.await;
                payment.settled().await;
            };
            // A panic is a fault as others are, so that its request is not good again.
            let handled = AssertUnwindSafe(handled).catch_unwind();
            let outcome = tokio::select! {
                biased;
                outcome = handled => outcome
                    .unwrap_or_else(|_| Err(Failure::fault(anyhow::anyhow!("an endpoint panicked")))),
                () = nobody => return None,
            };
            Some(payment.settle(&self.home.database, self.gate.as_ref(), outcome).await)
        });
        let outcome = task.await.map_err(Failure::fault)?;
        drop(waiting);
        outcome.unwrap_or_else(|| Err(Failure::fault(anyhow::anyhow!("nobody waits for the answer"))))
    }

    fn answer(&self, outcome: Outcome) -> Response {
        let failure = match outcome {
            Ok(answer) => return answer.into_response(),
            Err(failure) => failure,
        };
        let limit = match &failure {
            Failure::Limited(_, limit) => Some(*limit),
            _ => None,
        };
        let problem = failure.into_problem();
        let remedy = match problem.kind {
            ProblemType::TokenRequired | ProblemType::TokenSpent => {
                Some((header::WWW_AUTHENTICATE, self.gate.challenge()))
            }
            // Reservations become free when groups are created, and by the hourly upkeep.
            ProblemType::TooManyReservations => Some((header::RETRY_AFTER, HeaderValue::from(60 * 60))),
            ProblemType::TooManyRendezvous => Some((header::RETRY_AFTER, HeaderValue::from(60))),
            ProblemType::Unavailable => Some((header::RETRY_AFTER, HeaderValue::from(1))),
            _ => limit.map(RateLimit::retry_after),
        };
        let mut response = problem_response(&problem, remedy);
        if let Some(limit) = limit {
            limit.write(response.headers_mut());
        }
        response
    }
}

/// The response as it is sent: without its body to HEAD (RFC 9110 §9.3.2), with the same headers.
fn finish(method: &Method, response: Response) -> warp::reply::Response {
    let (mut head, body) = response.into_parts();
    if *method != Method::HEAD {
        return warp::reply::Response::from_parts(head, body.into());
    }
    if head.status != StatusCode::NO_CONTENT {
        head.headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    warp::reply::Response::from_parts(head, warp::reply::Response::default().into_body())
}
