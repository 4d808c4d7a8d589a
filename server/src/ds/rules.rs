//! The operator's rules for groups. The database keeps them and returns them with each group that
//! is read, so that a change holds at once and on every server.

use std::{collections::BTreeSet, fmt::Display};

use openmls::prelude::Ciphersuite;
use postern_protocol::{
    mls::Pseudonym,
    name::Domain,
    problem::{Problem, ProblemType},
};
use tokio_postgres::Row;

use super::roster::Roster;
use crate::{federation::outbox, http::Failure, mls::path};

/// Days for which KeyPackages outlast the waits of messages: clients renew those that are good for less than two days more.
const LONGEST_WAIT: u32 = 60;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Days that a client may go without a commit (DS-10).
    pub inactive_days: u32,
    /// Epochs after its own in which an application message is still accepted (DS-3).
    pub past_epochs: u64,
    max_members: usize,
    /// Leaves of one user (DS-14).
    max_clients: usize,
    /// Other domains of which a group has members.
    max_domains: usize,
    /// Largest application message or proposal, in bytes.
    max_message: usize,
    /// Largest commit, and largest Welcome, in bytes: not more than the server lets through.
    max_commit: usize,
    /// Largest authenticated data of any message, in bytes.
    max_authenticated_data: usize,
    /// Largest leaf that a message brings, in bytes: joiners read each, and every commit writes them all.
    max_leaf: usize,
    /// The most bytes that the deliveries of one request may take in all queues together.
    max_delivery: u64,
    /// Days for which a message waits for its reader at most (QS-8).
    message_days: u32,
    /// Days for which it waits before, until another domain's homeserver takes it, at most (FED-4).
    outbox_days: u32,
    /// The ciphersuites (RFC 9420 §17.1) in whose groups members may be added.
    ciphersuites: Vec<i32>,
}

/// The size of a group.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    members: usize,
    /// Whether some of them are at other domains.
    is_elsewhere: bool,
}

impl Size {
    pub fn of(roster: &Roster) -> Self {
        Self { members: roster.members().len(), is_elsewhere: !roster.domains().is_empty() }
    }
}

impl Rules {
    /// Reads the rules from a row of `ds.load_group`. `largest_part` is the largest part of a request's body that the
    /// server lets through, in bytes.
    ///
    /// # Errors
    /// A fault: the database holds a number below zero.
    pub fn of(row: &Row, largest_part: u64) -> Result<Self, Failure> {
        let passing = usize::try_from(largest_part).unwrap_or(usize::MAX);
        let number = |name| usize::try_from(row.get::<_, i32>(name)).map_err(Failure::fault);
        Ok(Self {
            inactive_days: u32::try_from(number("inactive_days")?).map_err(Failure::fault)?,
            past_epochs: number("past_epochs")? as u64,
            max_members: number("max_members")?,
            max_clients: number("max_clients")?,
            max_domains: number("max_domains")?,
            max_message: number("max_message_bytes")?,
            max_commit: number("max_commit_bytes")?.min(passing),
            max_authenticated_data: number("max_authenticated_data_bytes")?,
            max_leaf: number("max_leaf_bytes")?,
            max_delivery: number("max_delivery_bytes")? as u64,
            message_days: u32::try_from(number("message_days")?).map_err(Failure::fault)?,
            outbox_days: u32::try_from(number("outbox_days")?).map_err(Failure::fault)?,
            ciphersuites: row.get("ciphersuites"),
        })
    }

    /// Checks the size of a message or its Welcome.
    ///
    /// # Errors
    /// A problem if a part of a message has too many bytes.
    pub fn check_size(&self, is_commit: bool, bytes: usize) -> Result<(), Problem> {
        let limit = if is_commit { self.max_commit } else { self.max_message };
        let detail = || format!("a message and its Welcome can have at most {limit} bytes each");
        at_most(bytes, limit).ok_or_else(|| Problem::with_detail(ProblemType::MessageTooLarge, detail()))
    }

    /// Checks the size of a message's authenticated data.
    ///
    /// # Errors
    /// A problem if a message's authenticated data has too many bytes.
    pub fn check_authenticated_data(&self, bytes: usize) -> Result<(), Problem> {
        let limit = self.max_authenticated_data;
        let detail = || format!("the authenticated data of a message can have at most {limit} bytes");
        at_most(bytes, limit).ok_or_else(|| Problem::with_detail(ProblemType::MessageTooLarge, detail()))
    }

