//! A session: store, server, account and options, which everything that a client does shares.

use std::sync::Arc;

use postern_api::Http;
use postern_protocol::{PublicKey, ds::GroupId};

use crate::{
    account::Account,
    elsewhere,
    error::{Error, Result},
    options::Options,
    server::Api,
    store::Store,
    tokens::{Owner, Wallet},
};

pub(crate) struct Session {
    pub store: Arc<Store>,
    pub api: Api,
    /// The server without a relay between: for what it does not do for those that come through one.
    pub direct: Http,
    pub options: Options,
    /// The account as it was when the client was opened: its keys stay.
    pub account: Account,
}

impl Session {
    /// Opens the session of a client that is ready.
    ///
    /// # Errors
    /// [`Error::NotReady`], and those of the server's address.
    pub(crate) fn open(store: Arc<Store>, options: Options) -> Result<Self> {
        let account = store.read(Account::find)?.filter(|account| account.ready).ok_or(Error::NotReady)?;
        let server = options.server.as_deref().unwrap_or(&account.server);
        let direct = Http::new(server)?;
        let api = match &options.relay {
            None => api(&store, direct.clone(), &account),
            Some(relay) => {
                // On one connection the way to the neighbour would be that of a user with a name.
                let own = api_by(&store, direct.clone(), Http::new(server)?, &account);
                elsewhere::through(&own, relay, options.relay_server.as_deref())?
            }
        };
        Ok(Self { store, api, direct, options, account })
    }

    /// The DS of a group, and everything else at its homeserver.
    ///
    /// # Errors
    /// As [`elsewhere::api_for`].
    pub(crate) fn ds(&self, group: &GroupId) -> Result<Api> {
        elsewhere::api_for(&self.api, group.domain())
    }

    pub(crate) fn client_key(&self) -> PublicKey {
        self.account.client_key().public_key()
    }
}

/// The server's endpoints, paid for with the account's tokens.
pub(crate) fn api(store: &Arc<Store>, http: Http, account: &Account) -> Api {
    api_by(store, http.clone(), http, account)
}

/// The API as [`api`] gives it, with a connection of its own (`unnamed`) for requests that name nobody, apart from the one
/// on which tokens are asked for.
fn api_by(store: &Arc<Store>, http: Http, unnamed: Http, account: &Account) -> Api {
    let domain = account.user.domain().clone();
    let owner = Owner { domain: domain.clone(), client_key: account.client_key() };
    Api::new(unnamed.clone(), domain, Wallet::new(store.clone(), http, unnamed, owner))
}
