//! One request for tokens, which can be made again from its stored part.

use postern_protocol::{name::Domain, token};
use privacypass::{
    amortized_tokens::{AmortizedBatchTokenRequest, TokenState},
    common::private::deserialize_public_key,
};
use rand::RngCore as _;
use tls_codec::Serialize as _;
use voprf::{Group as _, Ristretto255};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

const NONCE_LEN: usize = 32;
const BLIND_LEN: usize = 32;

/// A batch before its answer: the nonces and blinds, which make its request, and make tokens of the
/// answer.
pub(super) struct Batch {
    /// The issuer's public key.
    pub issuer_key: Vec<u8>,
    /// For each token its nonce, then its blind.
    pub secrets: Zeroizing<Vec<u8>>,
}

impl Batch {
    pub(super) fn new(issuer_key: Vec<u8>, number: u16) -> Self {
        let mut secrets = Zeroizing::new(vec![0; usize::from(number) * (NONCE_LEN + BLIND_LEN)]);
        for secret in secrets.chunks_exact_mut(NONCE_LEN + BLIND_LEN) {
            let (nonce, blind) = secret.split_at_mut(NONCE_LEN);
            rand::rng().fill_bytes(nonce);
            // A uniform scalar: of the numbers below 2^253, those below the group's order.
            while {
                rand::rng().fill_bytes(blind);
                blind[BLIND_LEN - 1] &= 0x1f;
                Ristretto255::deserialize_scalar(blind).is_err()
            } {}
        }
        Self { issuer_key, secrets }
    }

    pub(super) fn number(&self) -> usize {
        self.secrets.len() / (NONCE_LEN + BLIND_LEN)
    }

    /// The request, and the state that makes tokens of its answer: the same each time.
    pub(super) fn request(&self, domain: &Domain) -> Result<(Vec<u8>, TokenState<Ristretto255>)> {
        let key = deserialize_public_key::<Ristretto255>(&self.issuer_key)
            .map_err(|_| Error::unexpected("a token key that is none"))?;
        let (mut nonces, mut blinds) = (Vec::new(), Vec::new());
        for secret in self.secrets.chunks_exact(NONCE_LEN + BLIND_LEN) {
            let (nonce, blind) = secret.split_at(NONCE_LEN);
            nonces.push(nonce.try_into().map_err(|_| Error::Damaged("a token request"))?);
            blinds.push(
                Ristretto255::deserialize_scalar(blind).map_err(|_| Error::Damaged("a token request"))?,
            );
        }
        let challenge = token::challenge(domain);
        AmortizedBatchTokenRequest::issue_token_request_with_params(key, &challenge, nonces, blinds)
            .ok()
            .and_then(|(request, state)| Some((request.tls_serialize_detached().ok()?, state)))
            .ok_or(Error::Damaged("a token request"))
    }
}
