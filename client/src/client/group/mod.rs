//! A group as a device in it sees it.

mod ends;
mod members;
mod messages;

use std::{fmt, sync::Arc};

use postern_protocol::{PublicKey, ds::GroupId, push::Urgency};

pub use self::{
    ends::Refounded,
    members::{Invited, Removal},
};
use crate::{
    error::{Error, Result},
    group::{Change, GroupState},
    push,
    session::Session,
};

/// A group that a client is in, or was.
///
/// It is a handle with an id: cheap to clone, and valid for as long as anybody likes. A call on a
/// group that the client does not know fails with [`crate::Error::UnknownGroup`], on one that it is not in
/// any more with [`crate::Error::NotMember`].
#[derive(Clone)]
pub struct Group {
    pub(crate) session: Arc<Session>,
    pub(crate) id: GroupId,
}

impl Group {
    pub(super) fn new(session: Arc<Session>, id: GroupId) -> Self {
        Self { session, id }
    }

    pub fn id(&self) -> &GroupId {
        &self.id
    }

    /// The group's epoch as this device knows it.
    ///
    /// # Errors
    /// As [`Self::members`].
    pub fn epoch(&self) -> Result<u64> {
        self.session.store.read(|tx| Ok(GroupState::load(tx, &self.id)?.epoch()))
    }

    /// Calls the group something else, for all members. Where its present title has the last number of this epoch, this
    /// device renews its keys first, which begins another one.
    ///
    /// # Errors
    /// [`Error::NotAdmin`], [`Error::TitleStays`], and as [`Self::send`].
    pub async fn rename(&self, title: &str) -> Result<()> {
        let call = || self.session.store.write(|tx| GroupState::load(tx, &self.id)?.call(tx, title));
        let mut called = call();
        if matches!(called, Err(Error::TitleStays)) {
            self.update().await?;
            called = call();
        }
        self.deliver_own(Some(called?)).await
    }

    /// Has messages of the group go to another address of this device (DS-11). The old one leads nowhere
    /// from then on.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn renew_address(&self) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.renew_address(&step, &self.id).await?;
        session.errands(&step).await
    }

    /// Renews this device's keys (post-compromise security).
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn update(&self) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.commit(&step, &self.id, |_, _| Ok(Some(Change::Update))).await
    }

    /// Sets from which urgency on messages of the group wake this device (QS-10): normal, unless
    /// this says something else; `None`: never.
    ///
    /// # Errors
    /// As [`Self::members`], and [`crate::Error::Server`].
    pub async fn set_push(&self, at_least: Option<Urgency>) -> Result<()> {
        let session = &self.session;
        let step = session.store.step().await?;
        session.store.write(|tx| {
            GroupState::load(tx, &self.id)?;
            push::set_policy(tx, &self.id, at_least)
        })?;
        session.errands(&step).await
    }

    /// Replaces the attributes of this device's leaf (DS-12), which the group's members find at the
    /// server and nobody else can read: 500 bytes at most. Nothing is said of it in the group.
    ///
    /// # Errors
    /// [`crate::Error::NoAttributesKey`] until a newcomer was told how, `message-too-large`, and as
    /// [`Self::send`].
    pub async fn set_attributes(&self, content: &[u8]) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.commit(&step, &self.id, |_, _| Ok(Some(Change::SetAttributes(content.to_vec())))).await
    }

    /// The attributes of the members' leaves now, by leaf key, as far as they open (DS-12).
    ///
    /// # Errors
    /// [`crate::Error::NoAttributesKey`], [`crate::Error::Server`], and as [`Self::members`].
    pub async fn attributes(&self) -> Result<Vec<(PublicKey, Vec<u8>)>> {
        let session = &self.session;
        let current = session.fetch_current(&self.id).await?;
        session.store.write(|tx| {
            let group = GroupState::load(tx, &self.id)?;
            group.learn(tx, &current.attributes)?;
            group.open_attributes(tx, &current.attributes)
        })
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use postern_protocol::name::UserName;

    use super::*;
    use crate::{Client, submit::Submission};

    /// Many clients live in one process: what they do can be spawned.
    #[test]
    fn clients_move_between_threads() {
        fn is_send<T: Send>(_: &T) {}
        #[expect(unused, reason = "it only has to compile")]
        fn spawnable(client: &Client, group: &Group, user: &UserName, submission: &Submission) {
            is_send(client);
            is_send(group);
            is_send(submission);
            is_send(&client.sync(Duration::ZERO));
            is_send(&group.send(""));
            is_send(&group.invite(user));
            is_send(&group.remove(user));
            is_send(&client.follower().next(Duration::ZERO));
            is_send(&Client::register(Path::new(""), "", ""));
        }
    }
}
