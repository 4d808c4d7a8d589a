//! A server process: home, services, router and listener, put together and run until it is told to stop.

use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio::{net::TcpListener, select, sync::watch, task::JoinSet};

use crate::{
    app::App,
    config::Config,
    database::{Database, listener},
    home::{self, Home},
    http::{self, Origins, server},
    keys::MasterKeys,
    routes, upkeep,
};

/// Serves until `shutdown` is done and the requests under way have ended.
///
/// # Errors
/// An invalid domain, keys that do not open under the master key, an address in use, a database that does not answer.
pub async fn run(
    config: Config,
    database: Database,
    master_key: MasterKeys,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let domain = config.domain.parse()?;
    let origins = Origins::new(&config.allowed_origins);
    let limits = config.limits;
    let home = Home::new(home::Shared { domain, database, master_key, limits, stopping });
    let app = App::load(&home, &config.push, &config.oidc).await?;
    let filter = http::filter(&home, Arc::new(app.aas.clone()), app.clone(), routes::all(), origins);

    server::allow_many_connections();
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    println!("postern: serving {} at http://{}", config.domain, listener.local_addr()?);
    // The tasks in this set end with this function.
    let mut background = JoinSet::new();
    let (database, subscribers) = (home.database.clone(), app.subscribers());
    background.spawn(async move { listener::listen(&database, &subscribers).await });
    let (database, wakeups) = (home.database.clone(), app.qs.wakeups.clone());
    background.spawn(async move { wakeups.sweep(&database).await });
    for chore in upkeep::chores(&app) {
        background.spawn(chore.keep());
    }
    let settings = server::Settings { limits: home.limits.clone(), proxies: config.proxy };
    // Without one of its tasks a server would go wrong in silence: it ends, so that it is started again.
    let mut lacks_task = false;
    let shutdown = async {
        select! {
            () = shutdown => {}
            _ = background.join_next() => lacks_task = true,
        }
    };
    server::serve(listener, filter, settings, &stop, shutdown).await;
    background.abort_all();
    ensure!(!lacks_task, "a background task of the server ended");
    if let Err(error) = app.aas.record_uses().await {
        tracing::warn!("the last minute's use of tokens is lost: {error:#}");
    }
    Ok(())
}
