//! The client as its user's program sees it.

mod account;
mod builder;
mod contacts;
mod device;
mod group;
mod handle;

pub use self::{
    account::StillIn,
    builder::ClientBuilder,
    device::Farewell,
    group::{Group, Invited, Refounded, Removal},
    handle::Client,
};
