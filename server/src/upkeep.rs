//! Chores: everything that a server process does by the clock, in one table. The database ensures that several
//! processes do each thing once. A chore that fails, or panics, is logged and tried again soon, then less and less often,
//! but for each of its turns. Where the calendar leaps, every chore is due at once.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, pending},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use crate::{
    aas::Aas,
    app::App,
    auth::As,
    body_limits,
    database::{generation, schema_state},
    ds::{self, Ds},
    federation::Federation,
    from_files::Watched,
    home::Home,
    keys::KeyVersion,
    metrics::{Counters, Instruments, Label},
    qs::{self, Qs},
    rendezvous::Rendezvous,
};

/// Time within which a process takes over changed keys of which it was not notified.
const KEYS: Duration = Duration::from_secs(5);
/// Time between two looks at files of certificates: the server's, those of the way to PostgreSQL and to other homeservers.
const CERTIFICATE: Duration = Duration::from_secs(5);
/// Time within which the log tells of a limit in the database that does not fit into this process's own.
const LIMITS: Duration = Duration::from_secs(20);
/// Pause between two looks for a leap of the calendar.
const CALENDAR: Duration = Duration::from_secs(1);
/// Smallest difference between the calendar and the process's own clock that counts as a leap. After a smaller one, chores
/// come soon enough in their turn.
const LEAP: Duration = Duration::from_secs(60);
/// Pause before a chore that failed is tried again; it doubles with each failure.
const RETRY: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The table of chores, with a look at each of these files.
pub fn chores(app: &App, files: &[Arc<dyn Watched>]) -> Vec<Chore> {
    let App { about: home, auth, aas, ds, qs, rendezvous, federation, .. } = app;
    let version = KeyVersion::new(&home.database);
    let files = files.iter().map(|files| {
        Chore::every(CERTIFICATE, files.name(), files, |files: Arc<dyn Watched>| async move {
            files.renew().await
        })
    });
    let calendar = Arc::new(Calendar::new());
    let leapt = calendar.leapt.subscribe();
    let mut chores =
        vec![
            Chore::every(KEYS, "look for changed keys", &version, |version: KeyVersion| async move {
                version.compare().await
            }),
            Chore::every(KEYS, "look which release the database is of", home, |home: Home| async move {
                schema_state::state(&home.database).await?;
                Ok(())
            }),
            Chore::every(KEYS, "look whether the database was put back", home, |home: Home| async move {
                // Requests go by what is known of it.
                let _told_elsewhere = home.ready().await;
                generation::look(&home.database).await
            }),
            Chore::every(HOUR, "take over another master key", home, |home: Home| async move {
                home.master_key.renew(&home.database).await
            })
            .when(version.changed(Arc::default())),
            Chore::every(LIMITS, "let through what limits allow", home, |home: Home| async move {
                body_limits::check(&home.database.for_chores(), &home.limits).await
            }),
            Chore::every(MINUTE, "record the use of tokens", aas, |aas: Aas| async move {
                aas.record_uses().await
            })
            .after(MINUTE),
            Chore::every(HOUR, "renew the issuer keys", aas, |aas: Aas| async move {
                aas.renew_issuer_keys().await
            })
            .when(version.changed(aas.issuer_keys_changed())),
            Chore::every(HOUR, "renew the keys of the AS", auth, |auth: As| async move {
                auth.renew_signing_keys().await
            })
            .when(version.changed(Arc::default())),
            Chore::every(HOUR, "renew the keys of the QS", qs, |qs: Qs| async move {
                qs.renew_signing_keys().await
            })
            .when(version.changed(Arc::default())),
            Chore::every(HOUR, "renew the keys for push services", qs, |qs: Qs| async move {
                qs.renew_push_keys().await
            })
            .when(version.changed(Arc::default())),
            Chore::every(HOUR, "renew the keys of the DS", ds, |ds: Ds| async move {
                ds.renew_external_sender_keys().await
            })
            .when(version.changed(Arc::default())),
            Chore::every(
                HOUR,
                "renew the keys of the homeserver",
                federation,
                |federation: Federation| async move { federation.renew_keys().await },
            )
            .when(version.changed(Arc::default())),
            Chore::every(
                HOUR,
                "drop what is over of other homeservers",
                federation,
                |federation: Federation| async move { federation.clean_up().await },
            ),
            Chore::every(MINUTE, "forget stale signatures", aas, |aas: Aas| async move {
                aas.forget_signatures().await
            }),
            Chore::every(HOUR, "drop retired issuer keys", aas, |aas: Aas| async move {
                aas.drop_retired_keys().await
            }),
            Chore::every(10 * MINUTE, "forget past attempts to register", auth, |auth: As| async move {
                auth.forget_counts().await
            }),
            Chore::every(
                MINUTE,
                "delete rendezvous that are over",
                rendezvous,
                |rendezvous: Rendezvous| async move { rendezvous.clean_up().await },
            ),
            Chore::every(HOUR, "expire silent clients", auth, |auth: As| async move { auth.expire().await }),
            Chore::every(HOUR, "drop expired group ids, groups and Welcome trees", ds, |ds: Ds| async move {
                ds::upkeep::run(&ds).await
            }),
            Chore::every(
                10 * MINUTE,
                "start the removal of expired messages and queues",
                qs,
                |qs: Qs| async move { qs::upkeep::run(&qs).await },
            ),
        ];
    chores.extend(files);
    for chore in &mut chores {
        chore.leapt = Some(leapt.clone());
    }
    chores.push(Chore::every(
        CALENDAR,
        "look for a leap of the calendar",
        &calendar,
        |calendar: Arc<Calendar>| async move {
            calendar.look();
            Ok(())
        },
    ));
    chores
}

