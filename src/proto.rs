//! Istio's protocols that envoy-types lacks, generated from `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

/// Certificate signing.
pub mod auth {
    tonic::include_proto!("istio.v1.auth");
}

/// What Istio's agents are told of their proxies.
pub mod mesh {
    tonic::include_proto!("istio.mesh.v1alpha1");
}

/// The HTTP filter `istio.alpn`.
pub mod alpn {
    tonic::include_proto!("istio.envoy.config.filter.http.alpn.v2alpha1");
}

/// The filter `istio.stats`.
pub mod stats {
    tonic::include_proto!("stats");
}

/// `TypedStruct` under the name that Envoy's filters are given.
pub mod udpa {
    tonic::include_proto!("udpa.r#type.v1");
}

/// The descriptors of these and of all Envoy APIs (a `FileDescriptorSet` without comments), for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
