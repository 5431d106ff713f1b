//! What the API server asks before it stores an object: shall a pod get a proxy (`inject`), is an object of Istio's kinds
//! right (`admission`)?

pub mod admission;
pub mod inject;
pub mod review;