    /// Checks the size of a leaf that a message brings.
    ///
    /// # Errors
    /// As [`leaf_too_large`].
    pub fn check_leaf(&self, bytes: usize) -> Result<(), Problem> {
        at_most(bytes, self.max_leaf).ok_or_else(|| leaf_too_large(self.max_leaf))
    }

    /// The most bytes that a member's path can have in a group with so many, whatever becomes of its tree.
    pub fn longest_path(&self, suite: Ciphersuite, members: usize) -> usize {
        path::longest(suite, members, self.max_leaf)
    }

    /// Checks what a request would make the server store: the bytes of each payload once for each queue that it goes
    /// to. `ds.submit_message` has the last word, by the same rule.
    ///
    /// # Errors
    /// A problem with the numbers.
    pub fn check_delivery(&self, parts: impl Iterator<Item = (usize, usize)>) -> Result<(), Problem> {
        let (mut bytes, mut queues) = (0, 0);
        for (payload, recipients) in parts {
            bytes += payload as u64 * recipients as u64;
            queues += recipients;
        }
        let limit = self.max_delivery;
        let detail = || {
            format!("it would take {bytes} bytes in {queues} queues, and one request can take {limit} bytes")
        };
        let fits = bytes <= limit;
        fits.then_some(()).ok_or_else(|| Problem::with_detail(ProblemType::DeliveryTooLarge, detail()))
    }

    /// Checks that all who read an Add find its KeyPackage valid: the last of them may read it when it has waited for
    /// as long as messages do, and a day more with its chain (QS-8), and openmls compares the lifetime with that day. Where
    /// some members are elsewhere, it may have waited for their homeservers before; theirs are taken to keep messages for as
    /// long as this one. `qs.key_package_horizon` counts alike.
    ///
    /// # Errors
    /// A problem if the KeyPackage expires on a day (since 1970) that is too near.
    pub fn check_lifetime(&self, expires: u32, today: u32, is_elsewhere: bool) -> Result<(), Problem> {
        let on_the_way = if is_elsewhere { self.outbox_days } else { 0 };
        let days = (self.message_days + on_the_way).min(LONGEST_WAIT) + 1;
        let detail = || {
            format!(
                "the KeyPackage of a member that is added must be valid for {days} more days: members read of it for as long"
            )
        };
        let lasts = expires > today.saturating_add(days);
        lasts.then_some(()).ok_or_else(|| Problem::with_detail(ProblemType::InvalidMls, detail()))
    }

    /// Checks the number of each user's clients. A user that exceeds a lowered limit keeps its clients and gets no more.
    ///
    /// # Errors
    /// A problem if a user would have too many.
    pub fn check_clients(&self, before: &Roster, after: &Roster) -> Result<(), Problem> {
        let before = before.clients();
        let allowed = |user: &Pseudonym| before.get(user).copied().unwrap_or_default().max(self.max_clients);
        let detail = || format!("a user can have at most {} clients in a group", self.max_clients);
        let fits = after.clients().iter().all(|(user, clients)| *clients <= allowed(user));
        fits.then_some(()).ok_or_else(|| Problem::with_detail(ProblemType::TooManyClients, detail()))
    }

    /// Checks the number of other domains of a group's members, for each of which a message makes a delivery of its own. A
    /// group that exceeds a lowered limit stays as it is, and gets members of no further domain.
    ///
    /// # Errors
    /// A problem if members come to domains `brought`, of which the group had none, and there are too many after it.
    pub fn check_domains(
        &self,
        before: &Roster,
        brought: &BTreeSet<Domain>,
        after: &Roster,
    ) -> Result<(), Problem> {
        let (before, after) = (before.domains(), after.domains());
        if brought.iter().all(|domain| before.contains(domain)) {
            return Ok(());
        }
        let limit = self.max_domains;
        let detail = || format!("a group can have members of at most {limit} other domains");
        at_most(after.len(), limit).ok_or_else(|| Problem::with_detail(ProblemType::TooManyDomains, detail()))
    }

    /// Checks the number of members. A group that exceeds a lowered limit stays as it is and cannot grow.
    ///
    /// # Errors
    /// A problem if a group that has `before` cannot have `after`.
    pub fn check_members(&self, suite: Ciphersuite, before: Size, after: Size) -> Result<(), Problem> {
        if after.members <= before.members && (before.is_elsewhere || !after.is_elsewhere) {
            return Ok(());
        }
        let most = self.most_members(suite, after.is_elsewhere);
        let detail = || {
            let reason = if after.is_elsewhere && most < self.most_members(suite, false) {
                " of several domains with this ciphersuite: commits of a larger one could be more than a homeserver takes"
            } else if most < self.max_members {
                " with this ciphersuite: commits of a larger one could exceed the operator's limits"
            } else {
                ""
            };
            format!("a group can have at most {most} members{reason}")
        };
        at_most(after.members, most)
            .ok_or_else(|| Problem::with_detail(ProblemType::TooManyMembers, detail()))
    }

