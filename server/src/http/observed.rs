//! Figures of requests (OPS-4): how many came to each route, what became of them, how long they took, and what became of
//! the tokens that they showed. A route is told by its template, never by a path.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use postern_protocol::{
    problem::ProblemType,
    token::{TOKEN_TYPES, TokenType},
};

use super::{
    answer::{Failure, Outcome, Response},
    route::Route,
};
use crate::metrics::{Counters, Durations, Instruments};

/// The outcome of a request that was answered as it asked.
const OK: &str = "ok";
/// The outcome of a request that failed through a fault of the server.
const FAULT: &str = ProblemType::Fault.slug();
/// The outcome of a request whose client went away before it was answered.
const ABANDONED: &str = "abandoned";
/// Stands for the route of requests that no route takes.
const NO_ROUTE: (&str, &str) = ("any", "none");

/// The way on which a request came.
#[derive(Debug, Clone, Copy)]
pub enum Via {
    /// By itself.
    Connection,
    /// Sealed in another one (RFC 9458).
    Gateway,
}

impl Via {
    fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Gateway => "gateway",
        }
    }
}

/// The fate of a token that a request showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFate {
    /// It paid for its request, whatever became of that.
    Accepted,
    /// It was spent before.
    SpentBefore,
    /// It is none of this server's.
    Unknown,
    /// It stays good: the fault was the server's, or the request had come before.
    Kept,
}

impl TokenFate {
    const ALL: [Self; 4] = [Self::Accepted, Self::SpentBefore, Self::Unknown, Self::Kept];

    fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::SpentBefore => "spent_before",
            Self::Unknown => "unknown",
            Self::Kept => "kept",
        }
    }

    /// The fate of the token of a request that ended like this.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Err(Failure::Refused(problem)) if problem.kind == ProblemType::TokenSpent => Self::SpentBefore,
            Err(Failure::Refused(problem)) if problem.kind == ProblemType::SignatureUsed => Self::Kept,
            Err(Failure::Fault(_) | Failure::Unavailable(_) | Failure::Overloaded(_)) => Self::Kept,
            Ok(_) | Err(Failure::Refused(_) | Failure::Limited(..)) => Self::Accepted,
        }
    }
}

/// The figures of all requests. Cheap to clone.
#[derive(Clone)]
pub struct RequestFigures {
    requests: Counters<4>,
    durations: Durations<2>,
    tokens: Counters<2>,
    under_way: Arc<AtomicUsize>,
}

impl Default for RequestFigures {
    fn default() -> Self {
        Self {
            requests: Counters::new(["method", "route", "via", "outcome"]),
            durations: Durations::new(["method", "route"]),
            tokens: Counters::new(["type", "fate"]),
            under_way: Arc::default(),
        }
    }
}

impl RequestFigures {
    /// Shows the figures of these routes from the beginning.
    pub(super) fn begin<S>(&self, routes: &[Route<S>]) {
        for (method, route) in routes.iter().map(Route::template) {
            // An alert asks for their increase: the first fault is one only after a zero.
            for via in [Via::Connection, Via::Gateway] {
                self.requests.begin([method.into(), route.into(), via.word().into(), FAULT.into()]);
            }
            self.requests.begin([method.into(), route.into(), Via::Connection.word().into(), OK.into()]);
            self.durations.begin([method.into(), route.into()]);
        }
        for kind in TOKEN_TYPES {
            TokenFate::ALL.iter().for_each(|fate| self.tokens.begin([kind.into(), fate.word().into()]));
        }
    }

    pub fn register(&self, instruments: &mut Instruments) {
        instruments.counters("postern_requests", "Requests that were answered, or abandoned", &self.requests);
        instruments.durations(
            "postern_request_seconds",
            "Time from a request's header to its answer, the waiting of long-polls included",
            &self.durations,
        );
        instruments.counters("postern_tokens_shown", "Tokens that requests showed", &self.tokens);
    }

    /// Requests that are not answered yet.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    pub(super) fn token(&self, kind: TokenType, fate: TokenFate) {
        self.tokens.add([kind.into(), fate.word().into()], 1);
    }

    /// Begins to observe a request.
    pub(super) fn observe(&self, via: Via) -> Observation {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Observation {
            figures: self.clone(),
            begun: Instant::now(),
            template: NO_ROUTE,
            via,
            outcome: ABANDONED,
        }
    }
}

/// A request under way. It is counted when this is dropped.
pub(super) struct Observation {
    figures: RequestFigures,
    begun: Instant,
    template: (&'static str, &'static str),
    via: Via,
    outcome: &'static str,
}

impl Observation {
    /// Notes the route that takes the request.
    pub fn goes_to<S>(&mut self, route: &Route<S>) {
        self.template = route.template();
    }

    /// Notes the answer, and counts the request.
    pub fn end(mut self, response: &Response) {
        self.outcome = response.extensions().get::<ProblemType>().map_or(OK, |kind| kind.slug());
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let (method, route) = self.template;
        let labels = [method.into(), route.into(), self.via.word().into(), self.outcome.into()];
        self.figures.requests.add(labels, 1);
        self.figures.durations.add_since([method.into(), route.into()], self.begun);
        self.figures.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use postern_protocol::problem::Problem;

    use super::super::{Answer, Door, answer::problem_response};
    use super::*;
    use crate::metrics::Samples;

    #[test]
    fn a_request_is_counted_for_its_route_with_the_problem_that_it_had_or_as_abandoned() {
        let route = Route::<()>::new(
            "test.route",
            Method::PUT,
            "/things/{id}",
            Door::Open(|(), _| Box::pin(async { Ok(Answer::empty(StatusCode::OK)) })),
        );
        let figures = RequestFigures::default();
        figures.begin(std::slice::from_ref(&route));
        let observe = |via| {
            let mut observation = figures.observe(via);
            observation.goes_to(&route);
            observation
        };
        observe(Via::Connection).end(&Answer::empty(StatusCode::OK).into_response());
        let refused = problem_response(&Problem::new(ProblemType::NotAllowed), None);
        observe(Via::Gateway).end(&refused);
        let abandoned = observe(Via::Connection);
        assert_eq!(figures.under_way(), 1);
        drop(abandoned);
        drop(figures.observe(Via::Connection));
        assert_eq!(figures.under_way(), 0);

        let mut instruments = Instruments::default();
        figures.register(&mut instruments);
        let text = instruments.write(Samples::default());
        for series in [
            "{method=\"PUT\",route=\"/things/{id}\",via=\"connection\",outcome=\"ok\"} 1",
            "{method=\"PUT\",route=\"/things/{id}\",via=\"gateway\",outcome=\"not-allowed\"} 1",
            "{method=\"PUT\",route=\"/things/{id}\",via=\"connection\",outcome=\"abandoned\"} 1",
            "{method=\"any\",route=\"none\",via=\"connection\",outcome=\"abandoned\"} 1",
            "{method=\"PUT\",route=\"/things/{id}\",via=\"connection\",outcome=\"fault\"} 0",
            "{method=\"PUT\",route=\"/things/{id}\",via=\"gateway\",outcome=\"fault\"} 0",
        ] {
            assert!(text.contains(&format!("postern_requests_total{series}")), "no {series} in\n{text}");
        }
        assert!(
            text.contains("postern_request_seconds_count{method=\"PUT\",route=\"/things/{id}\"} 3"),
            "{text}"
        );
    }
}
