//! Making an application message.

use postern_protocol::{ds::GroupId, encoding::Encoding};

use super::{
    commit::Change,
    message::{ApplicationMessage, Content},
    outstanding::{self, Outstanding},
    record,
    state::GroupState,
};
use crate::{
    account::Account,
    error::{Error, Result},
    identity::IdentityLink,
    mls::{self, LeafSigner},
    store::Tx,
};

impl GroupState {
    /// Makes an application message, and keeps it until the DS's answer is known.
    pub(crate) fn stage_content(&mut self, tx: &Tx<'_>, content: Content) -> Result<Outstanding> {
        let account = Account::load(tx)?;
        let number = record::take_number(tx, &self.id)?;
        let link = IdentityLink::sign(
            &account.client_key(),
            account.credential()?,
            Some(&self.id),
            &self.leaf.public_key(),
        );
        self.stage_message(tx, ApplicationMessage { number, link, content })
    }

    /// As [`Self::stage_content`], for one that was made before and is encrypted anew.
    fn stage_message(&mut self, tx: &Tx<'_>, content: ApplicationMessage) -> Result<Outstanding> {
        let message = self
            .mls
            .create_message(tx, &LeafSigner(&self.leaf), &Encoding::Cbor.encode(&content))
            .map_err(Error::mls("cannot encrypt the message"))?;
        let submission = self.submission(mls::message_bytes(&message)?)?;
        outstanding::keep(tx, &self.id, self.epoch(), &submission, Some(content))
    }
}

/// Makes an application message that came too late for the group's present epoch, or the
/// commit that has to come before it.
pub(crate) fn encrypt_anew(tx: &Tx<'_>, id: &GroupId) -> Result<()> {
    let mut group = GroupState::load(tx, id)?;
    if group.has_pending_proposals() {
        return group.stage_commit(tx, &Change::Update).map(drop);
    }
    let content = outstanding::find(tx, id)?.and_then(|outstanding| outstanding.content);
    if let Some(content) = content {
        group.abandon(tx)?;
        group.stage_message(tx, content)?;
    }
    Ok(())
}
