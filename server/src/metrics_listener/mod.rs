//! The listener of metrics (OPS-4): `GET /metrics` for Prometheus, `/health` and `/ready` for a supervisor and a load
//! balancer, next to the server's own listener. It speaks plain HTTP with a few connections at a time. What a scrape costs
//! is bounded: figures that ask the database hold for a while, however many scrapes come.

mod database;
mod process;

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};
use warp::{
    Filter,
    filters::BoxedFilter,
    path::FullPath,
    reply::{Reply, Response},
};

use crate::{
    app::App,
    config::{Config, Limits},
    http::{Connections, RequestFigures, tls::ServerCertificate},
    metrics::{self, Instruments, Metric, Samples},
    upkeep::ChoreFigures,
};
use database::DatabaseFigures;
use process::Process;

/// Connections of the listener at a time.
const CONNECTIONS: usize = 16;

static READY: Metric =
    Metric::gauge("postern_ready", &[], "1: the server can serve requests; 0: GET /ready says why not");
static UNDER_WAY: Metric = Metric::gauge("postern_requests_under_way", &[], "Requests that are not answered");
static OPEN: Metric = Metric::gauge("postern_connections", &[], "Connections that are open");
static MOST_OPEN: Metric = Metric::gauge("postern_connections_max", &[], "Connections that may be open");
static UNREAD: Metric =
    Metric::gauge("postern_unread_answer_bytes", &[], "Answers that their clients have not read yet");
static POOL: Metric = Metric::gauge(
    "postern_database_connections",
    &["lane", "state"],
    "Connections to the database, by what they are for and whether they are in use",
);
static POOL_MOST: Metric =
    Metric::gauge("postern_database_connections_max", &["lane"], "Connections to the database, at most");
static POOL_WAITING: Metric =
    Metric::gauge("postern_database_waiting", &["lane"], "Calls that wait for a connection to the database");
static COMPUTING: Metric = Metric::gauge(
    "postern_computing",
    &[],
    "Requests whose groups, KeyPackages or tokens are computed at present",
);
static OVERLOADS: Metric = Metric::counter(
    "postern_compute_overloads",
    &[],
    "Requests that were refused since they waited too long for their turn to be computed",
);
static LISTENING: Metric = Metric::gauge(
    "postern_listening",
    &[],
    "1: notifications of the database are heard; 0: messages come late to those that wait",
);
static WAITERS: Metric = Metric::gauge("postern_waiters", &[], "Long-polls that wait for messages");
static HEARD: Metric = Metric::counter("postern_wakeups_heard", &[], "Notifications that were heard");
static WOKEN: Metric = Metric::counter("postern_wakeups_woken", &[], "Long-polls that a notification woke");
static FOUND: Metric = Metric::counter(
    "postern_wakeups_missed",
    &[],
    "Long-polls whose messages were found by looking, without a notification",
);
static PUSHES_WAITING: Metric =
    Metric::gauge("postern_pushes_waiting", &[], "Queues for which a push is under way or waits");
static DELIVERING: Metric = Metric::gauge(
    "postern_federation_delivering",
    &[],
    "Lanes whose deliveries are under way to another homeserver",
);
static CERTIFICATE_CURRENT: Metric = Metric::gauge(
    "postern_certificate_current",
    &[],
    "1: the certificate that is served is the one in its files; 0: these are of no use, and the one before is served to its end",
);
static CERTIFICATE: Metric = Metric::gauge(
    "postern_certificate_end_timestamp_seconds",
    &["of"],
    "End of the certificate that is served, or shown to PostgreSQL, in seconds since 1970; missing where there is none",
);

/// Everything that a scrape shows.
pub struct Scrape {
    instruments: Instruments,
    app: App,
    requests: RequestFigures,
    connections: Connections,
    certificate: Option<Arc<ServerCertificate>>,
    database: Arc<DatabaseFigures>,
    process: Process,
}

impl Scrape {
    pub fn new(
        config: &Config,
        app: &App,
        requests: RequestFigures,
        chores: &ChoreFigures,
        connections: Connections,
        certificate: Option<Arc<ServerCertificate>>,
    ) -> Self {
        let mut instruments = Instruments::default();
        requests.register(&mut instruments);
        app.register(&mut instruments);
        chores.register(&mut instruments);
        Self {
            instruments,
            app: app.clone(),
            requests,
            connections,
            certificate,
            database: Arc::new(DatabaseFigures::new(&app.about.database, &config.metrics)),
            process: Process::new(config),
        }
    }

