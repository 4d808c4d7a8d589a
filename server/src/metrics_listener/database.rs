//! Figures that the database has: what `operator.figures` and `operator.health` say, for a few seconds, and the counts of
//! `operator.counts`, which look at all users, queues and groups, for minutes. A scrape waits for none of them for long,
//! and of several at a time one asks.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use crate::{
    config::MetricsConfig,
    database::Database,
    health::{self, HealthError},
    metrics::{Label, Metric, Samples},
};

/// Time for which figures hold.
const HOLDS: Duration = Duration::from_secs(5);
/// Time that a scrape waits for figures.
const PATIENCE: Duration = Duration::from_secs(3);
/// Stands for neighbours whose domains are no labels.
const OTHER: &str = "other";

static UP: Metric = Metric::gauge(
    "postern_database_up",
    &[],
    "1: the database told its figures in time; 0: those that come from it are missing",
);
static HEALTH: Metric = Metric::gauge(
    "postern_health",
    &["item"],
    "Verdict of operator.health() on an item, and on the server's clock; 0: ok, 1: warning, 2: problem",
);

static CLOCK: Metric = Metric::gauge(
    "postern_clock_offset_seconds",
    &[],
    "Seconds by which the server's clock is ahead of the database's; below 0: behind",
);

/// The items of `operator.health`, and the server's clock, which is compared here.
const ITEMS: [&str; 18] = [
    "extension",
    "wake-ups",
    "chains",
    "durability",
    "connections",
    "transactions",
    "WAL",
    "master key change",
    "issuer keys",
    "signing keys",
    "gateway keys",
    "upkeep",
    "neighbours",
    "standbys",
    "generation",
    "backup",
    "clock",
    health::CLOCK,
];

/// The label of a figure of the database.
enum Of {
    /// It has none.
    Nothing,
    /// One of these words. What the database says beyond them is not shown.
    Words(&'static [&'static str]),
    /// The domain of a neighbour, or all others together.
    Neighbour,
}

/// A figure of `operator.figures` or `operator.counts`.
struct Figure {
    /// Its name there.
    name: &'static str,
    of: Of,
    metric: Metric,
}

const fn gauge(name: &'static str, metric: &'static str, help: &'static str) -> Figure {
    Figure { name, of: Of::Nothing, metric: Metric::gauge(metric, &[], help) }
}

const fn counter(name: &'static str, metric: &'static str, help: &'static str) -> Figure {
    Figure { name, of: Of::Nothing, metric: Metric::counter(metric, &[], help) }
}

const fn of_words(
    name: &'static str,
    words: &'static [&'static str],
    metric: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Figure {
    Figure { name, of: Of::Words(words), metric: Metric::gauge(metric, labels, help) }
}

const fn of_neighbour(name: &'static str, metric: &'static str, help: &'static str) -> Figure {
    Figure { name, of: Of::Neighbour, metric: Metric::gauge(metric, &["domain"], help) }
}

const STATES: &[&str] = &["active", "idle", "idle_in_transaction", "other"];
const KINDS: &[&str] = &["contact", "group"];
const TABLES: &[&str] = &[
    "aas.issued",
    "aas.requests",
    "aas.spent",
    "aas.used_signatures",
    "auth.clients",
    "auth.eid_log",
    "auth.incarnations",
    "auth.profiles",
    "auth.users",
    "ds.groups",
    "ds.welcome_trees",
    "federation.outbox",
    "federation.set_aside",
    "federation.tokens",
    "qs.addresses",
    "qs.key_packages",
    "qs.messages",
    "qs.queues",
    "others",
];
const KEYS: &[&str] = &["issuer_1", "issuer_2", "issuer_5", "as", "qs", "homeserver", "gateway"];

