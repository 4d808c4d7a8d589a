//! This device's mailboxes: two queues at the QS, the addresses that lead to them, and their keys.
//! Other modules decide what the messages in them mean.

mod addresses;
#[cfg(feature = "lab")]
pub(crate) mod deliveries;
mod key_rotation;
mod queue;
mod replace;

pub(crate) use self::{
    addresses::{
        add_addresses, forget_renewals, fresh_address, is_renewal_due, renew_addresses, renew_soon,
        revoke_addresses, revoke_again, revoke_contact_later, revoke_later,
    },
    key_rotation::{finish_rotation, prepare_rotation, prepared_rotation},
    queue::{KINDS, Queue},
    replace::{create_queue, is_gone, is_under_new_keys, replace_queue},
};
