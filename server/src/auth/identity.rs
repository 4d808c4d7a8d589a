//! The rules by which an MLS group is an evolving identity (AS-3): every leaf is a client of the one user, has a basic
//! credential with the name that the user had when the leaf was made, and signs with the client's key. A commit adds
//! clients, removes them, or updates its own, and carries nothing else, since every reader of the history reads all of
//! it. A client that was added is pending: it does nothing until its own update has confirmed it (AS-4).

use openmls::{
    prelude::{BasicCredential, Credential, LeafNode, LeafNodeIndex, Lifetime, Proposal, StagedCommit},
    treesync::LeafNodeSource,
};
use postern_protocol::{
    GroupInfo, PublicKey, RatchetTree, Transcript, TreeHash,
    eid::{EidState, Founding, SignedState},
    mls::CIPHERSUITE,
    name::{Domain, UserName},
    problem::{Problem, ProblemType},
};
use tls_codec::Size;
use tokio_postgres::Row;

use crate::{
    clock::now,
    http::Failure,
    mls::{InvalidMls, TrackedGroup},
};

const YEAR: u64 = 365 * 24 * 60 * 60;
/// The longest lifetime of a leaf in an EID, in seconds: 21 years.
pub const LONGEST_LIFETIME: u64 = 21 * YEAR;
/// The least that a new leaf must have left, in seconds: 10 years. Readers see the leaf, and the commit that added it, for
/// as long as the client is one, and MLS libraries refuse both once the lifetime is over.
pub const SHORTEST_LIFETIME: u64 = 10 * YEAR;

/// An identity as it stands, without its MLS group.
pub struct Standing {
    pub user: UserName,
    pub founding: Founding,
    pub eid: EidState,
    /// Whether the client that asks is confirmed (AS-4).
    pub confirmed: bool,
}

impl Standing {
    /// Reads the columns of `auth.load_client`.
    ///
    /// # Errors
    /// A fault: the database holds what is no identity.
    pub fn read(client: &Row, home: &Domain) -> Result<Self, Failure> {
        Ok(Self {
            user: user_name(client, home)?,
            founding: Founding {
                founder: PublicKey::try_from(client.get::<_, &[u8]>("founder")).map_err(Failure::fault)?,
                transcript: transcript(client, "founding")?,
            },
            eid: eid_state(client)?,
            confirmed: client.get("confirmed"),
        })
    }
}

/// The state in a row's columns `incarnation`, `epoch` and `transcript`.
///
/// # Errors
/// A fault: the database holds what is no state.
pub fn eid_state(row: &Row) -> Result<EidState, Failure> {
    Ok(EidState {
        incarnation: u32::try_from(row.get::<_, i32>("incarnation")).map_err(Failure::fault)?,
        epoch: u64::try_from(row.get::<_, i64>("epoch")).map_err(Failure::fault)?,
        transcript: transcript(row, "transcript")?,
    })
}

/// The transcript in a column of a row.
///
/// # Errors
/// A fault: the column holds no transcript.
pub fn transcript(row: &Row, column: &str) -> Result<Transcript, Failure> {
    Transcript::try_from(row.get::<_, &[u8]>(column)).map_err(Failure::fault)
}

/// Epoch 0 of a new identity, as a request brings it.
pub struct NewIdentity<'a> {
    pub user: &'a UserName,
    pub group_info: &'a GroupInfo,
    pub ratchet_tree: &'a RatchetTree,
    pub state: &'a SignedState,
    /// The number and the last transcript of the incarnation before; `None` for the first.
    pub previous: Option<(u32, Transcript)>,
}

/// A new identity that is valid.
pub struct Founded {
    eid: Vec<u8>,
    tree_hash: TreeHash,
}

impl Founded {
    /// The public state of its MLS group.
    pub fn eid(&self) -> &[u8] {
        &self.eid
    }

    pub fn tree_hash(&self) -> &[u8] {
        self.tree_hash.as_bytes()
    }
}

