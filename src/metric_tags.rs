//! How a stock Envoy names what it counts for Istio's metrics: what `translate` has it count under, the agent makes Istio's labels of.
//!
//! A label of its own for each of Istio's would be formatted and kept for each metric and request. So Envoy counts by four texts,
//! and the agent, which knows its own workload, writes them as labels when it is scraped.

/// The scope of the metrics; Envoy writes `envoy_` before it.
pub(crate) const SCOPE: &str = "istio";

/// The request or connection itself: reporter, protocol, response flags and the peer's identity, and for HTTP the status and the
/// status of gRPC, with semicolons between.
pub(crate) const REQUEST: &str = "istio_request";
/// The workload on the other side, as [`crate::workload_labels::WorkloadLabels`] writes it.
pub(crate) const PEER: &str = "istio_peer";
/// `name;namespace` of the service; where there is none, the name of the cluster or of the route.
pub(crate) const SERVICE: &str = "istio_service";
/// The host of the service; where there is none, on the client's side the host that was asked for.
pub(crate) const HOST: &str = "istio_host";

/// What a client's side reports.
pub(crate) const SOURCE: &str = "source";
/// What a server's side reports.
pub(crate) const DESTINATION: &str = "destination";
/// The protocol of a connection that is no HTTP.
pub(crate) const TCP: &str = "tcp";
