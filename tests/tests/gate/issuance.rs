//! Issuance by the standards (AAS-3): formats, and the answers to malformed requests.

use postern_protocol::token::{
    BATCH_REQUEST_MEDIA_TYPE, GENERIC_REQUEST_MEDIA_TYPE, REQUEST_MEDIA_TYPE, TokenType,
};
use postern_tests_kit::{Ask, World};
use privacypass::generic_tokens::GenericBatchTokenResponse;
use reqwest::StatusCode;
use tls_codec::Deserialize as _;

#[tokio::test]
async fn every_format_issues_tokens_of_every_type_it_has_and_each_is_redeemed_once() {
    let gate = World::builder().servers(2).start().await;
    let client = gate.client("alice").await;
    let (ristretto255, p384, rsa) = (
        gate.issuer_key(TokenType::PrivateRistretto255).await,
        gate.issuer_key(TokenType::PrivateP384).await,
        gate.issuer_key(TokenType::Public).await,
    );
    for (ask, number) in [
        (Ask::p384(&p384), 1),
        (Ask::blind_rsa(&rsa), 1),
        (Ask::batch(&ristretto255, 1), 1),
        (Ask::batch(&ristretto255, 100), 100),
        (Ask::batch_p384(&p384, 10), 10),
        (Ask::generic(&p384, &rsa), 10),
    ] {
        let tokens = gate.tokens(0, &client, &ask).await;
        assert_eq!(tokens.len(), number);
        for token in tokens.iter().take(4) {
            assert_eq!(gate.spend(0, token).await.status, StatusCode::CREATED);
            assert_eq!(gate.spend(1, token).await.slug(), "token-spent");
        }
    }
}

#[tokio::test]
async fn what_is_no_token_request_is_refused_as_the_standards_say_and_costs_nothing() {
    let gate = World::builder().start().await;
    let client = gate.client("alice").await;
    let (ristretto255, p384, rsa) = (
        gate.issuer_key(TokenType::PrivateRistretto255).await,
        gate.issuer_key(TokenType::PrivateP384).await,
        gate.issuer_key(TokenType::Public).await,
    );
    let single = Ask::p384(&p384).body;
    let of_rsa = Ask::blind_rsa(&rsa).body;
    let batch = Ask::batch(&ristretto255, 10).body;
    let changed = |body: &[u8], place: usize, value: u8| {
        let mut body = body.to_vec();
        body[place] = value;
        body
    };
    let filled = |body: &[u8], from: usize, value: u8| {
        let mut body = body.to_vec();
        body[from..].fill(value);
        body
    };
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    let cases = [
        ("no token request", "application/json", single.clone(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("a batch as a single", REQUEST_MEDIA_TYPE, batch.clone(), unprocessable),
        ("a single as a batch", BATCH_REQUEST_MEDIA_TYPE, single.clone(), unprocessable),
        ("nothing", REQUEST_MEDIA_TYPE, Vec::new(), unprocessable),
        ("a reserved type", REQUEST_MEDIA_TYPE, changed(&single, 1, 3), unprocessable),
        ("another key", REQUEST_MEDIA_TYPE, changed(&single, 2, single[2] ^ 1), unprocessable),
        ("no point", REQUEST_MEDIA_TYPE, filled(&single, 3, 0xff), unprocessable),
        ("the point at infinity", REQUEST_MEDIA_TYPE, filled(&single, 3, 0), unprocessable),
        ("a byte more", REQUEST_MEDIA_TYPE, [single.as_slice(), &[0]].concat(), unprocessable),
        ("a byte less", REQUEST_MEDIA_TYPE, single[..single.len() - 1].to_vec(), unprocessable),
        ("beyond the modulus", REQUEST_MEDIA_TYPE, filled(&of_rsa, 3, 0xff), unprocessable),
        ("blind RSA amortized", BATCH_REQUEST_MEDIA_TYPE, of_rsa.clone(), unprocessable),
        ("another key's batch", BATCH_REQUEST_MEDIA_TYPE, changed(&batch, 2, batch[2] ^ 1), unprocessable),
        (
            "an element that is none",
            BATCH_REQUEST_MEDIA_TYPE,
            filled(&batch, batch.len() - 32, 0xff),
            unprocessable,
        ),
        ("the identity", BATCH_REQUEST_MEDIA_TYPE, filled(&batch, batch.len() - 32, 0), unprocessable),
        ("no class of size", BATCH_REQUEST_MEDIA_TYPE, Ask::batch(&ristretto255, 2).body, unprocessable),
        ("too large a batch", BATCH_REQUEST_MEDIA_TYPE, Ask::batch(&ristretto255, 101).body, unprocessable),
        ("no generic batch", GENERIC_REQUEST_MEDIA_TYPE, single.clone(), unprocessable),
        ("an empty generic batch", GENERIC_REQUEST_MEDIA_TYPE, vec![0], unprocessable),
    ];
    for (what, media_type, body, status) in &cases {
        let reply = gate.ask(0, &client, media_type, body).await;
        assert_eq!(reply.status, *status, "{what}: {}", reply.text());
    }
    let stranger = postern_protocol::key::SigningKey::generate();
    assert_eq!(gate.ask(0, &stranger, REQUEST_MEDIA_TYPE, &single).await.status, StatusCode::FORBIDDEN);
    assert_eq!(gate.issued().await, 0);
}

#[tokio::test]
async fn a_generic_batch_is_issued_in_part_or_refused_as_a_whole() {
    let gate = World::builder().start().await;
    let client = gate.client("alice").await;
    let (p384, rsa) =
        (gate.issuer_key(TokenType::PrivateP384).await, gate.issuer_key(TokenType::Public).await);
    let ask = Ask::generic(&p384, &rsa);
    const LENGTH: usize = 2;
    const PAIR: usize = 3 + 49 + 3 + 256;
    let mut body = ask.body.clone();
    body[LENGTH + 2] ^= 1;
    let reply = gate.ask(0, &client, ask.media_type, &body).await;
    assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{}", reply.text());
    let response = GenericBatchTokenResponse::tls_deserialize_exact(&reply.body).unwrap();
    assert_eq!((response.token_responses.len(), response.issued_count()), (10, 9));
    assert!(response.token_responses[0].token_response.is_none());
    assert_eq!(gate.issued().await, 9, "what was not issued is not counted");

    for pair in 0..5 {
        body[LENGTH + pair * PAIR + 2] = !ask.body[LENGTH + 2];
        body[LENGTH + pair * PAIR + 3 + 49 + 2] = !ask.body[LENGTH + 3 + 49 + 2];
    }
    let reply = gate.ask(0, &client, ask.media_type, &body).await;
    assert_eq!((reply.status, reply.slug()), (StatusCode::BAD_REQUEST, "no-token-issued"));
}
