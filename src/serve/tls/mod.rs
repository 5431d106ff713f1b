//! TLS as our ports speak it: the serving certificate, where it comes from, and the protocol.

mod authorities;
mod error;
mod files;
mod identity;
mod names;
mod parameters;
mod signed;

use jiff::{SignedDuration, Timestamp};

pub(in crate::serve) use self::identity::SERVING_TTL;
pub use self::{
    authorities::Authorities,
    error::TlsError,
    files::ServingFiles,
    identity::{ServingCertificate, TlsIdentity},
    names::ServingNames,
    parameters::TlsParameters,
    signed::{SignedServing, SigningOrder},
};

/// Returns when a certificate that is received now is replaced: when two thirds of its life are over.
fn renewal_time(now: Timestamp, end: Timestamp) -> Timestamp {
    let lifetime = SignedDuration::from_secs(end.as_second() - now.as_second());
    now.checked_add(lifetime * 2 / 3).unwrap_or(end)
}
