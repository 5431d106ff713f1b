//! Istio's own clients, unmodified, against a control plane of ours: `pilot-agent` with a stock Envoy, and `istioctl`.

mod cluster_identity;
mod issued;
mod istioctl;
mod metrics;
mod pilot_agent;
mod stage;
