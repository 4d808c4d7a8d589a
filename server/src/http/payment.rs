//! Payment: a verified token that is about to be spent. The database decides whether it was spent before, in the same
//! transaction as the operation that it pays for (AAS-4); this type ensures that every request's token gets there. With
//! the token goes the signature of the request: where the database spends no token, it uses the signature up instead.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use postern_protocol::problem::ProblemType;
use tokio::{sync::watch, time::timeout};
use tokio_postgres::{Row, types::ToSql};

use super::{
    answer::{Failure, Outcome},
    gate::{Gate, RedeemedToken},
    request::UsedSignature,
    shown_tokens::{Fate, ShownTokens, TokenId, Turn},
};
use crate::{
    database::{Database, DatabaseError, SqlOutcome, outcome},
    home::Home,
};

/// Time for which the answer to a fault waits until its request's signature is used up. A database that does not answer
/// is likely to be the fault.
const REMEMBERING: Duration = Duration::from_secs(1);

outcome! {
    pub SettleTokenOutcome: "aas.settle_token_outcome", paid { Spent = "spent" }
}

/// Whether a request failed through no fault of its own.
fn is_fault(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Failure::Fault(_) | Failure::Unavailable(_) | Failure::Overloaded(_)))
}

#[derive(Clone)]
pub struct Payment(Arc<Inner>);

struct Inner {
    token: RedeemedToken,
    /// The name of the API function that the token pays for.
    endpoint: &'static str,
    signature: UsedSignature,
    id: TokenId,
    /// The token's turn, from the time when the request is read until the database has decided.
    turn: Mutex<Option<Turn>>,
    /// True once the database has said that the token is unspent.
    looked_up: AtomicBool,
    /// True once the database has decided.
    settled: watch::Sender<bool>,
}

impl Payment {
    pub fn new(token: RedeemedToken, endpoint: &'static str, signature: UsedSignature, id: TokenId) -> Self {
        let (turn, looked_up, settled) =
            (Mutex::default(), AtomicBool::new(false), watch::Sender::new(false));
        Self(Arc::new(Inner { token, endpoint, signature, id, turn, looked_up, settled }))
    }

    /// Waits until no other request with this token is under way, and looks whether it is spent by now if it was seen
    /// before.
    ///
    /// # Errors
    /// `token-spent`, or a database that does not answer.
    pub async fn take_turn(&self, shown: &Arc<ShownTokens>, database: &Database) -> Result<(), Failure> {
        let turn = shown.turn(self.0.id).await;
        let fate = turn.fate();
        *self.turn() = Some(turn);
        match fate {
            None => Ok(()),
            Some(Fate::Spent) => self.look_up(true),
            // At a free endpoint it stayed unspent.
            Some(Fate::Settled) => self.look_up(self.is_spent(database).await?),
        }
    }

