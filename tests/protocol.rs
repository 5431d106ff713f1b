//! Delivery over real gRPC: a scripted client in both protocols against a server with views made by hand.

#[path = "protocol/client.rs"]
mod client;
#[path = "protocol/delta.rs"]
mod delta;
#[path = "protocol/envoy.rs"]
mod envoy;
#[path = "protocol/server.rs"]
mod server;
