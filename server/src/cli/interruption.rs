//! The end of a command by a signal, so that it removes what it has begun: a terminal that closes is enough for one.

use std::future::Future;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// Does the work, unless SIGINT, SIGTERM or SIGHUP comes: then it is dropped, with the programs that it runs. Once the work is done,
/// these signals have no effect on this process any more.
///
/// # Errors
/// Those of the work, or the interruption.
pub async fn unless_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
        _ = hangup.recv() => bail!("interrupted: the terminal is gone"),
    }
}
