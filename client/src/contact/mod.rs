//! First contact (QS-2) and friendships (QS-6): a client that wants to add a user to groups asks
//! the user's devices through their contact queues, and gets the user's friendship through its
//! own. Nobody between sees more than a sealed deposit.

mod block;
mod deposits;
mod friends;
mod friendship;
mod letter;
mod own_devices;
mod receive;
mod requests;

pub(crate) use self::{
    block::{block, rotate_friendship_token},
    deposits::deliver_deposits,
    friends::{forget_friend, friend},
    friendship::Friendship,
    own_devices::adopt_secrets,
    receive::receive_letter,
    requests::{answer_requests, ask},
};
pub use self::{
    friendship::{Friend, FriendshipSecrets},
    letter::{ContactAnswer, ContactRequest, Letter, LetterBody, RequestId},
};