/// The calendar next to the clock by which the chores' turns are timed. That one is never set, and stands still while the
/// machine sleeps; what chores renew and expire has dates.
struct Calendar {
    /// The time of the last look, by both.
    seen: Mutex<(SystemTime, Instant)>,
    /// Changes with each leap.
    leapt: watch::Sender<()>,
}

impl Calendar {
    fn new() -> Self {
        Self { seen: Mutex::new((SystemTime::now(), Instant::now())), leapt: watch::Sender::new(()) }
    }

    fn look(&self) {
        let now = (SystemTime::now(), Instant::now());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (calendar, own) = std::mem::replace(&mut *seen, now);
        let expected = calendar + now.1.duration_since(own);
        // A calendar that is set back was ahead before, and keys that were renewed then are of no use now.
        let (way, by) = match now.0.duration_since(expected) {
            Ok(ahead) => ("ahead", ahead),
            Err(behind) => ("back", behind.duration()),
        };
        if by > LEAP {
            tracing::info!("the calendar leapt {way}: every chore is due");
            self.leapt.send_replace(());
        }
    }
}

/// Counts of chores that were done, and that failed (OPS-4). Cheap to clone.
#[derive(Clone)]
pub struct ChoreFigures(Counters<2>);

impl Default for ChoreFigures {
    fn default() -> Self {
        Self(Counters::new(["chore", "outcome"]))
    }
}

impl ChoreFigures {
    pub fn register(&self, instruments: &mut Instruments) {
        instruments.counters("postern_chores", "Turns of what the server does by the clock", &self.0);
    }

    fn begin(&self, chore: &'static str) {
        [true, false].into_iter().for_each(|done| self.0.begin(Self::labels(chore, done)));
    }

    fn count(&self, chore: &'static str, done: bool) {
        self.0.add(Self::labels(chore, done), 1);
    }

    fn labels(chore: &'static str, done: bool) -> [Label; 2] {
        let outcome = if done { "done" } else { "failed" };
        [chore.into(), outcome.into()]
    }
}

/// A task to do by the clock.
pub struct Chore {
    every: Duration,
    /// Completes "could not …".
    name: &'static str,
    /// Time from the start to the first turn.
    first: Duration,
    /// Notified when a turn is due at once.
    called: Option<Arc<Notify>>,
    /// Changes when every chore is due at once.
    leapt: Option<watch::Receiver<()>>,
    turn: Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
}

