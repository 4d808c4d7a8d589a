//! The services of one server process, each with a state of its own over the shared home. An endpoint gets the state of
//! its own service only: one of the AS cannot reach the QS (PRIV-1).

use std::sync::Arc;

use crate::{
    aas::Aas,
    auth::As,
    config::{OidcConfig, PushConfig},
    database::listener::Subscriber,
    ds::Ds,
    home::Home,
    qs::{Qs, push::Pusher},
    rendezvous::Rendezvous,
};

#[derive(Clone)]
pub struct App {
    pub about: Home,
    pub auth: As,
    pub aas: Aas,
    pub ds: Ds,
    pub qs: Qs,
    pub rendezvous: Rendezvous,
}

impl App {
    /// Loads the services' keys, after making those that are due.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn load(home: &Home, push: &PushConfig, oidc: &OidcConfig) -> anyhow::Result<Self> {
        let pusher = Pusher::load(push, home).await?;
        Ok(Self {
            about: home.clone(),
            auth: As::load(home, oidc).await?,
            aas: Aas::load(home).await?,
            ds: Ds::load(home, pusher.clone()).await?,
            qs: Qs::load(home, pusher).await?,
            rendezvous: Rendezvous::new(home),
        })
    }

    /// The parts that listen for the database's notifications.
    pub fn subscribers(&self) -> [Arc<dyn Subscriber>; 3] {
        [
            Arc::new(self.qs.wakeups.clone()),
            Arc::new(self.aas.clone()),
            Arc::new(self.rendezvous.bell.clone()),
        ]
    }
}
