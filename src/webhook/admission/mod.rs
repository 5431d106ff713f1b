//! The validating webhook: says of an object of Istio's kinds, before it is stored, what `istiod-lite translate` would say
//! of it, and what leads nowhere in the world as it is (contract §5.6).

mod judge;
mod metrics;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use smol_str::SmolStr;
use tokio::sync::watch;

use self::judge::{Judge, Verdict};
pub use self::metrics::AdmissionMetrics;
use super::{
    review::{AdmissionRequest, Review, received},
    reviews::{Reviews, Unanswered},
};
use crate::{
    mesh::engine::Engine,
    patience,
    peer_text::PeerText,
    sparse_log::{FEW, SparseLog},
};

/// Serves `POST /validate`. A copy of what `engines` shows takes each object in, to see what it would do; before the
/// first world objects are only looked at by themselves. `cluster` is the one that asks.
pub fn routes(engines: watch::Receiver<Engine>, cluster: SmolStr, metrics: AdmissionMetrics) -> Router {
    let reviews = Reviews::new(metrics.late());
    let admission = Arc::new(Admission { engines, cluster, metrics, reviews });
    Router::new().route("/validate", post(validate)).with_state(admission)
}

struct Admission {
    engines: watch::Receiver<Engine>,
    cluster: SmolStr,
    metrics: AdmissionMetrics,
    reviews: Reviews,
}

async fn validate(State(admission): State<Arc<Admission>>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match received(body) {
        Ok(body) => body,
        Err((status, why)) => return admission.misunderstood(status, &why),
    };
    let (judging, review) = (Arc::clone(&admission), body.clone());
    // What a copy of the engine derives may be as much as the whole mesh: a thread that serves is not held up by it.
    let judged = admission.reviews.answer(body.len(), move || {
        judging.answer(&review, |request| {
            let engine = judging.engines.borrow().clone();
            Judge { engine: &engine, cluster: &judging.cluster }.verdict(request)
        })
    });
    match judged.await {
        Ok(response) => response,
        Err(Unanswered::Late(deadline)) => admission.answer(&body, |request| judge::unchecked(request, deadline)),
        Err(Unanswered::Broken) => {
            admission.metrics.not_understood(StatusCode::INTERNAL_SERVER_ERROR);
            (StatusCode::INTERNAL_SERVER_ERROR, "the object could not be checked: see the log of istiod-lite\n").into_response()
        }
    }
}

impl Admission {
    fn answer(&self, body: &[u8], verdict: impl FnOnce(&AdmissionRequest<'_>) -> Verdict) -> Response {
        match Review::read(body) {
            Ok(review) => {
                let verdict = verdict(&review.request);
                // What came to its deadline is thrown away, and counted when it is answered.
                if !patience::is_over() {
                    self.metrics.count(&review.request.resource, verdict.reason);
                }
                Json(review.respond(&verdict.answer)).into_response()
            }
            Err(reason) => self.misunderstood(StatusCode::BAD_REQUEST, &reason),
        }
    }

    fn misunderstood(&self, status: StatusCode, reason: &str) -> Response {
        static MISUNDERSTOOD: SparseLog = SparseLog::new(FEW);
        MISUNDERSTOOD.write(|left_out| {
            let reason = PeerText::new(reason);
            tracing::warn!(%reason, left_out, "/validate was asked something else");
        });
        self.metrics.not_understood(status);
        (status, format!("{reason}\n")).into_response()
    }
}

#[cfg(test)]
mod tests;
