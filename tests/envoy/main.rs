//! Behaviour with real Envoys and real traffic: control plane, agents and Envoys are processes, load is open loop,
//! retries are off, and the Envoys' own counters must agree with what the clients saw.

mod authorizer;
mod canary;
mod capture;
mod counting;
mod credentials;
mod decisions;
mod discovery;
mod ending;
mod envoy_filters;
mod expiry;
mod extensions;
mod faults;
mod gateway;
mod guest;
mod headers;
mod issuer;
mod mesh;
mod metrics;
mod near;
mod origination;
mod prometheus;
mod publisher;
mod rate_limits;
mod redirects;
mod reports;
mod revocation;
mod rotation;
mod several_roots;
mod sniffing;
mod tokens;
mod topology;
mod unready;
mod users_ca;
mod walk;
