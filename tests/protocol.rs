//! Delivery over real gRPC: a scripted client in both protocols against a server with views made by hand, or by the mesh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[path = "protocol/client.rs"]
mod client;
#[path = "protocol/delta.rs"]
mod delta;
#[path = "protocol/envoy.rs"]
mod envoy;
#[path = "protocol/refused.rs"]
mod refused;
#[path = "protocol/server.rs"]
mod server;
#[path = "protocol/sotw.rs"]
mod sotw;
#[path = "protocol/translated.rs"]
mod translated;
