//! Comparison with what the server shows to strangers (AAS-7): keys that it publishes are the same for everyone, or it
//! could make some for one user, and tell the user by them. So what this client was shown on connections that name it
//! is compared with what it shows on a connection of its own, by a request that is the same for everyone.
//!
//! A server that tells a stranger by the network address, or by the moment, is not found out like that. Friends compare,
//! too ([`crate::tokens::directory_digest`]), and a neighbour's homeserver tells what it was shown ([`crate::elsewhere`]).

use std::{future::Future, time::Duration};

use postern_api::Http;
use postern_protocol::{aas::IssuerDirectory, auth::AuthenticationKeys};

use crate::{
    error::{IssuerError, Result},
    event::Event,
    store::Store,
};

/// Pauses before each further comparison, in seconds: processes of one server take over changed keys within five.
const PAUSES: [u64; 3] = [1, 2, 4];

/// Keys that a server publishes.
pub(crate) trait Published: PartialEq + Send + Sync + Sized {
    /// As the user is told.
    const NAME: &'static str;

    fn ask(http: &Http) -> impl Future<Output = postern_api::Result<Self>> + Send;
}

impl Published for IssuerDirectory {
    const NAME: &'static str = "the keys that tokens are issued with";

    fn ask(http: &Http) -> impl Future<Output = postern_api::Result<Self>> + Send {
        http.issuer_directory()
    }
}

impl Published for AuthenticationKeys {
    const NAME: &'static str = "the keys that credentials are signed with";

    fn ask(http: &Http) -> impl Future<Output = postern_api::Result<Self>> + Send {
        http.authentication_keys()
    }
}

/// Compares what this client was shown with what strangers are, and returns it. Where they differ, keys may just be
/// changing: it asks both again a few times.
///
/// # Errors
/// [`IssuerError::Differ`], which is an event, too.
pub(crate) async fn compare<T: Published>(store: &Store, http: &Http, shown: T) -> Result<T> {
    let mut shown = shown;
    for pause in PAUSES.map(Some).into_iter().chain([None]) {
        // Anew each time: a connection that asks again is known by that.
        if T::ask(&http.apart()).await? == shown {
            return Ok(shown);
        }
        if let Some(seconds) = pause {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            shown = T::ask(http).await?;
        }
    }
    store.write(|tx| Event::KeysDiffer { keys: T::NAME.to_owned() }.record(tx))?;
    Err(IssuerError::Differ(T::NAME).into())
}
