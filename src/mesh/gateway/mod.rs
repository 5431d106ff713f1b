//! Gateways: what gateway proxies listen for, and whose routes may attach there (contract §3.7).
//!
//! Istio's Gateways are converted to these values once, by [`istio`]; listeners of another API become the same values.

mod bound;
mod host;
pub(in crate::mesh) mod istio;
mod listener;
mod merge;
mod tls;

pub use self::{
    bound::BoundRoutes,
    host::{ListenerHost, RoutesFrom},
    listener::{Gateway, Handling, Listener},
    merge::{BindLimits, MergedListeners, MergedPort, PlacedListener, Refusal, RefusedListener, Sharing, merge},
    tls::{CertificateFiles, ClientCertificates, ListenerTls, ServerCertificate, TlsTermination, TlsVersion},
};
