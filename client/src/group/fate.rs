//! The fate of an outstanding request, and its effect on what this device knows of the group.

use postern_protocol::{
    ds::{GroupId, MessageAccepted},
    problem::Problem,
};

use super::{
    handover, join,
    message::Content,
    onlooker, outbox,
    outstanding::{self, Kind, Outstanding},
    record, removed,
    state::GroupState,
    strayed,
};
use crate::{
    error::Result,
    event::{Event, Member},
    store::Tx,
};

impl GroupState {
    /// The request of the group that is to be sent first of those whose answer is outstanding.
    pub(crate) fn outstanding(tx: &Tx<'_>, id: &GroupId) -> Result<Option<Outstanding>> {
        outstanding::find(tx, id)
    }

    /// Whether the answer to a request of this kind is outstanding.
    pub(crate) fn awaits(tx: &Tx<'_>, id: &GroupId, kind: Kind) -> Result<bool> {
        outstanding::holds(tx, id, kind)
    }

    /// How many messages of this device the DS did not accept yet.
    pub(crate) fn unsent(tx: &Tx<'_>, id: &GroupId) -> Result<u64> {
        outbox::count(tx, id)
    }

    /// Tells of the messages that the DS refused, and returns the refusal of the one that its sender
    /// waits for.
    pub(crate) fn tell_refused(tx: &Tx<'_>, id: &GroupId, own: Option<u64>) -> Result<Option<Problem>> {
        outbox::tell_refused(tx, id, own)
    }

    /// The DS accepted an outstanding request.
    pub(crate) fn confirm(&mut self, tx: &Tx<'_>, kind: Kind, accepted: &MessageAccepted) -> Result<()> {
        if accepted.undelivered > 0 {
            Event::Undelivered { group: self.id.clone(), members: accepted.undelivered }.record(tx)?;
        }
        match kind {
            Kind::Commit => {
                self.confirm_commit(tx)?;
                self.want_server_key(tx, accepted.server_key.as_ref())
            }
            Kind::Message => {
                self.remember_said(tx)?;
                outbox::sent(tx, &self.id)?;
                outstanding::forget(tx, &self.id, kind)
            }
            Kind::Rejoin => {
                self.came_back(tx)?;
                self.want_server_key(tx, accepted.server_key.as_ref())
            }
            Kind::Creation | Kind::Leave => outstanding::forget(tx, &self.id, kind),
        }
    }

    /// Keeps in the history what this device said.
    fn remember_said(&self, tx: &Tx<'_>) -> Result<()> {
        let Some((_, Content::Text(text))) = outbox::first(tx, &self.id)? else { return Ok(()) };
        let sender = Member::unknown(self.leaf.public_key());
        Event::Message { group: self.id.clone(), epoch: self.epoch(), sender, text }.remember(tx)
    }

    /// The DS refused an outstanding request: it never happened.
    pub(crate) fn refused(&mut self, tx: &Tx<'_>, kind: Kind, problem: &Problem) -> Result<()> {
        match kind {
            Kind::Creation => self.forget(tx, problem),
            Kind::Commit => {
                // It may have brought a key that the server revoked meanwhile.
                record::set_server_key(tx, &self.id, None)?;
                self.drop_commit(tx)
            }
            Kind::Leave => {
                Event::StillIn { group: self.id.clone(), reason: problem.to_string() }.record(tx)?;
                record::set_leaving(tx, &self.id, false)?;
                self.drop_leaving(tx)
            }
            Kind::Message => {
                outbox::refuse(tx, &self.id, problem)?;
                outstanding::forget(tx, &self.id, kind)
            }
            Kind::Rejoin if record::is_entering(tx, &self.id)? => {
                handover::entry_failed(tx, &self.id)?;
                self.end(tx)
            }
            Kind::Rejoin => outstanding::forget(tx, &self.id, kind),
        }
    }

    /// An outstanding request came too late for its epoch. What it was for is still wanted.
    pub(crate) fn too_late(&mut self, tx: &Tx<'_>, kind: Kind) -> Result<()> {
        match kind {
            Kind::Commit => self.drop_commit(tx),
            Kind::Leave => self.drop_leaving(tx),
            Kind::Creation | Kind::Rejoin | Kind::Message => outstanding::forget(tx, &self.id, kind),
        }
    }

    /// The external commit of this device took effect.
    pub(super) fn came_back(&mut self, tx: &Tx<'_>) -> Result<()> {
        outstanding::forget(tx, &self.id, Kind::Rejoin)?;
        record::committed(tx, &self.id)?;
        self.came_in(tx)?;
        removed::forget(tx, &self.id)?;
        onlooker::forget(tx, &self.id)?;
        if record::is_entering(tx, &self.id)? {
            let moved = record::is_moving(tx, &self.id)?;
            record::entered(tx, &self.id)?;
            let told = handover::drop_entry(tx, &self.id)?;
            join::forget_late(tx, &self.id)?;
            // The others learn at once who came.
            outbox::push(tx, &self.id, &Content::Present)?;
            if !moved {
                Event::Joined { group: self.id.clone() }.record(tx)?;
            }
            self.forget_met(tx)?;
            return self.hear_anew(tx, told);
        }
        strayed::back(tx, &self.id)?;
        if self.is_ahead_by_user_key()? {
            // It may have made this key to come back.
            self.retell_user_key(tx)?;
        } else {
            // Devices on their way have no leaf here by which that would show.
            self.retell_those_on_their_way(tx)?;
        }
        self.hear_anew(tx, Vec::new())?;
        Event::Returned { group: self.id.clone(), epoch: self.epoch() }.record(tx)
    }

    /// Forgets an outstanding request for good, with what it was for.
    #[cfg(feature = "lab")]
    pub(crate) fn abandon(&mut self, tx: &Tx<'_>, kind: Kind) -> Result<()> {
        match kind {
            Kind::Message => outbox::sent(tx, &self.id)?,
            Kind::Leave => record::set_leaving(tx, &self.id, false)?,
            _ => {}
        }
        self.too_late(tx, kind)
    }
}
