//! Tokens as a client gets them, and as nobody should have them: with any part made up.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_protocol::{
    aas::IssuerDirectory,
    key::SigningKey,
    token::{self, BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE, DIRECTORY_PATH, TOKEN_TYPE},
};
use privacypass::{
    amortized_tokens::{AmortizedBatchTokenRequest, AmortizedBatchTokenResponse, TokenState},
    auth::authenticate::TokenChallenge,
    common::private::{deserialize_public_key, serialize_public_key},
};
use rand::RngCore;
use tls_codec::Serialize as _;
use voprf::{Ristretto255, VoprfServer};

use super::{Call, World, home};

/// The issuer's public key.
#[derive(Clone)]
pub struct TokenKey(pub Vec<u8>);

/// The parts of a token that an impostor chooses.
pub struct TokenShape {
    pub token_type: u16,
    pub challenge_digest: [u8; 32],
    pub key_id: [u8; 32],
}

impl World {
    /// The challenge that every endpoint here poses.
    pub fn challenge(&self) -> TokenChallenge {
        token::challenge(&home())
    }
}

impl TokenKey {
    pub async fn published(http: &reqwest::Client, server: &str) -> Self {
        let answer = http.get(format!("{server}{DIRECTORY_PATH}")).send().await.expect("the server answers");
        let directory = answer.bytes().await.expect("the answer is whole");
        let directory: IssuerDirectory = serde_json::from_slice(&directory).expect("it is a directory");
        let key =
            directory.token_keys.iter().find(|key| key.token_type == TOKEN_TYPE).expect("there is a key");
        Self(URL_SAFE.decode(&key.token_key).expect("it is padded base64url"))
    }

    /// A request for a batch, and what opens the answer.
    pub fn request(&self, size: u16, challenge: &TokenChallenge) -> (Vec<u8>, TokenState<Ristretto255>) {
        let key = deserialize_public_key::<Ristretto255>(&self.0).expect("the published key is one");
        let (request, state) = AmortizedBatchTokenRequest::<Ristretto255>::new(key, challenge, size)
            .expect("a batch can be asked for");
        (request.tls_serialize_detached().expect("it serialises"), state)
    }

    pub fn call(&self, key: &SigningKey, body: Vec<u8>) -> Call {
        Call::post("/aas/token-request").with_bytes(BATCH_REQUEST_MEDIA_TYPE, body).signed_by(key)
    }

    /// Tokens issued to a client.
    pub async fn issue(
        &self,
        world: &World,
        client: &SigningKey,
        size: u16,
        challenge: &TokenChallenge,
    ) -> Vec<Vec<u8>> {
        let (request, state) = self.request(size, challenge);
        let reply = world.send(&self.call(client, request).wire()).await;
        reply.assert_ok("a token request");
        assert_eq!(reply.content_type(), BATCH_RESPONSE_MEDIA_TYPE);
        let response =
            AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&reply.body).expect("a response");
        let tokens = response.issue_tokens(&state).expect("the issuer's proof verifies");
        assert_eq!(tokens.len(), usize::from(size));
        tokens.iter().map(token::to_bytes).collect()
    }

    /// What a token for this server looks like from outside.
    pub fn shape(&self, world: &World) -> TokenShape {
        let challenge_digest = world.challenge().digest().expect("it has one");
        TokenShape { token_type: TOKEN_TYPE, challenge_digest, key_id: token::token_key_id(&self.0) }
    }
}

/// Makes tokens as another issuer would.
pub struct Impostor(VoprfServer<Ristretto255>);

impl Impostor {
    pub fn new() -> Self {
        Self(VoprfServer::new_from_seed(&[7; 32], b"PrivacyPass").expect("a seed yields a key"))
    }

    pub fn key_id(&self) -> [u8; 32] {
        token::token_key_id(&serialize_public_key::<Ristretto255>(self.0.get_public_key()))
    }

    /// A token of this shape, with the impostor's word for it.
    pub fn token(&self, shape: &TokenShape) -> Vec<u8> {
        let mut token = shape.token_type.to_be_bytes().to_vec();
        let mut nonce = [0; 32];
        rand::rng().fill_bytes(&mut nonce);
        token.extend_from_slice(&nonce);
        token.extend_from_slice(&shape.challenge_digest);
        token.extend_from_slice(&shape.key_id);
        let authenticator = self.0.evaluate(&token).expect("anything can be evaluated");
        token.extend_from_slice(&authenticator);
        token
    }
}
