//! HTTP Message Signatures (RFC 9421) with `Content-Digest` (RFC 9530): the one way in which requests
//! are authenticated. `keyid` is the signer's Ed25519 public key itself, so that the signature is
//! checked before anything is looked up; the rights of that key are decided later, next to the data.
//!
//! A signature always covers, in this order: `@method`, `@authority`, `@path`, `@query`,
//! `content-digest`, and `authorization` when the request carries a token. The authority is the home
//! domain of the server that is asked, whatever host leads to it, so that no other server takes the
//! request. The body is covered by its digest, so that a request is verified before its body is read
//! ([`verify_head`]). Since a token works once, a captured request cannot be replayed; where no token is
//! spent, the server remembers the signature ([`Verified::digest`]) for as long as it is fresh.

use std::{
    borrow::Cow,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::AUTHORIZATION};
use httpsig::prelude::{
    AlgorithmName, HttpSigError, HttpSigResult, HttpSignatureBase, HttpSignatureHeaders, HttpSignatureParams,
    SigningKey as HttpSigningKey,
    message_component::{HttpMessageComponent, HttpMessageComponentId},
};
use sfv::{Dictionary, FieldType as _, List, Parser};

use crate::{PublicKey, Signature, hash::sha256, key::SigningKey, label::Label, random::random};

pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
pub const SIGNATURE: HeaderName = HeaderName::from_static("signature");
pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");

/// The greatest age of a signature.
pub const MAX_AGE: Duration = Duration::from_secs(300);
/// The greatest time that the signer's clock may be ahead.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The parts of a request that are signed, apart from its headers and body.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub method: &'a Method,
    /// The home domain of the server: the authority that is signed, and not the host of a proxy.
    pub authority: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// A signature that verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The key that signed.
    pub key: PublicKey,
    /// `SHA-256("Postern used signature" || 0 || signature)`, by which a server remembers the signature.
    pub digest: SignatureDigest,
}

/// The hash of a signature, see [`Verified::digest`].
pub type SignatureDigest = [u8; 32];

/// A signature that verifies by the head of a request alone. The body may not be here yet: only its digest is signed.
#[derive(Debug, Clone, Copy)]
pub struct VerifiedHead {
    verified: Verified,
    /// SHA-256 of the body that was signed.
    body: [u8; 32],
    created: u64,
    expires: Option<u64>,
}

impl VerifiedHead {
    /// The key that signed.
    pub fn key(&self) -> PublicKey {
        self.verified.key
    }

    /// The time for which it still counts.
    pub fn left(self) -> Duration {
        let end = self.created.saturating_add(MAX_AGE.as_secs()).min(self.expires.unwrap_or(u64::MAX));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(end).saturating_sub(now)
    }

    /// The signature, once the body is here.
    ///
    /// # Errors
    /// [`SignatureError::WrongDigest`], and [`SignatureError::NotFresh`] for one that ended while the body came: nobody
    /// remembers it any longer.
    pub fn with_body(self, body: &[u8]) -> Result<Verified, SignatureError> {
        if !is_fresh(self.created, self.expires) {
            return Err(SignatureError::NotFresh);
        }
        if sha256(&[body]) != self.body {
            return Err(SignatureError::WrongDigest);
        }
        Ok(self.verified)
    }
}

/// A request's signature is not accepted; each message says what to mend.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignatureError {
    #[error("the request carries no signature (RFC 9421)")]
    Missing,
    #[error("Signature or Signature-Input is malformed")]
    Malformed,
    #[error(
        "the signature must cover @method, @authority, @path, @query, content-digest and, with a token, authorization"
    )]
    WrongComponents,
    #[error("keyid must be the signer's Ed25519 public key in unpadded base64url")]
    UnknownKey,
    #[error("the signature is too old or from the future: check the clock")]
    NotFresh,
    #[error("Content-Digest must be the sha-256 of the body (RFC 9530)")]
    WrongDigest,
    #[error("the signature does not verify: @authority must be the home domain of this server")]
    Invalid,
}

/// Signs a request: adds `Content-Digest`, `Signature-Input` and `Signature`. The `Authorization`
/// header has to be in `headers` already. No two signatures are the same, also of one request in one
/// second: each has a random `nonce`.
///
/// # Panics
/// If path or query are not visible ASCII, or the operating system has no randomness.
pub fn sign(target: Target<'_>, headers: &mut HeaderMap, body: &[u8], key: &SigningKey) {
    let signed = (|| -> HttpSigResult<HttpSignatureHeaders> {
        headers.insert(CONTENT_DIGEST, field(&content_digest(body))?);
        let components = covered_components(headers);
        let ids = components
            .iter()
            .map(|name| HttpMessageComponentId::try_from(*name))
            .collect::<HttpSigResult<Vec<_>>>()?;
        let mut params = HttpSignatureParams::try_new(&ids)?;
        params.set_key_info(&Signer(key));
        let nonce: [u8; 16] = random().expect("the operating system has randomness");
        params.set_nonce(&URL_SAFE_NO_PAD.encode(nonce));
        base(target, headers, &params)?.build_signature_headers(&Signer(key), Some("postern"))
    })()
    .expect("a request of visible ASCII can be signed");
    let headers_of_signature = [
        (SIGNATURE_INPUT, signed.signature_input_header_value()),
        (SIGNATURE, signed.signature_header_value()),
    ];
    for (name, value) in headers_of_signature {
        headers.insert(name, field(&value).expect("structured fields are ASCII"));
    }
}

