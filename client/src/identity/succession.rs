//! Successions: whether the identity that the AS shows under one name became of one that was seen under another, with a reset
//! between (AS-8, AS-9, AS-11). A lookup between the two would have shown each by itself. Nothing here changes what is kept.
//!
//! The record names the beginnings of earlier incarnations. That is a hint: what follows from there is replayed. Each
//! incarnation is chained to the end of the one before, begins under the name that the user had then, and changes it by a leaf
//! that a client of its own signed. So no other user passes for this one, by whatever name: its first client would have had to
//! begin it as this one's successor. Whether the user wanted the reset the AS alone says, and a person judges.

use postern_protocol::name::UserName;

use super::{audit::History, known::Kept, lookup::Records, verify::Shown};
use crate::error::{IdentityError, Result};

/// The most resets between two looks that are followed. By default an account can be reset once in a month.
pub(super) const MOST_RESETS: usize = 24;

/// Verifies that an identity which is `shown` under a `name` became of one that is kept under the name `old`. Returns whether
/// the kept incarnation took the new name itself, before the reset: then clients that are known say that it is the same user.
///
/// # Errors
/// [`IdentityError::OtherUser`] if it did not, [`IdentityError::History`] for a commit that no device of the user may have made,
/// and what keeps the AS from being asked.
pub(super) async fn trace(
    api: &impl Records,
    (name, old): (&UserName, &UserName),
    kept: &Kept,
    shown: &Shown,
) -> Result<bool> {
    let (known, last) = (kept.eid.incarnation, shown.user.eid.incarnation);
    if last.saturating_sub(known) as usize > MOST_RESETS {
        return Err(IdentityError::OtherUser.into());
    }
    let record = api.record(name, Some((known, kept.eid.epoch))).await?;
    let mut history = History::known(kept, old)?;
    history.follow(name, &record.commits).await?;
    let is_renamed_before = history.called == *name;
    for incarnation in known.saturating_add(1)..=last {
        let record = api.record(name, Some((incarnation, 0))).await?;
        let end = history.end()?.transcript;
        let mut next = History::begin(name, &record, incarnation, Some(&end))?;
        if next.called != history.called {
            return Err(IdentityError::OtherUser.into());
        }
        // Commits since the lookup are the next lookup's matter.
        let number = if incarnation == last { shown.user.eid.epoch } else { u64::MAX };
        let number = usize::try_from(number).unwrap_or(usize::MAX).min(record.commits.len());
        next.follow(name, &record.commits[..number]).await?;
        history = next;
    }
    let leads_there = history.leads_to(&shown.founding, &shown.user.eid, &shown.public_eid);
    if leads_there && history.called == *name {
        Ok(is_renamed_before)
    } else {
        Err(IdentityError::OtherUser.into())
    }
}
