//! HTTP Message Signatures (RFC 9421) by hand, from `docs/protocol/requests.md`: they are made without the library by
//! which the server verifies them, and can say anything.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use postern_protocol::key::SigningKey;
use rand::RngCore as _;

use super::Wire;

/// The components that a signature covers, and its parameters.
pub struct Input {
    pub label: &'static str,
    pub components: Vec<&'static str>,
    /// The domain of the server that the signature is for.
    pub authority: String,
    /// Names and values, in order; texts with their quotation marks.
    pub parameters: Vec<(&'static str, String)>,
}

impl Input {
    /// The input that the protocol asks for.
    pub fn of(wire: &Wire, key: &SigningKey, now: SystemTime) -> Self {
        let mut components = vec!["@method", "@authority", "@path", "@query", "content-digest"];
        if wire.headers.contains_key("authorization") {
            components.push("authorization");
        }
        let created = now.duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
        let mut nonce = [0; 16];
        rand::rng().fill_bytes(&mut nonce);
        let parameters = vec![
            ("created", created.to_string()),
            ("nonce", format!("\"{}\"", URL_SAFE_NO_PAD.encode(nonce))),
            ("alg", "\"ed25519\"".to_owned()),
            ("keyid", format!("\"{}\"", key.public_key().to_base64url())),
        ];
        Self { label: "sig", components, authority: wire.authority.clone(), parameters }
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.parameters.retain(|(found, _)| *found != name);
        self.parameters.push((name, value.into()));
    }

    /// Moves the time of signing, in seconds.
    pub fn shift(&mut self, seconds: i64) {
        let (_, created) =
            self.parameters.iter_mut().find(|(name, _)| *name == "created").expect("it has a time");
        *created = (created.parse::<i64>().expect("it is a number") + seconds).to_string();
    }

    /// `Signature-Input` and `Signature`.
    pub fn sign(&self, wire: &Wire, key: &SigningKey) -> (String, String) {
        let (path, query) = wire.target.split_once('?').unwrap_or((&wire.target, ""));
        let quoted: Vec<_> = self.components.iter().map(|name| format!("\"{name}\"")).collect();
        let parameters: String =
            self.parameters.iter().map(|(name, value)| format!(";{name}={value}")).collect();
        let input = format!("({}){parameters}", quoted.join(" "));
        let mut base = String::new();
        for name in &self.components {
            let value = match *name {
                "@method" => wire.method.as_str().to_owned(),
                "@authority" => self.authority.clone(),
                "@path" => path.to_owned(),
                "@query" => format!("?{query}"),
                field => wire.header(field).to_owned(),
            };
            base += &format!("\"{name}\": {value}\n");
        }
        base += &format!("\"@signature-params\": {input}");
        let signature = STANDARD.encode(key.sign(base.as_bytes()).as_bytes());
        (format!("{}={input}", self.label), format!("{}=:{signature}:", self.label))
    }
}

/// `Content-Digest` (RFC 9530).
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(digest(&SHA256, body)))
}
