//! The address by which a group's messages reach this device.

use postern_protocol::{ds::GroupId, mls::DeliveryAddress, qs::QueueKind};

use crate::{
    error::{Error, Result},
    group::Change,
    mailbox::{self, Queue, add_addresses, fresh_address},
    session::Session,
    store::Step,
};

impl Session {
    /// Has messages of a group go to another address.
    pub(crate) async fn renew_address(&self, step: &Step<'_>, id: &GroupId) -> Result<()> {
        let delivery = self.new_address().await?;
        let done = self
            .commit(step, id, |_, group| {
                let is_new = group.delivery_address() != Some(delivery.address);
                Ok(is_new.then(|| Change::Address(delivery.clone())))
            })
            .await;
        if done.as_ref().is_err_and(Error::is_final) {
            self.store.write(|tx| mailbox::revoke_later(tx, &delivery.address))?;
        }
        done
    }

    /// Makes an address that leads to this device's group queue, wherever the group is.
    pub(super) async fn new_address(&self) -> Result<DeliveryAddress> {
        let address = fresh_address()?;
        let queue = self.store.read(|tx| Queue::load(tx, QueueKind::Group))?;
        if let Err(error) = add_addresses(&self.api, &queue, vec![address], Vec::new()).await {
            // It may exist, and leads to no group.
            self.store.write(|tx| mailbox::revoke_later(tx, &address))?;
            return Err(error);
        }
        Ok(self.account.delivery_at(address))
    }
}
