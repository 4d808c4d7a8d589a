//! A session: store, server, account and options, which everything that a client does shares.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use postern_api::Http;
use postern_protocol::PublicKey;

use crate::{
    account::Account,
    error::{Error, Result},
    options::Options,
    server::Api,
    store::Store,
    tokens::{Owner, Wallet},
};

pub(crate) struct Session {
    pub store: Arc<Store>,
    pub api: Api,
    pub options: Options,
    /// As it was when the client was opened: its keys stay.
    pub account: Account,
    doubted: Mutex<HashSet<PublicKey>>,
}

impl Session {
    /// # Errors
    /// [`Error::NotReady`], and those of the server's address.
    pub(crate) fn open(store: Arc<Store>, options: Options) -> Result<Self> {
        let account = store.read(Account::find)?.filter(|account| account.ready).ok_or(Error::NotReady)?;
        let http = Http::new(options.server.as_deref().unwrap_or(&account.server))?;
        let api = api(&store, http, &account);
        Ok(Self { store, api, options, account, doubted: Mutex::default() })
    }

    pub(crate) fn client_key(&self) -> PublicKey {
        self.account.client_key().public_key()
    }

    /// Clients that a lookup did not confirm: they are not looked up over and over.
    pub(crate) fn doubted(&self) -> MutexGuard<'_, HashSet<PublicKey>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server's endpoints, paid for with the account's tokens.
pub(crate) fn api(store: &Arc<Store>, http: Http, account: &Account) -> Api {
    let domain = account.user.domain().clone();
    let owner = Owner { domain: domain.clone(), client_key: account.client_key() };
    Api::new(http.clone(), domain, Wallet::new(store.clone(), http, owner))
}
