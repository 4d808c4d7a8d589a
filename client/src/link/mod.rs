//! A new device of a user (AS-7): two devices meet in a rendezvous at the server, agree on a secret by a short code, and
//! the old one hands over what the new one needs. The server sees ciphertext only; who is between, the server included,
//! has one guess at the code. Owns the table `linking`.
//!
//! ```text
//! owner (the old device)                 guest (the new device)
//!                                     ←  half of the agreement
//! half · confirmation                 →
//!                                     ←  confirmation
//! Offer {user}                        →
//!                                     ←  Request {key_package}
//! Handover {…}                        →
//!                                     ←  Done {}
//! ```
//!
//! All messages after the confirmations are sealed under their secret (see [`channel`]). Each step is stored before the
//! next, with the payloads that the server does not have yet.

mod added;
mod agreement;
mod channel;
mod code;
mod handover;
mod new_device;
mod old_device;

use postern_api::Http;
use postern_protocol::{MlsMessage, PublicKey, name::UserName};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

#[cfg(feature = "lab")]
pub(crate) use self::added::pass_time;
pub(crate) use self::{
    added::{EXPECTED, remove_absent},
    handover::Handover,
    new_device::link,
    old_device::{hand_over, offer, parse_device},
};
use self::{channel::Channel, code::Words};
pub use self::{
    code::{LinkCode, MalformedCode},
    old_device::LinkOffer,
};
use crate::{
    error::{Error, LinkError, Result},
    store::{Store, Tx, decode, encode},
};

/// From the old device: "this is the user".
#[derive(Serialize, Deserialize)]
struct Offer {
    user: UserName,
}

/// From the new device: "add me".
#[derive(Serialize, Deserialize)]
struct Request {
    /// An `MLSMessage` holding a KeyPackage for the EID; its leaf key is the client key.
    key_package: MlsMessage,
}

/// From the new device: "I have it all".
#[derive(Serialize, Deserialize)]
struct Done {}

/// Whether a link cannot go on after this error: unless the server may be back, or another process be done.
fn ends_it(error: &Error) -> bool {
    !error.is_passing() && !matches!(error, Error::Database(_) | Error::Directory(_) | Error::Busy { .. })
}

/// Ends a link that cannot go on, at the server, too.
async fn give_up(store: &Store, http: &Http) -> Result<()> {
    let left = store.write(|tx| {
        let left = Linking::find(tx)?;
        Linking::delete(tx)?;
        Ok(left)
    })?;
    if let Some(left) = left {
        left.channel.end(http).await;
    }
    Ok(())
}

/// A link under way, on either device.
#[derive(Clone, Serialize, Deserialize)]
struct Linking {
    stage: Stage,
    channel: Channel,
    /// The number of changes, by which one process sees that another went on.
    version: u32,
}

/// How far a link has come.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The old device waits for a guest.
    Open { words: Words },
    /// The old device waits for the guest's confirmation.
    Answered,
    /// The old device waits for the request.
    Offered,
    /// The old device waits for the new one to have it all.
    HandedOver { device: PublicKey },
    /// The new device waits for the user's name.
    Confirmed,
    /// The new device waits for the handover.
    Requested,
    /// The new device has it all.
    TakenOver,
}

impl Stage {
    /// Whether it is one of the old device's.
    fn is_owners(self) -> bool {
        !matches!(self, Self::Confirmed | Self::Requested | Self::TakenOver)
    }
}

impl Linking {
    fn new(stage: Stage, channel: Channel) -> Self {
        Self { stage, channel, version: 0 }
    }

    fn find(tx: &Tx<'_>) -> Result<Option<Self>> {
        let state: Option<Vec<u8>> =
            tx.sql().query_row("SELECT state FROM linking", [], |row| row.get(0)).optional()?;
        state.map(|state| decode(&state, "a link")).transpose()
    }

    fn save(&self, tx: &Tx<'_>) -> Result<()> {
        tx.sql().execute("INSERT OR REPLACE INTO linking (one, state) VALUES (1, ?1)", [encode(self)])?;
        Ok(())
    }

    fn delete(tx: &Tx<'_>) -> Result<()> {
        tx.sql().execute("DELETE FROM linking", [])?;
        Ok(())
    }

    /// Changes it, in the store, too; unless another process went on meanwhile: then it is as that left it.
    fn go_on(self, store: &Store, change: impl FnOnce(&Tx<'_>, &mut Self) -> Result<()>) -> Result<Self> {
        store.write(|tx| {
            let mut current = Self::find(tx)?.ok_or(LinkError::Over)?;
            if current.version == self.version {
                change(tx, &mut current)?;
                current.version += 1;
                current.save(tx)?;
            }
            Ok(current)
        })
    }

    /// Sends what the server does not have yet.
    async fn flush(mut self, store: &Store, http: &Http) -> Result<Self> {
        while let Some(sent) = self.channel.send(http).await? {
            self = self.go_on(store, |_, current| {
                current.channel.sent(&sent);
                Ok(())
            })?;
        }
        Ok(self)
    }
}
