//! First contact (QS-2, AS-12) and friendships (QS-6): a client that wants to add a user to groups asks
//! the user's devices through their contact queues, and gets the user's friendship through its
//! own, if the user accepts. Nobody between sees more than a sealed deposit.

mod block;
mod contacts;
mod deposits;
mod effects;
mod friendship;
mod given_addresses;
mod handover;
mod letter;
mod letters;
mod list;
mod looks;
mod met_domains;
mod news;
mod numbers;
mod parts;
mod read_letters;
mod requests;
mod rotation;
mod safety_number;

pub use self::{
    block::Blocks,
    contacts::SharedContact,
    friendship::{Edition, Friend, FriendshipSecrets},
    handover::ContactsHandover,
    letter::{ContactAnswer, ContactRequest, Letter, LetterBody, RequestId, Stamp},
    list::Contact,
    requests::ReceivedRequest,
    safety_number::SafetyNumber,
};
pub(crate) use self::{
    block::{block, unblock},
    contacts::{forget_friend, friend},
    deposits::{deliver_deposits, say_leaving, write_group},
    effects::moved,
    friendship::Friendship,
    handover::{handover, take_over},
    letters::{
        own_moved as own_letters_moved, read_again, receive_letter, secrets_in_letters,
        senders as senders_of_letters,
    },
    list::list,
    looks::look_after_contacts,
    met_domains::{forget_met, with_new_issuers},
    news::{
        missed_letters, receivers as receivers_of_news, tell_contacts_of_end, tell_contacts_of_name,
        tell_contacts_of_profile, write_news,
    },
    read_letters::read_letters,
    requests::{accept, ask, decline, received},
    rotation::{doubt, rotate_after_removal, settle_friendship},
    safety_number::{compare_code, confirm, show},
};
