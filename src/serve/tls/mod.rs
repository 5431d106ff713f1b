//! TLS as our ports speak it: the serving certificate, where it comes from, and the protocol.

mod error;
mod files;
mod identity;
mod names;
mod parameters;

pub use self::{
    error::TlsError,
    files::ServingFiles,
    identity::{ServingCertificate, TlsIdentity},
    names::ServingNames,
    parameters::TlsParameters,
};
