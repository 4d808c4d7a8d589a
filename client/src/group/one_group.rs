//! Whether this device and another one of its user are in one group. A server can bring a device by a Welcome into a group that it
//! made up, with a member perhaps, and hold back the letter in which another device tells of the true one; or show one of the two
//! what is not so later on. One rule finds that out, in whatever order letter and Welcome come, and in whatever place of the group
//! the two are: **an epoch of a group begins by one commit**. A letter has the tag of the commit by which its epoch began where it
//! was written.
//!
//! - This device knows the tag of each epoch that it was in since it came in. In one group the two are the same, else there are
//!   two.
//! - A letter of a later epoch waits until that is reached, the last one of each device, and the DS is asked for the group. It is
//!   as far there as the letter says, since the other device was. A DS that shows an earlier epoch was restored (QS-12), or shows
//!   one of the two what is not so. While a device does not know whether the DS took the commit by which it comes back, it tells of
//!   no epoch, and all letters wait.
//! - Nothing shows it of an epoch before this device came in, or back. Members that were here when it joined by a Welcome and of
//!   whom the letter does not know may have come between, or be made up: its user is told of them, once.
//!
//! A letter that waits goes on waiting when this device comes in, back, or to another place, and the DS is asked then. An epoch
//! that it skipped with that is compared with nothing.
//!
//! The user is told of two groups once, until a letter fits again or this device comes back. Nobody is silenced by a letter: which
//! of the two is the true one shows in neither. But the word of a device that is known to be in another group leads this one
//! nowhere. Neither a server nor a member makes another commit with a tag that is there; they can only keep letters back. An AS
//! that makes up a device of this user can have this device ask the DS, and tell its user, and no more. And nothing that happens in
//! a group changes a tag: whether members came back, or were no admins for a while, or had no room in a roster.

use std::mem;

use postern_protocol::ds::GroupId;
use serde::{Deserialize, Serialize};

use super::{
    handover::{self, GroupHandover},
    outstanding::{self, Kind},
    record,
    roster::Roster,
    state::GroupState,
    strayed,
};
use crate::{
    error::Result,
    event::Event,
    store::{Tx, decode, encode},
};

/// The rest that is to be compared of a group with what other devices of this user tell.
#[derive(Default, Serialize, Deserialize)]
struct Comparison {
    /// The members that were there when this device joined by a Welcome. `None`: it came in otherwise, another device is in the
    /// same group, or the user was told of those whom another one did not know.
    met: Option<Roster>,
    /// The last word of each device that told of an epoch that this one did not reach yet.
    ahead: Vec<GroupHandover>,
    /// Whether the user was told of two groups.
    is_told: bool,
}

impl Comparison {
    fn find(tx: &Tx<'_>, id: &GroupId) -> Result<Self> {
        record::comparison(tx, id)?.map_or(Ok(Self::default()), |bytes| decode(&bytes, "a comparison"))
    }

    fn keep(&self, tx: &Tx<'_>, id: &GroupId) -> Result<()> {
        record::set_comparison(tx, id, &encode(self))
    }
}

impl GroupState {
    /// Notes who is there when this device joins by a Welcome.
    pub(super) fn note_met(&self, tx: &Tx<'_>) -> Result<()> {
        let met = Some(Roster::of(self)?);
        Comparison { met, ..Comparison::default() }.keep(tx, &self.id)
    }

    /// Notes that this device came by itself to where it is: who was there was compared by then.
    pub(super) fn forget_met(&self, tx: &Tx<'_>) -> Result<()> {
        let comparison = Comparison::find(tx, &self.id)?;
        Comparison { met: None, ..comparison }.keep(tx, &self.id)
    }