    /// Calls an API function that reads what the request is about, and says in its column `spent` whether the token is
    /// spent: then nothing is done for it. The function takes the token's two columns first (`$1`, `$2`), then
    /// `parameters`, and returns one row at most.
    ///
    /// # Errors
    /// `token-spent`, or a database that does not answer.
    pub async fn load(
        &self,
        database: &Database,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Failure> {
        let nonce = self.0.token.nonce.as_slice();
        let mut all: Vec<&(dyn ToSql + Sync)> = vec![&self.0.token.issuer_key, &nonce];
        all.extend_from_slice(parameters);
        let row = database.query_opt(sql, &all).await?;
        if let Some(row) = &row {
            self.look_up(row.get("spent"))?;
        }
        Ok(row)
    }

    /// Does work that keeps a core busy for milliseconds, unless the token is spent, which the database is asked if it
    /// has not said so yet: other processes, and this one before its start, spent tokens that this one has not seen.
    ///
    /// # Errors
    /// `token-spent`, a database that does not answer, or too much such work.
    pub async fn compute<T>(&self, home: &Home, work: impl FnOnce() -> T) -> Result<T, Failure> {
        if !self.0.looked_up.load(Ordering::Relaxed) {
            self.look_up(self.is_spent(&home.database).await?)?;
        }
        Ok(home.compute(work).await?)
    }

    /// Calls an API function that spends the token along with what it does. The function takes the token's two
    /// columns first (`$1`, `$2`), then `parameters`; the first column of its one row is the outcome.
    ///
    /// # Errors
    /// `token-spent`, `signature-used`, a fault of ours, or a database that does not answer.
    pub async fn call<O: SqlOutcome>(
        &self,
        database: &Database,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(O, Row), Failure> {
        let proof = self.proof();
        let proof = proof.as_slice();
        let mut all: Vec<&(dyn ToSql + Sync)> = vec![&self.0.token.issuer_key, &proof];
        all.extend_from_slice(parameters);
        let row = database.query_one(sql, &all).await?;
        let Some(outcome) = O::of_paid(&row)? else {
            // With a signature there are two reasons.
            if self.0.signature.get().is_some() && !self.is_spent(database).await? {
                self.settle_as(Fate::Settled);
                return Err(ProblemType::SignatureUsed.into());
            }
            self.settle_as(Fate::Spent);
            return Err(ProblemType::TokenSpent.into());
        };
        if outcome.spends_token() {
            self.settle_as(Fate::Settled);
        }
        Ok((outcome, row))
    }

    /// Spends the token of a request that ended without an SQL call of its own, unless the fault was ours: then the
    /// token stays good, and the request is signed anew.
    pub async fn settle(&self, database: &Database, gate: &dyn Gate, outcome: Outcome) -> Outcome {
        let outcome = match outcome {
            outcome if is_fault(&outcome) || self.is_settled() => outcome,
            outcome => {
                let sql = "SELECT outcome FROM aas.settle_token($1, $2, $3)";
                self.call::<SettleTokenOutcome>(database, sql, &[&self.0.endpoint]).await.and(outcome)
            }
        };
        if is_fault(&outcome) {
            if !self.is_settled() {
                self.use_signature(database).await;
            }
            return outcome;
        }
        if !outcome.as_ref().is_err_and(Failure::is_unpaid) {
            gate.count(self.0.endpoint);
        }
        outcome
    }

    /// Returns once the database has decided about the token.
    pub async fn settled(&self) {
        let mut settled = self.0.settled.subscribe();
        settled.wait_for(|settled| *settled).await.expect("the sender is here");
    }

    fn is_settled(&self) -> bool {
        *self.0.settled.borrow()
    }

    /// Takes note of what the database said about the token.
    fn look_up(&self, is_spent: bool) -> Result<(), Failure> {
        if is_spent {
            self.settle_as(Fate::Spent);
            return Err(ProblemType::TokenSpent.into());
        }
        self.0.looked_up.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn settle_as(&self, fate: Fate) {
        if let Some(turn) = self.turn().take() {
            turn.end(fate);
        }
        self.0.settled.send_replace(true);
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, Option<Turn>> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token's nonce, and behind it the digest of the request's signature, as `aas.spend_token` takes them.
    fn proof(&self) -> Vec<u8> {
        let signature = self.0.signature.get().map(<[u8; 32]>::as_slice);
        [&self.0.token.nonce, signature.unwrap_or_default()].concat()
    }

    async fn is_spent(&self, database: &Database) -> Result<bool, DatabaseError> {
        let sql = "SELECT aas.is_token_spent($1, $2)";
        let row =
            database.query_one(sql, &[&self.0.token.issuer_key, &self.0.token.nonce.as_slice()]).await?;
        Ok(row.get(0))
    }

    /// Uses up the signature of a request that ended with a fault of ours: nobody who recorded it can send it again. If
    /// the database does not answer, the client cannot know, either, that its request was not done.
    async fn use_signature(&self, database: &Database) {
        let Some(digest) = self.0.signature.get() else { return };
        let digest = digest.as_slice();
        let parameters: [&(dyn ToSql + Sync); 1] = [&digest];
        let used = database.query_one("SELECT aas.use_signature($1)", &parameters);
        match timeout(REMEMBERING, used).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!("a signature is not remembered: {error}"),
            Err(_) => tracing::debug!("a signature is not remembered: the database does not answer in time"),
        }
    }
}
