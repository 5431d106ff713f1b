//! Of which remote cluster the holder of a certificate is: an extension of the certificates that our CA signs for callers of remote
//! clusters.
//!
//! A SPIFFE id names a namespace and a service account, and every cluster has its own of these names. In the mesh they are one, as
//! with istiod. For us they are not: who shows a certificate here gets no more than it would by the token for which it got the
//! certificate.

use rcgen::CustomExtension;
use smol_str::SmolStr;
use x509_parser::{
    asn1_rs::{Oid, ToDer, Utf8String},
    prelude::FromDer,
};

/// Below 2.25, where nothing is registered: drawn at random. Some readers take no certificate in which a number has more than 28 bits.
const OBJECT_ID: [u64; 3] = [2, 25, 173_024_156];

/// Returns the extension, which is not critical: only we look at it. `None` if there are no such names.
pub(super) fn extension(cluster: &str) -> Option<CustomExtension> {
    let name = Utf8String::new(cluster).to_der_vec().ok()?;
    Some(CustomExtension::from_oid_content(&OBJECT_ID, name))
}

/// Returns the cluster, if the extension is this one. What cannot be read is a cluster without a name, which nobody knows.
pub(super) fn read(extension: &Oid<'_>, value: &[u8]) -> Option<SmolStr> {
    let is_mark = extension.iter().is_some_and(|numbers| numbers.eq(OBJECT_ID));
    let name = |value| Utf8String::from_der(value).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, name)| SmolStr::new(name.string()));
    is_mark.then(|| name(value).unwrap_or_default())
}
