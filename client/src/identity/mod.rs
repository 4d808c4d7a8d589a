//! Identities behind keys (AS-2, AS-3, AS-5): the links by which members of a group show their
//! names to each other and to nobody else, users' records from the AS, and this client's own
//! evolving identity.

mod credential;
pub(crate) mod eid;
mod known;
mod link;
mod lookup;
mod own_devices;
mod verify;

pub(crate) use self::{
    credential::{obtain_credential, renew_credential, verified},
    known::confirmed,
    lookup::look_up,
    own_devices::own_devices,
};
pub use self::{
    link::IdentityLink,
    verify::{VerifiedClient, VerifiedUser},
};
