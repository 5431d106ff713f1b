//! Routes: what users wrote becomes one model here.
//!
//! [`istio`] converts VirtualServices, with their delegates merged in; another API (HTTPRoute, GRPCRoute) gets a
//! conversion of its own beside it, into the same [`model`]. [`selection`] decides which of the routes
//! apply to a proxy.

mod delegate;
pub(in crate::mesh) mod istio;
pub mod model;
pub mod selection;
pub(crate) mod weight;
