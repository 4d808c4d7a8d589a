//! The HTTP listener: it accepts connections, serves HTTP/1 or 2 on each with a timeout for headers, and ends
//! gracefully: long-polls answer, requests under way finish, no new ones are accepted. The router handles the requests.

use std::{sync::Arc, time::Duration};

use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tower::ServiceExt;
use warp::filters::BoxedFilter;

use super::source::Peer;
use crate::config::{Limits, ProxyConfig};

/// The pause after a failure to accept, such as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is done and the requests under way have ended. Sets `stop` when `shutdown` is done.
pub async fn serve(
    listener: TcpListener,
    filter: BoxedFilter<(warp::reply::Response,)>,
    limits: &Limits,
    proxies: &Arc<ProxyConfig>,
    stop: &watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let service = warp::service(filter);
    let header_timeout = limits.header_timeout();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    server.http2().timer(TokioTimer::new());
    let connections = GracefulShutdown::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((mut stream, address)) => {
                    let (server, service) = (server.clone(), service.clone());
                    let (proxies, watcher) = (Arc::clone(proxies), connections.watcher());
                    tokio::spawn(async move {
                        let peer = timeout(header_timeout, Peer::of(&mut stream, address, &proxies));
                        let Ok(Ok(peer)) = peer.await else {
                            return tracing::debug!("a connection ended: a proxy sent no header");
                        };
                        let service = service.map_request(move |mut request: Request<Incoming>| {
                            let source = peer.source(request.headers(), &proxies);
                            request.extensions_mut().insert(source);
                            request
                        });
                        let service = TowerToHyperService::new(service);
                        let connection = server.serve_connection(prepare(stream), service);
                        let connection = watcher.watch(connection);
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
