//! Port 15017: the webhooks that the API server calls, over TLS (contract §1.1). The caller is not authenticated: the API server
//! has no certificate of ours, and an answer tells nothing that was not in the question.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    activity::Activity,
    arrival::{Begun, ENCRYPTED, accept},
    beginning::Beginning,
    connections::{Connections, Place, Shown},
    handshake::in_time,
    lifetime::{Lifetime, live},
    read_ahead::ReadAhead,
    readiness::Readiness,
    reviews::{Limits, Reviews, bounded},
    tls::{TlsIdentity, TlsParameters},
};
use crate::{
    budget::Budget,
    polls::{RequestExecutor, Task, measured},
    webhook::review::MOST_OF_REVIEW,
};

/// How much of a request may come unread.
const STREAM_WINDOW: u32 = 64 << 10;
/// How much of all requests of a connection may come unread: enough for those that wait, so that they hold up no other.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// How many requests one connection may have open; the API server sends all over one.
const MOST_REQUESTS: u32 = 100;
/// How large the head of an HTTP/1.1 request may be, in bytes.
const HEAD: usize = 32 << 10;

/// The most that callers may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most bytes of a request's body.
    pub body: usize,
    /// How many requests are answered at a time; more wait.
    pub requests: usize,
    /// How many of them, of large ones and of small ones each, may wait until they can be paid for.
    pub waiting: usize,
    /// How long a request may take.
    pub request_time: Duration,
    /// How long what a peer begins with may take until it is whole, then the TLS handshake, and then the first request.
    pub handshake_time: Duration,
    /// How long a connection may be quiet: longer than Go's client keeps one, so that it never sends a request on a
    /// connection that is being closed.
    pub quiet_time: Duration,
    /// When a connection is asked to come again.
    pub age: Duration,
    /// How long open requests may go on after shutdown.
    pub grace: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            body: MOST_OF_REVIEW,
            requests: 64,
            // With what may come unread of each, 32 MB.
            waiting: 512,
            request_time: Duration::from_secs(10),
            handshake_time: Duration::from_secs(10),
            quiet_time: Duration::from_secs(120),
            age: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(10),
        }
    }
}

/// Returns the routes: those of the webhooks, within `bounds` and `budget`, and `/ready`.
pub fn router(webhooks: Router, readiness: Readiness, bounds: Bounds, budget: Budget) -> Router {
    let limits = Limits { body: bounds.body, at_a_time: bounds.requests, waiting: bounds.waiting, time: bounds.request_time };
    let reviews = Reviews::new(limits, budget);
    let within = webhooks
        .layer(DefaultBodyLimit::max(bounds.body))
        .layer(middleware::from_fn(move |request: Request, next: Next| bounded(reviews.clone(), request, next)));
    within.route("/ready", get(move || ready(readiness.clone())))
}

/// Serves HTTPS until `shutdown`, and returns when all connections have ended or their grace is over.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<TlsIdentity>,
    routes: Router,
    bounds: Bounds,
    connections: Connections,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    while let Some(arrival) = accept(&listener, &connections, &shutdown).await {
        let (tls, routes, shutdown) = (Arc::clone(&tls), routes.clone(), shutdown.clone());
        tracker.spawn(async move {
            let begun = arrival.begun(Beginning::ClientHello, ENCRYPTED, bounds.handshake_time, &shutdown).await;
            let Some(begun) = begun else { return };
            // Apart, so that the task of a silent connection is small.
            measured(Task::Connection, encrypted(begun, tls, routes, bounds, shutdown)).await;
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn encrypted(begun: Begun, tls: Arc<TlsIdentity>, routes: Router, bounds: Bounds, shutdown: CancellationToken) {
    let Begun { stream, peer, place } = begun;
    let handshake = handshake(stream, &tls);
    let Some(stream) = in_time(handshake, peer, &place, bounds.handshake_time, &shutdown).await else { return };
    connection(stream, peer, place, routes, bounds, shutdown).await;
}

async fn handshake(stream: ReadAhead, tls: &TlsIdentity) -> std::io::Result<TlsStream<ReadAhead>> {
    let config = without_clients(&tls.config(), tls.protocol()).map_err(std::io::Error::other)?;
    TlsAcceptor::from(Arc::new(config)).accept(stream).await
}

/// Returns a configuration with the same certificate, without asking for the client's, and HTTP/1.1 beside HTTP/2.
fn without_clients(config: &ServerConfig, protocol: &TlsParameters) -> Result<ServerConfig, rustls::Error> {
    let mut plain = ServerConfig::builder_with_provider(Arc::clone(config.crypto_provider()))
        .with_protocol_versions(protocol.versions())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&config.cert_resolver));
    plain.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    plain.send_tls13_tickets = 0;
    Ok(plain)
}

async fn connection(
    stream: TlsStream<ReadAhead>,
    peer: SocketAddr,
    place: Place,
    routes: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
) {
    let (activity, place) = (Activity::new(), Arc::new(place));
    let (requests, of_request) = (activity.clone(), Arc::clone(&place));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        of_request.show(Shown::Request);
        let (open, answer) = (requests.begin(), routes.clone().oneshot(request.map(Body::new)));
        async move { answer.await.map(|response| response.map(|body| open.cover(body))) }
    });
    let mut builder = auto::Builder::new(RequestExecutor);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.quiet_time).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_REQUESTS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let lifetime = Lifetime { first_request: bounds.handshake_time, idle: bounds.quiet_time, age: bounds.age, grace: bounds.grace };
    live(builder.serve_connection(TokioIo::new(stream), service), peer, &place, &activity, lifetime, &shutdown).await;
}

async fn ready(readiness: Readiness) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return StatusCode::OK.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))).into_response()
}
