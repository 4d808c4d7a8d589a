//! Wake-ups of rendezvous: a long-poll that waits in one process hears what was left through any. There are few at a
//! time, so a notification is told to all that wait here, and each looks whether it is its own. A wake-up may be lost:
//! who waits looks from time to time anyway.

use std::{future::ready, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::broadcast;
use tokio_postgres::Client;

use crate::database::{DatabaseError, listener::Subscriber};

/// Notifications that a slow waiter may be behind; beyond them it looks.
const BEHIND: usize = 64;

#[derive(Clone)]
pub struct Bell(broadcast::Sender<Ring>);

/// The text of a notification; `None`: something may have been missed.
type Ring = Option<Arc<str>>;

/// The place of one long-poll at the bell.
pub struct Waiter {
    wake: String,
    rings: broadcast::Receiver<Ring>,
}

impl Default for Bell {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Bell {
    /// Registers a waiter. Every notification with this text wakes it from now on.
    pub fn wait_for(&self, wake: String) -> Waiter {
        Waiter { wake, rings: self.0.subscribe() }
    }

    fn ring(&self, ring: Ring) {
        // That nobody waits is no failure.
        let _ = self.0.send(ring);
    }
}

impl Waiter {
    /// Returns once something came after [`Bell::wait_for`], even before this call.
    pub async fn woken(&mut self) {
        while let Ok(Some(wake)) = self.rings.recv().await {
            if *wake == *self.wake {
                return;
            }
        }
    }
}

impl Subscriber for Bell {
    fn channel(&self) -> &'static str {
        "postern_rendezvous"
    }

    fn connected<'a>(&'a self, _: &'a Client) -> BoxFuture<'a, Result<(), DatabaseError>> {
        self.ring(None);
        Box::pin(ready(Ok(())))
    }

    fn notified(&self, payload: &str) {
        self.ring(Some(payload.into()));
    }

    fn disconnected(&self) {
        self.ring(None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn wakes(waiter: &mut Waiter) -> bool {
        timeout(Duration::from_millis(50), waiter.woken()).await.is_ok()
    }

    #[tokio::test]
    async fn a_waiter_hears_its_own_and_whatever_may_have_been_missed() {
        let bell = Bell::default();
        bell.notified("one");
        let mut waiter = bell.wait_for("one".to_owned());
        assert!(!wakes(&mut waiter).await, "that was before");
        bell.notified("two");
        assert!(!wakes(&mut waiter).await, "that is another's");
        bell.notified("one");
        assert!(wakes(&mut waiter).await);
        bell.disconnected();
        assert!(wakes(&mut waiter).await);
        for _ in 0..=BEHIND {
            bell.notified("two");
        }
        assert!(wakes(&mut waiter).await, "it is too far behind to know");
    }
}
