//! Rendezvous: mailboxes of a few minutes, in which a user's old and new device meet (AS-7). The old device makes one,
//! with a token; the new device has no tokens yet, so what the two do in it is bounded and costs nothing. The server
//! sees ciphertext, and two keys that are used for nothing else.

mod bell;
pub mod create_rendezvous;
pub mod end_rendezvous;
pub mod join_rendezvous;
pub mod leave_payload;
mod places;
pub mod receive_payloads;

use postern_protocol::{problem::Problem, rendezvous::RendezvousNumber};

use self::places::Places;
use crate::{home::Home, http::Request};
pub use bell::Bell;

/// The purpose for which the numbers of rendezvous are digested in notifications.
const WAKE: &str = "rendezvous wake-up";

/// The state of the service.
#[derive(Clone)]
pub struct Rendezvous {
    home: Home,
    /// Wakes the long-polls that wait in this process.
    pub bell: Bell,
    places: Places,
}

impl Rendezvous {
    pub fn new(home: &Home) -> Self {
        Self { home: home.clone(), bell: Bell::default(), places: Places::default() }
    }

    /// Deletes rendezvous whose time is over.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn clean_up(&self) -> anyhow::Result<()> {
        self.home.database.for_chores().query_one("SELECT rendezvous.clean_up()", &[]).await?;
        Ok(())
    }

    /// The text by which servers know a rendezvous in notifications, which any user of the database can hear.
    fn wake(&self, number: RendezvousNumber) -> String {
        let digest = self.home.master_key.digest(WAKE, &number.get().to_be_bytes());
        hex::encode(&digest[..16])
    }
}

/// The rendezvous that a request's path names.
fn number(request: &Request) -> Result<RendezvousNumber, Problem> {
    request.segment(|segment| segment.parse().ok())
}

/// The number as the database has it.
fn column(number: RendezvousNumber) -> i32 {
    i32::try_from(number.get()).expect("six digits are an i32")
}

#[cfg(test)]
pub fn outcomes() -> Vec<crate::database::outcome::Declared> {
    use crate::database::outcome::declared;
    vec![
        declared::<create_rendezvous::CreateRendezvousOutcome>(),
        declared::<join_rendezvous::JoinRendezvousOutcome>(),
        declared::<leave_payload::LeavePayloadOutcome>(),
        declared::<receive_payloads::ReceivePayloadsOutcome>(),
        declared::<end_rendezvous::EndRendezvousOutcome>(),
    ]
}
