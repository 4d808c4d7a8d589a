//! Audits: the whole history of a user's identity, back to its founder and to the ends of the identities
//! before it, by the chain of digests. Lookups need none of it.

use postern_protocol::{
    MlsMessage, PublicKey, Transcript,
    auth::{FoundingIdentity, UserRecord},
    eid::EidState,
    name::UserName,
};

use super::{
    known::{self, Kept, Which},
    lookup::{self, Records},
    public_eid::PublicEid,
};
use crate::{
    error::{Error, IdentityError, Result},
    store::Store,
};

/// The history of a user's identity, every digest of which holds.
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

/// Fetches the whole history of a user and checks that its digests lead from the founder to the state that
/// was seen, through every epoch that was seen. What it shows of earlier epochs is kept: states that others
/// tell are compared with it from then on.
///
/// The commits are not replayed: readers did that when they were new, and KeyPackages in them have
/// expired since.
///
/// # Errors
/// As [`lookup::look_up`], and [`IdentityError::Split`] for a history that leads elsewhere.
pub(crate) async fn audit(api: &impl Records, store: &Store, name: &UserName) -> Result<Audit> {
    lookup::look_up(api, store, name).await?;
    let kept = store.read(|tx| known::find(tx, name, Which::Accepted))?.ok_or(IdentityError::Unknown)?;
    let mut previous_end = None;
    let mut commits = 0;
    let mut ended: Option<Vec<Transcript>> = None;
    for incarnation in 0..kept.eid.incarnation {
        let record = api.record(name, Some((incarnation, 0))).await?;
        let (_, chain) = chain(name, &record, incarnation, previous_end.as_ref(), &record.commits)?;
        let end = chain.last().copied().ok_or(IdentityError::Split)?;
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
    let (founder, chain) = chain(name, &record, kept.eid.incarnation, previous_end.as_ref(), known)?;
    check(&kept, &founder, &chain)?;
    store.write(|tx| {
        if known::find(tx, name, Which::Accepted)?.is_none_or(|now| now.founding != kept.founding) {
            return Err(IdentityError::Reset.into());
        }
        let seen = known::transcripts(tx, name, Which::Accepted)?;
        let differs = |(epoch, transcript): &(u64, Transcript)| {
            chain.iter().any(|state| state.epoch == *epoch && state.transcript != *transcript)
        };
        if seen.iter().any(differs) {
            return Err(IdentityError::Split.into());
        }
        let transcripts: Vec<_> = chain.iter().map(|state| (state.epoch, state.transcript)).collect();
        known::keep_transcripts(tx, name, Which::Accepted, &transcripts)
    })?;
    Ok(Audit {
        incarnations: kept.eid.incarnation + 1,
        commits: commits + kept.eid.epoch,
        founder,
        eid: kept.eid,
    })
}

/// The founder of an incarnation, and its states, epoch by epoch.
fn chain(
    name: &UserName,
    record: &UserRecord,
    incarnation: u32,
    previous_end: Option<&Transcript>,
    commits: &[MlsMessage],
) -> Result<(PublicKey, Vec<EidState>), Error> {
    let founding = record.founding.as_ref().ok_or(IdentityError::History("it has no beginning"))?;
    let FoundingIdentity { group_info, ratchet_tree } = founding;
    let founder = PublicEid::open(group_info, ratchet_tree)?.founder(name)?;
    let mut state =
        EidState::founded(incarnation, Transcript::founded(previous_end, group_info, ratchet_tree));
    let mut states = vec![state];
    for commit in commits {
        state = state.followed_by(commit.as_bytes());
        states.push(state);
    }
    Ok((founder, states))
}

fn check(kept: &Kept, founder: &PublicKey, chain: &[EidState]) -> Result<(), IdentityError> {
    let begins = chain.first().is_some_and(|state| state.transcript == kept.founding.transcript);
    let ends = chain.last() == Some(&kept.eid);
    if begins && ends && *founder == kept.founding.founder { Ok(()) } else { Err(IdentityError::Split) }
}
