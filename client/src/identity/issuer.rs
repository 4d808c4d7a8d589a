//! The AS's keys: which credentials and tickets are its.

use postern_protocol::{
    IssuedCredential, PublicKey, auth::AuthenticationKeys, credential::ClientCredential, key::PublishedKey,
};

use crate::error::IdentityError;

/// Verifies that a published key of the AS signed a credential, and that both are valid at `now`.
pub(super) fn verify_credential(
    credential: &IssuedCredential,
    keys: &AuthenticationKeys,
    now: u64,
) -> Result<ClientCredential, IdentityError> {
    let issuer = ClientCredential::parse(credential).map_err(|_| IdentityError::Credential)?.issuer_key;
    if !is_issuer(keys, &issuer, now) {
        return Err(IdentityError::Credential);
    }
    ClientCredential::verify(credential, issuer, now).map_err(|_| IdentityError::Credential)
}

/// Whether this is a key of the AS that signs at `now`.
pub(super) fn is_issuer(keys: &AuthenticationKeys, key: &PublicKey, now: u64) -> bool {
    keys.keys
        .iter()
        .any(|published: &PublishedKey| published.public_key == *key && published.is_valid_at(now))
}
