//! Routes: VirtualService (later also HTTPRoute) becomes one model here.

pub(in crate::mesh) mod convert;
pub(in crate::mesh) mod delegate;
pub mod model;