/// Verifies a request.
///
/// # Errors
/// [`SignatureError`], which does not quote the request.
pub fn verify(target: Target<'_>, headers: &HeaderMap, body: &[u8]) -> Result<Verified, SignatureError> {
    verify_head(target, headers)?.with_body(body)
}

/// Verifies a request before its body is here.
///
/// # Errors
/// As [`verify`].
pub fn verify_head(target: Target<'_>, headers: &HeaderMap) -> Result<VerifiedHead, SignatureError> {
    let signed = parse(headers)?;
    let params = signed.signature_params();
    let covered: Vec<String> =
        params.covered_components.iter().map(|id| id.to_string().replace('"', "")).collect();
    if covered != covered_components(headers) {
        return Err(SignatureError::WrongComponents);
    }
    if params.alg.as_deref().is_some_and(|alg| alg != "ed25519") {
        return Err(SignatureError::UnknownKey);
    }
    let key = key_of(params)?;
    let (created, expires) = (params.created.ok_or(SignatureError::NotFresh)?, params.expires);
    if !is_fresh(created, expires) {
        return Err(SignatureError::NotFresh);
    }
    let body = signed_digest(headers).ok_or(SignatureError::WrongDigest)?;
    let base = received_base(target, headers).ok_or(SignatureError::Malformed)?;
    let signature = STANDARD
        .decode(signed.signature().to_string())
        .map(Signature::new)
        .map_err(|_| SignatureError::Malformed)?;
    key.verify(base.as_bytes(), &signature).map_err(|_| SignatureError::Invalid)?;
    let digest = sha256(&[Label::USED_SIGNATURE.as_bytes(), signature.as_bytes()]);
    Ok(VerifiedHead { verified: Verified { key, digest }, body, created, expires })
}

fn key_of(params: &HttpSignatureParams) -> Result<PublicKey, SignatureError> {
    let keyid = params.keyid.as_deref();
    keyid.and_then(|keyid| PublicKey::from_base64url(keyid).ok()).ok_or(SignatureError::UnknownKey)
}

/// The normal form of a path or query (RFC 9110 §4.2.3, RFC 3986 §6.2.2), in which equivalent ones are
/// equal: unreserved characters are not percent-encoded, and what is has capital hexadecimal digits.
/// Broken encodings stay as they are.
pub fn normalized(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find('%') else { return Cow::Borrowed(text) };
    let (done, mut rest) = text.split_at(first);
    let mut normal = done.to_owned();
    while let Some(place) = rest.find('%') {
        normal.push_str(&rest[..place]);
        rest = &rest[place..];
        let octet = rest.get(1..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match octet.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => {
                normal.push(char::from(octet));
                rest = &rest[3..];
            }
            Some(octet) => {
                write!(normal, "%{octet:02X}").expect("writing to a string succeeds");
                rest = &rest[3..];
            }
            None => {
                normal.push('%');
                rest = &rest[1..];
            }
        }
    }
    Cow::Owned(normal + rest)
}

fn parse(headers: &HeaderMap) -> Result<HttpSignatureHeaders, SignatureError> {
    let (Some(signature), Some(input)) = (header(headers, &SIGNATURE), header(headers, &SIGNATURE_INPUT))
    else {
        return Err(SignatureError::Missing);
    };
    let mut signatures = HttpSignatureHeaders::try_parse(signature, input)
        .map_err(|_| SignatureError::Malformed)?
        .into_values();
    match (signatures.next(), signatures.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(SignatureError::Malformed),
    }
}

fn base(
    target: Target<'_>,
    headers: &HeaderMap,
    params: &HttpSignatureParams,
) -> HttpSigResult<HttpSignatureBase> {
    let lines = covered_components(headers)
        .into_iter()
        .map(|name| {
            let value = component(target, headers, name);
            HttpMessageComponent::try_from((&HttpMessageComponentId::try_from(name)?, &[value][..]))
        })
        .collect::<HttpSigResult<Vec<_>>>()?;
    HttpSignatureBase::try_new(&lines, params)
}

