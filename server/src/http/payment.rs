//! Payment: a verified token that is about to be spent. The database decides whether it was spent before, in the same
//! transaction as the operation that it pays for (AAS-4); this type ensures that every request's token gets there.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use postern_protocol::problem::ProblemType;
use tokio_postgres::{Row, types::ToSql};

use super::{
    answer::{Failure, Outcome},
    gate::{Gate, RedeemedToken},
};
use crate::database::{Database, SqlOutcome, outcome};

outcome! {
    pub SettleTokenOutcome: "aas.settle_token_outcome", paid { Spent = "spent" }
}

#[derive(Clone)]
pub struct Payment {
    token: RedeemedToken,
    /// The name of the API function that the token pays for.
    endpoint: &'static str,
    settled: Arc<AtomicBool>,
}

impl Payment {
    pub fn new(token: RedeemedToken, endpoint: &'static str) -> Self {
        Self { token, endpoint, settled: Arc::default() }
    }

    /// Calls an API function that spends the token along with what it does. The function takes the token's two
    /// columns first (`$1`, `$2`), then `parameters`; the first column of its one row is the outcome.
    ///
    /// # Errors
    /// `token-spent`, a fault of ours, or a database that does not answer.
    pub async fn call<O: SqlOutcome>(
        &self,
        database: &Database,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(O, Row), Failure> {
        let nonce = self.token.nonce.as_slice();
        let mut all: Vec<&(dyn ToSql + Sync)> = vec![&self.token.issuer_key, &nonce];
        all.extend_from_slice(parameters);
        let row = database.query_one(sql, &all).await?;
        let outcome = O::of_paid(&row)?;
        self.settled.store(outcome.is_none_or(O::spends_token), Ordering::Relaxed);
        match outcome {
            Some(outcome) => Ok((outcome, row)),
            None => Err(ProblemType::TokenSpent.into()),
        }
    }

    /// Spends the token of a request that ended without an SQL call of its own, unless the fault was ours.
    pub async fn settle(&self, database: &Database, gate: &dyn Gate, outcome: Outcome) -> Outcome {
        if matches!(outcome, Err(Failure::Fault(_) | Failure::Unavailable(_) | Failure::Overloaded(_))) {
            return outcome;
        }
        if !self.settled.load(Ordering::Relaxed) {
            let sql = "SELECT outcome FROM aas.settle_token($1, $2, $3)";
            let (SettleTokenOutcome::Spent, _) = self.call(database, sql, &[&self.endpoint]).await?;
        }
        if !outcome.as_ref().is_err_and(Failure::is_token_spent) {
            gate.count(self.endpoint);
        }
        outcome
    }
}
