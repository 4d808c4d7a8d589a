//! A verified token on its way to being spent. The database decides whether it was spent
//! before, in the same transaction as what it pays for (AAS-4); this type makes sure that
//! every request's token gets there.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use postern_protocol::problem::ProblemType;
use tokio_postgres::{Row, types::ToSql};

use super::{Failure, Outcome};
use crate::{aas::issuer::RedeemedToken, app::App, database::Database};

#[derive(Clone)]
pub struct Payment {
    token: RedeemedToken,
    /// What it pays for: the name of an API function.
    endpoint: &'static str,
    settled: Arc<AtomicBool>,
}

impl Payment {
    pub fn new(token: RedeemedToken, endpoint: &'static str) -> Self {
        Self { token, endpoint, settled: Arc::default() }
    }

    /// Calls an API function that spends the token along with what it does. The function
    /// takes the token's two columns first (`$1`, `$2`), then `parameters`; the first column
    /// of its one row is the outcome, which is never `token_spent` when this returns.
    pub async fn call(
        &self,
        database: &Database,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Failure> {
        let nonce = self.token.nonce.as_slice();
        let mut all: Vec<&(dyn ToSql + Sync)> = vec![&self.token.issuer_key, &nonce];
        all.extend_from_slice(parameters);
        let row = database.query_one(sql, &all).await?;
        let outcome: &str = row.get(0);
        // The one outcome that leaves the token unspent: see ds.submit_message.
        self.settled.store(outcome != "stale", Ordering::Relaxed);
        if outcome == "token_spent" {
            return Err(ProblemType::TokenSpent.into());
        }
        Ok(row)
    }

    /// Spends the token of a request that ended without an SQL call of its own, unless the
    /// fault was ours.
    pub async fn settle(&self, app: &App, outcome: Outcome) -> Outcome {
        if matches!(outcome, Err(Failure::Fault(_) | Failure::Unavailable(_))) {
            return outcome;
        }
        if !self.settled.load(Ordering::Relaxed) {
            let sql = "SELECT outcome FROM aas.settle_token($1, $2, $3)";
            self.call(&app.database, sql, &[&self.endpoint]).await?;
        }
        if !outcome.as_ref().is_err_and(Failure::is_token_spent) {
            app.uses.count(self.endpoint);
        }
        outcome
    }
}
