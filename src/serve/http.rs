//! The HTTP ports: 8080 (`/ready`) and 15014 (`/metrics`, `/version`), and `/debug/*` on both (contract §1.2).

use std::{future::Future, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::{convergence::Convergence, diagnostics::Standing, readiness::Readiness};

/// What the HTTP ports show.
#[derive(Clone)]
pub struct Exposed {
    /// For `/ready`.
    pub readiness: Arc<Readiness>,
    /// For `/metrics`.
    pub registry: Arc<Registry>,
    /// For `/debug/convergence`.
    pub convergence: Arc<Convergence>,
    /// For `/debug/diagnostics`.
    pub diagnostics: Arc<Standing>,
    /// For `/debug/syncz` and `/debug/config_dump`.
    pub proxies: Arc<dyn Proxies>,
}

/// What is known about connected proxies.
pub trait Proxies: Send + Sync {
    /// One entry a connected proxy, in the shape of istiod's `/debug/syncz`.
    fn sync_status(&self) -> serde_json::Value;

    /// What the proxy whose id contains `id` is to have, as JSON by type and name; `None` when no such proxy is here.
    fn config_dump(&self, id: &str) -> Option<serde_json::Value>;
}

/// `--version` as `/version` shows it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Serves one HTTP port until `stop` resolves; requests under way are finished.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, exposed: Exposed, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    axum::serve(listener, router(exposed)).with_graceful_shutdown(stop).await
}

/// All paths; both ports serve the same ones, as with istiod.
pub fn router(exposed: Exposed) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(|| async { VERSION }))
        .route("/debug/list", get(|| async { Json(["config_dump", "convergence", "diagnostics", "syncz"]) }))
        .route("/debug/convergence", get(|State(exposed): State<Exposed>| async move { Json(exposed.convergence.records()) }))
        .route("/debug/diagnostics", get(|State(exposed): State<Exposed>| async move { Json(exposed.diagnostics.lines()) }))
        .route("/debug/syncz", get(|State(exposed): State<Exposed>| async move { Json(exposed.proxies.sync_status()) }))
        .route("/debug/config_dump", get(config_dump))
        .with_state(exposed)
}

async fn ready(State(exposed): State<Exposed>) -> Response {
    let missing = exposed.readiness.missing();
    if missing.is_empty() {
        return StatusCode::OK.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", missing.join(", "))).into_response()
}

async fn metrics(State(exposed): State<Exposed>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &exposed.registry) {
        Ok(()) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
struct WhichProxy {
    #[serde(rename = "proxyID")]
    id: Option<String>,
}

// The texts are istiod's: istioctl looks for them.
async fn config_dump(State(exposed): State<Exposed>, Query(WhichProxy { id }): Query<WhichProxy>) -> Response {
    let Some(id) = id else {
        return (StatusCode::BAD_REQUEST, "You must provide a proxyID in the query string").into_response();
    };
    match exposed.proxies.config_dump(&id) {
        Some(dump) => Json(dump).into_response(),
        None => {
            let text = "Proxy not connected to this Pilot instance. It may be connected to another instance.\n";
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}