    /// All metrics, in Prometheus's text format.
    async fn text(&self) -> String {
        let mut samples = Samples::default();
        self.process.add_to(&mut samples);
        self.add_to(&mut samples);
        let ready = self.app.about.ready().await.is_ok();
        samples.add(&READY, [], f64::from(u8::from(ready)));
        self.database.add_to(&mut samples).await;
        self.instruments.write(samples)
    }

    fn add_to(&self, samples: &mut Samples) {
        let (home, qs) = (&self.app.about, &self.app.qs);
        samples.count(&UNDER_WAY, [], self.requests.under_way());
        samples.count(&OPEN, [], self.connections.number());
        samples.count(&MOST_OPEN, [], self.connections.most());
        samples.count(&UNREAD, [], self.connections.unread());
        for lane in home.database.status() {
            samples.count(&POOL, [lane.lane.into(), "in_use".into()], lane.in_use);
            samples.count(&POOL, [lane.lane.into(), "idle".into()], lane.idle);
            samples.count(&POOL_MOST, [lane.lane.into()], lane.size);
            samples.count(&POOL_WAITING, [lane.lane.into()], lane.waiting);
        }
        samples.count(&COMPUTING, [], home.computing().running());
        samples.add(&OVERLOADS, [], home.computing().overloads() as f64);
        let wakeups = qs.wakeups.figures();
        samples.add(&LISTENING, [], f64::from(u8::from(wakeups.listening)));
        samples.count(&WAITERS, [], wakeups.waiting);
        samples.add(&HEARD, [], wakeups.heard as f64);
        samples.add(&WOKEN, [], wakeups.woken as f64);
        samples.add(&FOUND, [], wakeups.found as f64);
        samples.count(&PUSHES_WAITING, [], qs.pusher.waiting());
        samples.count(&DELIVERING, [], self.app.federation.deliveries_under_way());
        let served = self.certificate.as_ref().and_then(|certificate| certificate.end());
        for (of, end) in [("listener", served), ("postgresql", home.database.certificate_end())] {
            if let Some(end) = end {
                samples.add(&CERTIFICATE, [of.into()], end as f64);
            }
        }
        if let Some(certificate) = &self.certificate {
            samples.add(&CERTIFICATE_CURRENT, [], f64::from(u8::from(certificate.is_current())));
        }
    }

    async fn answer(&self, method: &Method, path: &str) -> Response {
        if !["/metrics", "/health", "/ready"].contains(&path) {
            let known = "/metrics, /health and /ready are here\n".to_owned();
            return response(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", known);
        }
        if ![Method::GET, Method::HEAD].contains(method) {
            let mut refusal = StatusCode::METHOD_NOT_ALLOWED.into_response();
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        let (status, media_type, text) = match path {
            "/metrics" => (StatusCode::OK, metrics::MEDIA_TYPE, self.text().await),
            "/health" => (StatusCode::OK, "text/plain; charset=utf-8", "alive\n".to_owned()),
            _ => match self.app.about.ready().await {
                Ok(()) => (StatusCode::OK, "text/plain; charset=utf-8", "ready\n".to_owned()),
                Err(reason) => {
                    let text = format!("not ready: {reason}\n");
                    (StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", text)
                }
            },
        };
        // HEAD (RFC 9110 §9.3.2).
        response(status, media_type, if *method == Method::HEAD { String::new() } else { text })
    }
}

fn response(status: StatusCode, media_type: &'static str, text: String) -> Response {
    let mut response = Response::new(text.into_bytes().into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The listener's answers as a warp filter.
pub fn filter(scrape: Scrape) -> BoxedFilter<(Response,)> {
    let scrape = Arc::new(scrape);
    warp::method()
        .and(warp::path::full())
        .then(move |method: Method, path: FullPath| {
            let scrape = scrape.clone();
            async move { scrape.answer(&method, path.as_str()).await }
        })
        .boxed()
}

/// The limits of the listener: those of the server, with few connections.
pub fn limits(server: &Limits) -> Limits {
    Limits {
        max_connections: Some(CONNECTIONS),
        max_connections_per_source: Some(CONNECTIONS),
        ..server.clone()
    }
}
