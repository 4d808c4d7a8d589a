//! A group as the DS has it.

use postern_protocol::{
    ds::{CurrentGroup, GroupId},
    problem::ProblemType,
};

use crate::{
    elsewhere,
    error::{Result, goes_on},
    group::GroupState,
    session::Session,
};

impl Session {
    /// Fetches a group as the DS has it: with the key of this device's leaf, or if that is in it no more, with the user's.
    pub(crate) async fn fetch_current(&self, id: &GroupId) -> Result<CurrentGroup> {
        let (leaf, user, fetch) = self.store.read(|tx| {
            let group = GroupState::load(tx, id)?;
            let (user, fetch) = (group.private_user_key(tx)?, group.fetch_info()?);
            Ok((group.leaf, user, fetch))
        })?;
        let ds = self.ds(id)?;
        let current = match (ds.fetch_group_info(id, &fetch, &leaf).await, &user) {
            (Err(error), Some(user)) if error.problem() == Some(ProblemType::NotAllowed) => {
                ds.fetch_group_info(id, &fetch, user).await
            }
            (answer, _) => answer,
        };
        elsewhere::noted(&ds, current)
    }

    /// Reads the cards of a group's leaves at the DS, which has those of leaves of which no member told this device. A
    /// refusal, as to a device that is out by now, leaves what is known.
    ///
    /// # Errors
    /// A server that does not answer.
    pub(crate) async fn learn_cards(&self, id: &GroupId) -> Result<()> {
        match self.fetch_current(id).await {
            Ok(current) => self.store.write(|tx| GroupState::load(tx, id)?.learn(tx, &current.attributes)),
            refused => goes_on(refused.map(drop)),
        }
    }
}
