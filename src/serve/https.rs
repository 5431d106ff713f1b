//! Port 15017: the webhooks that the API server calls, over TLS (contract §1.1). The caller is not authenticated: the API server
//! has no certificate of ours, and an answer tells nothing that was not in the question.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

use super::{
    connection::accept,
    readiness::Readiness,
    tls::{TlsIdentity, TlsParameters},
};
use crate::webhook::review::MOST_OF_REVIEW;

/// The most that callers may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most bytes of a request's body.
    pub body: usize,
    /// How many requests are answered at a time; more wait.
    pub requests: usize,
    /// How many connections are open at a time; more wait.
    pub connections: usize,
    /// How long a request may take.
    pub request_time: Duration,
    /// How long the TLS handshake may take.
    pub handshake_time: Duration,
    /// How long an HTTP/1.1 connection may be quiet: longer than Go's client keeps one, so that it never sends a request on a
    /// connection that is being closed.
    pub quiet_time: Duration,
    /// How long open requests may go on after shutdown.
    pub grace: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            body: MOST_OF_REVIEW,
            requests: 32,
            connections: 512,
            request_time: Duration::from_secs(10),
            handshake_time: Duration::from_secs(10),
            quiet_time: Duration::from_secs(120),
            grace: Duration::from_secs(10),
        }
    }
}

/// Returns the routes: those of the webhooks, within `bounds`, and `/ready`.
pub fn router(webhooks: Router, readiness: Readiness, bounds: Bounds) -> Router {
    let turns = Arc::new(Semaphore::new(bounds.requests));
    let bounded = webhooks
        .layer(DefaultBodyLimit::max(bounds.body))
        .layer(middleware::from_fn(move |request, next| in_time(request, next, Arc::clone(&turns), bounds.request_time)));
    bounded.route("/ready", get(move || ready(readiness.clone())))
}

/// Serves HTTPS until `shutdown`, and returns when all connections have ended or their grace is over.
pub async fn serve(listener: TcpListener, tls: Arc<TlsIdentity>, routes: Router, bounds: Bounds, shutdown: CancellationToken) {
    let tracker = TaskTracker::new();
    let connections = Arc::new(Semaphore::new(bounds.connections));
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        let Some((stream, peer)) = accept(&listener, &shutdown).await else { break };
        let (tls, routes, shutdown) = (Arc::clone(&tls), routes.clone(), shutdown.clone());
        tracker.spawn(async move {
            match timeout(bounds.handshake_time, handshake(stream, &tls)).await {
                Ok(Ok(stream)) => connection(stream, peer, routes, bounds, shutdown).await,
                Ok(Err(error)) => info!(%peer, %error, "TLS handshake failed"),
                Err(_) => info!(%peer, "TLS handshake timed out"),
            }
            drop(permit);
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn handshake(stream: tokio::net::TcpStream, tls: &TlsIdentity) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
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
    stream: TlsStream<tokio::net::TcpStream>,
    peer: SocketAddr,
    routes: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.quiet_time);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(bounds.grace, connection).await {
                Ok(ended) => ended,
                Err(_) => return debug!(%peer, "connection closed with a request open"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error, "connection broke");
    }
}

async fn in_time(request: Request, next: Next, turns: Arc<Semaphore>, time: Duration) -> Response {
    let answered = timeout(time, async {
        let _turn = turns.acquire().await;
        next.run(request).await
    });
    answered.await.unwrap_or_else(|_| (StatusCode::SERVICE_UNAVAILABLE, "no answer in time").into_response())
}

async fn ready(readiness: Readiness) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return StatusCode::OK.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))).into_response()
}
