//! Groups (DS-1 to DS-7): what this client knows of each, the messages it makes for them, and the
//! effect of those that arrive. All of it happens inside a transaction; [`crate::submit`] talks to
//! the DS.

mod attributes;
mod changes;
mod commit;
mod content;
mod create;
mod introduce;
mod join;
mod leave;
mod links;
mod members;
mod message;
mod outstanding;
mod receive;
mod record;
mod rejoin;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod upkeep;

pub use self::{
    commit::Change,
    message::{ApplicationMessage, Content, RosterEntry},
    record::GroupSummary,
};
pub(crate) use self::{
    commit::add_invited,
    content::encrypt_anew,
    introduce::{introduction, waiting_groups},
    join::{join, tree_of_welcome},
    leave::withdraw_invitations,
    links::unconfirmed,
    members::{claims, members, pending_events},
    outstanding::unsettled,
    receive::receive,
    record::{active, is_leaf_key_in_use, summaries},
    state::GroupState,
    upkeep::{committed, due},
};