impl NewIdentity<'_> {
    /// The transcript of its epoch 0.
    pub fn transcript(&self) -> Transcript {
        let previous_end = self.previous.as_ref().map(|(_, end)| end);
        Transcript::founded(previous_end, self.group_info, self.ratchet_tree)
    }

    /// Validates that it has one client, whose key is `signer`.
    ///
    /// # Errors
    /// `invalid-mls`, `message-too-large`; `not-allowed` for the client of another key.
    pub fn validate(&self, signer: PublicKey, max_leaf_bytes: usize) -> Result<Founded, Problem> {
        let eid = TrackedGroup::create(self.group_info, self.ratchet_tree)?;
        if eid.ciphersuite() != CIPHERSUITE {
            return Err(InvalidMls::Refused("an identity must have ciphersuite 0x0001").into());
        }
        check_context(&eid, max_leaf_bytes)?;
        for (_, leaf) in eid.leaves() {
            check_new_leaf(leaf, max_leaf_bytes)?;
        }
        check_names(&eid, &[], self.user)?;
        if client_keys(&eid)? != [signer] {
            return Err(ProblemType::NotAllowed.into());
        }
        let transcript = self.transcript();
        let founding = Founding { founder: signer, transcript };
        let incarnation = self.previous.map_or(0, |(number, _)| number + 1);
        let state = (EidState::founded(incarnation, transcript), self.state);
        let founder = (LeafNodeIndex::new(0), signer);
        check_state(&eid, founder, self.group_info, self.user, &founding, state)?;
        Ok(Founded { eid: eid.encode(), tree_hash: eid.tree_hash()? })
    }
}

/// The operator's limits of an identity, as `auth.load_client` returns them.
pub struct Limits {
    pub max_clients: i32,
    /// Commits in all.
    pub max_commits: i32,
    /// Commits in a day (UTC), beyond which only those are taken that leave fewer clients.
    pub commits_per_day: i32,
    pub max_commit_bytes: usize,
    /// Bytes of all commits together, beyond which only those are taken that leave fewer clients.
    pub max_history_bytes: i32,
    /// Bytes of a leaf, as RFC 9420 encodes it.
    pub max_leaf_bytes: usize,
}

impl Limits {
    /// The limits in a row.
    ///
    /// # Errors
    /// A fault: the database holds a negative limit.
    pub fn read(client: &Row) -> Result<Self, Failure> {
        let bytes = |column| usize::try_from(client.get::<_, i32>(column)).map_err(Failure::fault);
        Ok(Self {
            max_clients: client.get("max_clients"),
            max_commits: client.get("max_commits"),
            commits_per_day: client.get("commits_per_day"),
            max_commit_bytes: bytes("max_commit_bytes")?,
            max_history_bytes: client.get("max_history_bytes"),
            max_leaf_bytes: bytes("max_leaf_bytes")?,
        })
    }

    pub fn commit_too_large(&self) -> Problem {
        let detail = format_args!("a commit to an identity may have at most {} bytes", self.max_commit_bytes);
        Problem::with_detail(ProblemType::MessageTooLarge, detail)
    }

    pub fn too_many_commits(&self) -> Problem {
        let Self { commits_per_day, max_commits, max_history_bytes, .. } = self;
        let detail = format_args!(
            "after {commits_per_day} commits a day, or {max_commits} or {max_history_bytes} bytes of them in all, an identity can only lose clients"
        );
        Problem::with_detail(ProblemType::PolicyViolation, detail)
    }

    pub fn too_many_clients(&self) -> Problem {
        let detail = format_args!("an identity may grow to at most {} clients", self.max_clients);
        Problem::with_detail(ProblemType::TooManyClients, detail)
    }
}

/// Checks that a commit changes clients only, that readers need every part of it, and that it updates the committer's own
/// leaf. In epoch 0 the founder's leaf comes from a KeyPackage as that of a pending client does (AS-4): a commit that
/// left it so would leave the identity without a confirmed client.
///
/// # Errors
/// `invalid-mls` for authenticated data, for proposals of other kinds, and without an update path; `message-too-large` for
/// a leaf.
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
            Proposal::Add(add) => check_new_leaf(add.key_package().leaf_node(), max_leaf_bytes)?,
            Proposal::Remove(_) => {}
            _ => {
                let reason = "a commit to an EID can only add clients, remove them, and update its own";
                return Err(InvalidMls::Refused(reason).into());
            }
        }
    }
    let leaf = commit.update_path_leaf_node();
    let leaf = leaf.ok_or(InvalidMls::Refused("a commit to an EID must update the committer's leaf"))?;
    check_leaf(leaf, max_leaf_bytes)
}

/// Checks that a pending client does nothing but to confirm itself (AS-4).
///
/// # Errors
/// `not-allowed` for a commit with proposals.
pub fn check_confirmation(commit: &StagedCommit) -> Result<(), Problem> {
    if commit.queued_proposals().next().is_some() {
        return Err(pending(
            "a client that was added must first commit an update of its own, and nothing else",
        ));
    }
    Ok(())
}