static FIGURES: [Figure; 42] = [
    gauge("database_bytes", "postern_database_bytes", "Size of the database"),
    of_words("table_bytes", TABLES, "postern_table_bytes", &["table"], "Size of a table, with its indexes"),
    gauge("wal_bytes", "postern_wal_bytes", "Size of the WAL that PostgreSQL keeps"),
    counter("wal_written_bytes", "postern_wal_written_bytes", "Bytes of WAL that were written"),
    of_words("sessions", STATES, "postern_sessions", &["state"], "Sessions of the database, of anybody"),
    gauge("sessions_max", "postern_sessions_max", "Sessions that PostgreSQL takes in all"),
    gauge("sessions_all", "postern_sessions_all", "Sessions of all databases of the cluster"),
    gauge(
        "oldest_transaction_seconds",
        "postern_oldest_transaction_seconds",
        "Age of the oldest transaction, for which deleted rows have to stay",
    ),
    gauge("transaction_id_age", "postern_transaction_id_age", "Transactions since the oldest row was frozen"),
    counter("commits", "postern_transactions_committed", "Transactions that were committed"),
    counter("rollbacks", "postern_transactions_rolled_back", "Transactions that were rolled back"),
    counter("deadlocks", "postern_deadlocks", "Deadlocks that PostgreSQL resolved"),
    gauge("notifier_preloaded", "postern_notifier_preloaded", "1: the extension is preloaded"),
    gauge(
        "notifier_running",
        "postern_notifier_running",
        "1: the notifier runs; the first delivery starts it",
    ),
    gauge(
        "notifier_pending",
        "postern_notifier_pending",
        "Queues whose readers the notifier is about to wake",
    ),
    counter(
        "notifier_overflows",
        "postern_notifier_overflows",
        "Times that there were more of them than there is room for, so that everybody was woken",
    ),
    counter("notifier_sent", "postern_notifier_sent", "Notifications that the notifier sent"),
    gauge("chains_max", "postern_chains_max", "Chains that there is room for (postern.max_chains)"),
    gauge("chains", "postern_chains", "Chains that are kept"),
    counter("chains_evicted", "postern_chains_evicted", "Chains that made room for others"),
    gauge("upkeep_days", "postern_upkeep_age_days", "Days since the last sweep through all queues began"),
    gauge("upkeep_finished", "postern_upkeep_finished", "1: that sweep is finished"),
    of_words(
        "removed_messages",
        &["expired", "of_inactive_queues", "purged"],
        "postern_removed_unread_today",
        &["why"],
        "Messages that were removed today before anybody read them",
    ),
    gauge(
        "removed_queues",
        "postern_removed_queues_today",
        "Queues that were removed today, since their owners were silent",
    ),
    of_words(
        "key_ends",
        KEYS,
        "postern_key_end_timestamp_seconds",
        &["key"],
        "Last moment of the last key of a kind that is there, in seconds since 1970",
    ),
    of_words(
        "active_users",
        &["today", "yesterday"],
        "postern_active_users",
        &["day"],
        "Users that took tokens on a day (UTC)",
    ),
    of_neighbour("outbox", "postern_outbox_deliveries", "Deliveries that wait for another homeserver"),
    of_neighbour("outbox_bytes", "postern_outbox_bytes", "Bytes of these deliveries, sealed"),
    of_neighbour("outbox_days", "postern_outbox_age_days", "Days since the oldest of them was accepted"),
    of_neighbour("set_aside", "postern_set_aside", "Deliveries that were set aside (operator.set_aside())"),
    of_neighbour("wallet", "postern_wallet_tokens", "Tokens of another homeserver that are at hand"),
    of_neighbour(
        "failing",
        "postern_neighbours_failing",
        "Homeservers that do not answer, though something waits for them",
    ),
    of_neighbour(
        "out_of_tokens",
        "postern_neighbours_out_of_tokens",
        "Homeservers that give no more tokens at present, though something waits for them",
    ),
    gauge("neighbours", "postern_neighbours", "Domains that this homeserver dealt with, or has a rule for"),
    gauge("users", "postern_users", "Users"),
    gauge("suspended_users", "postern_suspended_users", "Users that are suspended"),
    gauge("clients", "postern_clients", "Clients of all users"),
    of_words("queues", KINDS, "postern_queues", &["kind"], "Queues"),
    of_words(
        "active_queues",
        KINDS,
        "postern_active_queues",
        &["kind"],
        "Queues whose owners came today or yesterday (UTC)",
    ),
    of_words("queued_messages", KINDS, "postern_queued_messages", &["kind"], "Messages that wait in queues"),
    of_words(
        "full_queues",
        KINDS,
        "postern_full_queues",
        &["kind"],
        "Queues that hold nine tenths of what they may",
    ),
    of_words(
        "groups",
        &["all", "active"],
        "postern_groups",
        &["which"],
        "Groups; active are those with a message today or yesterday (UTC)",
    ),
];

/// The figures of the database, as they were told last.
pub struct DatabaseFigures {
    database: Database,
    neighbours: i32,
    /// Time for which counts hold.
    counts_hold: Duration,
    /// Figures and verdicts.
    told: tokio::sync::Mutex<Option<(Instant, Option<Samples>)>>,
    /// Held by the look that counts.
    counting: tokio::sync::Mutex<Option<Instant>>,
    counts: Mutex<Option<Samples>>,
}

