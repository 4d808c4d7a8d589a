//! A database, servers, and clients that are nothing but a registered key: asks for tokens and spends them as the
//! standards say, and shows every byte of the answers.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use blind_rsa_signatures::DefaultRng;
use p384::NistP384;
use postern_protocol::{
    aas::{IssuerDirectory, TokenKey},
    key::SigningKey,
    name::Domain,
    problem::Problem,
    signature::{self, Target},
    token::{
        self, BATCH_REQUEST_MEDIA_TYPE, DIRECTORY_PATH, GENERIC_REQUEST_MEDIA_TYPE, REQUEST_MEDIA_TYPE,
        TokenType,
    },
};
use postern_tests::{Cluster, HOME, Server};
use privacypass::{
    amortized_tokens::{self, AmortizedBatchTokenRequest, AmortizedBatchTokenResponse},
    common::private::{PrivateCipherSuite, deserialize_public_key},
    generic_tokens::{GenericBatchTokenRequest, GenericBatchTokenResponse, GenericToken, TokenStates},
    private_tokens, public_tokens,
};
use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap},
};
use tls_codec::Deserialize as _;
use tokio_postgres::Client as Connection;
use voprf::Ristretto255;

pub const TOKEN_REQUEST: &str = "/aas/token-request";

pub struct Gate {
    pub servers: Vec<Server>,
    pub admin: Connection,
    pub cluster: Cluster,
    http: reqwest::Client,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A request, and what opens its answer.
pub enum Asked {
    P384(private_tokens::TokenState<NistP384>),
    BlindRsa(Box<public_tokens::TokenState>),
    BatchP384(amortized_tokens::TokenState<NistP384>),
    Batch(amortized_tokens::TokenState<Ristretto255>),
    Generic(TokenStates),
}

pub struct Ask {
    pub media_type: &'static str,
    pub body: Vec<u8>,
    pub state: Asked,
}

impl Gate {
    pub async fn start(servers: usize) -> Self {
        let cluster = Cluster::start().await;
        let mut started = Vec::new();
        for _ in 0..servers {
            started.push(Server::start(&cluster).await);
        }
        let admin = cluster.admin().await;
        Self { servers: started, admin, cluster, http: reqwest::Client::new() }
    }

    /// A registered client, of a user of its own.
    pub async fn client(&self, name: &str) -> SigningKey {
        let key = SigningKey::generate();
        self.admin
            .execute(
                "SELECT auth.register_user($1, $2, '', '', sha256(convert_to($1, 'UTF8')), NULL)",
                &[&name, &key.public_key().as_bytes().as_slice()],
            )
            .await
            .expect("a user can be made");
        key
    }

    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.admin.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// All of the issued tokens that the database counts.
    pub async fn issued(&self) -> i64 {
        self.value("SELECT coalesce(sum(tokens), 0)::bigint FROM operator.tokens_issued()").await
    }

    pub async fn directory(&self, server: usize) -> IssuerDirectory {
        let reply = self.send(server, Method::GET, DIRECTORY_PATH, HeaderMap::new(), Vec::new(), None).await;
        serde_json::from_slice(&reply.body).expect("it is a directory")
    }

    /// The directory's keys of a type, in its order.
    pub async fn keys(&self, server: usize, token_type: TokenType) -> Vec<TokenKey> {
        let keys = self.directory(server).await.token_keys;
        keys.into_iter().filter(|key| key.token_type == token_type as u16).collect()
    }

    /// The bytes of the key of a type that is in use.
    pub async fn key(&self, token_type: TokenType) -> Vec<u8> {
        let keys = self.keys(0, token_type).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let used = keys.iter().find(|key| key.not_before.unwrap_or_default() <= now).expect("one is in use");
        bytes_of(used)
    }

    pub async fn ask(&self, server: usize, client: &SigningKey, media_type: &str, body: &[u8]) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, media_type.parse().unwrap());
        self.send(server, Method::POST, TOKEN_REQUEST, headers, body.to_vec(), Some(client)).await
    }

    /// Asks, expects tokens, and finalises them.
    pub async fn tokens(&self, server: usize, client: &SigningKey, ask: &Ask) -> Vec<Vec<u8>> {
        let reply = self.ask(server, client, ask.media_type, &ask.body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.headers[CONTENT_TYPE], ask.media_type.replace("request", "response"));
        ask.open(&reply.body)
    }

    /// Something that costs a token and needs nothing else.
    pub async fn spend(&self, server: usize, token: &[u8]) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, token::authorization(token));
        self.send(server, Method::POST, "/ds/group-ids", headers, Vec::new(), None).await
    }

    pub async fn send(
        &self,
        server: usize,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Vec<u8>,
        signer: Option<&SigningKey>,
    ) -> Reply {
        if let Some(key) = signer {
            signature::sign(Target { method: &method, path, query: None }, &mut headers, &body, key);
        }
        let url = format!("{}{path}", self.servers[server].url());
        let answer = self
            .http
            .request(method, url)
            .headers(headers)
            .body(body)
            .send()
            .await
            .expect("the server answers");
        let (status, headers) = (answer.status(), answer.headers().clone());
        Reply { status, headers, body: answer.bytes().await.expect("the answer is whole").to_vec() }
    }

    /// Lets days pass for the issuer keys, and tells the servers to look.
    pub async fn pass(&self, days: i32) {
        let sql = format!(
            "UPDATE aas.issuer_keys SET not_before = not_before - {days}, not_after = not_after - {days},
                                        retires = retires - {days};
             NOTIFY postern_issuer_keys"
        );
        self.admin.batch_execute(&sql).await.expect("days can pass");
    }
}

