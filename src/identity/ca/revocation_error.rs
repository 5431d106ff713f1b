//! Why lists of revoked certificates are of no use, and what to do about it.

use jiff::Timestamp;

/// The file or entry with the lists, beside the CA.
pub const REVOCATION_FILE: &str = "ca-crl.pem";
/// The largest text: what a ConfigMap may hold, with room for the rest of it.
pub(super) const LARGEST_TEXT: usize = 900 << 10;
/// The most lists: one for each CA, and for those of before.
pub(super) const MOST_LISTS: usize = 16;
/// The tag of a list in PEM.
pub(super) const TAG: &str = "X509 CRL";

/// Why lists are of no use.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RevocationError {
    /// It cannot be read from its place.
    #[error("{REVOCATION_FILE} cannot be read: {0}")]
    Io(String),
    /// It is not PEM, or has none of the blocks.
    #[error("{REVOCATION_FILE} holds no list of revoked certificates; put it in as PEM (-----BEGIN {TAG}-----)")]
    Missing,
    /// It is larger than what can be handed out.
    #[error("{REVOCATION_FILE} has {0} bytes, more than the {LARGEST_TEXT} that a ConfigMap can hold; leave out what has expired")]
    TooLarge(usize),
    /// It has more lists than there can be CAs.
    #[error("{REVOCATION_FILE} has {0} lists, more than the {MOST_LISTS} that are taken; leave out those of CAs that are gone")]
    TooMany(usize),
    /// A block cannot be read.
    #[error("{REVOCATION_FILE}: list {number} cannot be read: {reason}; make it anew")]
    Unreadable {
        /// Counted from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// A list is of the past or the future.
    #[error("{REVOCATION_FILE}: the list of {issuer} is valid from {from} to {to}, and not now; make it anew")]
    NotValid {
        /// The CA.
        issuer: String,
        /// Its start.
        from: Timestamp,
        /// Its end.
        to: Timestamp,
    },
    /// It is of a form that our ports cannot verify by.
    #[error("{REVOCATION_FILE}: {0}; make plain lists, with a number, of all that is revoked")]
    Unsupported(String),
    /// A CA has no list.
    #[error(
        "{REVOCATION_FILE} has no list of {issuer} that its key signed and its key usage (cRLSign) allows, without which proxies refuse \
         every peer; add one, even if it is empty"
    )]
    NotCovered {
        /// The CA.
        issuer: String,
    },
}
