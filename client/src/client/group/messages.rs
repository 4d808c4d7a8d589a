//! The messages of a group: sending them, and the history that this device keeps.

use super::Group;
use crate::{
    error::Result,
    event::HistoryEntry,
    group::{self, GroupState},
    history,
};

impl Group {
    /// Says something. When this returns, it will reach every member (DS-4). It is kept before it is
    /// sent: after a passing error it waits with whatever else was said before and after it, and the
    /// next step sends all of it once, in order.
    ///
    /// # Errors
    /// As [`Self::keep`], with nothing kept. As [`Self::deliver`], and the server's refusal of this
    /// message, which is not kept then.
    pub async fn send(&self, text: &str) -> Result<()> {
        let number = self.keep(text)?;
        self.deliver_own(Some(number)).await
    }

    /// Keeps something that is to be said, without talking to the server: [`Self::deliver`] and every
    /// later step send it. Returns the number that members will know it by.
    ///
    /// # Errors
    /// As [`Self::members`], and [`crate::Error::OutboxFull`], [`crate::Error::Leaving`].
    pub fn keep(&self, text: &str) -> Result<u64> {
        let session = &self.session;
        session.store.write(|tx| GroupState::load(tx, &self.id)?.say(tx, text.to_owned(), &session.options))
    }

    /// Sends what is kept, in order. What the server refuses is told as [`Event::Unsent`].
    ///
    /// # Errors
    /// As [`Self::members`], and [`crate::Error::Contended`], [`crate::Error::CannotFollow`], [`crate::Error::Behind`],
    /// [`crate::Error::NoToken`], [`crate::Error::Server`]: what was not sent is kept.
    ///
    /// [`Event::Unsent`]: crate::Event::Unsent
    pub async fn deliver(&self) -> Result<()> {
        self.deliver_own(None).await
    }

    /// Sends what is kept up to the message of this number and all others, and says if that one was
    /// refused.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn deliver_own(&self, number: Option<u64>) -> Result<()> {
        let step = self.session.store.step().await?;
        self.session.deliver(&step, &self.id, number).await
    }

    /// How many messages of this device are kept: the server has not accepted them yet.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn unsent(&self) -> Result<u64> {
        self.session.store.read(|tx| GroupState::unsent(tx, &self.id))
    }

    /// Whether a message or commit of this device is on its way, with the answer outstanding.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn is_unsettled(&self) -> Result<bool> {
        self.session.store.read(|tx| Ok(GroupState::outstanding(tx, &self.id)?.is_some()))
    }

    /// The last messages and events of the group that this device keeps, so many, oldest first: of its own messages those
    /// that the server accepted. How many are kept, [`Options::history`](crate::Options::history) says.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn history(&self, number: u64) -> Result<Vec<HistoryEntry>> {
        self.session.store.read(|tx| group::history(tx, &self.id, number))
    }

    /// Deletes all that this device keeps of the group's history. What was not told yet is told all the same.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn forget_history(&self) -> Result<()> {
        self.session.store.write(|tx| history::forget(tx, &self.id))?;
        self.session.store.scrub()
    }

    /// Sets whether this device keeps what comes in this group from now on: usually it does.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn keep_history(&self, kept: bool) -> Result<()> {
        self.session.store.write(|tx| history::set_kept(tx, &self.id, kept))
    }
}