/// The signature base that the sender signed (RFC 9421 §2.5), with all its parameters in its order;
/// `httpsig` keeps neither.
fn received_base(target: Target<'_>, headers: &HeaderMap) -> Option<String> {
    let inputs: Dictionary = Parser::new(header(headers, &SIGNATURE_INPUT)?).parse().ok()?;
    let params = inputs.into_values().collect::<List>().serialize()?;
    let mut base = String::new();
    for name in covered_components(headers) {
        writeln!(base, "\"{name}\": {}", component(target, headers, name)).ok()?;
    }
    Some(base + "\"@signature-params\": " + &params)
}

fn component(target: Target<'_>, headers: &HeaderMap, name: &'static str) -> String {
    match name {
        "@method" => target.method.as_str().to_owned(),
        "@authority" => target.authority.to_owned(),
        "@path" => normalized(target.path).into_owned(),
        "@query" => format!("?{}", normalized(target.query.unwrap_or_default())),
        field => header(headers, &HeaderName::from_static(field)).unwrap_or_default().to_owned(),
    }
}

fn covered_components(headers: &HeaderMap) -> Vec<&'static str> {
    let mut components = vec!["@method", "@authority", "@path", "@query", "content-digest"];
    if headers.contains_key(AUTHORIZATION) {
        components.push("authorization");
    }
    components
}

fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(sha256(&[body])))
}

/// The digest in `Content-Digest`; none if no body has it.
fn signed_digest(headers: &HeaderMap) -> Option<[u8; 32]> {
    let digest = header(headers, &CONTENT_DIGEST)?.strip_prefix("sha-256=:")?.strip_suffix(':')?;
    STANDARD.decode(digest).ok()?.try_into().ok()
}

/// Whether a signature with these times counts now.
fn is_fresh(created: u64, expires: Option<u64>) -> bool {
    let created = UNIX_EPOCH + Duration::from_secs(created.min(u64::from(u32::MAX)));
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    created <= now + MAX_CLOCK_SKEW && created + MAX_AGE >= now && expires.is_none_or(|end| end >= seconds)
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn field(value: &str) -> HttpSigResult<HeaderValue> {
    HeaderValue::from_str(value)
        .map_err(|_| HttpSigError::BuildSignatureHeaderError("not a field value".into()))
}

struct Signer<'a>(&'a SigningKey);

