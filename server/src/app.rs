//! What every request shares: the home domain, the database, the keys of the services and
//! the wake-ups. Built once at start, cheap to clone.

use std::sync::Arc;

use postern_protocol::name::Domain;
use tokio::sync::watch;
use tokio_postgres::Row;

use crate::{
    aas::{issuer::Issuer, uses::Uses},
    auth::signer::Signer,
    config::Limits,
    database::Database,
    ds::external_sender::Senders,
    master_key::MasterKey,
    qs::{batch_signer::BatchSigner, push::Pusher, wakeups::Wakeups},
};

#[derive(Clone)]
pub struct App(Arc<Shared>);

pub struct Shared {
    pub domain: Domain,
    pub database: Database,
    pub master_key: MasterKey,
    /// Signs client credentials (AS-2).
    pub signer: Signer,
    /// Signs batches of KeyPackages (QS-6).
    pub batch_signer: BatchSigner,
    /// Proposes removals in groups (DS-10).
    pub senders: Senders,
    /// Issues and redeems tokens (AAS-2, AAS-4).
    pub issuer: Issuer,
    /// What tokens were spent for since that was last recorded (AAS-5).
    pub uses: Uses,
    pub wakeups: Wakeups,
    /// Wakes sleeping devices (QS-10), if the operator wants that.
    pub pusher: Option<Pusher>,
    pub limits: Limits,
    /// True once the server is shutting down: long-polls answer with what they have.
    pub stopping: watch::Receiver<bool>,
}

impl App {
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Sends the pushes that a committed delivery made due: its row's column `pushes`.
    pub fn push(&self, row: &Row) {
        let due: Option<Vec<&[u8]>> = row.get("pushes");
        if let (Some(pusher), Some(due)) = (&self.pusher, due) {
            pusher.send(&due);
        }
    }
}

impl std::ops::Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}