    /// Hears of the group from another device of this user, and has this device move to that one's place if it belongs there.
    pub(super) fn hear(&self, tx: &Tx<'_>, told: &GroupHandover) -> Result<()> {
        let mut comparison = Comparison::find(tx, &self.id)?;
        comparison.ahead.retain(|word| word.by != told.by);
        if told.epoch > self.epoch() || !self.is_taken(tx)? {
            handover::keep_word(tx, &mut comparison.ahead, told)?;
            comparison.keep(tx, &self.id)?;
            // Once this device knows whether it came back, it hears that anew.
            let is_coming_back = outstanding::holds(tx, &self.id, Kind::Rejoin)?;
            return if is_coming_back { Ok(()) } else { strayed::doubt(tx, &self.id) };
        }
        let known = self.beginning_of(tx, told.epoch)?;
        let is_another = known.as_ref().is_some_and(|beginning| *beginning != told.beginning);
        if known.is_some() && !is_another {
            comparison = Comparison { ahead: comparison.ahead, ..Comparison::default() };
        }
        comparison.keep(tx, &self.id)?;
        if is_another {
            self.tell_of_two(tx, told)
        } else if self.belongs_beside(tx, told)? {
            handover::renew_entry(tx, told)
        } else {
            self.tell_untold(tx, comparison, told)
        }
    }

    /// Hears of the group what waited until this device is as far as the other one was, if it is now.
    pub(super) fn hear_what_waited(&self, tx: &Tx<'_>) -> Result<()> {
        let told = self.take_waiting(tx, |told| told.epoch <= self.epoch())?;
        handover::take_over(tx, &told)
    }

    /// Hears anew what waits, since this device came in, or back: nothing of what it compared before counts for what follows. With
    /// it goes what other devices `told` of a later epoch, by whose words it was on its way.
    pub(super) fn hear_anew(&self, tx: &Tx<'_>, told: Vec<GroupHandover>) -> Result<()> {
        let mut words = self.take_waiting(tx, |_| true)?;
        words.extend(told.into_iter().filter(|word| word.epoch > self.epoch()));
        let comparison = Comparison::find(tx, &self.id)?;
        Comparison { is_told: false, ..comparison }.keep(tx, &self.id)?;
        handover::take_over(tx, &words)
    }

    /// Takes note of the epoch that the DS shows, in which this device is. It was asked after the letter came which waits.
    pub(crate) fn hear_of_epoch(&self, tx: &Tx<'_>, shown: u64) -> Result<()> {
        let later = self.take_waiting(tx, |told| told.epoch > shown)?;
        later.iter().try_for_each(|told| self.tell_of_two(tx, told))
    }

    /// Takes those of the words that wait which are to be heard now.
    fn take_waiting(
        &self,
        tx: &Tx<'_>,
        is_heard: impl Fn(&GroupHandover) -> bool,
    ) -> Result<Vec<GroupHandover>> {
        let mut comparison = Comparison::find(tx, &self.id)?;
        let waiting = mem::take(&mut comparison.ahead).into_iter();
        let (heard, ahead): (Vec<_>, Vec<_>) = waiting.partition(is_heard);
        comparison.ahead = ahead;
        if !heard.is_empty() {
            comparison.keep(tx, &self.id)?;
        }
        Ok(heard)
    }

    /// Tells the user, unless it knows, that this device and the one that told this are in two groups.
    fn tell_of_two(&self, tx: &Tx<'_>, told: &GroupHandover) -> Result<()> {
        // A device that leaves its place for another one is out without a way in.
        if !self.has_proposed_to_leave() && !record::is_entering(tx, &self.id)? {
            handover::drop_word(tx, &self.id, &told.by)?;
        }
        let comparison = Comparison::find(tx, &self.id)?;
        if comparison.is_told {
            return Ok(());
        }
        Comparison { is_told: true, ..comparison }.keep(tx, &self.id)?;
        Event::Divided { group: self.id.clone(), epoch: told.epoch }.record(tx)
    }

    /// Tells of those that were here when this device joined, and that another device did not know of before.
    fn tell_untold(&self, tx: &Tx<'_>, mut comparison: Comparison, told: &GroupHandover) -> Result<()> {
        // Which devices are missing in a full roster is chance.
        let Some(met) = comparison.met.take().filter(|_| !told.roster.is_full()) else { return Ok(()) };
        let (strangers, admins) = self.untold(tx, &told.roster, &met)?;
        if strangers.is_empty() && admins.is_empty() {
            return Ok(());
        }
        comparison.keep(tx, &self.id)?;
        Event::Untold { group: self.id.clone(), strangers, admins }.record(tx)
    }
}
