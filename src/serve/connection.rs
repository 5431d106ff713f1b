//! gRPC connections: how our ports accept, serve, age and drain them.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, service::Routes, transport::server::TcpConnectInfo};
use tower::ServiceExt;

use super::{
    activity::Activity,
    arrival::{Begun, PLAIN, accept},
    beginning::Beginning,
    connections::{Connections, Place, Shown},
    lifetime::{Lifetime, live},
};
use crate::{
    mesh::model::Caller,
    polls::{RequestExecutor, Task, measured},
};

/// How much of a stream may come unread. The requests of proxies are read as they come.
const STREAM_WINDOW: u32 = 64 << 10;
/// How much of all streams of a connection may come unread: what any HTTP/2 connection begins with, so that a thousand streams
/// bring no more than one.
const CONNECTION_WINDOW: u32 = 64 << 10;

/// What a request without a head holds until it is answered or has become a stream, in bytes: its task.
const REQUEST: usize = 6 << 10;

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
    /// How long what a peer begins with may take until it is whole, then the TLS handshake, and then the first request.
    pub handshake_timeout: Duration,
    /// How long a connection may be open without a stream.
    pub idle: Duration,
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
            idle: Duration::from_secs(5 * 60),
            max_concurrent_streams: 1000,
        }
    }
}

/// Serves plaintext gRPC (15010) until `shutdown`, and returns when all connections have ended or their grace is over.
///
/// Every request gets [`Caller::Anonymous`] as an extension, whatever it claims.
pub async fn serve_plain(
    listener: TcpListener,
    routes: Routes,
    options: ConnectionOptions,
    connections: Connections,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let routes = routes.prepare();
    while let Some(arrival) = accept(&listener, &connections, &shutdown).await {
        let (routes, shutdown) = (routes.clone(), shutdown.clone());
        tracker.spawn(async move {
            let begun = arrival.begun(Beginning::Preface, PLAIN, options.handshake_timeout, &shutdown).await;
            let Some(begun) = begun else { return };
            // Apart, so that the task of a silent connection is small.
            measured(Task::Connection, plain(begun, routes, options, shutdown)).await;
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn plain(begun: Begun, routes: Routes, options: ConnectionOptions, shutdown: CancellationToken) {
    let Begun { stream, peer, place } = begun;
    let info = TcpConnectInfo { local_addr: stream.local_addr(), remote_addr: Some(peer) };
    let handler = move |mut request: Request<Incoming>, place: Arc<Place>| {
        place.show(Shown::Request);
        request.extensions_mut().insert(Caller::Anonymous);
        request.extensions_mut().insert(info.clone());
        call(routes.clone(), request)
    };
    serve_connection(stream, peer, handler, options, place, shutdown).await;
}

/// Passes one request to the routes.
pub(super) async fn call(routes: Routes, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(routes.oneshot(request.map(Body::new)).await.unwrap_or_else(|error| match error {}))
}

/// Speaks HTTP/2 on one connection until it [ends](live).
pub(super) async fn serve_connection<S, H, F>(
    stream: S,
    peer: SocketAddr,
    handler: H,
    options: ConnectionOptions,
    place: Place,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, Arc<Place>) -> F + Send + 'static,
    F: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let (activity, place) = (Activity::new(), Arc::new(place));
    let (requests, of_request) = (activity.clone(), Arc::clone(&place));
    let service = service_fn(move |request| {
        let open = requests.begin();
        let admitted = of_request.take_for_request(held_by(&request)).map(|portion| (portion, handler(request, Arc::clone(&of_request))));
        async move {
            let answer = match admitted {
                Ok((_portion, answer)) => answer.await?,
                Err(error) => Status::resource_exhausted(error.to_string()).into_http(),
            };
            Ok::<_, Infallible>(answer.map(|body| open.cover(body)))
        }
    });
    let mut builder = http2::Builder::new(RequestExecutor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(64 << 10);
    let lifetime =
        Lifetime { first_request: options.handshake_timeout, idle: options.idle, age: spread(options.max_age, peer), grace: options.grace };
    live(builder.serve_connection(TokioIo::new(stream), service), peer, &place, &activity, lifetime, &shutdown).await;
}

/// Returns how many bytes a request holds: its head, as it came and as a map.
fn held_by<B>(request: &Request<B>) -> usize {
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    REQUEST + 2 * headers
}

/// Returns 0.9 to 1.1 times the age, so that proxies that came together do not all leave together.
fn spread(age: Duration, peer: SocketAddr) -> Duration {
    age.mul_f64(0.9 + f64::from(peer.port() % 201) / 1000.0)
}
