//! Waiting for what comes in.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use postern_protocol::qs::Dequeued;

use crate::{
    clock::Deadline,
    error::Result,
    event,
    mailbox::{self, KINDS},
    session::Session,
};

/// The longest wait to ask a server for: proxies cut connections that are silent for long.
const LONGEST_POLL: Duration = Duration::from_secs(50);

/// The shortest wait where something is due: each poll costs a token.
const SHORTEST_POLL: Duration = Duration::from_secs(1);

type Poll = Pin<Box<dyn Future<Output = Result<Dequeued>> + Send>>;

/// Waits on both queues at once, for as long as its owner likes. A poll that is waiting
/// stays waiting while the other queue's messages are processed.
pub struct Follower {
    session: Arc<Session>,
    polls: [Option<Poll>; 2],
}

impl Follower {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session, polls: [None, None] }
    }

    /// Waits for up to `wait` until something came in on either queue, and processes it.
    /// True when something came in.
    ///
    /// # Errors
    /// Passing ones ([`Error::is_passing`](crate::Error::is_passing)) lose nothing: call again.
    pub async fn next(&mut self, wait: Duration) -> Result<bool> {
        let session = &self.session;
        let step = session.store.step().await?;
        let begun = session.store.now();
        session.errands(&step).await?;
        drop(step);
        // A poll that waits is not in the way of what has to be done before its end.
        let due = session.next_errand(begun)?.map_or(LONGEST_POLL, |due| due.max(SHORTEST_POLL));
        let wait = wait.min(due).min(LONGEST_POLL);
        for (poll, kind) in self.polls.iter_mut().zip(KINDS) {
            if poll.is_none() {
                let session = session.clone();
                *poll = Some(Box::pin(async move { session.poll(kind, wait).await }));
            }
        }
        let [Some(contact), Some(group)] = &mut self.polls else { return Ok(false) };
        let (index, answer) = tokio::select! {
            answer = contact => (0, answer),
            answer = group => (1, answer),
        };
        self.polls[index] = None;
        let dequeued = match answer {
            Err(error) if mailbox::is_gone(&error) => {
                let step = session.store.step().await?;
                session.drain(&step, KINDS[index]).await?;
                session.errands(&step).await?;
                return Ok(true);
            }
            dequeued => dequeued?,
        };
        if dequeued.is_empty() {
            return Ok(false);
        }
        let step = session.store.step().await?;
        session.process(&step, KINDS[index], &dequeued).await?;
        session.errands(&step).await?;
        Ok(true)
    }
}

/// Receives until there is something to tell or `wait` is over.
pub(crate) async fn receive(session: &Arc<Session>, wait: Duration) -> Result<()> {
    {
        let step = session.store.step().await?;
        for kind in KINDS {
            session.drain(&step, kind).await?;
        }
        session.errands(&step).await?;
    }
    let deadline = Deadline::after(wait);
    let mut follower = Follower::new(session.clone());
    while session.store.read(event::last)?.is_none() {
        if deadline.is_over() {
            break;
        }
        follower.next(deadline.left()).await?;
    }
    Ok(())
}
