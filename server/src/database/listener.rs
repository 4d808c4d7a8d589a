//! One LISTEN connection of a server process, outside the pool, and the subscribers to its channels. Notifications may
//! be lost, so subscribers are told when a connection is new, and when it is gone.

use std::{future::poll_fn, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::sleep;
use tokio_postgres::{AsyncMessage, Client};

use super::{Database, DatabaseError};

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

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
    loop {
        if let Err(error) = listen_once(database, subscribers).await {
            tracing::warn!("cannot listen for notifications: {error}; connecting again");
        }
        for subscriber in subscribers {
            subscriber.disconnected();
        }
        sleep(PAUSE).await;
    }
}

async fn listen_once(database: &Database, subscribers: &[Arc<dyn Subscriber>]) -> Result<(), DatabaseError> {
    let (client, mut connection) = database.connect().await?;
    let listen: String =
        subscribers.iter().map(|subscriber| format!("LISTEN {};", subscriber.channel())).collect();
    let mut setup = Box::pin(async {
        client.batch_execute(&listen).await?;
        for subscriber in subscribers {
            subscriber.connected(&client).await?;
        }
        Ok::<_, DatabaseError>(())
    });
    let mut ready = false;
    loop {
        tokio::select! {
            done = &mut setup, if !ready => {
                done?;
                ready = true;
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => subscribers
                    .iter()
                    .filter(|subscriber| subscriber.channel() == notification.channel())
                    .for_each(|subscriber| subscriber.notified(notification.payload())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err(DatabaseError::Connection("it was closed".to_owned())),
            }
        }
    }
}
