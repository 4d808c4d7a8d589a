//! The operator's rules for groups. The database keeps them and returns them with each group that
//! is read, so that a change holds at once and on every server.

use postern_protocol::problem::{Problem, ProblemType};
use tokio_postgres::Row;

use crate::http::Failure;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Days that a client may go without a commit (DS-10).
    pub inactive_days: u32,
    /// Epochs after its own in which an application message is still accepted (DS-3).
    pub past_epochs: u64,
    max_members: usize,
    /// Largest application message or proposal, in bytes.
    max_message: usize,
    /// Largest commit, and largest Welcome, in bytes.
    max_commit: usize,
    /// The ciphersuites (RFC 9420 §17.1) in whose groups members may be added.
    ciphersuites: Vec<i32>,
}

impl Rules {
    /// Reads the rules from a row of `ds.load_group`.
    ///
    /// # Errors
    /// A fault: the database holds a number below zero.
    pub fn of(row: &Row) -> Result<Self, Failure> {
        let number = |name| usize::try_from(row.get::<_, i32>(name)).map_err(Failure::fault);
        Ok(Self {
            inactive_days: u32::try_from(number("inactive_days")?).map_err(Failure::fault)?,
            past_epochs: number("past_epochs")? as u64,
            max_members: number("max_members")?,
            max_message: number("max_message_bytes")?,
            max_commit: number("max_commit_bytes")?,
            ciphersuites: row.get("ciphersuites"),
        })
    }

    /// # Errors
    /// A problem if a part of a message has too many bytes.
    pub fn check_size(&self, is_commit: bool, bytes: usize) -> Result<(), Problem> {
        let limit = if is_commit { self.max_commit } else { self.max_message };
        let detail = || format!("a message and its Welcome can have at most {limit} bytes each");
        at_most(bytes, limit).ok_or_else(|| Problem::with_detail(ProblemType::MessageTooLarge, detail()))
    }

    /// Checks the number of members. A group that exceeds a lowered limit stays as it is and cannot grow.
    ///
    /// # Errors
    /// A problem if a group with `before` members cannot have `after`.
    pub fn check_members(&self, before: usize, after: usize) -> Result<(), Problem> {
        let detail = || format!("a group can have at most {} members", self.max_members);
        at_most(after, self.max_members.max(before))
            .ok_or_else(|| Problem::with_detail(ProblemType::TooManyMembers, detail()))
    }

    /// # Errors
    /// A problem if no member may be added with this ciphersuite.
    pub fn check_ciphersuite(&self, ciphersuite: u16) -> Result<(), Problem> {
        let allowed = self.ciphersuites.contains(&ciphersuite.into());
        allowed.then_some(()).ok_or_else(|| ProblemType::CiphersuiteForbidden.into())
    }

    /// Checks that an application message of `epoch` is still accepted in the current one.
    ///
    /// # Errors
    /// A problem that tells both numbers.
    pub fn check_epoch(&self, epoch: u64, current: u64) -> Result<(), Problem> {
        let age = current.checked_sub(epoch);
        age.filter(|age| *age <= self.past_epochs)
            .map(drop)
            .ok_or_else(|| Problem::outside_epochs(current, self.past_epochs))
    }
}

fn at_most(number: usize, limit: usize) -> Option<()> {
    (number <= limit).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            inactive_days: 90,
            past_epochs: 2,
            max_members: 10,
            max_message: 100,
            max_commit: 1000,
            ciphersuites: vec![1],
        }
    }

    #[test]
    fn a_group_that_is_too_large_may_stay_and_shrink_and_not_grow() {
        let allowed = |before, after| rules().check_members(before, after).is_ok();
        assert!(allowed(9, 10) && !allowed(10, 11) && !allowed(1, 11));
        assert!(allowed(12, 12) && allowed(12, 11) && !allowed(12, 13));
    }

    #[test]
    fn epochs_of_the_window_are_taken_and_neither_older_nor_future_ones() {
        let taken = |epoch| rules().check_epoch(epoch, 7).is_ok();
        assert_eq!([4, 5, 6, 7, 8, u64::MAX].map(taken), [false, true, true, true, false, false]);
        assert!(rules().check_epoch(0, 0).is_ok());
        let problem = rules().check_epoch(4, 7).unwrap_err();
        assert_eq!((problem.epoch, problem.past_epochs), (Some(7), Some(2)));
    }
}
