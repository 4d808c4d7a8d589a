//! `POST /rendezvous/{number}/receive` (AS-7): answers with what the other side left, at once or when it comes.

use std::time::Duration;

use http::StatusCode;
use postern_protocol::{
    Payload, PublicKey,
    problem::ProblemType,
    rendezvous::{PayloadsReceived, ReceivePayloads, RendezvousNumber},
    signature::{SignatureDigest, Verified},
};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Row;

use super::{Rendezvous, bell::Waiter, column, number};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Failure, Outcome, Request},
};

/// Time between two looks of a long-poll that nothing wakes, and so the most latency that a lost wake-up costs.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

outcome! {
    pub ReceivePayloadsOutcome: "rendezvous.receive_payloads_outcome" {
        Received = "received",
        SignatureUsed = "signature_used",
        Unknown = "unknown",
        Closed = "closed",
    }
}

pub async fn receive_payloads(rendezvous: Rendezvous, request: Request) -> Outcome {
    let number = number(&request)?;
    let Verified { key, digest } = request.verify()?;
    let body: ReceivePayloads = request.body()?;
    let wait = Duration::from_secs(body.wait.into()).min(rendezvous.home.limits.long_poll_max());
    let request = request.without_body();
    // Registers first, then looks: the look sees what was left before it, and what is left after it wakes the waiter.
    let waiter = rendezvous.bell.wait_for(rendezvous.wake(number));
    let side = Side { rendezvous: &rendezvous, number, key, after: body.after.into() };
    let mut payloads = side.receive(&digest).await?;
    if payloads.is_empty() && !wait.is_zero() {
        payloads = side.wait(waiter, Instant::now() + wait).await?;
    }
    request.answer(StatusCode::OK, &PayloadsReceived { payloads })
}

/// One side of a rendezvous, which has so many payloads of the other.
struct Side<'a> {
    rendezvous: &'a Rendezvous,
    number: RendezvousNumber,
    key: PublicKey,
    after: i32,
}

impl Side<'_> {
    /// Returns the next payloads, and uses up the request's signature.
    async fn receive(&self, digest: &SignatureDigest) -> Result<Vec<Payload>, Failure> {
        let sql = "SELECT outcome, payloads FROM rendezvous.receive_payloads($1, $2, $3, $4)";
        let key = self.key.as_bytes().as_slice();
        let database = &self.rendezvous.home.database;
        let digest = digest.as_slice();
        read(&database.query_one(sql, &[&column(self.number), &key, &self.after, &digest]).await?)
    }

    /// Waits for payloads until `deadline`, the end of the rendezvous, or the server's, or until newer long-polls of the
    /// side wait in its place.
    async fn wait(&self, mut waiter: Waiter, deadline: Instant) -> Result<Vec<Payload>, Failure> {
        let mut stopping = self.rendezvous.home.stopping.clone();
        let place = self.rendezvous.places.take(self.number, self.key);
        loop {
            let look = (Instant::now() + LOOK_INTERVAL).min(deadline);
            tokio::select! {
                () = waiter.woken() => {}
                () = sleep_until(look) => {}
                () = place.taken() => return Ok(Vec::new()),
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(Vec::new()),
            }
            let payloads = self.look().await?;
            if !payloads.is_empty() || Instant::now() >= deadline {
                return Ok(payloads);
            }
        }
    }

    /// Looks again, without counting.
    async fn look(&self) -> Result<Vec<Payload>, Failure> {
        let sql = "SELECT outcome, payloads FROM rendezvous.next_payloads($1, $2, $3)";
        let key = self.key.as_bytes().as_slice();
        let database = &self.rendezvous.home.database;
        read(&database.query_one(sql, &[&column(self.number), &key, &self.after]).await?)
    }
}

fn read(row: &Row) -> Result<Vec<Payload>, Failure> {
    match ReceivePayloadsOutcome::of(row)? {
        ReceivePayloadsOutcome::Received => {
            let payloads: Vec<Vec<u8>> = row.get("payloads");
            Ok(payloads.into_iter().map(Payload::new).collect())
        }
        ReceivePayloadsOutcome::SignatureUsed => Err(ProblemType::SignatureUsed.into()),
        ReceivePayloadsOutcome::Unknown => Err(ProblemType::NotFound.into()),
        ReceivePayloadsOutcome::Closed => Err(ProblemType::RendezvousClosed.into()),
    }
}
