//! A server process: home, services, router and listener, put together and run until it is told to stop.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use tokio::{
    net::TcpListener,
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::{
    app::App,
    config::{Config, Limits, ProxyConfig},
    database::{Database, listener},
    from_files::Watched,
    home::{self, Home},
    http::{self, Origins, RequestFigures, server, tls::ServerCertificate},
    keys::MasterKeys,
    metrics_listener::{self, Scrape},
    routes,
    say::say,
    service_manager, tls,
    upkeep::{self, ChoreFigures},
};

/// Time after which an address for metrics that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

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
    let host = tls::host(&config.base_url(), &config.domain);
    let certificate = ServerCertificate::load(&config.tls, host)?;
    let hangups = signal(SignalKind::hangup())?;
    let (stop, stopping) = watch::channel(false);
    let domain = config.domain.parse()?;
    let origins = Origins::new(&config.allowed_origins);
    let limits = config.limits.clone();
    let home = Home::new(home::Shared { domain, database, master_key, limits, stopping });
    let app = App::load(&home, &config).await?;
    let (requests, chores) = (RequestFigures::default(), ChoreFigures::default());
    let gate = Arc::new(app.aas.clone());
    let filter = http::filter(&home, gate, app.clone(), routes::all(), origins, requests.clone());

    server::allow_many_connections();
    let connections = server::connections(&home.limits);
    let listener = bind(config.listen).await?;
    let metrics = match config.metrics.listen {
        Some(address) => Some((address, bind(address).await)),
        None => None,
    };
    let scheme = if certificate.is_some() { "https" } else { "http" };
    say(format_args!("serving {} at {scheme}://{}", config.domain, listener.local_addr()?));
    // The tasks in this set end with this function.
    let mut background = JoinSet::new();
    let (database, subscribers) = (home.database.clone(), app.subscribers());
    background.spawn(async move { listener::listen(&database, &subscribers).await });
    let (database, wakeups) = (home.database.clone(), app.qs.wakeups.clone());
    background.spawn(async move { wakeups.sweep(&database).await });
    let federation = app.federation.clone();
    background.spawn(async move { federation.drain().await });
    let certificate_files = certificate.as_ref().map(|certificate| certificate.files());
    let files = [certificate_files, home.database.tls_files(), app.federation.authority_files()];
    let files: Vec<_> = files.into_iter().flatten().collect();
    for chore in upkeep::chores(&app, &files) {
        background.spawn(chore.keep(chores.clone()));
    }
    if let Some((address, bound)) = metrics {
        let (connections, certificate) = (connections.clone(), certificate.clone());
        let scrape = Scrape::new(&config, &app, requests, &chores, connections, certificate);
        let limits = metrics_listener::limits(&home.limits);
        background.spawn(async move {
            let listener = when_bound(address, bound).await;
            show_metrics(listener, scrape, limits).await;
        });
    }
    background.spawn(reload(hangups, files));
    let limits = home.limits.clone();
    let settings = server::Settings { limits, proxies: config.proxy, certificate, connections };
    // Without one of its tasks a server would go wrong in silence: it ends, so that it is started again.
    let mut lacks_task = false;
    let shutdown = async {
        select! {
            () = shutdown => {}
            _ = background.join_next() => lacks_task = true,
        }
        service_manager::stopping();
    };
    service_manager::ready();
    server::serve(listener, filter, settings, &stop, shutdown).await;
    background.abort_all();
    ensure!(!lacks_task, "a background task of the server ended");
    if let Err(error) = app.aas.record_uses().await {
        tracing::warn!("the last minute's use of tokens is lost: {error:#}");
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// The listener for metrics. Where its address is taken, the server serves all the same: `postern setup` has chosen it, and
/// messages are worth more than figures. It is there once the address is free, as after another server that was replaced.
async fn when_bound(address: SocketAddr, bound: anyhow::Result<TcpListener>) -> TcpListener {
    let listener = match bound {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                "metrics.listen: {error:#}: there are no metrics until it can; `postern check` says more"
            );
            loop {
                sleep(AGAIN).await;
                if let Ok(listener) = bind(address).await {
                    break listener;
                }
            }
        }
    };
    if let Ok(address) = listener.local_addr() {
        say(format_args!("metrics at http://{address}/metrics"));
    }
    listener
}

/// Shows metrics for ever, also while the server waits for its last requests.
async fn show_metrics(listener: TcpListener, scrape: Scrape, limits: Limits) {
    let connections = server::connections(&limits);
    let proxies = ProxyConfig::default();
    let settings = server::Settings { limits, proxies, certificate: None, connections };
    let (stop, _) = watch::channel(false);
    server::serve(listener, metrics_listener::filter(scrape), settings, &stop, pending()).await;
}

/// Takes over other certificates at once when SIGHUP asks for it, as `systemctl reload` does, instead of within seconds.
async fn reload(mut hangups: Signal, files: Vec<Arc<dyn Watched>>) {
    while hangups.recv().await.is_some() {
        for files in &files {
            if let Err(error) = files.renew().await {
                tracing::warn!("could not {}: {error:#}", files.name());
            }
        }
        tracing::info!("looked at the files of certificates");
    }
}
