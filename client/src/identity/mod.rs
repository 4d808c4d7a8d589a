//! Identities behind keys (AS-2, AS-3, AS-5): the links by which members of a group show their
//! names to each other and to nobody else, users' records from the AS, and this client's own
//! evolving identity.

mod audit;
mod claims;
mod credential;
mod devices;
pub(crate) mod eid;
mod handover;
mod hidden;
mod issuer;
mod known;
mod leaving;
mod link;
mod lookup;
mod own_devices;
mod public_eid;
mod silence;
mod succession;
#[cfg(test)]
mod tests;
mod verify;

pub use self::{
    audit::Audit,
    devices::{Device, DeviceState},
    eid::EidWelcome,
    known::{Known, Seen},
    link::IdentityLink,
    verify::{VerifiedClient, VerifiedUser},
};
pub(crate) use self::{
    audit::audit,
    claims::{claimed, heard, spoken_for, told},
    credential::{keep_credential, obtain_credential, renew_credential},
    devices::{device_named, devices, look_after_devices, looked_after, name_device, upkeep},
    handover::{Pin, pins, take_over_pins},
    hidden::AGAIN as HIDDEN_AGAIN,
    issuer::{accept_root, authentication_keys, forget_as, is_heard, is_revoked, vouches, was_seen},
    known::{
        compare, confirmed, has_device, is_again, is_device, known, own_state, pending_reset, rename,
        set_verified, shown_as,
    },
    leaving::{remove_leaving, said_to_leave},
    lookup::{accept_reset, look_up},
    own_devices::own_devices,
};
#[cfg(feature = "lab")]
pub(crate) use self::{
    claims::pass_time as pass_time_for_claims, hidden::pass_time as pass_time_for_hidden,
    issuer::forget_look, silence::pass_time,
};
