//! KeyPackages (QS-6): those of this device, which wait at the QS for friends to fetch, and those
//! of friends, which wait here for a group.

mod fetch;
mod own;
mod publish;
mod stock;
mod theirs;

pub(crate) use self::{
    fetch::fetch_key_packages,
    publish::{forget_count, publish_again, publish_elsewhere, publish_if_due},
    stock::{addresses, drop_expired, holds, used, used_in_vain},
    theirs::{
        end_reservations, forget_key_package, forget_key_packages_of, is_reserved, key_package_of,
        key_packages_of, link_of, reserve_key_package, use_key_package,
    },
};
#[cfg(test)]
pub(crate) use self::{
    fetch::keep_batch,
    own::make_key_package,
    theirs::{keep_key_package, open_key_package},
};
