//! The HTTP listener: it accepts connections, serves HTTP/1 or 2 on each with a timeout for headers, and ends
//! gracefully: long-polls answer, requests under way finish, no new ones are accepted. The router handles the requests.

use std::time::Duration;

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use warp::filters::BoxedFilter;

use crate::config::Limits;

/// The pause after a failure to accept, such as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is done and the requests under way have ended. Sets `stop` when `shutdown` is done.
pub async fn serve(
    listener: TcpListener,
    filter: BoxedFilter<(warp::reply::Response,)>,
    limits: &Limits,
    stop: &watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let service = TowerToHyperService::new(warp::service(filter));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout());
    server.http2().timer(TokioTimer::new());
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
    if tokio::time::timeout(limits.shutdown_grace(), connections.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the grace period ended");
    }
}

/// Raises the limit of open files: each waiting long-poll may keep a connection, and so a file descriptor.
pub fn allow_many_connections() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

fn prepare(stream: TcpStream) -> TokioIo<TcpStream> {
    // Answers are small and whole: waiting for more to send only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("cannot set TCP_NODELAY on a connection: {error}");
    }
    TokioIo::new(stream)
}