impl HttpSigningKey for Signer<'_> {
    fn sign(&self, data: &[u8]) -> HttpSigResult<Vec<u8>> {
        Ok(self.0.sign(data).into_bytes())
    }
    fn key_id(&self) -> String {
        self.0.public_key().to_base64url()
    }
    fn alg(&self) -> AlgorithmName {
        AlgorithmName::Ed25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'static> =
        Target { method: &Method::POST, authority: "example.org", path: "/qs/queues", query: Some("wait=1") };

    fn signed(body: &[u8]) -> (HeaderMap, PublicKey) {
        let key = SigningKey::generate();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("PrivateToken token=AAAA"));
        sign(TARGET, &mut headers, body, &key);
        (headers, key.public_key())
    }

    #[test]
    fn a_signed_request_names_its_signer() {
        let (headers, key) = signed(b"body");
        assert_eq!(verify(TARGET, &headers, b"body").map(|verified| verified.key), Ok(key));
    }

    #[test]
    fn no_two_signatures_of_a_request_are_the_same() {
        let key = SigningKey::generate();
        let mut headers = HeaderMap::new();
        let mut digest = || {
            sign(TARGET, &mut headers, b"body", &key);
            verify(TARGET, &headers, b"body").unwrap().digest
        };
        assert_ne!(digest(), digest());
    }

    #[test]
    fn equivalent_paths_and_queries_are_signed_alike() {
        for (text, normal) in [
            ("/qs/queues", "/qs/queues"),
            ("/%71s/%71%75eues", "/qs/queues"),
            ("/as/users/alice%40example%2eorg", "/as/users/alice%40example.org"),
            ("/%2f%2F%e2%82%ac", "/%2F%2F%E2%82%AC"),
            ("/%2D%2E%5F%7e", "/-._~"),
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/%zz%41", "/%zzA"),
            ("/%%34%31", "/%41"),
            ("/%\u{20ac}", "/%\u{20ac}"),
            ("", ""),
        ] {
            assert_eq!(normalized(text), normal, "{text}");
        }
        let (headers, key) = signed(b"body");
        let other = Target { path: "/q%73/queues", query: Some("%77ait=1"), ..TARGET };
        assert_eq!(verify(other, &headers, b"body").map(|verified| verified.key), Ok(key));
    }

    #[test]
    fn every_signed_part_is_bound() {
        let (headers, _) = signed(b"body");
        assert_eq!(verify(TARGET, &headers, b"other"), Err(SignatureError::WrongDigest));
        for target in [
            Target { authority: "example.net", ..TARGET },
            Target { path: "/qs/deposits", ..TARGET },
            Target { path: "/qs%2Fqueues", ..TARGET },
            Target { query: None, ..TARGET },
            Target { method: &Method::PUT, ..TARGET },
        ] {
            assert_eq!(verify(target, &headers, b"body"), Err(SignatureError::Invalid));
        }
        let mut stolen = headers.clone();
        stolen.insert(AUTHORIZATION, HeaderValue::from_static("PrivateToken token=BBBB"));
        assert_eq!(verify(TARGET, &stolen, b"body"), Err(SignatureError::Invalid));
        let mut tokenless = headers;
        tokenless.remove(AUTHORIZATION);
        assert_eq!(verify(TARGET, &tokenless, b"body"), Err(SignatureError::WrongComponents));
    }

    #[test]
    fn a_head_is_verified_before_its_body_is_here() {
        let (mut headers, key) = signed(b"body");
        let head = verify_head(TARGET, &headers).unwrap();
        assert_eq!(head.key(), key);
        assert_eq!(head.with_body(b"body").map(|verified| verified.key), Ok(key));
        assert_eq!(head.with_body(b"other"), Err(SignatureError::WrongDigest));
        assert_eq!(head.with_body(b""), Err(SignatureError::WrongDigest));
        let ended = VerifiedHead { created: head.created - MAX_AGE.as_secs() - 1, ..head };
        assert_eq!(ended.with_body(b"body"), Err(SignatureError::NotFresh));
        assert_eq!(
            VerifiedHead { expires: Some(1), ..head }.with_body(b"body"),
            Err(SignatureError::NotFresh)
        );
        assert!(head.left() > Duration::ZERO && head.left() <= MAX_AGE);
        for (created, expires) in [(head.created - MAX_AGE.as_secs(), None), (head.created, Some(1))] {
            assert_eq!(VerifiedHead { created, expires, ..head }.left(), Duration::ZERO);
        }
        let stranger = Target { authority: "example.net", ..TARGET };
        assert_eq!(verify_head(stranger, &headers).err(), Some(SignatureError::Invalid));
        let digest = content_digest(b"other");
        for (digest, expected) in [
            (digest.as_str(), SignatureError::Invalid),
            ("sha-256=::", SignatureError::WrongDigest),
            ("sha-256=:AAAA:", SignatureError::WrongDigest),
            (digest.trim_end_matches(':'), SignatureError::WrongDigest),
            (digest.trim_start_matches("sha-"), SignatureError::WrongDigest),
        ] {
            headers.insert(CONTENT_DIGEST, HeaderValue::from_str(digest).unwrap());
            assert_eq!(verify_head(TARGET, &headers).err(), Some(expected), "{digest}");
        }
        headers.remove(CONTENT_DIGEST);
        assert_eq!(verify_head(TARGET, &headers).err(), Some(SignatureError::WrongDigest));
    }

    #[test]
    fn a_signers_parameters_are_verified_as_it_wrote_them() {
        let key = SigningKey::generate();
        let (mut headers, _) = signed(b"body");
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let keyid = key.public_key().to_base64url();
        let mut resign = |more: &str, expected| {
            let components = r#"("@method" "@authority" "@path" "@query" "content-digest" "authorization")"#;
            let input = format!(r#"a={components};keyid="{keyid}";created={created}{more}"#);
            headers.insert(SIGNATURE_INPUT, HeaderValue::try_from(input).unwrap());
            let base = received_base(TARGET, &headers).unwrap();
            let signature = STANDARD.encode(key.sign(base.as_bytes()).as_bytes());
            headers.insert(SIGNATURE, HeaderValue::try_from(format!("a=:{signature}:")).unwrap());
            assert_eq!(verify(TARGET, &headers, b"body").map(|verified| verified.key), expected, "{more}");
        };
        for more in ["", r#";tag="x";nonce="y""#, r";unheard-of=1", ";expires=99999999999"] {
            resign(more, Ok(key.public_key()));
        }
        resign(";expires=1", Err(SignatureError::NotFresh));
        resign(";alg=\"rsa-v1_5-sha256\"", Err(SignatureError::UnknownKey));
    }

    #[test]
    fn an_unsigned_or_garbled_request_is_told_apart() {
        let mut headers = HeaderMap::new();
        assert_eq!(verify(TARGET, &headers, b""), Err(SignatureError::Missing));
        headers.insert(SIGNATURE, HeaderValue::from_static("x"));
        headers.insert(SIGNATURE_INPUT, HeaderValue::from_static("y=("));
        assert_eq!(verify(TARGET, &headers, b""), Err(SignatureError::Malformed));
    }
}
