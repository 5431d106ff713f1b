//! Routes: VirtualService (later also HTTPRoute) becomes one model here.

pub mod model;
