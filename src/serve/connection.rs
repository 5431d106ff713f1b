//! gRPC connections: how our ports accept, serve, age and drain them.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, service::Routes, transport::server::TcpConnectInfo};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::mesh::model::Caller;

/// How connections are kept (contract §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// How often a quiet peer is pinged (`GRPC_KEEPALIVE_INTERVAL`).
    pub keepalive_interval: Duration,
    /// How long it may take to answer before it counts as gone (`GRPC_KEEPALIVE_TIMEOUT`).
    pub keepalive_timeout: Duration,
    /// The age at which a connection is ended, give or take a tenth, so that proxies spread over replicas
    /// (`--keepaliveMaxServerConnectionAge`).
    pub max_age: Duration,
    /// How long open streams may go on, when a connection is too old and on shutdown (`--shutdownDuration`).
    pub grace: Duration,
    /// How long the TLS handshake may take, and then the first request.
    pub handshake_timeout: Duration,
    /// How many TLS handshakes may be under way.
    pub max_handshakes: usize,
    /// How many requests one connection may have open.
    pub max_concurrent_streams: u32,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            max_age: Duration::from_secs(30 * 60),
            grace: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 512,
            max_concurrent_streams: 1000,
        }
    }
}

/// Serves plaintext gRPC (15010) until `shutdown`, and returns when all connections have ended or their grace is over.
///
/// Every request gets [`Caller::Anonymous`] as an extension, whatever it claims.
pub async fn serve_plain(listener: TcpListener, routes: Routes, options: ConnectionOptions, shutdown: CancellationToken) {
    let tracker = TaskTracker::new();
    let routes = routes.prepare();
    while let Some((stream, peer)) = accept(&listener, &shutdown).await {
        let (routes, shutdown) = (routes.clone(), shutdown.clone());
        tracker.spawn(async move {
            let info = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: Some(peer) };
            let handler = move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Caller::Anonymous);
                request.extensions_mut().insert(info.clone());
                call(routes.clone(), request)
            };
            serve_connection(stream, peer, handler, options, shutdown).await;
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// Waits for the next connection; `None` on shutdown.
pub(super) async fn accept(listener: &TcpListener, shutdown: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Without TCP_NODELAY every small answer waits 40 ms for the peer's delayed ACK.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%peer, %error, "TCP_NODELAY");
                }
                return Some((stream, peer));
            }
            Err(error) if is_peers_fault(&error) => debug!(%error, "a connection went before it was accepted"),
            Err(error) => {
                // Mostly there are no file descriptors left. Trying again at once would spin.
                warn!(%error, "cannot accept connections");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Passes one request to the routes.
pub(super) async fn call(routes: Routes, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(routes.oneshot(request.map(Body::new)).await.unwrap_or_else(|error| match error {}))
}

/// Speaks HTTP/2 on one connection until the peer is done, the connection is too old, or `shutdown`.
pub(super) async fn serve_connection<S, H, F>(
    stream: S,
    peer: SocketAddr,
    handler: H,
    options: ConnectionOptions,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let began = Instant::now();
    let has_request = Arc::new(AtomicBool::new(false));
    let received = has_request.clone();
    let service = service_fn(move |request| {
        received.store(true, Ordering::Relaxed);
        handler(request)
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_send_buf_size(64 << 10);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let age = sleep_until(began + spread(options.max_age, peer));
    let silence = async {
        sleep(options.handshake_timeout).await;
        if has_request.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let why = tokio::select! {
        ended = connection.as_mut() => return log_end(peer, ended),
        () = silence => return debug!(%peer, "connection without a request"),
        () = shutdown.cancelled() => "shutdown",
        () = age => "maximum age",
    };
    debug!(%peer, why, "draining connection");
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => log_end(peer, ended),
        () = sleep(options.grace) => debug!(%peer, "connection closed with streams open"),
    }
}

fn log_end(peer: SocketAddr, ended: hyper::Result<()>) {
    match ended {
        Ok(()) => debug!(%peer, "connection ended"),
        Err(error) => debug!(%peer, %error, "connection broke"),
    }
}

/// Returns 0.9 to 1.1 times the age, so that proxies that came together do not all leave together.
fn spread(age: Duration, peer: SocketAddr) -> Duration {
    age.mul_f64(0.9 + f64::from(peer.port() % 201) / 1000.0)
}
