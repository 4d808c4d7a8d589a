//! A request in two stages. A [`Call`] says who asks for what; changing it gives another request that is signed and
//! encoded rightly. A [`Wire`] is sent as it is; changing it breaks what was right.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ciborium::Value;
use postern_protocol::{
    LookupSecret, encoding::Encoding, key::SigningKey, name::Domain, profile::LOOKUP_SECRET, token,
};
use reqwest::{
    Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;

use super::signature;
use crate::HOME;

#[derive(Clone)]
pub struct Call {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub content_type: Option<&'static str>,
    pub accept: Option<&'static str>,
    pub body: Vec<u8>,
    /// The body in JSON, when it is one of the protocol's types.
    pub json: Vec<u8>,
    pub signer: Option<SigningKey>,
    /// The home domain of the server that the signature is for.
    pub authority: String,
    pub token: Option<Vec<u8>>,
    /// The secret that a lookup of a hidden user shows.
    pub lookup: Option<LookupSecret>,
}

#[derive(Clone)]
pub struct Wire {
    pub method: Method,
    pub target: String,
    pub authority: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The nonce of the token, under which the database files it once it is spent.
    pub nonce: Option<Vec<u8>>,
}

impl Call {
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        let (body, json, authority) = (Vec::new(), Vec::new(), HOME.to_owned());
        Self {
            method,
            target: target.into(),
            content_type: None,
            accept: None,
            body,
            json,
            signer: None,
            authority,
            token: None,
            lookup: None,
        }
    }

    pub fn get(target: impl Into<String>) -> Self {
        Self::new(Method::GET, target)
    }

    pub fn post(target: impl Into<String>) -> Self {
        Self::new(Method::POST, target)
    }

    pub fn put(target: impl Into<String>) -> Self {
        Self::new(Method::PUT, target)
    }

    /// A body of one of the protocol's types, in CBOR.
    pub fn with<T: Serialize>(self, value: &T) -> Self {
        let (body, json) = (Encoding::Cbor.encode(value), Encoding::Json.encode(value));
        Self { body, json, content_type: Some("application/cbor"), ..self }
    }

    /// A body of another standard's.
    pub fn with_bytes(self, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { body, content_type: Some(content_type), ..self }
    }

    /// The same body in JSON.
    pub fn in_json(self) -> Self {
        Self { body: self.json.clone(), content_type: Some("application/json"), ..self }
    }

    pub fn accepting(self, media_type: &'static str) -> Self {
        Self { accept: Some(media_type), ..self }
    }

    pub fn signed_by(self, key: &SigningKey) -> Self {
        Self { signer: Some(key.clone()), ..self }
    }

    pub fn paid_with(self, token: Vec<u8>) -> Self {
        Self { token: Some(token), ..self }
    }

    pub fn showing(self, secret: Option<LookupSecret>) -> Self {
        Self { lookup: secret, ..self }
    }

    /// The same for the server of another domain.
    pub fn at(self, domain: &Domain) -> Self {
        Self { authority: domain.to_string(), ..self }
    }

    pub fn to(self, target: impl Into<String>) -> Self {
        Self { target: target.into(), ..self }
    }

    /// The body's fields, when it is one of the protocol's types.
    pub fn fields(&self) -> Vec<(String, Value)> {
        let body: Value = ciborium::from_reader(self.body.as_slice()).expect("the body is CBOR");
        let fields = body.into_map().expect("bodies are maps");
        fields
            .into_iter()
            .map(|(name, value)| (name.into_text().expect("fields have names"), value))
            .collect()
    }

    /// The same with other fields.
    pub fn with_fields(&self, fields: Vec<(String, Value)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
        let mut body = Vec::new();
        ciborium::into_writer(&Value::Map(fields), &mut body).expect("it can be encoded");
        Self { body, ..self.clone() }
    }

    /// The same with a field changed.
    pub fn with_field(&self, name: &str, value: Value) -> Self {
        let mut fields = self.fields();
        fields.iter_mut().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no field {name}")).1 =
            value;
        self.with_fields(fields)
    }

    /// The same without a field.
    pub fn without(&self, name: &str) -> Self {
        self.with_fields(self.fields().into_iter().filter(|(found, _)| found != name).collect())
    }

    /// Signed now.
    pub fn wire(&self) -> Wire {
        let mut wire = self.unsigned();
        if let Some(key) = &self.signer {
            wire.sign(key, |_| {});
        }
        wire
    }

    pub fn unsigned(&self) -> Wire {
        let mut headers = HeaderMap::new();
        for (name, value) in [(CONTENT_TYPE, self.content_type), (ACCEPT, self.accept)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token::authorization(token));
        }
        if let Some(secret) = &self.lookup {
            headers.insert(LOOKUP_SECRET, secret.header_value());
        }
        let nonce = self.token.as_ref().and_then(|token| token.get(2..34)).map(<[u8]>::to_vec);
        let (method, target, body) = (self.method.clone(), self.target.clone(), self.body.clone());
        Wire { method, target, authority: self.authority.clone(), headers, body, nonce }
    }
}

impl Wire {
    /// Signs what the request is now; `change` may make the signature say something else.
    pub fn sign(&mut self, key: &SigningKey, change: impl FnOnce(&mut signature::Input)) {
        self.set("content-digest", &signature::content_digest(&self.body));
        let mut input = signature::Input::of(self, key, SystemTime::now());
        change(&mut input);
        let (input, signature) = input.sign(self, key);
        self.set("signature-input", &input);
        self.set("signature", &signature);
    }

    pub fn set(&mut self, name: &'static str, value: &str) {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("it is a field value");
        self.headers.insert(HeaderName::from_static(name), value);
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The texts by which somebody could be recognised in a log.
    pub fn identifiers(&self) -> Vec<String> {
        let input = self.header("signature-input");
        let keyid = input.split("keyid=\"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
        let in_path = self.target.split(['/', '?']).filter(|part| {
            part.contains('@') || part.len() >= 22 && part.bytes().any(|byte| byte.is_ascii_uppercase())
        });
        keyid.into_iter().chain(in_path.map(str::to_owned)).filter(|text| text.len() >= 8).collect()
    }

    /// Everything that is the sender's: identifiers, the token, and whatever the body says.
    pub fn private_texts(&self) -> Vec<String> {
        let mut texts = self.identifiers();
        texts.extend(
            self.header("authorization").split('"').nth(1).map(|token| token.trim_matches('=').to_owned()),
        );
        texts.push(self.header("lookup-secret").to_owned());
        texts.extend(body_texts(&self.body));
        texts.retain(|text| !text.is_empty());
        texts
    }
}

/// The texts in a CBOR body, and its byte strings as they would be printed.
fn body_texts(body: &[u8]) -> Vec<String> {
    fn collect(value: &Value, texts: &mut Vec<String>) {
        match value {
            Value::Text(text) => texts.push(text.clone()),
            Value::Bytes(bytes) => {
                texts.push(hex::encode(bytes));
                texts.push(URL_SAFE_NO_PAD.encode(bytes));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
            Value::Map(fields) => fields.iter().for_each(|(_, value)| collect(value, texts)),
            _ => {}
        }
    }
    let mut texts = Vec::new();
    if let Ok(value) = ciborium::from_reader::<Value, _>(body) {
        collect(&value, &mut texts);
    }
    // A domain is nobody.
    texts.retain(|text| text.len() >= 8 && text.parse::<Domain>().is_err());
    texts
}
