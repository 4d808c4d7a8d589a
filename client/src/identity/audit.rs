//! Audits: the whole history of a user's identity, back to its founder and to the ends of the identities
//! before it, replayed commit by commit. Lookups need none of it.

use postern_protocol::{
    MlsMessage, PublicKey, Transcript,
    auth::{FoundingIdentity, UserRecord},
    eid::{EidState, Founding},
    name::UserName,
};

use super::{
    known::{self, Kept, Which},
    lookup::{self, Records},
    public_eid::PublicEid,
};
use crate::{
    error::{IdentityError, Result},
    store::Store,
};

/// The history of a user's identity, every commit and digest of which holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The identities that the user had, resets included.
    pub incarnations: u32,
    /// The commits of all of them.
    pub commits: u64,
    /// The key of the client that began the present one (Ed25519).
    pub founder: PublicKey,
    /// The state that the history leads to.
    pub eid: EidState,
}

/// Fetches the whole history of a user and checks that it leads from the founder to the state and the tree that were
/// seen, through every epoch that was seen. What it shows of earlier epochs is kept: states that others
/// tell are compared with it from then on.
///
/// The commits are replayed: a first lookup takes the tree as it is shown, and a device may be in it that none of the
/// user's let in. A KeyPackage that a commit adds is compared with today's time, as openmls does it: it lives for 20 years.
///
/// # Errors
/// As [`lookup::look_up`], [`IdentityError::History`] for a commit that no device of the user may have made, and
/// [`IdentityError::Split`] for a history that leads elsewhere.
pub(crate) async fn audit(api: &impl Records, store: &Store, name: &UserName) -> Result<Audit> {
    lookup::look_up(api, store, name).await?;
    let kept = store.read(|tx| known::find(tx, name, Which::Accepted))?.ok_or(IdentityError::Unknown)?;
    let mut previous_end = None;
    let mut commits = 0;
    let mut ended: Option<Vec<Transcript>> = None;
    for incarnation in 0..kept.eid.incarnation {
        let record = api.record(name, Some((incarnation, 0))).await?;
        let history = History::replay(name, &record, incarnation, previous_end.as_ref(), &record.commits);
        let history = history.await?;
        let end = history.end()?;
        let claimed = ended.get_or_insert(record.ended).get(incarnation as usize).copied();
        if claimed != Some(end.transcript) {
            return Err(IdentityError::Split.into());
        }
        commits += end.epoch;
        previous_end = Some(end.transcript);
    }
    let record = api.record(name, Some((kept.eid.incarnation, 0))).await?;
    // Commits since the lookup are the next lookup's matter.
    let known = usize::try_from(kept.eid.epoch).ok().and_then(|epoch| record.commits.get(..epoch));
    let known = known.ok_or(IdentityError::RolledBack)?;
    let history = History::replay(name, &record, kept.eid.incarnation, previous_end.as_ref(), known).await?;
    if !history.leads_to(&kept.founding, &kept.eid, &kept.public_eid()?) {
        return Err(IdentityError::Split.into());
    }
    let History { founder, states, .. } = history;
    store.write(|tx| {
        if known::find(tx, name, Which::Accepted)?.is_none_or(|now| now.founding != kept.founding) {
            return Err(IdentityError::Reset.into());
        }
        let seen = known::transcripts(tx, name, Which::Accepted)?;
        let differs = |(epoch, transcript): &(u64, Transcript)| {
            states.iter().any(|state| state.epoch == *epoch && state.transcript != *transcript)
        };
        if seen.iter().any(differs) {
            return Err(IdentityError::Split.into());
        }
        let transcripts: Vec<_> = states.iter().map(|state| (state.epoch, state.transcript)).collect();
        known::keep_transcripts(tx, name, Which::Accepted, &transcripts)
    })?;
    Ok(Audit {
        incarnations: kept.eid.incarnation + 1,
        commits: commits + kept.eid.epoch,
        founder,
        eid: kept.eid,
    })
}

/// An incarnation of an identity, replayed commit by commit.
pub(super) struct History {
    founder: PublicKey,
    /// Its states, epoch by epoch.
    states: Vec<EidState>,
    /// The public group that it leads to.
    public_eid: PublicEid,
    /// The name that its clients gave the user last (AS-9).
    pub called: UserName,
}

impl History {
    /// Replays the commits of a record from the beginning.
    async fn replay(
        name: &UserName,
        record: &UserRecord,
        incarnation: u32,
        previous_end: Option<&Transcript>,
        commits: &[MlsMessage],
    ) -> Result<Self> {
        let mut history = Self::begin(name, record, incarnation, previous_end)?;
        history.follow(name, commits).await?;
        Ok(history)
    }

    /// The beginning of an incarnation that a record shows. Its leaf, which the founder signed, has the name that the user had. Its
    /// transcript, which its clients sign with each state, is of the end that it follows (AS-8).
    pub(super) fn begin(
        name: &UserName,
        record: &UserRecord,
        incarnation: u32,
        previous_end: Option<&Transcript>,
    ) -> Result<Self> {
        let no_beginning = || IdentityError::History("it has no beginning");
        let founding = record.founding.as_ref().ok_or_else(no_beginning)?;
        let FoundingIdentity { group_info, ratchet_tree } = founding;
        let public_eid = PublicEid::open(group_info, ratchet_tree)?;
        let founder = public_eid.founder(name)?;
        let leaf = public_eid.leaves(name)?.pop().ok_or_else(no_beginning)?;
        let transcript = Transcript::founded(previous_end, group_info, ratchet_tree);
        let states = vec![EidState::founded(incarnation, transcript)];
        Ok(Self { founder, states, public_eid, called: leaf.name })
    }

    /// An incarnation from where this device saw it last, of a user whom it knows by this name.
    pub(super) fn known(kept: &Kept, called: &UserName) -> Result<Self> {
        let (founder, states) = (kept.founding.founder, vec![kept.eid]);
        Ok(Self { founder, states, public_eid: kept.public_eid()?, called: called.clone() })
    }

    /// Replays commits, and lets other tasks run between them: there may be thousands.
    pub(super) async fn follow(&mut self, name: &UserName, commits: &[MlsMessage]) -> Result<()> {
        for commit in commits {
            tokio::task::yield_now().await;
            if let Some(called) = self.public_eid.follow(name, commit)? {
                self.called = called;
            }
            let state = self.end()?.followed_by(commit.as_bytes());
            self.states.push(state);
        }
        Ok(())
    }

    /// The state that it leads to.
    pub(super) fn end(&self) -> Result<EidState, IdentityError> {
        self.states.last().copied().ok_or(IdentityError::Split)
    }

    /// Whether it leads from this beginning to this state and tree.
    pub(super) fn leads_to(&self, founding: &Founding, eid: &EidState, public_eid: &PublicEid) -> bool {
        let begins = self.states.first().is_some_and(|state| state.transcript == founding.transcript);
        let ends = self.states.last() == Some(eid) && self.public_eid.agrees_with(public_eid);
        begins && ends && self.founder == founding.founder
    }
}
