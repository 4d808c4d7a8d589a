//! The published test vectors of RFC 9578 and of the batched-tokens draft, through the code that the server issues
//! and verifies with (`tests/vectors`).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_protocol::token::{Token, TokenType};
use postern_server::aas::issuer_key::IssuerKey;
use postern_tests_kit::in_tree;
use privacypass::generic_tokens::{GenericBatchTokenRequest, GenericBatchTokenResponse, GenericTokenRequest};
use serde_json::Value;
use tls_codec::{Deserialize as _, Serialize as _};

/// The vectors of a file.
fn vectors(file: &str) -> Vec<Value> {
    let text =
        std::fs::read(in_tree("tests/vectors/privacypass").join(file)).expect("it is in the repository");
    let vectors: Vec<Value> = serde_json::from_slice(&text).expect("it is as it was published");
    assert!(!vectors.is_empty(), "{file} has vectors");
    vectors
}

fn bytes(vector: &Value, names: &[&str]) -> Vec<u8> {
    let text = names.iter().find_map(|name| vector[name].as_str());
    hex::decode(text.unwrap_or_else(|| panic!("no {names:?}"))).expect("it is hex")
}

fn key(token_type: TokenType, vector: &Value) -> IssuerKey {
    let mut private = bytes(vector, &["skS", "sk_s"]);
    if token_type == TokenType::Public {
        let pem = String::from_utf8(private).expect("PEM is text");
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        private = STANDARD.decode(base64).expect("PEM holds base64");
    }
    let key = IssuerKey::from_private_key(token_type, &private).expect("the vector's key is one");
    assert_eq!(key.public(), bytes(vector, &["pkS", "pk_s"]));
    key
}

fn assert_verifies(key: &IssuerKey, token: &[u8]) {
    assert!(key.verify(&Token::from_bytes(token).expect("a token")));
    let mut forged = token.to_vec();
    *forged.last_mut().expect("it has bytes") ^= 1;
    assert!(!key.verify(&Token::from_bytes(&forged).expect("a token")));
}

/// Length of a response's deterministic part; a proof, which is random, follows.
fn evaluated_len(token_type: TokenType) -> usize {
    IssuerKey::blinded_len(token_type)
}

fn assert_issues(key: &IssuerKey, request: &[u8], response: &[u8]) {
    let request = GenericTokenRequest::tls_deserialize_exact(request).expect("a request");
    let issued = key.issue(request).expect("it issues").tls_serialize_detached().expect("it serialises");
    let length = evaluated_len(key.token_type());
    assert_eq!(issued[2..][..length], response[..length]);
    assert_eq!(issued.len(), 2 + response.len());
}

#[test]
fn single_tokens() {
    for (file, token_type) in
        [("private_p384_go.json", TokenType::PrivateP384), ("public_go.json", TokenType::Public)]
    {
        for vector in vectors(file) {
            let key = key(token_type, &vector);
            assert_issues(&key, &bytes(&vector, &["token_request"]), &bytes(&vector, &["token_response"]));
            assert_verifies(&key, &bytes(&vector, &["token"]));
        }
    }
}

#[test]
fn amortized_batches() {
    for (file, token_type) in [
        ("amortized_p384_go.json", TokenType::PrivateP384),
        ("amortized_ristretto255_go.json", TokenType::PrivateRistretto255),
        ("amortized_ristretto255_rs.json", TokenType::PrivateRistretto255),
    ] {
        for vector in vectors(file) {
            let key = key(token_type, &vector);
            let response = bytes(&vector, &["token_response"]);
            let issued = key.issue_batch(&bytes(&vector, &["token_request"])).expect("it issues");
            let tokens = vector["tokens"].as_array().expect("a list");
            let proof = match token_type {
                TokenType::PrivateP384 => 2 * 48,
                _ => 2 * 32,
            };
            let evaluated = response.len() - proof;
            assert!(evaluated >= tokens.len() * evaluated_len(token_type));
            assert_eq!(issued[..evaluated], response[..evaluated]);
            assert_eq!(issued.len(), response.len());
            for token in tokens {
                assert_verifies(&key, &hex::decode(token.as_str().expect("hex")).expect("hex"));
            }
        }
    }
}

/// Issues the i-th request with the i-th key; returns the requests' answers.
fn assert_issues_all(vector: &Value, requests: Vec<GenericTokenRequest>) -> Vec<(TokenType, Vec<u8>)> {
    let issuances = vector["issuance"].as_array().expect("a list");
    assert_eq!(requests.len(), issuances.len());
    let issue = |(request, issuance): (GenericTokenRequest, &Value)| {
        let token_type = match issuance["type"].as_str() {
            Some("0001") => TokenType::PrivateP384,
            Some("0002") => TokenType::Public,
            other => panic!("an unknown token type: {other:?}"),
        };
        let key = key(token_type, issuance);
        assert_verifies(&key, &bytes(issuance, &["token"]));
        (token_type, key.issue(request).expect("it issues").tls_serialize_detached().expect("it serialises"))
    };
    requests.into_iter().zip(issuances).map(issue).collect()
}

#[test]
fn generic_batches() {
    for vector in vectors("generic_go.json") {
        let request = bytes(&vector, &["token_request"]);
        let batch = GenericBatchTokenRequest::tls_deserialize_exact(&request).expect("a batch");
        let response = bytes(&vector, &["token_response"]);
        let published = GenericBatchTokenResponse::tls_deserialize_exact(&response).expect("a response");
        for ((token_type, issued), published) in
            assert_issues_all(&vector, batch.token_requests).iter().zip(published.token_responses)
        {
            let published =
                published.token_response.expect("all are issued").tls_serialize_detached().unwrap();
            assert_eq!(issued[..2 + evaluated_len(*token_type)], published[..2 + evaluated_len(*token_type)]);
            assert_eq!(issued.len(), published.len());
        }
    }
}

/// These were made under an older draft, whose batches frame each request with its length: the requests in the
/// frames are today's.
#[test]
fn requests_of_generic_batches_of_an_older_draft() {
    for vector in vectors("generic_ts.json") {
        let batch = bytes(&vector, &["token_request"]);
        let mut rest = &batch[1usize << (batch[0] >> 6)..];
        let mut requests = Vec::new();
        while let [high, low, more @ ..] = rest {
            let (request, next) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            requests.push(GenericTokenRequest::tls_deserialize_exact(request).expect("a request"));
            rest = next;
        }
        assert_issues_all(&vector, requests);
    }
}
