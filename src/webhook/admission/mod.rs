//! The validating webhook: says of an object of Istio's kinds, before it is stored, what `istiod-lite translate` would say
//! of it, and what leads nowhere in the world as it is (contract §5.6).

mod judge;
mod metrics;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use smol_str::SmolStr;
use tokio::sync::watch;

use self::judge::Judge;
pub use self::metrics::AdmissionMetrics;
use super::review::Review;
use crate::mesh::engine::Engine;

/// Serves `POST /validate`. A copy of what `engines` shows takes each object in, to see what it would do; before the
/// first world objects are only looked at by themselves. `cluster` is the one that asks.
pub fn routes(engines: watch::Receiver<Engine>, cluster: SmolStr, metrics: AdmissionMetrics) -> Router {
    let admission = Arc::new(Admission { engines, cluster, metrics });
    Router::new().route("/validate", post(validate)).with_state(admission)
}

struct Admission {
    engines: watch::Receiver<Engine>,
    cluster: SmolStr,
    metrics: AdmissionMetrics,
}

async fn validate(State(admission): State<Arc<Admission>>, body: Bytes) -> Response {
    let review = match Review::read(&body) {
        Ok(review) => review,
        Err(reason) => {
            tracing::warn!(reason, "/validate was asked something else");
            admission.metrics.not_understood(StatusCode::BAD_REQUEST);
            return (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response();
        }
    };
    let judging = Arc::clone(&admission);
    // What a copy of the engine derives may be as much as the whole mesh: a thread that serves is not held up by it.
    let judged = tokio::task::spawn_blocking(move || {
        let engine = judging.engines.borrow().clone();
        let verdict = Judge { engine: &engine, cluster: &judging.cluster }.verdict(&review.request);
        (review, verdict)
    });
    let Ok((review, verdict)) = judged.await else {
        admission.metrics.not_understood(StatusCode::INTERNAL_SERVER_ERROR);
        return (StatusCode::INTERNAL_SERVER_ERROR, "the object could not be checked: see the log of istiod-lite\n").into_response();
    };
    admission.metrics.count(&review.request.resource, verdict.reason);
    Json(review.respond(&verdict.answer)).into_response()
}

#[cfg(test)]
mod tests;
