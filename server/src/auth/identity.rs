//! The rules by which an MLS group is an evolving identity (AS-3): every leaf is a client of the one user, has a basic
//! credential with the user's name, and signs with the client's key. A commit adds clients, removes them, or updates its
//! own, and carries nothing else, since every reader of the history reads all of it.

use openmls::prelude::{BasicCredential, LeafNode, Proposal, StagedCommit};
use postern_protocol::{
    PublicKey,
    name::{Domain, UserName},
    problem::{Problem, ProblemType},
};
use tls_codec::Size;
use tokio_postgres::Row;

use crate::{
    http::Failure,
    mls::{InvalidMls, TrackedGroup},
};

/// The longest lifetime of a KeyPackage in an EID, in seconds: 21 years. Readers replay the commit that added a client
/// for as long as the user exists, and refuse it once the KeyPackage has expired.
pub const LONGEST_LIFETIME: u64 = 21 * 365 * 24 * 60 * 60;

/// The operator's limits of an identity, as `auth.load_client` returns them.
pub struct Limits {
    pub max_clients: i32,
    /// Commits in all.
    pub max_commits: i32,
    pub max_commit_bytes: usize,
    /// Bytes of a leaf, as RFC 9420 encodes it.
    pub max_leaf_bytes: usize,
}

impl Limits {
    /// # Errors
    /// A fault: the database holds a negative limit.
    pub fn read(client: &Row) -> Result<Self, Failure> {
        let bytes = |column| usize::try_from(client.get::<_, i32>(column)).map_err(Failure::fault);
        Ok(Self {
            max_clients: client.get("max_clients"),
            max_commits: client.get("max_commits"),
            max_commit_bytes: bytes("max_commit_bytes")?,
            max_leaf_bytes: bytes("max_leaf_bytes")?,
        })
    }

    pub fn commit_too_large(&self) -> Problem {
        let detail = format_args!("a commit to an identity may have at most {} bytes", self.max_commit_bytes);
        Problem::with_detail(ProblemType::MessageTooLarge, detail)
    }

    pub fn too_many_commits(&self) -> Problem {
        let limit = self.max_commits;
        let detail = format_args!("after {limit} commits an identity can only lose clients");
        Problem::with_detail(ProblemType::PolicyViolation, detail)
    }

    pub fn too_many_clients(&self) -> Problem {
        let detail = format_args!("an identity may grow to at most {} clients", self.max_clients);
        Problem::with_detail(ProblemType::TooManyClients, detail)
    }
}

/// Checks that a commit changes clients only, and that readers need every part of it.
///
/// # Errors
/// `invalid-mls` for authenticated data and for proposals of other kinds, `message-too-large` for a leaf.
pub fn check_commit(
    commit: &StagedCommit,
    authenticated_data: &[u8],
    max_leaf_bytes: usize,
) -> Result<(), Problem> {
    if !authenticated_data.is_empty() {
        return Err(InvalidMls::Refused("a commit to an EID must have no authenticated data").into());
    }
    for proposal in commit.queued_proposals() {
        match proposal.proposal() {
            Proposal::Add(add) => check_leaf(add.key_package().leaf_node(), max_leaf_bytes)?,
            Proposal::Remove(_) => {}
            _ => {
                let reason = "a commit to an EID can only add clients, remove them, and update its own";
                return Err(InvalidMls::Refused(reason).into());
            }
        }
    }
    commit.update_path_leaf_node().map_or(Ok(()), |leaf| check_leaf(leaf, max_leaf_bytes))
}

/// # Errors
/// `message-too-large` for a leaf of more bytes, extensions and capabilities included.
pub fn check_leaf(leaf: &LeafNode, max_bytes: usize) -> Result<(), Problem> {
    expect_at_most(leaf.tls_serialized_len(), "a leaf of an identity", max_bytes)
}

/// Checks the extensions of a new EID's GroupContext, which no commit changes.
///
/// # Errors
/// `message-too-large` if they have more bytes than this.
pub fn check_context(identity: &TrackedGroup, max_bytes: usize) -> Result<(), Problem> {
    let bytes = identity.extensions().tls_serialized_len();
    expect_at_most(bytes, "the GroupContext extensions of an identity", max_bytes)
}

fn expect_at_most(bytes: usize, what: &str, max_bytes: usize) -> Result<(), Problem> {
    if bytes > max_bytes {
        let detail = format_args!("{what} may have at most {max_bytes} bytes");
        return Err(Problem::with_detail(ProblemType::MessageTooLarge, detail));
    }
    Ok(())
}

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
