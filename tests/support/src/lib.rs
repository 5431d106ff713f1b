//! What the tests and the demo share: real processes, a real API server, workloads that say their version, open-loop load,
//! Envoy's own counters, and the statistics that judge them.

pub mod address;
pub mod admin;
pub mod canary;
pub mod cluster;
pub mod convergence;
pub mod counters;
pub mod http_client;
pub mod issuer;
pub mod istioctl;
pub mod kubernetes;
pub mod launch;
pub mod load;
pub mod manifest;
pub mod mesh;
pub mod mistakes;
pub mod namespace;
pub mod pilot_agent;
pub mod process;
pub mod prometheus;
pub mod random;
pub mod said;
pub mod series;
pub mod statistics;
pub mod tools;
pub mod wait;
pub mod workload;