    /// The members that a group grows to: as many as the operator allows, and no more than can go on whatever becomes of
    /// their tree. Any of them can commit, also if all nodes between the leaves are blank (DS-13), and the homeservers of
    /// those elsewhere take that commit.
    fn most_members(&self, suite: Ciphersuite, is_elsewhere: bool) -> usize {
        let fits = |members: &usize| {
            let bytes = self.largest_commit(suite, *members);
            bytes <= self.max_commit
                && bytes as u64 * *members as u64 <= self.max_delivery
                && (!is_elsewhere || outbox::fits(*members, [bytes].into_iter()))
        };
        (1..=self.max_members).rev().find(fits).unwrap_or(1)
    }

    fn largest_commit(&self, suite: Ciphersuite, members: usize) -> usize {
        path::largest_commit(suite, members, self.max_leaf)
    }

    /// Checks that the operator allows a ciphersuite for members that are added.
    ///
    /// # Errors
    /// A problem if no member may be added with this ciphersuite.
    pub fn check_ciphersuite(&self, ciphersuite: u16) -> Result<(), Problem> {
        let allowed = self.ciphersuites.contains(&ciphersuite.into());
        allowed.then_some(()).ok_or_else(|| ProblemType::CiphersuiteForbidden.into())
    }

    /// Checks that an application message of `epoch` is still accepted in the current one, and that it is of none
    /// before `readable_since`.
    ///
    /// # Errors
    /// A problem that tells the current epoch and how many before it are accepted.
    pub fn check_epoch(&self, epoch: u64, current: u64, readable_since: u64) -> Result<(), Problem> {
        let past_epochs = self.past_epochs.min(current.saturating_sub(readable_since));
        let age = current.checked_sub(epoch);
        age.filter(|age| *age <= past_epochs)
            .map(drop)
            .ok_or_else(|| Problem::outside_epochs(current, past_epochs))
    }
}

/// The problem of a leaf that is larger than the operator's limit.
pub fn leaf_too_large(limit: impl Display) -> Problem {
    let detail = format_args!("a leaf can have at most {limit} bytes");
    Problem::with_detail(ProblemType::MessageTooLarge, detail)
}

