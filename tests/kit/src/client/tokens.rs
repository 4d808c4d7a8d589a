//! Tokens as a client gets them, in every format of the standards, and as nobody should have them: with any part made
//! up.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use blind_rsa_signatures::DefaultRng;
use p384::NistP384;
use postern_protocol::{
    aas::TokenKey,
    key::SigningKey,
    name::Domain,
    token::{
        self, BATCH_REQUEST_MEDIA_TYPE, GENERIC_REQUEST_MEDIA_TYPE, REQUEST_MEDIA_TYPE, TOKEN_TYPE, TokenType,
    },
};
use privacypass::{
    amortized_tokens::{self, AmortizedBatchTokenRequest, AmortizedBatchTokenResponse},
    auth::authenticate::TokenChallenge,
    common::private::{PrivateCipherSuite, deserialize_public_key, serialize_public_key},
    generic_tokens::{GenericBatchTokenRequest, GenericBatchTokenResponse, GenericToken, TokenStates},
    private_tokens, public_tokens,
};
use rand::RngCore;
use tls_codec::Deserialize as _;
use voprf::{Ristretto255, VoprfServer};

use super::Call;
use crate::home;

const TOKEN_REQUEST: &str = "/aas/token-request";

/// A request for tokens, and the means to open its answer.
pub struct Ask {
    pub media_type: &'static str,
    pub body: Vec<u8>,
    pub state: Asked,
}

/// The means to open the answer.
pub enum Asked {
    P384(private_tokens::TokenState<NistP384>),
    BlindRsa(Box<public_tokens::TokenState>),
    BatchP384(amortized_tokens::TokenState<NistP384>),
    Batch(amortized_tokens::TokenState<Ristretto255>),
    Generic(TokenStates),
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
        Self::batch_for(key, number, &challenge(&home()))
    }

    /// The same for any challenge: the issuer cannot see it.
    pub fn batch_for(key: &[u8], number: u16, challenge: &TokenChallenge) -> Self {
        let (body, state) = batch_request::<Ristretto255>(key, number, challenge);
        Self { media_type: BATCH_REQUEST_MEDIA_TYPE, body, state: Asked::Batch(state) }
    }

    /// A batch of type 0x0001.
    pub fn batch_p384(key: &[u8], number: u16) -> Self {
        let challenge = token::challenge_of(TokenType::PrivateP384, &home());
        let (body, state) = batch_request::<NistP384>(key, number, &challenge);
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

    pub fn call(&self, client: &SigningKey) -> Call {
        asking_for_tokens(client, self.media_type, self.body.clone())
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

/// A token request by a client, of whatever bytes.
pub fn asking_for_tokens(client: &SigningKey, media_type: &'static str, body: Vec<u8>) -> Call {
    Call::post(TOKEN_REQUEST).with_bytes(media_type, body).signed_by(client)
}

/// The challenge that every endpoint of a domain poses.
pub fn challenge(domain: &Domain) -> TokenChallenge {
    token::challenge(domain)
}

/// The bytes of a published key.
pub fn bytes_of(key: &TokenKey) -> Vec<u8> {
    URL_SAFE.decode(&key.token_key).expect("it is padded base64url")
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
    challenge: &TokenChallenge,
) -> (Vec<u8>, amortized_tokens::TokenState<CS>) {
    let key = deserialize_public_key::<CS>(key).expect("the published key is one");
    let (request, state) =
        AmortizedBatchTokenRequest::<CS>::new(key, challenge, number).expect("tokens can be asked for");
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

/// The parts of a token that an impostor chooses.
pub struct TokenShape {
    pub token_type: u16,
    pub challenge_digest: [u8; 32],
    pub key_id: [u8; 32],
}

impl TokenShape {
    /// The shape of a token under this key of the server's.
    pub fn ours(key: &[u8]) -> Self {
        let challenge_digest = challenge(&home()).digest().expect("it has one");
        Self { token_type: TOKEN_TYPE, challenge_digest, key_id: token::token_key_id(key) }
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

impl Default for Impostor {
    fn default() -> Self {
        Self::new()
    }
}
