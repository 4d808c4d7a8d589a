//! Making an application message.

use postern_protocol::encoding::Encoding;

use super::{
    message::{ApplicationMessage, Content},
    outbox,
    outstanding::{self, Kind, Outstanding},
    record,
    state::GroupState,
};
use crate::{
    account::Account,
    error::{Error, Result},
    identity::{self, IdentityLink},
    mls::{self, LeafSigner},
    options::Options,
    profile,
    store::Tx,
};

impl GroupState {
    /// Keeps a text that is to be said, and returns the number that members will know it by.
    ///
    /// # Errors
    /// [`Error::OutboxFull`], [`Error::Leaving`].
    pub(crate) fn say(&self, tx: &Tx<'_>, text: String, options: &Options) -> Result<u64> {
        if record::is_leaving(tx, &self.id)? || self.has_proposed_to_leave() {
            return Err(Error::Leaving);
        }
        outbox::check_room(tx, &self.id, text.len(), options)?;
        outbox::push(tx, &self.id, &Content::Text(text))
    }

    /// Calls the group something else, and returns the number of the message that says so.
    ///
    /// # Errors
    /// [`Error::NotAdmin`], [`Error::Leaving`]; [`Error::TitleStays`] where the members would not take the title, since the
    /// one before has the last number of this epoch.
    pub(crate) fn call(&self, tx: &Tx<'_>, title: &str) -> Result<u64> {
        if !self.is_admin(&self.leaf.public_key()) {
            return Err(Error::NotAdmin);
        }
        if record::is_leaving(tx, &self.id)? {
            return Err(Error::Leaving);
        }
        let (present, titled) = record::numbered_title(tx, &self.id)?;
        let titled = titled.saturating_add(1).min(record::latest_title(self.epoch()));
        if !record::retitle(tx, &self.id, title, titled, self.epoch())? && title != present {
            return Err(Error::TitleStays);
        }
        outbox::push(tx, &self.id, &Content::Title { title: title.to_owned(), titled })
    }

    /// Encrypts the oldest message of the outbox, and keeps that until the DS's answer is known. False
    /// if there is none.
    pub(crate) fn stage_message(&mut self, tx: &Tx<'_>) -> Result<bool> {
        if outstanding::holds(tx, &self.id, Kind::Message)? {
            return Ok(true);
        }
        let Some((number, content)) = outbox::first(tx, &self.id)? else { return Ok(false) };
        let account = Account::load(tx)?;
        let link =
            IdentityLink::sign(&account.client_key(), account.credential()?, Some(&self.id), &self.leaf);
        let message = ApplicationMessage {
            number,
            link,
            eid: identity::own_state(tx)?,
            profile_key: profile::own_key(tx)?,
            profile_version: profile::own_version(tx)?,
            content,
        };
        let message = self
            .mls
            .create_message(tx, &LeafSigner(&self.leaf), &Encoding::Cbor.encode(&message))
            .map_err(Error::mls("cannot encrypt the message"))?;
        let submission = self.submission(mls::message_bytes(&message)?)?;
        let body = Encoding::Cbor.encode(&submission);
        outstanding::keep(tx, &self.id, &Outstanding { kind: Kind::Message, epoch: self.epoch(), body })?;
        Ok(true)
    }
}
