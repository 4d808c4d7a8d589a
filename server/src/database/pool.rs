//! A pool of connections, and calls on them that are all bounded. A connection that did not answer in time is thrown
//! away with everything prepared on it, and so is each that was last used before that: whatever took one may have taken
//! all. A connection that was idle is asked for a sign of life before it is handed out. Calls that may take minutes are
//! overseen, and given up early where PostgreSQL does not work on them.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use deadpool_postgres::{
    ClientWrapper, Connect, Hook, HookError, Manager, ManagerConfig, Metrics, Object, Pool, RecyclingMethod,
    Runtime,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, pending},
};
use rand::Rng;
use tokio::{
    runtime::Handle,
    select,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Config, Error, Row, types::ToSql};

use super::{DatabaseError, Way, generation, overseer::Overseer, schema_state, session, witness::Witness};
use crate::metrics::{Counters, Durations, Instruments};

/// Time from which on an idle connection is asked for a sign of life: under load none is, so that none costs a round
/// trip.
const IDLE: Duration = Duration::from_secs(1);
/// Time that an idle connection has for it.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that a new session may take to start, and one to tell its overseer which it is.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Time beyond PostgreSQL's own bound of a statement after which a call is given up.
const MARGIN: Duration = Duration::from_secs(1);
/// Attempts at a transaction that PostgreSQL gives up for another.
const ATTEMPTS: u32 = 4;
/// Longest pause before the second attempt; it doubles with each.
const PAUSE: Duration = Duration::from_millis(20);

/// The figures of all calls, by lane. Cheap to clone.
#[derive(Clone)]
pub struct CallFigures {
    calls: Counters<2>,
    durations: Durations<1>,
}

impl Default for CallFigures {
    fn default() -> Self {
        Self { calls: Counters::new(["lane", "outcome"]), durations: Durations::new(["lane"]) }
    }
}

impl CallFigures {
    pub fn register(&self, instruments: &mut Instruments) {
        instruments.counters(
            "postern_database_calls",
            "Attempts at calls of the database, by what came of them",
            &self.calls,
        );
        instruments.durations(
            "postern_database_call_seconds",
            "Time of calls on their connection, without the wait for it",
            &self.durations,
        );
    }
}

/// Connections of a lane, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct LaneStatus {
    pub lane: &'static str,
    /// Most connections.
    pub size: usize,
    pub idle: usize,
    pub in_use: usize,
    /// Calls that wait for one.
    pub waiting: usize,
}

/// The bounds of a lane.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Connections, at most.
    pub size: usize,
    /// Time that a call waits for a connection.
    pub wait: Duration,
    /// Time that PostgreSQL works on a statement.
    pub statement: Duration,
    /// Time that a statement waits for a lock.
    pub lock: Duration,
}

/// Connections for one kind of call.
pub struct Lane {
    name: &'static str,
    figures: CallFigures,
    pool: Pool,
    suspects: Suspects,
    /// Time that a call waits for a connection.
    wait: Duration,
    /// Time that a call has on its connection.
    bound: Duration,
    /// The way of its calls' overseers to PostgreSQL, if they have some.
    overseen_by: Option<Way>,
}

/// The moment at which a connection last failed to answer. Connections that were last used before it are suspect.
#[derive(Clone, Default)]
struct Suspects(Arc<Mutex<Option<Instant>>>);

impl Suspects {
    fn raise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn include(&self, last_used: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|raised| last_used <= raised)
    }

    /// Whether a connection may be handed out again.
    async fn clear(self, client: &ClientWrapper, metrics: Metrics) -> bool {
        let last_used = metrics.recycled.unwrap_or(metrics.created);
        if self.include(last_used) {
            return false;
        }
        let is_alive = last_used.elapsed() < IDLE
            || matches!(timeout(CHECK_TIMEOUT, client.simple_query("")).await, Ok(Ok(_)));
        if !is_alive {
            self.raise();
        }
        is_alive
    }
}

/// Starts the sessions of a pool.
struct Start {
    way: Way,
    settings: String,
}

impl Connect for Start {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        Box::pin(async move {
            let (client, connection) = session::start(&self.way, &self.settings).await?;
            let driver = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("a database connection ended: {}", DatabaseError::from(error));
                }
            });
            Ok((client, driver))
        })
    }
}

