//! The webhooks that the API server calls before it stores an object: `inject` adds proxies to pods, `admission` validates
//! objects of Istio's kinds.

pub mod admission;
pub mod inject;
pub mod review;
mod reviews;
