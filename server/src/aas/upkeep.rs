//! The chores of the AAS: they make issuer keys that are due, take over the keys of other processes, drop retired ones,
//! forget stale signatures, and hand counts to the database.

use super::Aas;
use crate::{
    clock::now,
    database::{SqlOutcome, outcome},
};

outcome! {
    pub DropRetiredKeyOutcome: "aas.drop_retired_key_outcome" {
        Dropped = "dropped",
        None = "none",
        Busy = "busy",
    }
}

impl Aas {
    /// Hands the counts of paid requests to the database.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn record_uses(&self) -> anyhow::Result<()> {
        Ok(self.uses.record(&self.home.database).await?)
    }

    /// Makes the issuer keys that are due, and loads those in the database.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn renew_issuer_keys(&self) -> anyhow::Result<()> {
        self.issuer.make_due_keys().await?;
        self.issuer.reload().await
    }

    /// Forgets the signatures of requests without a token that are stale, by this process's clock and the database's.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn forget_signatures(&self) -> anyhow::Result<()> {
        let clock = i64::try_from(now())?;
        self.home.database.for_chores().query_one("SELECT aas.forget_signatures($1)", &[&clock]).await?;
        Ok(())
    }

    /// Drops retired issuer keys with their spent tokens, and the records of past days.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn drop_retired_keys(&self) -> anyhow::Result<()> {
        let database = self.home.database.for_chores();
        let sql = "SELECT outcome FROM aas.drop_retired_key()";
        while DropRetiredKeyOutcome::of(&database.query_one(sql, &[]).await?)?
            == DropRetiredKeyOutcome::Dropped
        {
            tracing::info!("a retired issuer key was dropped, with its spent tokens");
        }
        database.query_one("SELECT aas.clean_up()", &[]).await?;
        Ok(())
    }
}
