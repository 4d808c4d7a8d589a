//! A login at the server's identity provider from a terminal (OpenID Connect Core 1.0 §3.1, RFC 8252): a person opens the
//! login page in a browser on this machine, and the provider leads the browser back to a port here. The ID token that
//! comes of it is for one registration by this device, or for one thing that its user's account needs a proof for.

use std::{fmt, pin::Pin, time::Duration};

use anyhow::{Context as _, bail};
use openidconnect::{
    AsyncHttpClient, AuthorizationCode, ClientId, CsrfToken, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    PkceCodeChallenge, RedirectUrl, TokenResponse as _,
    core::{CoreAuthPrompt, CoreAuthenticationFlow, CoreClient, CoreProviderMetadata},
    url::Url,
};
use postern_client::{
    ClientBuilder,
    api::{BoxError, Direct, Limits, Transport as _},
};
use postern_protocol::admission::IdToken;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::commands::note;

/// Time that a person has for the login.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Bounds of an answer of the provider.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), bytes: 256 * 1024 };
/// Bytes of a browser's request, and the time for them.
const REQUEST_BYTES: usize = 16 * 1024;
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Whether a session that a browser has with the provider is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// For a registration.
    AnySession,
    /// For what cannot be undone: the person logs in, and the ID token tells when.
    Anew,
}

/// Has a person log in at the provider of the builder's server, and returns the ID token with this nonce.
pub async fn id_token(builder: &ClientBuilder, nonce: String, login: Login) -> anyhow::Result<IdToken> {
    let provider = builder.registration_terms().await?.identity_provider;
    let provider = provider.context("this server has no identity provider to log in at")?;
    let way = Way(Direct::new().map_err(postern_client::Error::from)?);
    let metadata = CoreProviderMetadata::discover_async(IssuerUrl::new(provider.issuer)?, &way)
        .await
        .context("the identity provider does not say where to log in")?;

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot wait for the browser")?;
    let here = format!("http://{}/", listener.local_addr()?);
    let client = CoreClient::from_provider_metadata(metadata, ClientId::new(provider.client_id), None)
        .set_redirect_uri(RedirectUrl::new(here)?);
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let flow = CoreAuthenticationFlow::AuthorizationCode;
    let request = client
        .authorize_url(flow, CsrfToken::new_random, move || Nonce::new(nonce))
        .set_pkce_challenge(challenge);
    let (page, state, _) = match login {
        Login::AnySession => request,
        Login::Anew => request.add_prompt(CoreAuthPrompt::Login).set_max_age(PATIENCE),
    }
    .url();
    note(&format!("Open this page in a browser on this machine, and log in:\n\n    {page}\n"));
    let code = timeout(PATIENCE, returned(&listener, state.secret())).await.context("nobody logged in")??;
    let answer = client
        .exchange_code(AuthorizationCode::new(code))
        .context("the identity provider does not say how to get an ID token")?
        .set_pkce_verifier(verifier)
        .request_async(&way)
        .await
        .context("the identity provider gives no ID token")?;
    let token = answer.id_token().context("the identity provider gives no ID token")?;
    Ok(token.to_string().parse()?)
}

/// Waits for the browser to come back with a code for this login.
async fn returned(listener: &TcpListener, state: &str) -> anyhow::Result<String> {
    loop {
        let (mut browser, _) = listener.accept().await?;
        // A browser asks for more than it was sent for, such as an icon.
        let Some(answer) = asked(&mut browser).await else { continue };
        let value = |name: &str| {
            answer.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        if value("state").as_deref() != Some(state) {
            reply(&mut browser, "404 Not Found", "This is not the page that was left open.").await;
            continue;
        }
        let Some(code) = value("code") else {
            reply(&mut browser, "200 OK", "The login failed. The terminal says more.").await;
            bail!("the identity provider refuses the login: {}", value("error").unwrap_or_default());
        };
        reply(&mut browser, "200 OK", "You are logged in. Go back to the terminal.").await;
        return Ok(code);
    }
}

/// The target of a browser's request.
async fn asked(browser: &mut TcpStream) -> Option<Url> {
    let mut head = Vec::new();
    let read = async {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < REQUEST_BYTES {
            if browser.read_buf(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        Some(())
    };
    timeout(REQUEST_TIME, read).await.ok()??;
    let head = String::from_utf8(head).ok()?;
    let target = head.strip_prefix("GET ")?.split(' ').next()?;
    Url::parse("http://127.0.0.1/").ok()?.join(target).ok()
}

/// Says something to a person at a browser. Nothing depends on whether it arrives.
async fn reply(browser: &mut TcpStream, status: &str, text: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    let answer = head + text;
    let _ = timeout(REQUEST_TIME, browser.write_all(answer.as_bytes())).await;
}

/// The way to the provider: the library's to any server.
struct Way(Direct);

/// There is no answer of the provider's.
#[derive(Debug)]
struct NoAnswer(BoxError);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NoAnswer {}

impl<'c> AsyncHttpClient<'c> for Way {
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, NoAnswer>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move { self.0.carry(request, LIMITS).await.map_err(NoAnswer) })
    }
}