impl Lane {
    /// Prepares a lane.
    ///
    /// # Errors
    /// None but a lack of a runtime.
    pub fn new(
        name: &'static str,
        way: &Way,
        bounds: Bounds,
        figures: &CallFigures,
        decided_only: &Arc<OnceLock<Option<Witness>>>,
    ) -> Result<Self, DatabaseError> {
        let decided_only = Arc::clone(decided_only);
        let Bounds { size, wait, statement, lock } = bounds;
        for outcome in ["ok", "refused"] {
            figures.calls.begin([name.into(), outcome.into()]);
        }
        figures.durations.begin([name.into()]);
        let start = Start { way: way.clone(), settings: session::settings(statement, lock) };
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let suspects = Suspects::default();
        let check = suspects.clone();
        let pool = Pool::builder(Manager::from_connect(way.config.clone(), start, recycling))
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(wait))
            .create_timeout(Some(START_TIMEOUT))
            // A server that was away may come back to a database of which it knows nothing (OPS-6).
            .post_create(Hook::async_fn(move |client, _| {
                let decided_only = decided_only.get().cloned();
                Box::pin(async move {
                    let client: &Client = client;
                    // It may also have been put back to an earlier state (QS-12).
                    let refusal = async {
                        match &decided_only {
                            Some(witness) => generation::refusal(client, witness.as_ref()).await,
                            None => None,
                        }
                    };
                    // Both are asked at once, each in one round trip: after a restart of PostgreSQL all sessions begin
                    // together. They are two questions, because a database of any release has to answer the first.
                    let (release, refusal) = tokio::join!(schema_state::foreign_release(client), refusal);
                    match release {
                        Some(release) => Err(HookError::message(release)),
                        None => refusal.map_or(Ok(()), |it| Err(HookError::message(it))),
                    }
                })
            }))
            .pre_recycle(Hook::async_fn(move |client, metrics| {
                let (check, metrics) = (check.clone(), *metrics);
                Box::pin(async move {
                    match check.clear(client, metrics).await {
                        true => Ok(()),
                        false => Err(HookError::message("it does not answer")),
                    }
                })
            }))
            .build()
            .map_err(|_| DatabaseError::Pool("no runtime"))?;
        let (figures, bound) = (figures.clone(), statement + MARGIN);
        Ok(Self { name, figures, pool, suspects, wait, bound, overseen_by: None })
    }

    /// Gives each call of the lane an overseer: its bound is far more than most of its calls take.
    pub fn overseen(self, way: &Way) -> Self {
        Self { overseen_by: Some(way.clone()), ..self }
    }

    /// Ends the sessions that there are, each when it is asked for once more.
    pub fn end_sessions(&self) {
        self.suspects.raise();
    }

    pub fn status(&self) -> LaneStatus {
        let status = self.pool.status();
        LaneStatus {
            lane: self.name,
            size: status.max_size,
            idle: status.available,
            in_use: status.size.saturating_sub(status.available),
            waiting: status.waiting,
        }
    }

    /// One statement, which is one transaction.
    ///
    /// # Errors
    /// As [`super::Database::query`].
    pub async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DatabaseError> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.attempt(sql, parameters).await {
                // Nothing of it happened, and the same again may go well.
                Err(error) if error.asks_for_repeat() => {
                    let at_random = rand::rng().random_range(Duration::ZERO..=pause);
                    sleep(at_random).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.attempt(sql, parameters).await
    }

    async fn attempt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DatabaseError> {
        let attempted = self.attempt_once(sql, parameters).await;
        let outcome = attempted.as_ref().map_or_else(DatabaseError::word, |_| "ok");
        self.figures.calls.add([self.name.into(), outcome.into()], 1);
        attempted
    }

    async fn attempt_once(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DatabaseError> {
        let mut connection = self.get().await?;
        let begun = Instant::now();
        let called = connection.call(sql, parameters).await;
        self.figures.durations.add_since([self.name.into()], begun);
        match &called {
            Err(DatabaseError::Silent(_)) => {
                self.suspects.raise();
                connection.throw_away();
            }
            // A session that lost what was prepared on it, or has it for tables that are others now, is of no use.
            Err(error) if error.voids_statements() => connection.throw_away(),
            _ => connection.give_back(),
        }
        called
    }

    async fn get(&self) -> Result<Lease<'_>, DatabaseError> {
        let connection = timeout(self.wait, self.pool.get()).await.map_err(|_| {
            let status = self.pool.status();
            let is_full = status.size >= status.max_size;
            DatabaseError::Pool(if is_full { "all are busy" } else { "PostgreSQL does not answer in time" })
        })??;
        Ok(Lease { connection: Some(connection), overseer: None, begun: false, lane: self })
    }
}

/// Waits for an answer, but no longer than this, and not when its overseer says that none will come.
async fn answered<T>(
    bound: Duration,
    overseer: Option<&Overseer>,
    answer: impl Future<Output = T>,
) -> Result<T, DatabaseError> {
    let begun = Instant::now();
    let in_vain = async {
        match overseer {
            // Boxed, so that the calls of all lanes do not hold what only those of chores need.
            Some(overseer) => overseer.finds_no_work().boxed().await,
            None => pending().await,
        }
    };
    select! {
        biased;
        answer = answer => Ok(answer),
        () = in_vain => Err(DatabaseError::Silent(begun.elapsed())),
        () = sleep(bound) => Err(DatabaseError::Silent(bound)),
    }
}

/// A connection during a call.
struct Lease<'a> {
    connection: Option<Object>,
    /// The call's overseer, if the lane has some and PostgreSQL tells it of the session.
    overseer: Option<Overseer>,
    /// Whether the call itself has begun.
    begun: bool,
    lane: &'a Lane,
}

impl Lease<'_> {
    fn client(&self) -> &ClientWrapper {
        self.connection.as_ref().expect("it is given back once")
    }

    /// Makes a call on it, with an overseer where the lane has some.
    async fn call(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DatabaseError> {
        let lane = self.lane;
        if let Some(way) = &lane.overseen_by {
            let overseer = answered(START_TIMEOUT, None, Overseer::of(self.client(), way)).await??;
            self.overseer = overseer;
        }
        self.begun = true;
        let call = async {
            let statement = self.client().prepare_cached(sql).await?;
            self.client().query(&statement, parameters).await
        };
        Ok(answered(lane.bound, self.overseer.as_ref(), call).await??)
    }

    fn give_back(mut self) {
        drop(self.connection.take());
    }

    /// Closes the connection instead of giving it back.
    fn throw_away(mut self) {
        drop(self.connection.take().map(Object::take));
    }
}

impl Drop for Lease<'_> {
    /// The call was abandoned: the connection is handed on only once it has answered.
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let (overseer, suspects) = (self.overseer.take(), self.lane.suspects.clone());
        let bound = if self.begun { self.lane.bound } else { START_TIMEOUT };
        let handing_on = async move {
            let answer = answered(bound, overseer.as_ref(), connection.simple_query("")).await;
            match answer {
                Ok(Ok(_)) => drop(connection),
                _ => {
                    suspects.raise();
                    drop(Object::take(connection));
                }
            }
        };
        // Without a runtime the process ends, and its connections with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(handing_on);
        }
    }
}
