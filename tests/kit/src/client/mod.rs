//! The client's half of everything, driven by hand.

mod call;
mod capsule;
mod flood;
mod friendship;
mod group;
mod mailbox;
mod onlooker;
mod party;
mod payer;
mod provider;
mod reply;
pub mod signature;
mod tokens;
mod user;
mod way;

pub use call::{Call, Wire};
pub use capsule::Capsule;
pub use flood::{Capsules, Flood, Floods, asking_elsewhere};
pub use friendship::{
    Friendship, fetching, fetching_of, fresh_stock, fresh_token, last_resort, last_resort_of, package,
    package_for, package_of, packages, receiver, stocked,
};
pub use group::{Group, Member, creation, leaf_extensions, policy_extensions};
pub use mailbox::{Mailbox, deposited, depositing, fresh_address, hpke_key};
pub use onlooker::Onlooker;
pub use party::{Commit, Made, Party, Received, SUITE, mistagged, public_application};
pub use payer::Payer;
pub use provider::{Spoil, UNUSABLE};
pub use reply::Reply;
pub use tokens::{Ask, Asked, Impostor, TokenShape, asking_for_tokens, bytes_of, challenge};
pub use user::{
    User, device_of, identity_commit, identity_commit_of, identity_message, over, random_id, registration,
    registration_of, registration_with,
};
pub use way::{Answer, Failure, Private, Way, refusal};
