//! Groups (DS-1 to DS-7): what this client knows of each, the messages it makes for them, and the
//! effect of those that arrive. All of it happens inside a transaction; [`crate::submit`] talks to
//! the DS.

mod accounts;
mod attributes;
mod changes;
mod commit;
mod content;
mod create;
mod evict;
mod fate;
#[cfg(feature = "lab")]
mod ghost;
mod handover;
mod introduce;
mod join;
mod late_commit;
mod leave;
pub(crate) mod left_place;
mod links;
mod members;
mod message;
mod one_group;
mod onlooker;
mod outbox;
mod outcasts;
mod outstanding;
mod past;
mod places;
mod receive;
mod record;
mod rejoin;
mod removed;
mod roster;
mod rules;
mod state;
pub(crate) mod strayed;
#[cfg(test)]
mod tests;
mod upkeep;

#[cfg(feature = "lab")]
pub(crate) use self::accounts::pass_time;
pub(crate) use self::{
    accounts::{
        InVain, absent, asked_in_vain, forget_hint, give_profile_key, hints, not_seen_since, not_shown,
        out_of_reach, reappeared, shows_name, still_there, tell_groups, tell_groups_of_end, users_of_members,
        was_renamed, was_reset,
    },
    commit::{Invited, add_invited, add_invited_client, invited, why_not_added},
    evict::{evict, evicted, eviction_failed, evictions, next_eviction, remove_own_device},
    handover::{
        GroupHandover, PendingEntry, entries_due, entry, entry_failed, follows, forget_entry_addresses,
        give_up_entry, go_by_latest, go_by_next, handover, is_due_to_enter, left_to_person, met_strangers,
        next_entry, not_told, postpone_entry, put_off_entry, retell, retell_all, stay_out, take_over,
        to_tell, told,
    },
    introduce::{introduce, waiting_groups},
    join::{
        forget_early, give_leaf_up, join, join_at_last, join_later, late_welcomes, take_early,
        tree_of_welcome,
    },
    leave::{try_another_key_package, withdraw_invitation},
    links::{NAMES_USER, hear_states, told_states, unconfirmed, was_asked},
    members::{claims, devices_of, history, members, pending_events},
    onlooker::keep as keep_unfollowed,
    outcasts::{
        cast_out, cast_out_if_asked, casting_out_failed, doubt, has_suspects, look_for_outcasts_again,
        removed_devices, user_was_renamed, users_of_suspects, was_removed, with_outcasts,
    },
    outstanding::{Kind, founding, unsettled},
    receive::receive,
    record::{active, is_entering, is_leaf_key_in_use, set_successor, successor, summaries, title},
    rejoin::{is_before_told, is_elsewhere},
    state::GroupState,
    upkeep::{committed, due, forget_ended},
};
pub use self::{
    commit::Change,
    message::{ApplicationMessage, Content, RosterEntry},
    record::GroupSummary,
    rejoin::Differences,
};
#[cfg(feature = "lab")]
pub use self::{ghost::StolenPlace, rules::judge_message};
