//! The services of one server process, each with a state of its own over the shared home. An endpoint gets the state of
//! its own service only: one of the AS cannot reach the QS (PRIV-1).

use std::sync::Arc;

use crate::{
    aas::Aas,
    auth::As,
    config::Config,
    database::listener::Subscriber,
    ds::Ds,
    federation::Federation,
    home::Home,
    metrics::Instruments,
    qs::{Qs, delivery_figures::DeliveryFigures, push::Pusher},
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
    pub federation: Federation,
    deliveries: DeliveryFigures,
}

impl App {
    /// Loads the services' keys, after making those that are due.
    ///
    /// # Errors
    /// A database that does not answer, keys that do not open under the master key.
    pub async fn load(home: &Home, config: &Config) -> anyhow::Result<Self> {
        let pusher = Pusher::load(&config.push, home).await?;
        let (aas, deliveries) = (Aas::load(home, &config.federation).await?, DeliveryFigures::default());
        let federation = Federation::load(home, config, aas.clone()).await?;
        Ok(Self {
            about: home.clone(),
            auth: As::load(home, &config.oidc).await?,
            ds: Ds::load(home, pusher.clone(), federation.bell(), deliveries.clone()).await?,
            qs: Qs::load(home, &config.federation, pusher, deliveries.clone()).await?,
            rendezvous: Rendezvous::new(home),
            federation,
            aas,
            deliveries,
        })
    }

    /// Lets the figures of all services be seen.
    pub fn register(&self, instruments: &mut Instruments) {
        self.about.database.register(instruments);
        self.aas.register(instruments);
        self.deliveries.register(instruments);
        self.qs.pusher.register(instruments);
        self.federation.register(instruments);
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
