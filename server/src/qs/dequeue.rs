//! `POST /qs/queues/{queue_id}/dequeue` (QS-4): acknowledges messages, then answers with the next
//! ones, at once or when they arrive.

use std::time::Duration;

use http::StatusCode;
use postern_protocol::{
    ChainHeader, Ciphertext, PublicKey, QueueId,
    problem::ProblemType,
    qs::{Dequeue, Dequeued, QueuedMessage},
};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Row;

use super::{Qs, wakeups::Waiter};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Failure, Outcome, Payment, Request},
};

/// The most messages and bytes that one answer holds.
const MAX_MESSAGES: u16 = 100;
const MAX_BYTES: i32 = 1024 * 1024;

outcome! {
    pub DequeueOutcome: "qs.dequeue_outcome", paid {
        Ok = "ok",
        UnknownQueue = "unknown_queue",
        AfterTooLarge = "after_too_large",
    }
}

pub async fn dequeue(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<Dequeue>()?;
    let wait = Duration::from_secs(body.wait.into()).min(qs.home.limits.long_poll_max());
    let queue = Queue {
        id: queue_id,
        signer,
        after: i64::try_from(body.after).map_err(|_| ProblemType::AcknowledgedTooMuch)?,
        max_messages: i32::from(body.max_messages.unwrap_or(MAX_MESSAGES).clamp(1, MAX_MESSAGES)),
    };
    let request = request.without_body();

    // Register first, then look: the look sees everything that was committed before it, and
    // everything after it wakes the waiter (QS-9).
    let waiter = (!wait.is_zero()).then(|| qs.wakeups.wait_for(queue.id, queue.after));
    let mut dequeued = queue.dequeue(&qs, &payment).await?;
    if dequeued.is_empty()
        && let Some(waiter) = waiter
    {
        dequeued = queue.wait(&qs, &waiter, Instant::now() + wait).await;
    }
    request.answer(StatusCode::OK, &dequeued)
}

struct Queue {
    id: QueueId,
    signer: PublicKey,
    after: i64,
    max_messages: i32,
}

impl Queue {
    /// Spends the token, acknowledges up to `after`, and returns the next messages.
    async fn dequeue(&self, qs: &Qs, payment: &Payment) -> Result<Dequeued, Failure> {
        let (outcome, row) = payment
            .call(
                &qs.home.database,
                "SELECT outcome, seqs, chains, chain_indexes, chain_headers, ciphertexts, expired_up_to, restored_up_to
                 FROM qs.dequeue($1, $2, $3, $4, $5, $6, $7)",
                &[
                    &self.id.as_bytes().as_slice(),
                    &self.signer.as_bytes().as_slice(),
                    &self.after,
                    &self.max_messages,
                    &MAX_BYTES,
                ],
            )
            .await?;
        read(outcome, &row)
    }

    /// Waits for messages until `deadline`, or until the server stops. The acknowledgement is done
    /// and paid for, so a database that goes away meanwhile only ends the wait.
    async fn wait(&self, qs: &Qs, waiter: &Waiter, deadline: Instant) -> Dequeued {
        let mut stopping = qs.home.stopping.clone();
        loop {
            tokio::select! {
                () = waiter.woken() => {}
                () = sleep_until(deadline) => return Dequeued::default(),
                _ = stopping.wait_for(|stopping| *stopping) => return Dequeued::default(),
            }
            match self.look(qs).await {
                Ok(dequeued) if dequeued.is_empty() => {}
                Ok(dequeued) => return dequeued,
                Err(failure) => {
                    failure.log();
                    return Dequeued::default();
                }
            }
        }
    }

    /// Looks again, without a token and without acknowledging.
    async fn look(&self, qs: &Qs) -> Result<Dequeued, Failure> {
        let row = qs
            .home
            .database
            .query_one(
                "SELECT outcome, seqs, chains, chain_indexes, chain_headers, ciphertexts, expired_up_to, restored_up_to
                 FROM qs.next_messages($1, $2, $3, $4, $5)",
                &[
                    &self.id.as_bytes().as_slice(),
                    &self.signer.as_bytes().as_slice(),
                    &self.after,
                    &self.max_messages,
                    &MAX_BYTES,
                ],
            )
            .await?;
        read(DequeueOutcome::of(&row)?, &row)
    }
}

/// Reads one row of `qs.dequeue` or `qs.next_messages`, whose columns are arrays with one element for each message.
fn read(outcome: DequeueOutcome, row: &Row) -> Result<Dequeued, Failure> {
    match outcome {
        DequeueOutcome::Ok => {}
        DequeueOutcome::UnknownQueue => return Err(ProblemType::NotFound.into()),
        DequeueOutcome::AfterTooLarge => return Err(ProblemType::AcknowledgedTooMuch.into()),
    }
    let seqs: Vec<i64> = row.get("seqs");
    let chains: Vec<i64> = row.get("chains");
    let indexes: Vec<i32> = row.get("chain_indexes");
    let headers: Vec<Option<Vec<u8>>> = row.get("chain_headers");
    let ciphertexts: Vec<Vec<u8>> = row.get("ciphertexts");
    let messages = seqs
        .into_iter()
        .zip(chains)
        .zip(indexes)
        .zip(headers)
        .zip(ciphertexts)
        .map(|((((seq, chain), index), header), ciphertext)| {
            Ok(QueuedMessage {
                seq: u64::try_from(seq)?,
                chain: u64::try_from(chain)?,
                chain_index: u32::try_from(index)?,
                chain_header: header.map(ChainHeader::new),
                ciphertext: Ciphertext::new(ciphertext),
            })
        })
        .collect::<Result<_, std::num::TryFromIntError>>()
        .map_err(Failure::fault)?;
    let number = |column: &str| {
        row.get::<_, Option<i64>>(column).map(u64::try_from).transpose().map_err(Failure::fault)
    };
    Ok(Dequeued {
        messages,
        expired_up_to: number("expired_up_to")?,
        restored_up_to: number("restored_up_to")?,
    })
}
