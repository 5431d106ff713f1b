//! Istio's protocols that envoy-types lacks, generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

/// Certificate signing.
pub mod auth {
    tonic::include_proto!("istio.v1.auth");
}
