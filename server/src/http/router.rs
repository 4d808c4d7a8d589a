//! The router: it makes one warp filter of the routes, and leads each request through its door.

use std::{convert::Infallible, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, header};
use postern_protocol::{
    problem::{Problem, ProblemType},
    token,
};
use warp::{Filter, Rejection, filters::BoxedFilter, path::FullPath, reject::Reject};

use super::{
    answer::{Failure, Outcome, problem_response},
    gate::Gate,
    payment::Payment,
    rate_limit::RateLimit,
    request::{self, RawRequest},
    route::{Door, Route},
    source::SourceAddress,
};
use crate::home::Home;

/// The part that all routes share: the home, the gate, and the services' state.
#[derive(Clone)]
struct Server<S> {
    home: Home,
    gate: Arc<dyn Gate>,
    state: S,
}

/// The routes as one warp filter, which answers requests that no route matches with a problem.
///
/// # Panics
/// Without any route.
pub fn filter<S: Clone + Send + Sync + 'static>(
    home: &Home,
    gate: Arc<dyn Gate>,
    state: &S,
    routes: &[Route<S>],
) -> BoxedFilter<(warp::reply::Response,)> {
    let server = Server { home: home.clone(), gate, state: state.clone() };
    routes
        .iter()
        .map(|route| route_filter(server.clone(), route, allow(routes, route.path)))
        .reduce(|routes, route| routes.or(route).unify().boxed())
        .expect("there are routes")
        .recover(refuse)
        .unify()
        .boxed()
}

fn route_filter<S: Clone + Send + Sync + 'static>(
    server: Server<S>,
    route: &Route<S>,
    allow: HeaderValue,
) -> BoxedFilter<(warp::reply::Response,)> {
    let (name, door, method) = (route.name, route.door, route.method.clone());
    let limit = server.home.limits.max_body_bytes;
    let expected = method.clone();
    path_filter(route.path)
        .and(
            warp::method()
                .and_then(move |found: Method| {
                    let wrong = (found != expected).then(|| WrongMethod { allow: allow.clone() });
                    async move { wrong.map_or(Ok(()), |wrong| Err(warp::reject::custom(wrong))) }
                })
                .untuple_one(),
        )
        .and(warp::path::full())
        .and(warp::query::raw().map(Some).or(warp::any().map(|| None)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<SourceAddress>())
        .and(warp::body::stream())
        .then(move |segments, path: FullPath, query, headers, source, body| {
            let (server, method) = (server.clone(), method.clone());
            async move {
                let raw = RawRequest { method, path, segments, query, headers, source };
                server.answer(name, door, raw, request::collect(body, limit)).await
            }
        })
        .boxed()
}

/// The methods that a path has (RFC 9110 §10.2.1).
fn allow<S>(routes: &[Route<S>], path: &str) -> HeaderValue {
    let methods: Vec<_> =
        routes.iter().filter(|route| route.path == path).map(|route| route.method.as_str()).collect();
    HeaderValue::try_from(methods.join(", ")).expect("methods are visible ASCII")
}

/// Matches a pattern such as `/qs/queues/{queue_id}/addresses` and yields the segments in
/// braces, in order.
fn path_filter(pattern: &'static str) -> BoxedFilter<(Vec<String>,)> {
    pattern
        .split('/')
        .skip(1)
        .fold(warp::any().map(Vec::new).boxed(), |filter, segment| {
            if segment.starts_with('{') {
                filter
                    .and(warp::path::param())
                    .map(|mut segments: Vec<String>, segment: String| {
                        segments.push(segment);
                        segments
                    })
                    .boxed()
            } else {
                filter.and(warp::path(segment)).boxed()
            }
        })
        .and(warp::path::end())
        .boxed()
}

impl<S> Server<S> {
    async fn answer(
        &self,
        name: &'static str,
        door: Door<S>,
        raw: RawRequest,
        body: impl Future<Output = Result<Vec<u8>, Problem>>,
    ) -> warp::reply::Response {
        match door {
            Door::Open(endpoint) => {
                let outcome = async {
                    let request = raw.with_body(body.await?)?;
                    endpoint(&self.state, request).await
                };
                self.respond(outcome.await)
            }
            Door::Paid(endpoint) => {
                let payment = match self.redeem(name, &raw.headers).await {
                    Ok(Some(payment)) => payment,
                    Ok(None) => return self.respond(Err(ProblemType::TokenRequired.into())),
                    Err(failure) => return self.respond(Err(failure)),
                };
                let outcome = async {
                    let request = raw.with_body(body.await?)?;
                    endpoint(&self.state, request, payment.clone()).await
                };
                let outcome = outcome.await;
                self.respond(payment.settle(&self.home.database, self.gate.as_ref(), outcome).await)
            }
        }
    }

    /// Verifies the request's token. The database finds out later whether it was spent before.
    async fn redeem(&self, endpoint: &'static str, headers: &HeaderMap) -> Result<Option<Payment>, Failure> {
        let shown = headers.get(header::AUTHORIZATION);
        let Some(token) = shown.and_then(|value| token::parse_authorization(value).ok()) else {
            return Ok(None);
        };
        let redeemed = self.gate.redeem(token).await?;
        Ok(redeemed.map(|token| Payment::new(token, endpoint)))
    }

    fn respond(&self, outcome: Outcome) -> warp::reply::Response {
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
            _ => limit.map(RateLimit::retry_after),
        };
        let mut response = problem_response(&problem, remedy);
        if let Some(limit) = limit {
            limit.write(response.headers_mut());
        }
        response
    }
}

#[derive(Debug)]
struct WrongMethod {
    allow: HeaderValue,
}
impl Reject for WrongMethod {}

async fn refuse(rejection: Rejection) -> Result<warp::reply::Response, Infallible> {
    let (kind, remedy) = if let Some(wrong) = rejection.find::<WrongMethod>() {
        (ProblemType::MethodNotAllowed, Some((header::ALLOW, wrong.allow.clone())))
    } else if rejection.is_not_found() {
        (ProblemType::NotFound, None)
    } else {
        (ProblemType::MalformedRequest, None)
    };
    Ok(problem_response(&kind.into(), remedy))
}
