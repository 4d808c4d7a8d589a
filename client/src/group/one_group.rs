//! Whether this device and another one of its user are in one group. A server can bring a device by a Welcome into a group that it
//! made up, with a member perhaps, and hold back the letter in which another device tells of the true one, or show one of the two
//! what is not so later on. One rule finds that out, in whatever order letter and Welcome come: **an epoch of a group begins by one
//! commit**. A letter has the tag of the commit by which its epoch began where it was written.
//!
//! - Of an epoch that this device was in since it came in it knows the tag. In one group the two are the same, else there are two.
//! - A letter of a later epoch waits until that is reached, the last one of a group, and the DS is asked for the group. It is as
//!   far there as the letter says, since the other device was. A DS that shows an earlier epoch was restored (QS-12), or shows one
//!   of the two what is not so.
//! - Of an epoch before this device came in nothing shows it. Those that were here when it came and of whom the letter does not
//!   know may have come between, or be made up: its user is told of them, once.
//!
//! Of two groups the user is told once, until a letter fits again. Nobody is silenced by a letter: which of the two is the true one
//! shows in neither. But this device does not move to where the other one is, and a group that is made up draws nobody out of the
//! true one. Neither a server nor a member makes another commit with a tag that is there; they can only keep letters back. An AS
//! that makes up a device of this user can have this device ask the DS, and tell its user, and no more. And nothing that happens
//! in a group changes a tag: whether members came back, or were no admins for a while, or had no room in a roster.

use postern_protocol::ds::GroupId;
use serde::{Deserialize, Serialize};

use super::{
    handover::{self, GroupHandover},
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

/// What is left to compare of a group with what other devices of this user tell.
#[derive(Default, Serialize, Deserialize)]
struct Comparison {
    /// Who was there when this device joined by a Welcome. `None`: it came in otherwise, another device is in the same group, or
    /// the user was told of those whom another one did not know.
    met: Option<Roster>,
    /// The last letter of an epoch that this device did not reach yet.
    ahead: Option<GroupHandover>,
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

    /// Hears of the group from another device of this user, which is in another place there, and has this device move to that one
    /// if it belongs there.
    pub(super) fn hear(&self, tx: &Tx<'_>, told: &GroupHandover) -> Result<()> {
        let mut comparison = Comparison::find(tx, &self.id)?;
        match self.beginning_of(tx, told.epoch)? {
            Some(beginning) if beginning != told.beginning => {
                return self.tell_of_two(tx, comparison, told.epoch);
            }
            Some(_) => {
                comparison = Comparison { ahead: comparison.ahead, ..Comparison::default() };
                comparison.keep(tx, &self.id)?;
            }
            None if told.epoch > self.epoch() => {
                comparison.ahead = Some(told.clone());
                comparison.keep(tx, &self.id)?;
                return strayed::doubt(tx, &self.id);
            }
            None => {}
        }
        if self.belongs_beside(tx, told)? {
            handover::renew_entry(tx, told)
        } else {
            self.tell_untold(tx, comparison, told)
        }
    }

    /// Hears of the group what waited until this device is as far as the other one was, if it is now.
    pub(super) fn hear_what_waited(&self, tx: &Tx<'_>) -> Result<()> {
        let mut comparison = Comparison::find(tx, &self.id)?;
        let Some(told) = comparison.ahead.take_if(|told| told.epoch <= self.epoch()) else { return Ok(()) };
        comparison.keep(tx, &self.id)?;
        handover::take_over(tx, &[told])
    }

    /// Takes note of the epoch that the DS shows, in which this device is. It was asked after the letter came which waits.
    pub(crate) fn hear_of_epoch(&self, tx: &Tx<'_>, shown: u64) -> Result<()> {
        let mut comparison = Comparison::find(tx, &self.id)?;
        match comparison.ahead.take_if(|told| told.epoch > shown) {
            Some(told) => self.tell_of_two(tx, comparison, told.epoch),
            None => Ok(()),
        }
    }

    fn tell_of_two(&self, tx: &Tx<'_>, comparison: Comparison, epoch: u64) -> Result<()> {
        if comparison.is_told {
            return Ok(());
        }
        Comparison { is_told: true, ..comparison }.keep(tx, &self.id)?;
        Event::Divided { group: self.id.clone(), epoch }.record(tx)
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
