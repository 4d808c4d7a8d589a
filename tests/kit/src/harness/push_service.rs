//! A push service (RFC 8030) and the user agents that subscribe to it: what a server under
//! test pushes to, by HTTP.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use postern_protocol::{P256PublicKey, Payload, PushAuth, push::PushSubscription};
use reqwest::{StatusCode, header::HeaderMap};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use warp::{Filter, path::FullPath};
use web_push_native::{
    Auth, decrypt,
    p256::{SecretKey, elliptic_curve::sec1::ToEncodedPoint as _},
};

use super::{PATIENCE, PUSH_CONTACT};

/// Dropping it leaves it running until the test ends.
pub struct PushService {
    url: String,
    received: mpsc::UnboundedReceiver<Pushed>,
    script: Arc<Script>,
}

struct Script {
    /// The next answers; 201 after these.
    answers: Mutex<VecDeque<(StatusCode, HeaderMap)>>,
    answering: watch::Sender<bool>,
}

/// A push as it came.
pub struct Pushed {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A subscriber: a browser, a phone.
pub struct UserAgent {
    secret: SecretKey,
    auth: [u8; 16],
}

impl PushService {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let (arrived, received) = mpsc::unbounded_channel();
        let script = Arc::new(Script { answers: Mutex::default(), answering: watch::Sender::new(true) });
        let routes = {
            let script = script.clone();
            warp::post()
                .and(warp::path::full())
                .and(warp::header::headers_cloned())
                .and(warp::body::bytes())
                .then(move |path: FullPath, headers, body: bytes::Bytes| {
                    let path = path.as_str().to_owned();
                    let _ = arrived.send(Pushed { path, headers, body: body.to_vec() });
                    let script = script.clone();
                    async move { script.answer().await }
                })
        };
        let service = TowerToHyperService::new(warp::service(routes));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = auto::Builder::new(TokioExecutor::new());
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, received, script }
    }

    /// `http://127.0.0.1:<port>`, as a server's token names it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next pushes are answered like this.
    pub fn answer(&self, status: StatusCode, headers: HeaderMap) {
        self.script.answers.lock().expect("no panic holds it").push_back((status, headers));
    }

    /// Pushes arrive, but get no answer before [`PushService::go_on`].
    pub fn hold(&self) {
        self.script.answering.send_replace(false);
    }

    pub fn go_on(&self) {
        self.script.answering.send_replace(true);
    }

    /// A user agent's subscription, and the user agent.
    pub fn subscribe(&self, path: &str, content: &[u8]) -> (PushSubscription, UserAgent) {
        let secret = SecretKey::from_slice(&rand::random::<[u8; 32]>()).expect("nearly all numbers are keys");
        let user_agent = UserAgent { secret, auth: rand::random() };
        let point = user_agent.secret.public_key().to_encoded_point(false);
        let subscription = PushSubscription {
            endpoint: format!("{}{path}", self.url),
            p256dh: P256PublicKey::try_from(point.as_bytes()).expect("it is uncompressed"),
            auth: PushAuth::new(user_agent.auth),
            content: Payload::new(content.to_vec()),
        };
        (subscription, user_agent)
    }

    /// The next push.
    pub async fn pushed(&mut self) -> Pushed {
        timeout(PATIENCE, self.received.recv()).await.expect("a push comes").expect("it runs")
    }

    /// Whether a push is there that was not taken.
    pub fn has_more(&self) -> bool {
        !self.received.is_empty()
    }
}

impl Script {
    async fn answer(&self) -> warp::reply::Response {
        let mut answering = self.answering.subscribe();
        let _ = answering.wait_for(|answering| *answering).await;
        let next = self.answers.lock().expect("no panic holds it").pop_front();
        let (status, headers) = next.unwrap_or((StatusCode::CREATED, HeaderMap::new()));
        let mut response = warp::reply::Response::default();
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

impl UserAgent {
    /// The text of a push (RFC 8291).
    pub fn read(&self, pushed: &Pushed) -> Vec<u8> {
        decrypt(pushed.body.clone(), &self.secret, &Auth::clone_from_slice(&self.auth)).expect("it decrypts")
    }
}

impl Pushed {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("it is text")).unwrap_or_default()
    }

    /// Whether it comes from the server with this key (RFC 8292), and says so to this service
    /// for half a day at most.
    ///
    /// # Panics
    /// If not.
    pub fn assert_sent_by(&self, server: &P256PublicKey, service: &str) {
        let authorization = self.header("authorization").strip_prefix("vapid t=").expect("it is VAPID");
        let (token, key) = authorization.split_once(", k=").expect("it names its key");
        assert_eq!(key, server.to_base64url());
        let (signed, signature) = token.rsplit_once('.').expect("it is a JWT");
        let decoded = |text| URL_SAFE_NO_PAD.decode(text).expect("it is base64url");
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, server.as_bytes())
            .verify(signed.as_bytes(), &decoded(signature))
            .expect("the server signed");
        let (_, claims) = signed.split_once('.').expect("it has claims");
        let claims: serde_json::Value = serde_json::from_slice(&decoded(claims)).expect("they are JSON");
        assert_eq!(claims["aud"], service);
        assert_eq!(claims["sub"], PUSH_CONTACT);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let left = claims["exp"].as_u64().and_then(|expires| expires.checked_sub(now));
        assert!(left.is_some_and(|left| left <= 12 * 60 * 60), "RFC 8292 §2 allows a day");
    }
}
