//! Requests sealed for the gateway of a homeserver (RFC 9458).

use http::Request;
use ohttp::{ClientRequest, ClientResponse, KeyConfig};
use postern_protocol::{
    federation::{DESCRIPTION_PATH, Description},
    name::Domain,
    oblivious::{self, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE},
};

use super::{Call, Reply, Wire};
use crate::World;

/// A sealed request, and the means to open its answer.
pub struct Capsule {
    pub sealed: Vec<u8>,
    opens: ClientResponse,
}

impl Capsule {
    /// Seals a request, for the domain that it is for, with the first of these key configurations.
    pub fn seal(keys: &[u8], wire: &Wire) -> Self {
        Self::followed(keys, wire, &[])
    }

    /// The same with these bytes behind the request.
    pub fn followed(keys: &[u8], wire: &Wire, behind: &[u8]) -> Self {
        let domain: Domain = wire.authority.parse().expect("it is a domain");
        let url = format!("https://{domain}{}", wire.target);
        let mut request = Request::builder()
            .method(wire.method.clone())
            .uri(url)
            .body(wire.body.clone())
            .expect("a request");
        *request.headers_mut() = wire.headers.clone();
        Self::of(keys, &[&oblivious::encode_request(&request, &domain)[..], behind].concat())
    }

    /// Seals any bytes.
    pub fn of(keys: &[u8], message: &[u8]) -> Self {
        let mut keys = KeyConfig::decode_list(keys).expect("they are key configurations");
        let request = ClientRequest::from_config(&mut keys[0]).expect("it is one that can be sealed for");
        let (sealed, opens) = request.encapsulate(message).expect("it can be sealed");
        Self { sealed, opens }
    }

    /// The request that brings it to the gateway or the relay.
    pub fn call(&self, target: impl Into<String>) -> Call {
        Call::post(target).with_bytes(REQUEST_MEDIA_TYPE, self.sealed.clone())
    }

    /// The answer that is sealed in this one.
    pub fn open(self, answer: &Reply) -> Reply {
        answer.assert_ok("a sealed request");
        assert_eq!(answer.content_type(), RESPONSE_MEDIA_TYPE);
        let opened = self.opens.decapsulate(&answer.body).expect("the answer opens");
        let (head, body) = oblivious::decode_response(&opened).expect("it is an answer").into_parts();
        Reply { status: head.status, headers: head.headers, body }
    }
}

impl World {
    /// The description that the first server gives of itself.
    pub async fn description(&self) -> Description {
        let reply = self.send(&Call::get(DESCRIPTION_PATH).wire()).await;
        Description::from_json(&reply.body).expect("it is a description")
    }

    /// The key configurations of the gateway.
    pub async fn gateway_keys(&self) -> Vec<u8> {
        self.description().await.gateway_keys.into_bytes()
    }
}
