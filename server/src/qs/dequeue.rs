//! `POST /qs/queues/{queue_id}/dequeue` (QS-4): acknowledges, then answers with what comes
//! next, at once or when it arrives.

use std::time::Duration;

use http::StatusCode;
use postern_protocol::{
    ChainHeader, Ciphertext, PublicKey, QueueId,
    problem::ProblemType,
    qs::{Dequeue, Dequeued, QueuedMessage},
};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Row;

use crate::{
    app::App,
    qs::wakeups::Waiter,
    road::{Failure, Outcome, Payment, Request},
};

/// What one answer holds at most.
const MAX_MESSAGES: u16 = 100;
const MAX_BYTES: i32 = 1024 * 1024;

pub async fn dequeue(app: App, request: Request, payment: Payment) -> Outcome {
    let queue_id = request.segment(|segment| QueueId::from_base64url(segment).ok())?;
    let (signer, body) = request.signed_body::<Dequeue>()?;
    let wait = Duration::from_secs(body.wait.into()).min(app.limits.long_poll_max());
    let queue = Queue {
        id: queue_id,
        signer,
        after: i64::try_from(body.after).map_err(|_| ProblemType::AcknowledgedTooMuch)?,
        max_messages: i32::from(body.max_messages.unwrap_or(MAX_MESSAGES).clamp(1, MAX_MESSAGES)),
    };

    // Register first, then look: what was committed before the look is seen by it, and what
    // is committed after it wakes the waiter (QS-9).
    let waiter = (!wait.is_zero()).then(|| app.wakeups.wait_for(queue.id, queue.after));
    let mut messages = queue.dequeue(&app, &payment).await?;
    if messages.is_empty()
        && let Some(waiter) = waiter
    {
        messages = queue.wait(&app, &waiter, Instant::now() + wait).await;
    }
    request.answer(StatusCode::OK, &Dequeued { messages })
}

struct Queue {
    id: QueueId,
    signer: PublicKey,
    after: i64,
    max_messages: i32,
}

impl Queue {
    /// Spends the token, acknowledges up to `after`, and returns what is next.
    async fn dequeue(&self, app: &App, payment: &Payment) -> Result<Vec<QueuedMessage>, Failure> {
        let row = payment
            .call(
                &app.database,
                "SELECT outcome, seqs, chains, chain_indexes, chain_headers, ciphertexts
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
        read(&row)
    }

    /// What arrives before `deadline` or the server stops. The acknowledgement is done and
    /// paid for, so a database that goes away meanwhile only ends the wait.
    async fn wait(&self, app: &App, waiter: &Waiter, deadline: Instant) -> Vec<QueuedMessage> {
        let mut stopping = app.stopping.clone();
        loop {
            tokio::select! {
                () = waiter.woken() => {}
                () = sleep_until(deadline) => return Vec::new(),
                _ = stopping.wait_for(|stopping| *stopping) => return Vec::new(),
            }
            match self.look(app).await {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => return messages,
                Err(failure) => {
                    failure.log();
                    return Vec::new();
                }
            }
        }
    }

    /// Looks again, without a token and without acknowledging.
    async fn look(&self, app: &App) -> Result<Vec<QueuedMessage>, Failure> {
        let row = app
            .database
            .query_one(
                "SELECT outcome, seqs, chains, chain_indexes, chain_headers, ciphertexts
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
        read(&row)
    }
}

/// One row: the outcome, and side by side the columns of the messages.
fn read(row: &Row) -> Result<Vec<QueuedMessage>, Failure> {
    match row.get("outcome") {
        "ok" => {}
        "unknown_queue" => return Err(ProblemType::NotFound.into()),
        "after_too_large" => return Err(ProblemType::AcknowledgedTooMuch.into()),
        other => return Err(Failure::unexpected(other)),
    }
    let seqs: Vec<i64> = row.get("seqs");
    let chains: Vec<i64> = row.get("chains");
    let indexes: Vec<i32> = row.get("chain_indexes");
    let headers: Vec<Option<Vec<u8>>> = row.get("chain_headers");
    let ciphertexts: Vec<Vec<u8>> = row.get("ciphertexts");
    seqs.into_iter()
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
        .map_err(Failure::fault)
}