impl Chore {
    fn every<S, F>(every: Duration, name: &'static str, state: &S, turn: fn(S) -> F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let state = state.clone();
        let turn = Box::new(move || -> BoxFuture<'static, _> { Box::pin(turn(state.clone())) });
        Self { every, name, first: Duration::ZERO, called: None, leapt: None, turn }
    }

    fn after(self, first: Duration) -> Self {
        Self { first, ..self }
    }

    fn when(self, called: Arc<Notify>) -> Self {
        Self { called: Some(called), ..self }
    }

    /// The pause after a failure that followed this one.
    fn next_pause(&self, pause: Duration) -> Duration {
        pause.saturating_mul(2).min(self.every.max(RETRY))
    }

    /// Does the chore at each of its turns, for ever.
    pub async fn keep(mut self, figures: ChoreFigures) {
        figures.begin(self.name);
        let mut leapt = self.leapt.take();
        let mut turns = interval_at(Instant::now() + self.first, self.every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry = None;
        loop {
            let again = async {
                match retry {
                    Some(pause) => sleep(pause).await,
                    None => pending().await,
                }
            };
            let called = async {
                match &self.called {
                    Some(called) => called.notified().await,
                    None => pending().await,
                }
            };
            let leapt = async {
                match &mut leapt {
                    Some(leapt) => match leapt.changed().await {
                        Ok(()) => {}
                        Err(_) => pending().await,
                    },
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = turns.tick() => {}
                () = called => {}
                () = leapt => {}
                () = again => {}
            }
            let done = AssertUnwindSafe(async { (self.turn)().await }).catch_unwind().await;
            let done = done.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
            figures.count(self.name, done.is_ok());
            retry = match (done, retry) {
                (Ok(()), _) => None,
                (Err(error), None) => {
                    tracing::warn!("could not {}: {error:#}", self.name);
                    Some(RETRY)
                }
                (Err(error), Some(pause)) => {
                    tracing::debug!("could not {} again: {error:#}", self.name);
                    Some(self.next_pause(pause))
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        iter,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_chore_that_fails_for_days_is_tried_at_each_of_its_turns() {
        for every in [KEYS, MINUTE, HOUR] {
            let chore = Chore::every(every, "test", &(), |()| async { Ok(()) });
            let mut pauses = iter::successors(Some(RETRY), |pause| Some(chore.next_pause(*pause)));
            assert_eq!(pauses.nth(10_000), Some(every));
        }
    }

    #[tokio::test]
    async fn a_chore_goes_on_after_failures_and_panics() {
        let turns = Arc::new(AtomicUsize::new(0));
        let chore =
            Chore::every(Duration::from_millis(1), "test", &turns, |turns: Arc<AtomicUsize>| async move {
                match turns.fetch_add(1, Ordering::Relaxed) % 3 {
                    0 => panic!("a fault of the chore"),
                    1 => anyhow::bail!("a failure"),
                    _ => Ok(()),
                }
            });
        let many = async {
            while turns.load(Ordering::Relaxed) <= 10 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = chore.keep(ChoreFigures::default()) => panic!("it never ends"),
            done = timeout(MINUTE, many) => done.expect("its turns come"),
        }
    }

    fn seen_before(calendar: Duration, own: Duration) -> Calendar {
        let then = (SystemTime::now() - calendar, Instant::now().checked_sub(own).unwrap());
        Calendar { seen: Mutex::new(then), leapt: watch::Sender::new(()) }
    }

    fn leaps(calendar: &Calendar) -> bool {
        let leapt = calendar.leapt.subscribe();
        calendar.look();
        leapt.has_changed().unwrap()
    }

    #[test]
    fn the_calendar_leaps_where_it_differs_from_the_own_clock_and_once() {
        let slept = seen_before(HOUR, Duration::from_secs(1));
        assert!(leaps(&slept) && !leaps(&slept));
        assert!(!leaps(&seen_before(HOUR, HOUR)), "a look that came late");
        assert!(!leaps(&seen_before(LEAP / 2, Duration::ZERO)), "a clock that was corrected");
        let set_back = seen_before(Duration::ZERO, HOUR);
        assert!(leaps(&set_back) && !leaps(&set_back));
    }

    #[tokio::test]
    async fn a_chore_is_due_at_once_where_the_calendar_leaps() {
        let calendar = seen_before(HOUR, Duration::ZERO);
        let turns = Arc::new(Notify::new());
        let chore = Chore::every(HOUR, "count", &turns, |turns: Arc<Notify>| async move {
            turns.notify_one();
            Ok(())
        });
        let chore = Chore { leapt: Some(calendar.leapt.subscribe()), ..chore.after(HOUR) };
        let keeping = tokio::spawn(chore.keep(ChoreFigures::default()));
        calendar.look();
        timeout(MINUTE, turns.notified()).await.expect("its turn came");
        keeping.abort();
    }
}
