//! Handing messages to the DS (DS-2 to DS-5) so that each takes effect once, whatever
//! fails in between: bytes are kept before they are sent, sent again unchanged while the
//! answer is outstanding, and made anew only after the DS said that they came too late.

use postern_protocol::{
    ds::{GroupId, MessageAccepted},
    problem::ProblemType,
    qs::QueueKind,
};
use rusqlite::OptionalExtension as _;

use crate::{
    api,
    client::Inner,
    error::{Error, Result},
    group::{Change, Group},
    http::Request,
    message::Content,
    store::{Step, Tx},
};

/// How often something is tried again because others changed the group first.
const ATTEMPTS: u32 = 8;

/// What became of an outstanding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Accepted(MessageAccepted),
    /// A commit that came too late: its reason has to be looked at again.
    Lost,
    Nothing,
}

/// A message ready for the DS, for callers that want to send it themselves.
#[derive(Clone)]
pub struct Submission {
    pub group: GroupId,
    /// The epoch it was made in.
    pub epoch: u64,
    /// Signed with each sending; a token has to be added.
    pub request: Request,
}

impl Inner {
    /// Says something in a group.
    pub(crate) async fn send(&self, step: &Step<'_>, id: &GroupId, content: Content) -> Result<()> {
        self.settle(step, id).await?;
        self.store.write(|tx| {
            let mut group = Group::load(tx, id)?;
            group.stage_content(tx, content)
        })?;
        self.settle(step, id).await.map(drop)
    }

    /// Commits what `decide` wants in the group's current state, deciding anew whenever
    /// somebody else's commit came first; `None` means there is nothing to do (any more).
    pub(crate) async fn commit(
        &self,
        step: &Step<'_>,
        id: &GroupId,
        decide: impl Fn(&Tx<'_>, &Group) -> Result<Option<Change>>,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            self.settle(step, id).await?;
            let staged = self.store.write(|tx| {
                let mut group = Group::load(tx, id)?;
                let change = decide(tx, &group)?;
                change.map(|change| group.stage_commit(tx, &change)).transpose()
            })?;
            if staged.is_none() || matches!(self.settle(step, id).await?, Settled::Accepted(_)) {
                return Ok(());
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    /// Sends the outstanding message of a group until its fate is known.
    ///
    /// # Errors
    /// After a passing fault the message stays outstanding and is sent with the next step.
    pub(crate) async fn settle(&self, step: &Step<'_>, id: &GroupId) -> Result<Settled> {
        for _ in 0..ATTEMPTS {
            let Some(submission) = self.outstanding(id)? else {
                return Ok(Settled::Nothing);
            };
            match self.api.submit(submission.request).await {
                Ok(accepted) => {
                    self.store.write(|tx| Group::load(tx, id)?.confirm(tx))?;
                    return Ok(Settled::Accepted(accepted));
                }
                Err(error) if is_unanswered(&error) => return Err(error),
                Err(error) => {
                    let content = self.store.write(|tx| {
                        let content =
                            Group::outstanding(tx, id)?.and_then(|outstanding| outstanding.content);
                        Group::load(tx, id)?.abandon(tx)?;
                        Ok(content)
                    })?;
                    // What made it too late, or us a stranger, is in the queue.
                    self.drain(step, QueueKind::Group).await?;
                    self.store.read(|tx| Group::load(tx, id).map(drop))?;
                    if error.problem() != Some(ProblemType::WrongEpoch) {
                        return Err(error);
                    }
                    let Some(content) = content else { return Ok(Settled::Lost) };
                    self.store.write(|tx| Group::load(tx, id)?.stage_message(tx, content))?;
                }
            }
        }
        Err(Error::Contended(ATTEMPTS))
    }

    pub(crate) fn outstanding(&self, id: &GroupId) -> Result<Option<Submission>> {
        self.store.read(|tx| {
            let Some(outstanding) = Group::outstanding(tx, id)? else { return Ok(None) };
            let group = Group::load(tx, id)?;
            Ok(Some(Submission {
                group: id.clone(),
                epoch: outstanding.epoch,
                request: api::submission(id, outstanding.body, &group.leaf),
            }))
        })
    }

    /// The groups that wait for an answer of the DS.
    pub(crate) fn unsettled(&self) -> Result<Vec<GroupId>> {
        self.store.read(|tx| group_ids(tx, "SELECT group_id FROM submissions"))
    }
}

/// Whether the message may still be accepted: nothing was said about the message itself.
fn is_unanswered(error: &Error) -> bool {
    match error.problem() {
        Some(kind) => matches!(
            kind,
            ProblemType::Fault
                | ProblemType::Unavailable
                | ProblemType::TokenRequired
                | ProblemType::TokenSpent
                | ProblemType::AllowanceUsedUp
                | ProblemType::SignatureRequired
        ),
        None => true,
    }
}

/// The group ids a query of one column finds.
pub(crate) fn group_ids(tx: &Tx<'_>, sql: &str) -> Result<Vec<GroupId>> {
    let mut statement = tx.sql().prepare_cached(sql)?;
    let ids = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<Vec<u8>>, _>>()
        .optional()?
        .unwrap_or_default();
    ids.iter()
        .map(|id| GroupId::from_mls(id).map_err(|_| Error::Damaged("a group id")))
        .collect()
}
