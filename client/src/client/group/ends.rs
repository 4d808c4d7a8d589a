//! The ends of a group, and the ways back: leaving, deleting, coming back, founding it anew.

use std::collections::BTreeSet;

use postern_protocol::name::UserName;

use super::Group;
use crate::{
    error::{Error, Result},
    group::{self, Differences, GroupState},
};

/// A group that was founded anew.
#[derive(Debug, Clone)]
pub struct Refounded {
    pub group: Group,
    /// The members of the old group that were invited.
    pub invited: Vec<UserName>,
    /// The members that could not be invited, and why.
    pub missing: Vec<(UserName, String)>,
    /// The number of devices in the old group that were not invited because it is not confirmed whose
    /// they are.
    pub unknown: usize,
}

impl Group {
    /// Ends the group for everyone (DS-11): all others are removed, and learn of it, then the group is
    /// deleted. When this was interrupted, the next call goes on.
    ///
    /// # Errors
    /// [`Error::NotAdmin`], and as [`Self::send`].
    pub async fn delete(&self) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.delete_group(&step, &self.id).await?;
        session.errands(&step).await
    }

    /// Leaves, with all devices of this user: with the next commit of another member, which has to come
    /// before anybody says anything. The last admin names another first. What was said before is sent
    /// first. After a passing error, or when the proposal lapsed, the next step goes on with it. A device that is yet to come in
    /// stays out, as with [`Self::block`], and the user's others stay in.
    ///
    /// # Errors
    /// [`Error::LastAdmin`], as [`Self::deliver`], and what the server refuses.
    pub async fn leave(&self) -> Result<()> {
        let step = self.session.store.step().await?;
        let stays_out = self.session.store.write(|tx| {
            if group::stay_out(tx, &self.id)? {
                return Ok(true);
            }
            let group = GroupState::load(tx, &self.id)?;
            if group.is_last_admin()? {
                return Err(Error::LastAdmin);
            }
            group.want_to_leave(tx).map(|()| false)
        })?;
        if stays_out {
            return self.session.errands(&step).await;
        }
        self.session.leave(&step, &self.id).await
    }

    /// Comes back (DS-7) where this device is a member but cannot follow any more. What was said
    /// since cannot be read. Clients do so by themselves ([`Event::CannotFollow`]); this is for the
    /// impatient, and where only a person can decide. A device comes in by it where another one of its user's handed the
    /// group over.
    ///
    /// [`Event::CannotFollow`]: crate::Event::CannotFollow
    ///
    /// # Errors
    /// [`Error::Strangers`] where members or admins are there that this device does not know: with
    /// [`Self::rejoin_accepting`] its user accepts them, with [`Self::block`] not. As [`Self::send`].
    pub async fn rejoin(&self) -> Result<()> {
        self.rejoin_accepting(&Differences::default()).await
    }

    /// Comes back into a group that differs from what this device knew of it by no more than a person
    /// accepted.
    ///
    /// # Errors
    /// As [`Self::rejoin`].
    pub async fn rejoin_accepting(&self, accepted: &Differences) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.rejoin(&step, &self.id, accepted).await
    }

    /// Founds the group anew, for one that is beyond repair (DS-13): another group with the same title
    /// and the same members, and this device as its admin. This device is in the old one no more, and
    /// tells it nothing. The members are those users that this device knows to be behind the devices
    /// of the old group; they are invited as with [`Self::invite`]. When this was interrupted, the next
    /// call goes on with the same group.
    ///
    /// # Errors
    /// As [`Self::members`], and as [`Client::create_group`](crate::Client::create_group). Passing ones of
    /// invitations, too; what else keeps a user from being invited is in the answer.
    pub async fn refound(&self) -> Result<Refounded> {
        let session = &self.session;
        let (title, successor, others) = session.store.read(|tx| {
            let group = GroupState::load(tx, &self.id)?;
            let mut others = group::members(tx, &group)?;
            others.retain(|member| member.leaf_key != group.leaf.public_key());
            Ok((group::title(tx, &self.id)?, group::successor(tx, &self.id)?, others))
        })?;
        let group = {
            let step = session.store.step().await?;
            let id = match successor {
                Some(id) => id,
                None => session.prepare_group(&title, Some(&self.id)).await?,
            };
            session.finish_founding(&step, &id).await?;
            Self::new(session.clone(), id)
        };
        let known: BTreeSet<_> =
            others.iter().filter(|one| one.verified).filter_map(|one| one.user.clone()).collect();
        let unknown = others.iter().filter(|one| !one.verified || one.user.is_none()).count();
        let (mut invited, mut missing) = (Vec::new(), Vec::new());
        for user in known {
            match group.invite(&user).await {
                Ok(_) => invited.push(user),
                Err(error) if error.is_final() || matches!(error, Error::Identity(_) | Error::NoContact) => {
                    missing.push((user, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        self.block().await?;
        Ok(Refounded { group, invited, missing, unknown })
    }

    /// Leaves without asking the group (QS-7): its messages reach this device no more, and its
    /// members learn no more than that. A device that is to come in where another one of its user's handed the group over
    /// stays out.
    ///
    /// # Errors
    /// As [`Self::members`], and [`Error::Server`].
    pub async fn block(&self) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| {
            if group::stay_out(tx, &self.id)? { Ok(()) } else { GroupState::load(tx, &self.id)?.quit(tx) }
        })?;
        session.errands(&step).await
    }
}
