//! The rules by which an MLS group is an evolving identity (AS-3): every leaf is a client of the
//! one user, has a basic credential with the user's name, and signs with the client's key.

use openmls::prelude::{BasicCredential, LeafNode};
use postern_protocol::{
    PublicKey,
    name::{Domain, UserName},
    problem::Problem,
};
use tokio_postgres::Row;

use crate::{
    http::Failure,
    mls::{InvalidMls, TrackedGroup},
};

/// The signature keys of the EID's leaves, one for each client.
///
/// # Errors
/// A problem if a leaf is not one of `user`'s clients.
pub fn client_keys(identity: &TrackedGroup, user: &UserName) -> Result<Vec<PublicKey>, Problem> {
    identity.leaves().map(|(_, leaf)| client_key(leaf, user)).collect()
}

fn client_key(leaf: &LeafNode, user: &UserName) -> Result<PublicKey, Problem> {
    let credential = BasicCredential::try_from(leaf.credential().clone()).ok();
    if credential.is_none_or(|found| found.identity() != user.to_string().as_bytes()) {
        let reason = "the credential of every leaf must be a basic one with the user's name";
        return Err(InvalidMls::Refused(reason).into());
    }
    PublicKey::try_from(leaf.signature_key().as_slice())
        .map_err(|_| InvalidMls::Refused("signature keys must be Ed25519").into())
}

/// The name of the user whose client `auth.load_client` found.
///
/// # Errors
/// A fault: the database holds an invalid name.
pub fn user_name(client: &Row, home: &Domain) -> Result<UserName, Failure> {
    format!("{}@{home}", client.get::<_, &str>("name")).parse().map_err(Failure::fault)
}
