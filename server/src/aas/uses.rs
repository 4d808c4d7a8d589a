//! Counts of paid requests by endpoint, added to the database's figures every minute (AAS-5): so
//! counting costs a request nothing, and reveals nothing about its sender.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::database::{Database, DatabaseError};

#[derive(Default)]
pub struct Uses(Mutex<BTreeMap<&'static str, i64>>);

impl Uses {
    /// Counts one request to an endpoint, named by its API function.
    pub fn count(&self, endpoint: &'static str) {
        self.add([(endpoint, 1)]);
    }

    /// Hands the counts to the database; keeps them if it does not answer.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn record(&self, database: &Database) -> Result<(), DatabaseError> {
        let counted = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if counted.is_empty() {
            return Ok(());
        }
        let (endpoints, requests): (Vec<&str>, Vec<i64>) =
            counted.iter().map(|(endpoint, count)| (*endpoint, *count)).unzip();
        let recorded = database.query_one("SELECT aas.record_use($1, $2)", &[&endpoints, &requests]).await;
        if recorded.is_err() {
            self.add(counted);
        }
        recorded.map(drop)
    }

    fn add(&self, counts: impl IntoIterator<Item = (&'static str, i64)>) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (endpoint, count) in counts {
            *uses.entry(endpoint).or_default() += count;
        }
    }
}
