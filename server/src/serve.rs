//! The HTTP server: binds, takes connections, drives each with header timeout and HTTP/1
//! or 2, and ends gracefully: long-polls answer, requests under way finish, nothing new is
//! taken. What a request means is [`crate::road`]'s business.

use std::time::Duration;

use anyhow::Context;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use postern_protocol::name::Domain;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    aas::{housekeeping, issuer::Issuer, uses::Uses},
    app::{App, Shared},
    auth::signer::Signer,
    config::Config,
    database::Database,
    ds::{self, external_sender::Senders},
    master_key::MasterKey,
    qs::{self, batch_signer::BatchSigner, push::Pusher, wakeups::Wakeups},
    road, routes,
};

/// How long to leave the listener alone when it fails, as it does when file descriptors
/// run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is done and what was under way has ended.
///
/// # Errors
/// What keeps the server from starting: an invalid domain, keys that do not open under the
/// master key, an address in use, a database that does not answer.
pub async fn run(
    config: Config,
    database: Database,
    master_key: MasterKey,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let domain: Domain = config.domain.parse()?;
    let signer = Signer::load(&database, &master_key).await?;
    let batch_signer = BatchSigner::load(&database, &master_key).await?;
    let senders = Senders::load(&database, &master_key, &domain).await?;
    let issuer = Issuer::load(&database, &master_key, &domain).await?;
    let pusher = Pusher::load(&config.push, &database, &master_key).await?;
    let wakeups = Wakeups::default();
    let (stop, stopping) = watch::channel(false);
    let grace = config.limits.shutdown_grace();
    let header_timeout = config.limits.header_timeout();
    let app = App::new(Shared {
        domain,
        database: database.clone(),
        master_key,
        signer,
        batch_signer,
        senders,
        issuer,
        uses: Uses::default(),
        wakeups: wakeups.clone(),
        pusher,
        limits: config.limits,
        stopping,
    });
    let service = TowerToHyperService::new(warp::service(road::filter(&app, &routes::all())));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    server.http2().timer(TokioTimer::new());

    allow_many_connections();
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    println!("postern: serving {} at http://{}", config.domain, listener.local_addr()?);
    let keys_changed = app.issuer.changed();
    let listening = tokio::spawn(async move {
        tokio::join!(wakeups.listen(&database, &keys_changed), wakeups.sweep(&database));
    });
    let housekeeping = tokio::spawn(housekeeping::keep(app.clone()));
    let upkeep = [tokio::spawn(qs::upkeep::keep(app.clone())), tokio::spawn(ds::upkeep::keep(app.clone()))];

    let connections = GracefulShutdown::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = server.serve_connection_with_upgrades(prepare(stream), service.clone());
                    let connection = connections.watch(connection.into_owned());
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!("a connection ended: {error}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop(listener);
    stop.send_replace(true);
    if tokio::time::timeout(grace, connections.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the grace period ended");
    }
    listening.abort();
    housekeeping.abort();
    upkeep.iter().for_each(JoinHandle::abort);
    if let Err(error) = housekeeping::record(&app).await {
        tracing::warn!("the last minute's use of tokens is lost: {error:#}");
    }
    Ok(())
}

/// Each waiting long-poll may keep a connection, and so a file descriptor.
fn allow_many_connections() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the number of open files stays as it is: {error}");
    }
}

fn prepare(stream: TcpStream) -> TokioIo<TcpStream> {
    // Answers are small and whole: waiting for more to send only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("a connection keeps its delay: {error}");
    }
    TokioIo::new(stream)
}
