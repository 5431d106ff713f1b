//! The CA, and who is calling.
//!
//! [`ca`] loads, checks, rotates and uses the signing certificate; [`authenticate`] turns a request's token or a
//! connection's client certificate into a [`Caller`](crate::mesh::model::Caller); [`service`] speaks Istio's
//! certificate protocol. Time is handed in as a [`Clock`] (design rule 11).

pub mod authenticate;
pub mod ca;
pub mod ceremony;
pub mod certificate;
mod cluster_mark;
pub mod impersonation;
pub mod inventory;
pub mod key;
pub mod key_set;
pub mod local_issuer;
pub mod metrics;
pub mod proof;
pub mod registration;
pub mod root_id;
pub mod rotation;
pub mod serial;
pub mod service;
pub mod signing_request;
pub mod token;

pub use crate::clock::{Clock, system_clock};

/// Returns whether a name may be part of a SPIFFE id: it has the letters of DNS names, and `_`.
///
/// A `/` or `%` in a service account would otherwise let a token spell another identity.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}
