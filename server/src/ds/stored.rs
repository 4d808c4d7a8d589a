//! A group in the database: it is loaded, opened with a member's key, and replaced by its next state. Only this module
//! knows under which identity each blob is sealed.

use postern_protocol::{
    StateKey,
    ds::{GroupId, WelcomeTree},
    problem::ProblemType,
};
use tokio_postgres::{Row, types::ToSql};

use super::{
    group::{self, DeliveryService, Group},
    roster::Roster,
    rules::Rules,
    sealed::{self, BlobId, Closed, Kind},
};
use crate::{
    body_limits,
    home::Home,
    http::{Failure, Payment},
    mls::CorruptGroup,
};

/// One of a group's sealed blobs, with the epoch and revision that it holds.
pub struct StoredGroup {
    group_id: GroupId,
    epoch: u64,
    /// Counts the proposals of the epoch.
    revision: i32,
    blob: Vec<u8>,
}

/// A group's row as the database returned it.
pub struct LoadedGroup {
    pub stored: StoredGroup,
    /// SHA-256 of the commit that began the epoch, or of the group's creation.
    pub last_commit: Vec<u8>,
    pub rules: Rules,
}

/// The sealed blobs of a group's next state. The roster is there only if it changes.
pub struct NextState {
    pub roster: Option<Vec<u8>>,
    pub tree: Vec<u8>,
}

/// The reason why stored state does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The key is not the group's: its holder is no member, and learns nothing of the group.
    #[error("the state does not open with this key")]
    WrongKey,
    /// Only a server of that release can go on with the group (OPS-6).
    #[error("the state has format {0}, of a later release than this program's")]
    UnknownFormat(u8),
    #[error(transparent)]
    Corrupt(#[from] CorruptGroup),
}

impl From<Closed> for OpenError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::WrongKey => Self::WrongKey,
            Closed::UnknownFormat(format) => Self::UnknownFormat(format),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::WrongKey => ProblemType::NotFound.into(),
            OpenError::UnknownFormat(_) | OpenError::Corrupt(_) => Self::fault(error),
        }
    }
}

/// Reads a group for a message, or for the DS itself, which shows no token.
const LOAD: &str = "SELECT spent, epoch, revision, last_commit, state, inactive_days, max_members, max_clients,
                           max_domains, max_message_bytes, max_commit_bytes,
                           max_authenticated_data_bytes, max_leaf_bytes, max_delivery_bytes, past_epochs, message_days,
                           outbox_days, ciphersuites
                      FROM ds.load_group($1, $2, $3, $4)";

impl LoadedGroup {
    /// Loads a group for a request, with the blob of a kind, roster or tree; none if it does not exist.
    ///
    /// # Errors
    /// `token-spent`, or a database that does not answer.
    pub async fn load(
        home: &Home,
        payment: &Payment,
        group_id: &GroupId,
        kind: Kind,
    ) -> Result<Option<Self>, Failure> {
        let parameters: [&(dyn ToSql + Sync); 2] = [&group_id.id().as_slice(), &(kind == Kind::Tree)];
        Self::of(home, group_id, payment.load(&home.database, LOAD, &parameters).await?)
    }

    /// Loads a group with its tree for the DS's own purposes; none if it does not exist.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn load_unpaid(home: &Home, group_id: &GroupId) -> Result<Option<Self>, Failure> {
        let nobody: (Option<i16>, Option<&[u8]>) = (None, None);
        let parameters: [&(dyn ToSql + Sync); 4] = [&nobody.0, &nobody.1, &group_id.id().as_slice(), &true];
        Self::of(home, group_id, home.database.query_opt(LOAD, &parameters).await?)
    }

    fn of(home: &Home, group_id: &GroupId, row: Option<Row>) -> Result<Option<Self>, Failure> {
        row.map(|row| {
            Ok(Self {
                stored: StoredGroup::of(group_id, &row)?,
                last_commit: row.get("last_commit"),
                rules: Rules::of(&row, body_limits::largest_part(&home.limits))?,
            })
        })
        .transpose()
    }
}

impl StoredGroup {
    fn of(group_id: &GroupId, row: &Row) -> Result<Self, Failure> {
        Ok(Self {
            group_id: group_id.clone(),
            epoch: u64::try_from(row.get::<_, i64>("epoch")).map_err(Failure::fault)?,
            revision: row.get("revision"),
            blob: row.get("state"),
        })
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch in the database's type.
    pub fn sql_epoch(&self) -> i64 {
        i64::try_from(self.epoch).expect("it came from there")
    }

    pub fn revision(&self) -> i32 {
        self.revision
    }

    /// Opens the group, from its tree.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_group(&self, key: &StateKey, ds: DeliveryService<'_>) -> Result<Group, OpenError> {
        let content = sealed::open(key, self.id(Kind::Tree, self.revision), &self.blob)?;
        Ok(Group::decode(&content, ds)?)
    }

    /// Opens the roster.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_roster(&self, key: &StateKey) -> Result<Roster, OpenError> {
        // Proposals change the tree only, so the roster's id ignores their number.
        let content = sealed::open(key, self.id(Kind::Roster, 0), &self.blob)?;
        Ok(Roster::decode(&content)?)
    }

    /// Seals the state after a proposal of a member: the tree, as the next revision of the epoch.
    pub fn seal_proposal(&self, key: &StateKey, group: &Group) -> NextState {
        let tree = self.id(Kind::Tree, self.revision + 1);
        NextState { roster: None, tree: sealed::seal(key, tree, &group.encode()) }
    }

    /// Seals the state after proposals that remove leaves, which the roster remembers, too.
    pub fn seal_removal(&self, key: &StateKey, group: &Group) -> NextState {
        let roster = sealed::seal(key, self.id(Kind::Roster, 0), &group.roster.encode());
        NextState { roster: Some(roster), ..self.seal_proposal(key, group) }
    }

    /// Opens the tree that was kept for a joiner of an epoch.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_welcome_tree(
        group_id: &GroupId,
        epoch: u64,
        key: &StateKey,
        blob: &[u8],
    ) -> Result<WelcomeTree, OpenError> {
        let id = BlobId { group_id: group_id.id(), epoch, revision: 0, kind: Kind::WelcomeTree };
        Ok(group::decode_welcome_tree(&sealed::open(key, id, blob)?)?)
    }

    fn id(&self, kind: Kind, revision: i32) -> BlobId<'_> {
        BlobId { group_id: self.group_id.id(), epoch: self.epoch, revision, kind }
    }
}

/// Seals the state in which an epoch begins, by a group's creation or a commit.
pub fn seal_epoch(key: &StateKey, group_id: &GroupId, group: &Group) -> NextState {
    let id = |kind| BlobId { group_id: group_id.id(), epoch: group.mls.epoch(), revision: 0, kind };
    NextState {
        roster: Some(sealed::seal(key, id(Kind::Roster), &group.roster.encode())),
        tree: sealed::seal(key, id(Kind::Tree), &group.encode()),
    }
}

/// Seals the tree that is kept for the joiners of an epoch.
pub fn seal_welcome_tree(key: &StateKey, group_id: &GroupId, group: &Group) -> Vec<u8> {
    let (epoch, kind) = (group.mls.epoch(), Kind::WelcomeTree);
    let id = BlobId { group_id: group_id.id(), epoch, revision: 0, kind };
    sealed::seal(key, id, &group.encode_welcome_tree())
}