fn at_most(number: usize, limit: usize) -> Option<()> {
    (number <= limit).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL_KEYS: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
    const LARGE_KEYS: Ciphersuite = Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519;

    fn rules() -> Rules {
        Rules {
            inactive_days: 90,
            past_epochs: 2,
            max_members: 10,
            max_clients: 2,
            max_domains: 3,
            max_message: 100,
            max_commit: 16_384,
            max_authenticated_data: 64,
            max_leaf: 4096,
            max_delivery: 100_000,
            message_days: 30,
            outbox_days: 14,
            ciphersuites: vec![1],
        }
    }

    fn here(members: usize) -> Size {
        Size { members, is_elsewhere: false }
    }

    fn elsewhere(members: usize) -> Size {
        Size { members, is_elsewhere: true }
    }

    #[test]
    fn a_group_that_is_too_large_may_stay_and_shrink_and_not_grow() {
        let allowed = |before, after| rules().check_members(SMALL_KEYS, here(before), here(after)).is_ok();
        assert!(allowed(9, 10) && !allowed(10, 11) && !allowed(1, 11));
        assert!(allowed(12, 12) && allowed(12, 11) && !allowed(12, 13));
    }

    #[test]
    fn a_group_grows_no_larger_than_its_members_could_commit_in() {
        let rules = Rules { max_members: 5000, ..rules() };
        for suite in [SMALL_KEYS, LARGE_KEYS] {
            let most = rules.most_members(suite, false);
            let delivered = |members| rules.largest_commit(suite, members) * members;
            assert!(delivered(most) <= 100_000 && delivered(most + 1) > 100_000, "{most}");
            assert!(rules.check_members(suite, here(most - 1), here(most)).is_ok());
            let problem = rules.check_members(suite, here(most), here(most + 1)).unwrap_err();
            let detail = format!(
                "a group can have at most {most} members with this ciphersuite: commits of a larger one could exceed the operator's limits"
            );
            assert_eq!((problem.kind, problem.detail), (ProblemType::TooManyMembers, Some(detail)));
        }
        let rules = Rules { max_delivery: u64::MAX, ..rules };
        let most = rules.most_members(LARGE_KEYS, false);
        assert!(rules.largest_commit(LARGE_KEYS, most) <= 16_384);
        assert!(rules.largest_commit(LARGE_KEYS, most + 1) > 16_384);
        let larger_leaves = Rules { max_leaf: 8192, ..rules };
        assert!(larger_leaves.most_members(LARGE_KEYS, false) < most, "their commits are larger, too");
    }

    #[test]
    fn a_group_of_several_domains_grows_no_larger_than_their_homeservers_take_commits_of() {
        let rules = Rules { max_members: 5000, max_commit: 16 << 20, max_delivery: u64::MAX, ..rules() };
        let check = |before, after| rules.check_members(LARGE_KEYS, before, after);
        assert_eq!(rules.most_members(LARGE_KEYS, false), 5000);
        let most = rules.most_members(LARGE_KEYS, true);
        let fits = |members| outbox::fits(members, [rules.largest_commit(LARGE_KEYS, members)].into_iter());
        assert!(fits(most) && !fits(most + 1) && most > 1000, "{most}");
        assert!(check(elsewhere(most - 1), elsewhere(most)).is_ok());
        assert!(check(here(most), here(most + 1)).is_ok(), "as long as all are here");
        for (before, what) in [(elsewhere(most), "it grows"), (here(most + 1), "one takes another's place")] {
            let problem = check(before, elsewhere(most + 1)).expect_err(what);
            assert!(problem.detail.unwrap().contains(&format!("at most {most} members of several domains")));
        }
        assert!(check(elsewhere(most + 2), elsewhere(most + 1)).is_ok(), "it shrinks");
        assert_eq!(rules.most_members(SMALL_KEYS, true), 5000);
    }

    #[test]
    fn a_delivery_is_as_large_as_its_payloads_in_all_queues_together() {
        let allowed = |parts: &[(usize, usize)]| rules().check_delivery(parts.iter().copied()).is_ok();
        assert!(allowed(&[(10_000, 10)]) && allowed(&[(100, 500), (5_000, 10)]) && allowed(&[]));
        assert!(!allowed(&[(10_000, 10), (1, 1)]) && !allowed(&[(usize::MAX / 4, 2)]));
        let problem = rules().check_delivery([(50_000, 3)].into_iter()).unwrap_err();
        let detail = "it would take 150000 bytes in 3 queues, and one request can take 100000 bytes";
        assert_eq!(problem.detail.as_deref(), Some(detail));
    }

    #[test]
    fn a_key_package_is_valid_for_the_slowest_reader() {
        let here = |expires| rules().check_lifetime(expires, 100, false).is_ok();
        assert_eq!([100, 131, 132, u32::MAX].map(here), [false, false, true, true]);
        let elsewhere = |expires| rules().check_lifetime(expires, 100, true).is_ok();
        assert_eq!([132, 145, 146].map(elsewhere), [false, false, true]);
        let long = Rules { outbox_days: 365, ..rules() };
        let elsewhere = |expires| long.check_lifetime(expires, 100, true).is_ok();
        assert_eq!([161, 162].map(elsewhere), [false, true], "no KeyPackage of 84 days would do");
    }

    #[test]
    fn epochs_of_the_window_are_taken_and_neither_older_nor_future_ones() {
        let taken = |epoch| rules().check_epoch(epoch, 7, 0).is_ok();
        assert_eq!([4, 5, 6, 7, 8, u64::MAX].map(taken), [false, true, true, true, false, false]);
        assert!(rules().check_epoch(0, 0, 0).is_ok());
        let problem = rules().check_epoch(4, 7, 0).unwrap_err();
        assert_eq!((problem.epoch, problem.past_epochs), (Some(7), Some(2)));
    }

    #[test]
    fn no_epoch_is_taken_of_which_a_member_lost_the_keys() {
        let taken = |epoch| rules().check_epoch(epoch, 7, 6).is_ok();
        assert_eq!([4, 5, 6, 7, 8].map(taken), [false, false, true, true, false]);
        let problem = rules().check_epoch(5, 7, 6).unwrap_err();
        assert_eq!((problem.epoch, problem.past_epochs), (Some(7), Some(1)));
        assert!(rules().check_epoch(7, 7, 7).is_ok() && rules().check_epoch(6, 7, 7).is_err());
    }
}
