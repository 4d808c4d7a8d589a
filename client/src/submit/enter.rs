//! Coming into a group that another device of this user handed over (DS-7).

use postern_protocol::{ds::GroupId, qs::QueueKind};

use super::{ATTEMPTS, Fate};
use crate::{
    error::{Error, Result},
    group::{self, GroupState, Kind, strayed},
    mailbox::{Queue, add_addresses},
    session::Session,
    store::{Step, Tx},
};

impl Session {
    /// Comes into a group that another device of this user handed over (DS-7).
    ///
    /// # Errors
    /// Refusals are kept for a later attempt.
    pub(crate) async fn enter(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        if self.store.read(|tx| strayed::state(tx, id))? != strayed::State::Follows {
            return Ok(());
        }
        let Some(entry) = self.store.write(|tx| group::entry(tx, id))? else { return Ok(()) };
        let queue = self.store.read(|tx| Queue::load(tx, QueueKind::Group))?;
        add_addresses(&self.api, &queue, vec![entry.delivery.address], Vec::new()).await?;
        // Where it is in already, in a place of its own, it leaves that with the same commit. What can still be
        // read there is read now.
        self.settle(step, id).await?;
        self.drain(step, QueueKind::Group).await?;
        let moves = |tx: &Tx<'_>| match GroupState::load(tx, id) {
            Ok(mut group) if !group.is_leaving() && !group::is_entering(tx, id)? => {
                group.stage_leaving(tx).map(|()| true)
            }
            Ok(_) | Err(Error::NotMember | Error::UnknownGroup(_)) => Ok(false),
            Err(error) => Err(error),
        };
        if self.store.write(moves)?
            && let Some(Fate::Refused(problem)) = self.settle(step, id).await?.of(Kind::Leave)
        {
            self.store.write(|tx| group::drop_entry(tx, id))?;
            return Err(problem.clone().into());
        }
        for _ in 0..ATTEMPTS {
            if self.store.read(|tx| GroupState::awaits(tx, id, Kind::Rejoin))? {
                match self.settle(step, id).await?.of(Kind::Rejoin) {
                    Some(Fate::Accepted(_)) => return Ok(()),
                    Some(Fate::Refused(problem)) => return Err(problem.clone().into()),
                    Some(Fate::Late | Fate::Over) | None => {}
                }
                if !self.store.read(|tx| group::is_entering(tx, id))? {
                    return Ok(());
                }
            }
            let (fetch, user) = entry.handover.fetch_info();
            let current = match self.ds(id)?.fetch_group_info(id, &fetch, &user).await {
                // The group is gone, or this user is in it no more, or with another key: another device
                // says if there is a way.
                Err(error) if error.refusal().is_some() => {
                    self.store.write(|tx| group::entry_failed(tx, id))?;
                    return Err(error);
                }
                current => current?,
            };
            self.store.write(|tx| GroupState::enter(tx, &entry, &current))?;
        }
        Err(Error::Contended(ATTEMPTS))
    }
}
