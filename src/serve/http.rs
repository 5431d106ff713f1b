//! The HTTP ports: 8080 (`/ready`) and 15014 (`/metrics`, `/version`), and `/debug` on both (contract §1.2).

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode, Uri, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

use super::{
    debug::{Access, DebugState},
    readiness::Readiness,
};
use crate::{version, xds::debug::Inspector};

/// What the pages of the HTTP ports are made from.
#[derive(Clone)]
pub(super) struct HttpState {
    /// For `/ready`.
    pub(super) readiness: Readiness,
    /// For `/metrics`.
    pub(super) registry: Arc<Registry>,
    /// For `/debug`.
    pub(super) debug: Arc<DebugState>,
    /// Who may read `/debug`.
    pub(super) debug_access: Access,
}

/// Serves one HTTP port until `stop` resolves; requests under way are finished.
///
/// # Errors
/// When the listener fails for good.
pub(super) async fn serve(listener: TcpListener, state: HttpState, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    let service = router(state).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

/// Returns the routes; both ports serve the same ones, as with istiod.
fn router(state: HttpState) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(|| async { version::line() }))
        .route("/debug", get(index))
        .route("/debug/{page}", get(debug))
        .fallback(redirect_or_not_found)
        .with_state(state)
}

// istiod's server sends `//version` to `/version`; istioctl asks that way.
async fn redirect_or_not_found(uri: Uri) -> Response {
    match tidy(&uri) {
        Some(tidy) => Redirect::permanent(&tidy).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Returns path and query without empty segments; `None` if the path has none.
fn tidy(uri: &Uri) -> Option<String> {
    uri.path().contains("//").then(|| {
        let path: String = uri.path().split('/').filter(|segment| !segment.is_empty()).flat_map(|segment| ["/", segment]).collect();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", if path.is_empty() { "/" } else { &path })
    })
}

async fn ready(State(state): State<HttpState>) -> Response {
    let pending = state.readiness.pending();
    if pending.is_empty() {
        return StatusCode::OK.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))).into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &state.registry) {
        Ok(()) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

// It shows names of pages only: nothing that a caller must be authenticated for.
async fn index(State(state): State<HttpState>) -> Response {
    Html(state.debug.index()).into_response()
}

async fn debug(State(state): State<HttpState>, request: Request<Body>) -> Response {
    let path = request.uri().path_and_query().map(|path| path.as_str()).unwrap_or_default();
    let path = path.strip_prefix("/debug/").unwrap_or_default().to_owned();
    match state.debug_access.viewer(request, &state.debug.system_namespace()).await {
        Ok(viewer) => {
            let (status, text) = state.debug.open(&path, &viewer);
            let kind = if status == StatusCode::OK { "application/json" } else { "text/plain; charset=utf-8" };
            (status, [(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(status) => status.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_segments_lead_to_the_path_without_them() {
        for (asked, expected) in [
            ("//version", Some("/version")),
            ("/debug//syncz?namespace=a", Some("/debug/syncz?namespace=a")),
            ("//", Some("/")),
            ("//other.example.com//x", Some("/other.example.com/x")),
            ("/nowhere", None),
        ] {
            let uri = Uri::builder().path_and_query(asked).build().unwrap();
            assert_eq!(tidy(&uri).as_deref(), expected, "{asked}");
        }
    }
}
