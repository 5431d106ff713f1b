//! What the API server asks before it stores an object: shall a pod get a proxy (`inject`)?

pub mod inject;
pub mod review;