/// `not-allowed` for a pending client.
pub fn pending(detail: &'static str) -> Problem {
    Problem::with_detail(ProblemType::NotAllowed, detail)
}

/// Checks a leaf that no commit has replaced yet.
///
/// # Errors
/// As [`check_leaf`]; `invalid-mls` for a lifetime that is too short for readers, or too long.
pub fn check_new_leaf(leaf: &LeafNode, max_bytes: usize) -> Result<(), Problem> {
    check_leaf(leaf, max_bytes)?;
    let LeafNodeSource::KeyPackage(lifetime) = leaf.leaf_node_source() else {
        return Err(InvalidMls::Refused("a new leaf of an identity must have a lifetime").into());
    };
    check_lifetime(lifetime, now())
}

fn check_lifetime(lifetime: &Lifetime, now: u64) -> Result<(), Problem> {
    if lifetime.not_before() > now || lifetime.not_after() < now + SHORTEST_LIFETIME {
        return Err(
            InvalidMls::Refused("a new leaf of an identity must be valid for 10 years at least").into()
        );
    }
    if lifetime.not_after() - lifetime.not_before() > LONGEST_LIFETIME {
        return Err(InvalidMls::Refused("a leaf of an identity can be valid for 21 years at most").into());
    }
    Ok(())
}

/// Checks the size of a leaf.
///
/// # Errors
/// `message-too-large` for a leaf of more bytes, extensions and capabilities included.
pub fn check_leaf(leaf: &LeafNode, max_bytes: usize) -> Result<(), Problem> {
    expect_at_most(leaf.tls_serialized_len(), "a leaf of an identity", max_bytes)
}

/// Checks what readers get of an epoch: a GroupInfo by the client that began it, without anything that they do not need,
/// and the state that the same client signed.
///
/// # Errors
/// `invalid-mls`.
pub fn check_state(
    identity: &TrackedGroup,
    signer: (LeafNodeIndex, PublicKey),
    group_info: &GroupInfo,
    user: &UserName,
    founding: &Founding,
    (expected, state): (EidState, &SignedState),
) -> Result<(), Problem> {
    let (leaf, key) = signer;
    identity.check_group_info(group_info, leaf)?;
    if state.eid != expected {
        return Err(InvalidMls::Refused("the signed state is not the one that the request leads to").into());
    }
    state.verify(user, founding, group_info, key).map_err(|_| {
        InvalidMls::Refused("the state is not signed by the client that signed the request").into()
    })
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
/// `invalid-mls` for a key of another kind.
pub fn client_keys(identity: &TrackedGroup) -> Result<Vec<PublicKey>, Problem> {
    let key = |(_, leaf): (_, &LeafNode)| {
        PublicKey::try_from(leaf.signature_key().as_slice())
            .map_err(|_| InvalidMls::Refused("signature keys must be Ed25519").into())
    };
    identity.leaves().map(key).collect()
}

/// A leaf and its credential.
pub type Named = (LeafNodeIndex, Credential);

/// The leaves and their credentials.
pub fn names(identity: &TrackedGroup) -> Vec<Named> {
    identity.leaves().map(|(index, leaf)| (index, leaf.credential().clone())).collect()
}

/// Checks that each leaf has the user's name, or the credential that it had `before`: a user who takes another name keeps
/// its clients, and their leaves take the name over one by one (AS-9).
///
/// # Errors
/// `invalid-mls` for another name.
pub fn check_names(identity: &TrackedGroup, before: &[Named], user: &UserName) -> Result<(), Problem> {
    for leaf in names(identity) {
        let named = BasicCredential::try_from(leaf.1.clone())
            .is_ok_and(|credential| credential.identity() == user.to_string().as_bytes());
        if !named && !before.contains(&leaf) {
            let reason = "the credential of every new leaf must be a basic one with the user's name";
            return Err(InvalidMls::Refused(reason).into());
        }
    }
    Ok(())
}

/// The name in a row's column `name`.
///
/// # Errors
/// A fault: the database holds an invalid name.
pub fn user_name(client: &Row, home: &Domain) -> Result<UserName, Failure> {
    format!("{}@{home}", client.get::<_, &str>("name")).parse().map_err(Failure::fault)
}
