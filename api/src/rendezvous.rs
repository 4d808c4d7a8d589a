//! Calls to rendezvous: where a user's old and new device meet (AS-7). Requests are signed with a key that a side made
//! for one rendezvous.

use std::time::Duration;

use postern_protocol::{
    Payload,
    key::SigningKey,
    name::Domain,
    rendezvous::{
        CreateRendezvous, JoinRendezvous, LeavePayload, PayloadsReceived, ReceivePayloads, RendezvousCreated,
        RendezvousNumber,
    },
};

use crate::{
    error::Result,
    http::Http,
    payment::{Api, Wallet},
    request::Request,
};

/// The most bytes of payloads in an answer: the server stops at a mebibyte.
const PAYLOADS_BYTES: usize = 2 * 1024 * 1024;

impl<W: Wallet> Api<W> {
    /// `POST /rendezvous`: a rendezvous of the key's.
    ///
    /// # Errors
    /// `too-many-rendezvous`; and as [`Api::paid`].
    pub async fn create_rendezvous(&self, owner: &SigningKey) -> Result<RendezvousCreated, W::Error> {
        let request = Request::post("/rendezvous").cbor(&CreateRendezvous {}).signed_by(owner, &self.origin);
        Ok(self.paid(request).await?.decode()?)
    }
}

impl Http {
    /// `POST /rendezvous/{number}/join`: makes the key the guest of a rendezvous. `origin` is the server's home domain.
    ///
    /// # Errors
    /// `not-found`, `rendezvous-closed`, `too-many-attempts`; and as [`Http::send`].
    pub async fn join_rendezvous(
        &self,
        number: RendezvousNumber,
        guest: &SigningKey,
        origin: &Domain,
    ) -> Result<()> {
        let request =
            Request::post(of_rendezvous(number, "/join")).cbor(&JoinRendezvous {}).signed_by(guest, origin);
        self.send(&request).await.map(drop)
    }

    /// `POST /rendezvous/{number}/payloads`: leaves a payload in its place, for the other side.
    ///
    /// # Errors
    /// `not-found`, `rendezvous-closed`, `body-too-large`; and as [`Http::send`].
    pub async fn leave_payload(
        &self,
        number: RendezvousNumber,
        place: u16,
        payload: Payload,
        side: &SigningKey,
        origin: &Domain,
    ) -> Result<()> {
        let request = Request::post(of_rendezvous(number, "/payloads"))
            .cbor(&LeavePayload { place, payload })
            .signed_by(side, origin);
        self.send(&request).await.map(drop)
    }

    /// `POST /rendezvous/{number}/receive`: the payloads of the other side after the first `after`, waiting for one for
    /// up to `wait` seconds.
    ///
    /// # Errors
    /// `not-found`, `rendezvous-closed`; and as [`Http::send`].
    pub async fn receive_payloads(
        &self,
        number: RendezvousNumber,
        after: u16,
        wait: u16,
        side: &SigningKey,
        origin: &Domain,
    ) -> Result<Vec<Payload>> {
        let request = Request::post(of_rendezvous(number, "/receive"))
            .cbor(&ReceivePayloads { after, wait })
            .signed_by(side, origin)
            .waiting(Duration::from_secs(wait.into()))
            .answered_in(PAYLOADS_BYTES);
        Ok(self.send(&request).await?.decode::<PayloadsReceived>()?.payloads)
    }

    /// `DELETE /rendezvous/{number}`: the end of a rendezvous.
    ///
    /// # Errors
    /// `not-found`; and as [`Http::send`].
    pub async fn end_rendezvous(
        &self,
        number: RendezvousNumber,
        side: &SigningKey,
        origin: &Domain,
    ) -> Result<()> {
        self.send(&Request::delete(of_rendezvous(number, "")).signed_by(side, origin)).await.map(drop)
    }
}

fn of_rendezvous(number: RendezvousNumber, rest: &str) -> String {
    format!("/rendezvous/{number}{rest}")
}
