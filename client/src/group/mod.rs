//! Groups (DS-1 to DS-7): what this client knows of each, the messages it makes for them, and the
//! effect of those that arrive. All of it happens inside a transaction; [`crate::submit`] talks to
//! the DS.

mod attributes;
mod changes;
mod commit;
mod content;
mod create;
mod fate;
mod introduce;
mod join;
mod leave;
mod links;
mod members;
mod message;
mod outbox;
mod outstanding;
mod receive;
mod record;
mod rejoin;
mod rules;
mod state;
pub(crate) mod strayed;
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
    introduce::{introduce, waiting_groups},
    join::{join, tree_of_welcome},
    leave::withdraw_invitations,
    links::unconfirmed,
    members::{claims, history, members, pending_events},
    outstanding::{Kind, founding, unsettled},
    receive::receive,
    record::{active, is_leaf_key_in_use, set_successor, successor, summaries, title},
    state::GroupState,
    upkeep::{committed, due},
};
