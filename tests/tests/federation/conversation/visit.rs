//! Guests, who come into the group and go while things go wrong: as often as they are to, however long each time takes.

use std::time::Duration;

use postern_client::{Client, Error, Group};
use postern_protocol::{PublicKey, problem::ProblemType};

use super::{
    DOMAINS,
    talk::{Talker, Words, is_of_bad_days},
};

/// A change of a guest's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The host adds the guest: fetches a KeyPackage of it and commits, by the pipe where they are elsewhere, and the Welcome
    /// comes by the outbox.
    In,
    /// The host removes the guest, who talks on until it hears of that.
    Removed,
    /// The guest leaves, as soon as others commit it.
    Leaves,
}

/// The turns of the guest of each domain, all of whom are in at first.
pub const TURNS: [&[Turn]; DOMAINS] = [
    &[Turn::Leaves, Turn::In],
    &[Turn::Leaves, Turn::In, Turn::Removed],
    &[Turn::Removed, Turn::In, Turn::Leaves],
];
/// The domain of the admin who is each guest's host: another one than the guest's.
pub const HOSTS: [usize; DOMAINS] = [1, 2, 0];
/// How often a guest says or does something before its next turn to go.
const ROUNDS: usize = 5;
/// Pause between two looks whether it came or went, at most, in milliseconds.
const PAUSE: u64 = 500;

/// Whether the guest of a domain is in the group after all its turns.
pub fn stays(domain: usize) -> bool {
    TURNS[domain].last() == Some(&Turn::In)
}

/// A guest's part in the conversation.
pub struct Visit {
    guest: Talker,
    host: Client,
}

/// The key of a member's own leaf.
pub fn leaf_key(client: &Client, group: &Group) -> PublicKey {
    let members = group.members().expect("a member");
    let own = members.iter().find(|member| member.user.as_ref() == Some(client.user()));
    own.expect("it is one of them").leaf_key
}

impl Visit {
    pub fn new(guest: Talker, host: &Client) -> Self {
        Self { guest, host: host.clone() }
    }

    /// Takes each turn when it is there, and then goes on as it is until all is over.
    pub async fn go_on(mut self, turns: &[Turn]) -> Words {
        for turn in turns {
            match turn {
                Turn::In => self.comes_in().await,
                Turn::Removed => {
                    self.stays_for_a_while().await;
                    self.is_removed().await;
                }
                Turn::Leaves => {
                    self.stays_for_a_while().await;
                    self.leaves().await;
                }
            }
            self.guest.course.note_change();
        }
        while !self.guest.course.is_over() {
            if self.is_in() {
                self.guest.go_on().await;
            } else {
                self.receives().await;
            }
        }
        self.guest.words
    }

    fn is_in(&self) -> bool {
        match self.guest.group().epoch() {
            Ok(_) => true,
            Err(Error::NotMember) => false,
            Err(error) => panic!("{}: {error}", self.guest.client.user()),
        }
    }

    async fn stays_for_a_while(&mut self) {
        for _ in 0..ROUNDS {
            self.guest.go_on().await;
        }
    }

    async fn receives(&mut self) {
        let received = self.guest.client.receive(Duration::ZERO).await;
        self.takes("it receives", received);
        self.guest.pause(PAUSE).await;
    }

    /// Takes no error but one that passes.
    fn takes(&self, what: &str, done: Result<(), Error>) {
        if let Err(error) = done {
            assert!(is_of_bad_days(&error), "{what}: {}: {error}", self.guest.client.user());
        }
    }

    /// The host asks as often as it does not find the guest among the members. What an invitation lacks, such as a
    /// KeyPackage, the host's client fetches in its own time, and a commit whose answer was lost is settled by then.
    async fn comes_in(&mut self) {
        let host = self.guest.group_of(&self.host);
        while !self.is_in() {
            let user = self.guest.client.user();
            if host.removal(user).is_err() {
                let invited = host.invite(user).await.map(drop);
                self.takes("it is invited", invited);
            }
            self.receives().await;
        }
        let leaf_key = leaf_key(&self.guest.client, &self.guest.group());
        self.guest.words.leaf_keys.push(leaf_key);
    }

    /// The host does not find the guest before it knows of having added it, nor once it has removed it.
    async fn is_removed(&mut self) {
        let host = self.guest.group_of(&self.host);
        while self.is_in() {
            match host.remove(self.guest.client.user()).await {
                Err(Error::NoSuchMember(_)) => {}
                removed => self.takes("it is removed", removed),
            }
            let Err(error) = self.guest.act().await else { continue };
            let is_out =
                matches!(error, Error::NotMember) || error.problem() == Some(ProblemType::NotAllowed);
            assert!(is_out || is_of_bad_days(&error), "{}: {error}", self.guest.client.user());
        }
    }

    /// A thing that is asked for is done once, however often: the proposal to leave waits, or is sent again, or made anew.
    async fn leaves(&mut self) {
        while self.is_in() {
            match self.guest.group().leave().await {
                Err(Error::NotMember) => {}
                asked => self.takes("it leaves", asked),
            }
            self.receives().await;
        }
    }
}
