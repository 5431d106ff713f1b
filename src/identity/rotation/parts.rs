//! The entries that make up one CA, in Istio's form or that of a `kubernetes.io/tls` Secret.

use std::collections::BTreeMap;

use crate::identity::certificate::Certificate;

/// The entries of a Secret, or the files of a folder, by name.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// What the entries of the next CA begin with.
pub(super) const NEXT: &str = "next-";
/// What those of the CA before begin with.
pub(super) const PREVIOUS: &str = "previous-";

/// The order in which a folder's files are best written: at no time do certificate and key of the next CA look like those in use.
pub(super) const PARTS: [&str; 4] = ["cert-chain.pem", "ca-key.pem", "ca-cert.pem", "root-cert.pem"];

/// The contents of [`PARTS`].
pub(super) type Parts = [Vec<u8>; 4];
/// Where the certificates between the signing one and the root are.
pub(super) const CHAIN: usize = 0;
/// Where the signing certificate is.
pub(super) const SIGNING: usize = 2;
/// Where the roots are.
pub(super) const ROOTS: usize = 3;

/// A part of a CA is missing or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0} cannot be read; put it there again, or remove all {NEXT}… and {PREVIOUS}… to end the rotation by hand")]
pub struct UnreadablePart(pub(super) String);

/// Returns the parts of a CA, in the order of [`PARTS`], of whichever form it has.
pub(super) fn parts(entries: &Entries, prefix: &str) -> Result<Parts, UnreadablePart> {
    let names = if is_tls(entries, prefix) { ["tls.crt", "tls.key", "tls.crt", "ca.crt"].map(str::to_owned) } else { named(prefix) };
    let mut parts = Parts::default();
    for (part, name) in parts.iter_mut().zip(names) {
        *part = entries.get(&name).cloned().ok_or(UnreadablePart(name))?;
    }
    Ok(parts)
}

fn named(prefix: &str) -> [String; 4] {
    PARTS.map(|part| format!("{prefix}{part}"))
}

/// Returns whether the CA in use has the form of a `kubernetes.io/tls` Secret; the others never have.
fn is_tls(entries: &Entries, prefix: &str) -> bool {
    prefix.is_empty() && !entries.contains_key("ca-cert.pem") && entries.contains_key("tls.crt")
}

/// Writes the parts of a CA under names with this prefix.
pub(super) fn write(entries: &mut Entries, prefix: &str, parts: &Parts) {
    entries.extend(named(prefix).into_iter().zip(parts.iter().cloned()));
}

/// Writes a CA in the form that the one in use has.
pub(super) fn write_in_use(entries: &mut Entries, parts: &Parts) {
    if !is_tls(entries, "") {
        return write(entries, "", parts);
    }
    let [_, key, _, roots] = parts;
    let chain = joined(&parts[SIGNING], &parts[CHAIN]);
    entries.extend([("tls.crt", &chain), ("tls.key", key), ("ca.crt", roots)].map(|(name, contents)| (name.to_owned(), contents.clone())));
}

/// Returns the certificates of both, each once.
pub(super) fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut all: Vec<Certificate> = Vec::new();
    for text in [first, second] {
        for certificate in Certificate::each_from_pem(&String::from_utf8_lossy(text)).0 {
            if !all.contains(&certificate) {
                all.push(certificate);
            }
        }
    }
    all.iter().map(Certificate::pem).collect::<String>().into_bytes()
}
