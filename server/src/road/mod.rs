//! The road every request travels, in one direction: route → token → body → signature →
//! the endpoint (validate, one SQL call) → answer. An endpoint sees a request only after
//! the gate verified its token, and whatever happens then, the token is settled: spent by
//! the endpoint's own SQL call, or here when it never came to that; unspent after a fault
//! of ours (AAS-4).

mod answer;
mod payment;
mod rate_limit;
mod request;
mod route;

use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, Method, header};
use postern_protocol::{
    problem::{Problem, ProblemType},
    token,
};
use warp::{Filter, Rejection, filters::BoxedFilter, path::FullPath, reject::Reject};

use crate::app::App;
pub use answer::{Answer, Failure, MAX_AGE, Outcome};
pub use payment::Payment;
pub use rate_limit::RateLimit;
pub use request::Request;
pub use route::{Handler, Route};

use request::RawRequest;

/// The routes as one warp filter; what no route takes is a problem, too.
///
/// # Panics
/// Without any route.
pub fn filter(app: &App, routes: &[Route]) -> BoxedFilter<(warp::reply::Response,)> {
    routes
        .iter()
        .map(|route| route_filter(app.clone(), route, allow(routes, route.path)))
        .reduce(|routes, route| routes.or(route).unify().boxed())
        .expect("there are routes")
        .recover(refuse)
        .unify()
        .boxed()
}

fn route_filter(app: App, route: &Route, allow: HeaderValue) -> BoxedFilter<(warp::reply::Response,)> {
    let (handler, method) = (route.handler, route.method.clone());
    let limit = app.limits.max_body_bytes;
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
        .and(warp::body::stream())
        .then(move |segments, path: FullPath, query, headers, body| {
            let (app, method) = (app.clone(), method.clone());
            async move {
                let raw = RawRequest { method, path, segments, query, headers };
                travel(&app, handler, raw, request::collect(body, limit)).await
            }
        })
        .boxed()
}

/// The methods that a path has (RFC 9110 §10.2.1).
fn allow(routes: &[Route], path: &str) -> HeaderValue {
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

async fn travel(
    app: &App,
    handler: Handler,
    raw: RawRequest,
    body: impl Future<Output = Result<Vec<u8>, Problem>>,
) -> warp::reply::Response {
    match handler {
        Handler::Open(endpoint) => {
            let outcome = async {
                let request = raw.with_body(body.await?)?;
                endpoint(app.clone(), request).await
            };
            respond(app, outcome.await)
        }
        Handler::Paid(name, endpoint) => {
            let payment = match redeem(app, name, &raw.headers).await {
                Ok(Some(payment)) => payment,
                Ok(None) => return respond(app, Err(ProblemType::TokenRequired.into())),
                Err(failure) => return respond(app, Err(failure)),
            };
            let outcome = async {
                let request = raw.with_body(body.await?)?;
                endpoint(app.clone(), request, payment.clone()).await
            };
            let outcome = outcome.await;
            respond(app, payment.settle(app, outcome).await)
        }
    }
}

/// Verifies the request's token; whether it was spent before, the database says later.
async fn redeem(app: &App, endpoint: &'static str, headers: &HeaderMap) -> Result<Option<Payment>, Failure> {
    let shown = headers.get(header::AUTHORIZATION);
    let Some(token) = shown.and_then(|value| token::parse_authorization(value).ok()) else {
        return Ok(None);
    };
    let redeemed = app.issuer.redeem(token).await?;
    Ok(redeemed.map(|token| Payment::new(token, endpoint)))
}

fn respond(app: &App, outcome: Outcome) -> warp::reply::Response {
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
            Some((header::WWW_AUTHENTICATE, app.issuer.www_authenticate(&app.domain)))
        }
        // Room is made by groups that are created, and every hour by what is over.
        ProblemType::TooManyReservations => Some((header::RETRY_AFTER, HeaderValue::from(60 * 60))),
        _ => limit.map(RateLimit::retry_after),
    };
    let mut response = answer::problem_response(&problem, remedy);
    if let Some(limit) = limit {
        limit.write(response.headers_mut());
    }
    response
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
    Ok(answer::problem_response(&kind.into(), remedy))
}
