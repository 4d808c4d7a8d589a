//! The HTTP listener: it accepts connections, with TLS if there is a certificate, serves HTTP/1 or 2 on each, and ends
//! gracefully: long-polls answer, requests under way finish, no new ones are accepted. From its first byte on, a
//! connection has a time for everything that it has to send (OPS-9), and when there are too many, one goes that does
//! nothing. The router handles the requests.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    pin, select,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use warp::filters::BoxedFilter;

use super::{
    connections::{Connection, Connections},
    source::Peer,
    tls::ServerCertificate,
    unread::Unread,
};
use crate::config::{Limits, ProxyConfig};

/// The pause after a failure to accept, such as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// File descriptors that connections leave for the database, pushes and the rest of the process.
const RESERVED_FILES: u64 = 128;
/// Part of the connections that one source can have, unless it is configured.
const SHARES: usize = 4;
/// Most connections, unless they are configured: some gigabyte of memory when all are used.
const MOST_CONNECTIONS: usize = 32 * 1024;
/// Time that an HTTP/2 connection that has to end has for its last answers.
const FAREWELL: Duration = Duration::from_secs(120);
/// Time without a word after which a peer is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// HTTP/2 flow control, in bytes: what a peer may send before the server has room for it, on a stream and in all.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Time within which a peer must read as much of its answers as the least rate asks for.
const WINDOW: Duration = Duration::from_secs(10);

type Filter = BoxedFilter<(warp::reply::Response,)>;

/// A listener's settings.
pub struct Settings {
    pub limits: Limits,
    pub proxies: ProxyConfig,
    /// Without one, the listener speaks plain HTTP.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// The connections that the listener accepts.
    pub connections: Connections,
}

/// The parts that all connections share.
struct Listener {
    settings: Settings,
    server: auto::Builder<TokioExecutor>,
    filter: Filter,
    /// True once connections have to end.
    ending: watch::Receiver<bool>,
}

/// Serves until `shutdown` is done and the requests under way have ended. Sets `stop` when `shutdown` is done.
pub async fn serve(
    listener: TcpListener,
    filter: Filter,
    settings: Settings,
    stop: &watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let grace = settings.limits.shutdown_grace();
    let connections = settings.connections.clone();
    let (end, ending) = watch::channel(false);
    let server = server(&settings.limits);
    let shared = Arc::new(Listener { settings, server, filter, ending });
    let accept = async {
        loop {
            match listener.accept().await {
                // One that is not admitted is closed at once.
                Ok((stream, address)) => {
                    if let Some(connection) = connections.admit() {
                        let shared = Arc::clone(&shared);
                        tokio::spawn(async move { shared.serve(stream, address, connection).await });
                    }
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop((listener, shared));
    stop.send_replace(true);
    end.send_replace(true);
    // Each connection holds a receiver.
    if timeout(grace, end.closed()).await.is_err() {
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

/// The places for connections that these limits leave.
pub fn connections(limits: &Limits) -> Connections {
    let (most, most_of_source) = most_connections(limits);
    tracing::debug!("at most {most} connections, {most_of_source} of one source");
    let most_unread = usize::try_from(limits.answers_bytes).unwrap_or(usize::MAX);
    Connections::new(most, most_of_source, most_unread)
}

/// The number of connections in all, and of one source. Unless they are configured, they follow from the limit of open
/// files, so that there are always some left to accept a connection with, and to reach the database.
fn most_connections(limits: &Limits) -> (usize, usize) {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let most = files.saturating_sub(RESERVED_FILES).max(files / 4).max(1);
    let most = usize::try_from(most).map_or(MOST_CONNECTIONS, |most| most.min(MOST_CONNECTIONS));
    let most = limits.max_connections.unwrap_or(most);
    (most, limits.max_connections_per_source.unwrap_or((most / SHARES).max(1)))
}

fn server(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    let header_bytes = usize::try_from(limits.max_header_bytes).unwrap_or(usize::MAX);
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout())
        .max_buf_size(header_bytes);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.http2_ping())
        .keep_alive_timeout(limits.http2_ping())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    server
}

impl Listener {
    /// Serves a connection to its end.
    async fn serve(self: Arc<Self>, mut stream: TcpStream, address: SocketAddr, connection: Connection) {
        let Settings { limits, proxies, certificate, .. } = &self.settings;
        let mut ending = self.ending.clone();
        if let Err(error) = prepare(&stream, limits) {
            tracing::debug!("cannot set options of a connection: {error}");
        }
        let peer = select! {
            peer = timeout(limits.header_timeout(), Peer::of(&mut stream, address, proxies)) => peer,
            _ = ending.wait_for(|ending| *ending) => return,
        };
        let Ok(Ok(peer)) = peer else {
            return tracing::debug!("a connection ended: a proxy sent no header");
        };
        if !peer.is_shared() && !connection.belongs_to(peer.address()) {
            return;
        }
        let Some(certificate) = certificate else { return self.talk(stream, peer, connection).await };
        // Its time is that of the first request's header, of which there is none before.
        let handshake =
            timeout(limits.header_timeout(), TlsAcceptor::from(certificate.config()).accept(stream));
        let stream = select! {
            stream = handshake => stream,
            () = connection.activity().evicted() => return,
            _ = ending.wait_for(|ending| *ending) => return,
        };
        match stream {
            Ok(Ok(stream)) => self.talk(stream, peer, connection).await,
            Ok(Err(error)) => tracing::debug!("a connection ended: no TLS: {error}"),
            Err(_) => tracing::debug!("a connection ended: its TLS took too long"),
        }
    }

    /// Serves the requests that come over a connection.
    async fn talk(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        connection: Connection,
    ) {
        let limits = &self.settings.limits;
        let mut ending = self.ending.clone();
        let (shared, activity) = (Arc::clone(&self), Arc::clone(connection.activity()));
        let connections = connection.all().clone();
        let filter = TowerToHyperService::new(warp::service(self.filter.clone()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let underway = activity.request();
            let source = peer.source(request.headers(), &shared.settings.proxies);
            request.extensions_mut().insert(activity.arrival(source));
            let answer = filter.call(request);
            let connections = connections.clone();
            async move {
                let answer = answer.await?;
                let reading = |bytes| connections.answered(underway, bytes);
                Ok::<_, Infallible>(Unread::answer(answer, reading))
            }
        });
        let serving = self.server.serve_connection(TokioIo::new(stream), service);
        pin!(serving);
        let activity = connection.activity();
        select! {
            ended = serving.as_mut() => return log(ended),
            () = activity.evicted() => return,
            () = activity.stalled(WINDOW, limits.body_bytes_per_second.saturating_mul(WINDOW.as_secs())) => {
                return tracing::debug!("a connection ended: its peer does not read");
            }
            had_requests = activity.expired(limits.header_timeout(), limits.idle_timeout()) => if !had_requests {
                return;
            },
            _ = ending.wait_for(|ending| *ending) => {}
        }
        serving.as_mut().graceful_shutdown();
        select! {
            ended = timeout(FAREWELL, serving) => log(ended.unwrap_or(Ok(()))),
            () = activity.evicted() => {}
        }
    }
}

fn log<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Sets a connection's options. A peer that is gone without a word, or that reads nothing of what is sent to it, ends
/// the connection.
fn prepare(stream: &TcpStream, limits: &Limits) -> std::io::Result<()> {
    // Answers are small and whole: waiting for more to send only delays them.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(limits.idle_timeout()))
}