impl DatabaseFigures {
    pub fn new(database: &Database, config: &MetricsConfig) -> Self {
        Self {
            database: database.clone(),
            neighbours: i32::try_from(config.neighbours).unwrap_or(i32::MAX),
            counts_hold: config.counts_hold(),
            told: tokio::sync::Mutex::default(),
            counting: tokio::sync::Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Adds what the database tells, and otherwise that it does not.
    pub async fn add_to(self: &Arc<Self>, samples: &mut Samples) {
        let told = self.told().await;
        samples.add(&UP, [], f64::from(u8::from(told.is_some())));
        let Some(told) = told else { return };
        samples.extend(&told);
        // The scrape goes on without counts that take long; the next one has them.
        let this = Arc::clone(self);
        let _ = timeout(PATIENCE, tokio::spawn(async move { this.count().await })).await;
        if let Some(counts) = &*self.counts.lock().unwrap_or_else(PoisonError::into_inner) {
            samples.extend(counts);
        }
    }

    async fn told(&self) -> Option<Samples> {
        let mut told = self.told.lock().await;
        if let Some((_, samples)) = told.as_ref().filter(|(taken, _)| taken.elapsed() < HOLDS) {
            return samples.clone();
        }
        let samples = match timeout(PATIENCE, self.ask()).await {
            Ok(Ok(samples)) => Some(samples),
            Ok(Err(error)) => {
                tracing::debug!("metrics lack the database's figures: {error}");
                None
            }
            Err(_) => None,
        };
        *told = Some((Instant::now(), samples.clone()));
        samples
    }

    async fn ask(&self) -> Result<Samples, HealthError> {
        let mut samples = Samples::default();
        let sql = "SELECT figure, label, value FROM operator.figures($1)";
        read(&self.database.query(sql, &[&self.neighbours]).await?, &mut samples);
        let found = health::look(&self.database).await?;
        samples.add(&CLOCK, [], found.clock_offset);
        for line in found.lines {
            if let Some(item) = ITEMS.into_iter().find(|known| *known == line.item) {
                samples.add(&HEALTH, [item.into()], f64::from(line.verdict.severity()));
            }
        }
        Ok(samples)
    }

    /// Counts, if the last counts are old and nobody counts.
    async fn count(&self) {
        let Ok(mut counted) = self.counting.try_lock() else { return };
        if counted.is_some_and(|counted| counted.elapsed() < self.counts_hold) {
            return;
        }
        let sql = "SELECT figure, label, value FROM operator.counts()";
        match self.database.for_chores().query(sql, &[]).await {
            Ok(rows) => {
                let mut samples = Samples::default();
                read(&rows, &mut samples);
                *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = Some(samples);
                *counted = Some(Instant::now());
            }
            Err(error) => tracing::debug!("metrics lack the counts: {error}"),
        }
    }
}

/// Adds the figures in rows of name, label and value. One that this program does not know is a newer schema's.
fn read(rows: &[Row], samples: &mut Samples) {
    for row in rows {
        let (name, label, value): (&str, Option<&str>, f64) = (row.get(0), row.get(1), row.get(2));
        let Some(figure) = FIGURES.iter().find(|figure| figure.name == name) else { continue };
        match (&figure.of, label) {
            (Of::Nothing, None) => samples.add(&figure.metric, [], value),
            (Of::Words(words), Some(label)) => {
                if let Some(word) = words.iter().find(|word| **word == label) {
                    samples.add(&figure.metric, [(*word).into()], value);
                }
            }
            (Of::Neighbour, Some(OTHER)) => samples.add(&figure.metric, [OTHER.into()], value),
            (Of::Neighbour, Some(domain)) => {
                if let Ok(domain) = domain.parse() {
                    samples.add(&figure.metric, [Label::Neighbour(domain)], value);
                }
            }
            (Of::Nothing, Some(_)) | (Of::Words(_) | Of::Neighbour, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_figure_has_a_name_of_its_own_and_as_many_labels_as_it_says() {
        let names: BTreeSet<_> = FIGURES.iter().map(|figure| figure.name).collect();
        let metrics: BTreeSet<_> = FIGURES.iter().map(|figure| figure.metric.name).collect();
        assert_eq!((names.len(), metrics.len()), (FIGURES.len(), FIGURES.len()));
        for Figure { name, of, metric } in &FIGURES {
            assert_eq!(metric.labels.len(), usize::from(!matches!(of, Of::Nothing)), "{name}");
        }
    }
}
