//! One LISTEN connection of a server process, outside the pool, and the subscribers to its channels. Notifications may
//! be lost, so subscribers are told when a connection is new, and when it is gone. A connection that hears nothing is as
//! good as gone: the listener calls itself every few seconds.

use std::{future::poll_fn, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client};

use super::{Database, DatabaseError, PostgresConnection};

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause between two calls to itself.
const CALL_INTERVAL: Duration = Duration::from_secs(5);
/// Time that a new connection has until it listens, and a call until it is heard.
const PATIENCE: Duration = Duration::from_secs(5);
/// The channel of the calls of all listeners to themselves.
const ECHO: &str = "postern_echo";

/// A part of the server that hears a channel.
pub trait Subscriber: Send + Sync {
    /// The channel's name, an SQL identifier.
    fn channel(&self) -> &'static str;

    /// Called when a new connection listens; `client` can query on it. Earlier notifications were not heard.
    fn connected<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), DatabaseError>>;

    fn notified(&self, payload: &str);

    /// Called when the connection is lost: nothing is heard until the next one.
    fn disconnected(&self) {}
}

/// Listens for ever, on a new connection whenever one is lost.
pub async fn listen(database: &Database, subscribers: &[Arc<dyn Subscriber>]) {
    let mut told = None;
    loop {
        let begun = Instant::now();
        if let Err(error) = listen_once(database, subscribers).await {
            let error = error.to_string();
            // It is tried each second, and told once; again if it had listened for some time.
            if told.as_ref() != Some(&error) || begun.elapsed() > 2 * CALL_INTERVAL {
                tracing::warn!("cannot listen for notifications: {error}; connecting again");
            }
            told = Some(error);
        }
        for subscriber in subscribers {
            subscriber.disconnected();
        }
        sleep(PAUSE).await;
    }
}

async fn listen_once(database: &Database, subscribers: &[Arc<dyn Subscriber>]) -> Result<(), DatabaseError> {
    let connecting = timeout(PATIENCE, database.connect()).await;
    let (client, connection) = connecting.unwrap_or(Err(DatabaseError::Silent(PATIENCE)))?;
    let echo = Echo { name: format!("{:032x}", rand::random::<u128>()), heard: Notify::new() };
    select! {
        ended = hear(connection, subscribers, &echo) => ended,
        ended = stay(&client, subscribers, &echo) => ended,
    }
}

/// A listener's calls to itself, by a name that no other has.
struct Echo {
    name: String,
    heard: Notify,
}

impl Echo {
    /// Returns once the listener has heard itself.
    async fn call(&self, client: &Client) -> Result<(), DatabaseError> {
        client.batch_execute(&format!("NOTIFY {ECHO}, '{}'", self.name)).await?;
        timeout(PATIENCE, self.heard.notified()).await.map_err(|_| DatabaseError::Deaf)
    }
}

/// Hands on what comes over the connection, until it ends.
async fn hear(
    mut connection: PostgresConnection,
    subscribers: &[Arc<dyn Subscriber>],
    echo: &Echo,
) -> Result<(), DatabaseError> {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if notification.channel() == ECHO && notification.payload() == echo.name {
                    echo.heard.notify_one();
                }
                subscribers
                    .iter()
                    .filter(|subscriber| subscriber.channel() == notification.channel())
                    .for_each(|subscriber| subscriber.notified(notification.payload()));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(DatabaseError::Connection("it was closed".to_owned())),
        }
    }
}

/// Listens on all channels, and makes sure that it goes on hearing. Returns when it does not.
async fn stay(
    client: &Client,
    subscribers: &[Arc<dyn Subscriber>],
    echo: &Echo,
) -> Result<(), DatabaseError> {
    let channels = subscribers.iter().map(|subscriber| subscriber.channel()).chain([ECHO]);
    let listen: String = channels.map(|channel| format!("LISTEN {channel};")).collect();
    bounded(async {
        client.batch_execute(&listen).await?;
        echo.call(client).await?;
        for subscriber in subscribers {
            subscriber.connected(client).await?;
        }
        Ok(())
    })
    .await?;
    loop {
        sleep(CALL_INTERVAL).await;
        bounded(echo.call(client)).await?;
    }
}

/// A step that an answering peer finishes at once.
async fn bounded(step: impl Future<Output = Result<(), DatabaseError>>) -> Result<(), DatabaseError> {
    timeout(2 * PATIENCE, step).await.unwrap_or(Err(DatabaseError::Silent(2 * PATIENCE)))
}