impl Reply {
    pub fn text(&self) -> String {
        format!("{}: {}", self.status, String::from_utf8_lossy(&self.body))
    }

    pub fn problem(&self) -> &'static str {
        Problem::from_json(&self.body).unwrap_or_else(|| panic!("no problem: {}", self.text())).kind.slug()
    }

    pub fn problem_is(&self, slug: &str) -> bool {
        Problem::from_json(&self.body).is_some_and(|problem| problem.kind.slug() == slug)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Ask {
    /// One token of type 0x0001.
    pub fn p384(key: &[u8]) -> Self {
        let (request, state) = p384_request(key);
        Self { media_type: REQUEST_MEDIA_TYPE, body: bytes(&request), state: Asked::P384(state) }
    }

    /// One token of type 0x0002.
    pub fn blind_rsa(key: &[u8]) -> Self {
        let (request, state) = blind_rsa_request(key);
        Self {
            media_type: REQUEST_MEDIA_TYPE,
            body: bytes(&request),
            state: Asked::BlindRsa(Box::new(state)),
        }
    }

    /// A batch of type 0x0005.
    pub fn batch(key: &[u8], number: u16) -> Self {
        let (body, state) = batch_request::<Ristretto255>(key, number);
        Self { media_type: BATCH_REQUEST_MEDIA_TYPE, body, state: Asked::Batch(state) }
    }

    /// A batch of type 0x0001.
    pub fn batch_p384(key: &[u8], number: u16) -> Self {
        let (body, state) = batch_request::<NistP384>(key, number);
        Self { media_type: BATCH_REQUEST_MEDIA_TYPE, body, state: Asked::BatchP384(state) }
    }

    /// Ten tokens: types 0x0001 and 0x0002 in turn.
    pub fn generic(p384: &[u8], rsa: &[u8]) -> Self {
        let mut builder = GenericBatchTokenRequest::builder();
        for _ in 0..5 {
            let (request, state) = p384_request(p384);
            builder = builder.add_token_request(request.into(), state.into());
            let (request, state) = blind_rsa_request(rsa);
            builder = builder.add_token_request(request.into(), state.into());
        }
        let (request, states) = builder.build();
        Self { media_type: GENERIC_REQUEST_MEDIA_TYPE, body: bytes(&request), state: Asked::Generic(states) }
    }

    /// The tokens of an answer.
    pub fn open(&self, response: &[u8]) -> Vec<Vec<u8>> {
        match &self.state {
            Asked::P384(state) => {
                let response =
                    private_tokens::TokenResponse::tls_deserialize_exact(response).expect("a response");
                vec![bytes(&response.issue_token(state).expect("the proof verifies"))]
            }
            Asked::BlindRsa(state) => {
                let response =
                    public_tokens::TokenResponse::tls_deserialize_exact(response).expect("a response");
                vec![bytes(&response.issue_token(state).expect("the signature verifies"))]
            }
            Asked::BatchP384(state) => open_batch(response, state),
            Asked::Batch(state) => open_batch(response, state),
            Asked::Generic(states) => {
                let response =
                    GenericBatchTokenResponse::tls_deserialize_exact(response).expect("a response");
                let tokens = response.issue_tokens(states).expect("proofs and signatures verify");
                let one = |token: &GenericToken| match token {
                    GenericToken::PrivateP384(token) => bytes(token.as_ref()),
                    GenericToken::Public(token) => bytes(token.as_ref()),
                    GenericToken::PrivateRistretto255(token) => bytes(token.as_ref()),
                };
                tokens.iter().map(one).collect()
            }
        }
    }
}

pub fn bytes_of(key: &TokenKey) -> Vec<u8> {
    URL_SAFE.decode(&key.token_key).expect("it is padded base64url")
}

pub fn home() -> Domain {
    HOME.parse().expect("it is a domain")
}

fn p384_request(
    key: &[u8],
) -> (private_tokens::TokenRequest<NistP384>, private_tokens::TokenState<NistP384>) {
    let key = deserialize_public_key::<NistP384>(key).expect("the published key is one");
    let challenge = token::challenge_of(TokenType::PrivateP384, &home());
    private_tokens::TokenRequest::new(key, &challenge).expect("a token can be asked for")
}

fn blind_rsa_request(key: &[u8]) -> (public_tokens::TokenRequest, public_tokens::TokenState) {
    let key = public_tokens::PublicKey::from_spki(key).expect("the published key is one");
    let challenge = token::challenge_of(TokenType::Public, &home());
    public_tokens::TokenRequest::new(&mut DefaultRng, key, &challenge).expect("a token can be asked for")
}

fn batch_request<CS: PrivateCipherSuite>(
    key: &[u8],
    number: u16,
) -> (Vec<u8>, amortized_tokens::TokenState<CS>) {
    let key = deserialize_public_key::<CS>(key).expect("the published key is one");
    let challenge = token::challenge_of(CS::token_type(), &home());
    let (request, state) =
        AmortizedBatchTokenRequest::<CS>::new(key, &challenge, number).expect("tokens can be asked for");
    (bytes(&request), state)
}

fn open_batch<CS: PrivateCipherSuite>(
    response: &[u8],
    state: &amortized_tokens::TokenState<CS>,
) -> Vec<Vec<u8>> {
    let response = AmortizedBatchTokenResponse::<CS>::try_from_bytes(response).expect("a response");
    response.issue_tokens(state).expect("the proof verifies").iter().map(bytes).collect()
}

fn bytes(value: &impl tls_codec::Serialize) -> Vec<u8> {
    value.tls_serialize_detached().expect("it serialises")
}
