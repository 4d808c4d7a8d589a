//! The router: it makes one warp filter of the routes, and leads each request through its door.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc};

use bytes::Buf;
use futures_util::{FutureExt, Stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use postern_protocol::{problem::ProblemType, signature::normalized, token};
use tokio::sync::oneshot;
use warp::{Filter, filters::BoxedFilter, path::FullPath};

use super::{
    answer::{Failure, Outcome, Response, problem_response},
    body::{self, Bodies, Body},
    connections::Arrival,
    cors::Origins,
    gate::Gate,
    payment::Payment,
    rate_limit::RateLimit,
    request::{RawRequest, UsedSignature},
    route::{Door, Route},
    shown::{Fate, ShownTokens},
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
}

/// The routes as one warp filter, which answers requests that no route takes with a problem.
pub fn filter<S: Clone + Send + Sync + 'static>(
    home: &Home,
    gate: Arc<dyn Gate>,
    state: S,
    routes: Vec<Route<S>>,
    origins: Origins,
) -> BoxedFilter<(warp::reply::Response,)> {
    let shown = Arc::new(ShownTokens::new(home.limits.remembered_tokens));
    let bodies = Bodies::new(&home.limits);
    let server = Arc::new(Server { home: home.clone(), gate, bodies, state, routes, shown, origins });
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

/// What the table of routes has for a path and method.
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
        let mut response = match self.find(&method, path.as_str()) {
            Found::Nothing => problem_response(&ProblemType::NotFound.into(), None),
            Found::OtherMethods(allow) => {
                self.origins.preflight(&method, &headers, &allow).unwrap_or_else(|| {
                    problem_response(&ProblemType::MethodNotAllowed.into(), Some((header::ALLOW, allow)))
                })
            }
            Found::Route(route, segments) => {
                let authority = self.home.domain.clone();
                let (method, signature) = (method.clone(), UsedSignature::default());
                let (announced, source) = (body::announced(&headers), arrival.source());
                let raw = RawRequest { method, authority, path, segments, query, headers, source, signature };
                let (name, door, bodies) = (route.name, route.door, self.bodies.clone());
                let max_body = route.max_body(self.home.limits.max_body_bytes);
                let body = async move {
                    let body = bodies.read(source, announced, body, max_body).await;
                    arrival.is_over();
                    body
                };
                self.clone().enter(name, door, raw, body).await
            }
        };
        self.origins.mark(origin, &mut response);
        finish(&method, response)
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

    async fn enter(
        self: Arc<Self>,
        name: &'static str,
        door: Door<S>,
        raw: RawRequest,
        body: impl Future<Output = Result<Body, Failure>> + Send + 'static,
    ) -> Response {
        let outcome = match door {
            Door::Open(endpoint) => {
                let outcome = async {
                    let request = raw.with_body(body.await?)?;
                    endpoint(&self.state, request).await
                };
                outcome.await
            }
            Door::Paid(endpoint) => match self.redeem(name, &raw).await {
                Ok(payment) => {
                    let handled = {
                        let (server, payment) = (self.clone(), payment.clone());
                        async move {
                            let request = raw.with_body(body.await?)?;
                            payment.take_turn(&server.shown, &server.home.database).await?;
                            endpoint(&server.state, request, payment).await
                        }
                    };
                    self.clone().settled(payment, handled).await
                }
                Err(failure) => Err(failure),
            },
        };
        self.answer(outcome)
    }

    /// Verifies the request's token, unless it is known to be spent. The database finds out later whether it was spent
    /// before.
    async fn redeem(&self, endpoint: &'static str, raw: &RawRequest) -> Result<Payment, Failure> {
        let shown = raw.headers.get(header::AUTHORIZATION);
        let token = shown.and_then(|value| token::parse_authorization(value).ok());
        let token = token.ok_or(ProblemType::TokenRequired)?;
        let id = self.shown.id(&token);
        if self.shown.fate(id) == Some(Fate::Spent) {
            return Err(ProblemType::TokenSpent.into());
        }
        let token = self.gate.redeem(token).await?.ok_or(ProblemType::TokenRequired)?;
        Ok(Payment::new(token, endpoint, raw.signature.clone(), id))
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
