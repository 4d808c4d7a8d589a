//! How a client keeps its state, and how it acts.

use std::time::Duration;

use postern_protocol::name::Domain;

use crate::{clock::Clock, store::Passphrase};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Options of a client. They are not kept: give them each time.
#[derive(Debug, Clone)]
pub struct Options {
    /// Accept contact requests of anyone that is not blocked (AS-12): for bots. Otherwise a person decides.
    pub accept_contacts: bool,
    /// How many users may wait for a person's decision, and how many strangers for the AS to be asked about them.
    pub waiting_requests: u64,
    /// How many users may wait for the AS to confirm that there is a user of that name.
    pub unconfirmed_requests: u64,
    /// Where the server is now, if not where it was at registration.
    pub server: Option<String>,
    /// The domain of a neighbour whose homeserver relays what this client asks its own one, which sees no address of it
    /// then (FED-7). Tokens, registration and the meeting of devices go there directly.
    pub relay: Option<Domain>,
    /// Where that homeserver is, if not where its description says.
    pub relay_server: Option<String>,
    /// Passphrase under which the state is encrypted; without one, a new client's state is not.
    pub passphrase: Option<Passphrase>,
    /// How long after this device's last commit in a group it renews its keys there. Less than a
    /// server's patience with members that never commit (90 days, DS-10).
    pub update_every: Duration,
    /// How long proposals of others may wait for a commit. Each device's turn comes after a part
    /// of it.
    pub commit_within: Duration,
    /// How long after it was looked up last a member's user is looked up again: so that members learn of
    /// a reset or an end that nobody tells (AS-11). Each time costs a token.
    pub look_up_every: Duration,
    /// How long it is about until a contact is looked up again: so that a reset or an end shows that no letter tells of
    /// (AS-11). Each time costs a token. The times are spread, so that the server does not see contacts together.
    pub look_up_contacts_every: Duration,
    /// How many messages of a group are kept that could not be sent yet, and of how many bytes in all.
    pub unsent_messages: u64,
    pub unsent_bytes: u64,
    /// How many messages and events of each group are kept to be read again
    /// ([`Group::history`](crate::Group::history)); 0: none.
    pub history: u64,
    /// The unit of the pauses before this device comes back into a group that it cannot follow: the
    /// first is at most so long for each member, the next ones are 30 times as long and more. None is much longer than a day.
    pub return_after: Duration,
    /// How long another device of the user has to be silent before it is removed from the user's devices: from the end of
    /// its credential, which is 60 to 90 days after it was in use last, or from when this device first saw that.
    pub remove_silent_after: Duration,
    /// Wait for the disk with every step, which is usual. Load generators, whose state nobody
    /// misses, turn this off.
    #[cfg(feature = "lab")]
    pub durable: bool,
    /// Keep every message that each queue delivered, in order.
    #[cfg(feature = "lab")]
    pub record_deliveries: bool,
    /// The clock that the client goes by.
    #[cfg(feature = "lab")]
    pub clock: Clock,
}

#[cfg(feature = "lab")]
impl Options {
    pub(crate) fn durable(&self) -> bool {
        self.durable
    }
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }
}

#[cfg(not(feature = "lab"))]
impl Options {
    pub(crate) fn durable(&self) -> bool {
        true
    }
    pub(crate) fn clock(&self) -> Clock {
        Clock::default()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accept_contacts: false,
            waiting_requests: 100,
            unconfirmed_requests: 20,
            server: None,
            relay: None,
            relay_server: None,
            passphrase: None,
            update_every: 30 * DAY,
            commit_within: Duration::from_secs(60 * 60),
            look_up_every: 7 * DAY,
            look_up_contacts_every: DAY,
            unsent_messages: 1000,
            unsent_bytes: 8 * 1024 * 1024,
            history: 10_000,
            return_after: Duration::from_secs(1),
            remove_silent_after: 90 * DAY,
            #[cfg(feature = "lab")]
            durable: true,
            #[cfg(feature = "lab")]
            record_deliveries: false,
            #[cfg(feature = "lab")]
            clock: Clock::default(),
        }
    }
}
