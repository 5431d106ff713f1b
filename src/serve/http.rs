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
    debug::{Access, Inspection},
    readiness::Readiness,
};
use crate::{version, xds::debug::Inspector};

/// What the HTTP ports show.
#[derive(Clone)]
pub struct Exposed {
    /// For `/ready`.
    pub readiness: Arc<Readiness>,
    /// For `/metrics`.
    pub registry: Arc<Registry>,
    /// For `/debug`.
    pub inspection: Arc<Inspection>,
    /// Who may read `/debug`.
    pub access: Access,
}

/// Serves one HTTP port until `stop` resolves; requests under way are finished.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, exposed: Exposed, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    let service = router(exposed).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

/// All paths; both ports serve the same ones, as with istiod.
pub fn router(exposed: Exposed) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(|| async { version::line() }))
        .route("/debug", get(index))
        .route("/debug/{page}", get(debug))
        .fallback(tidied)
        .with_state(exposed)
}

// istiod's server sends `//version` to `/version`; istioctl asks so.
async fn tidied(uri: Uri) -> Response {
    match tidy(&uri) {
        Some(tidy) => Redirect::permanent(&tidy).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Path and query without empty segments; `None` when it has none.
fn tidy(uri: &Uri) -> Option<String> {
    uri.path().contains("//").then(|| {
        let path: String = uri.path().split('/').filter(|segment| !segment.is_empty()).flat_map(|segment| ["/", segment]).collect();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", if path.is_empty() { "/" } else { &path })
    })
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

// Names of pages only: nothing that needs a proof.
async fn index(State(exposed): State<Exposed>) -> Response {
    Html(exposed.inspection.index()).into_response()
}

async fn debug(State(exposed): State<Exposed>, request: Request<Body>) -> Response {
    let path = request.uri().path_and_query().map(|path| path.as_str()).unwrap_or_default();
    let path = path.strip_prefix("/debug/").unwrap_or_default().to_owned();
    match exposed.access.viewer(request, &exposed.inspection.system_namespace()).await {
        Ok(viewer) => {
            let (status, text) = exposed.inspection.open(&path, &viewer);
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
