//! Reads `caCertificates` of MeshConfig. An entry that cannot be used is left out as a whole, and harms no other: without its roots
//! nobody is trusted who would not be otherwise, while an entry without its trust domains would be for all of them.

use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::{
    mesh_config::{CaCertificate, RootsFrom},
    trust_bundle,
};

/// What becomes of an entry that cannot be used.
const LEFT_OUT: &str = "the entry is left out, and who has a certificate under these roots is not trusted";

/// Reads the whole list.
pub(super) fn ca_certificates(fields: &Fields<'_>) -> Vec<CaCertificate> {
    let read: Vec<Entry> = fields.get("caCertificates");
    read.into_iter().filter_map(|Entry(entry)| entry).collect()
}

/// An entry; `None` if it is left out.
struct Entry(Option<CaCertificate>);

impl Read for Entry {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.exclusive(&["pem", "spiffeBundleUrl"]);
            let pem = fields.nonempty::<SmolStr>("pem").map(|pem| ("pem", trust_bundle::of_pem(&pem).map(RootsFrom::Pem)));
            let url = fields.nonempty::<SmolStr>("spiffeBundleUrl");
            let url = url.map(|url| ("spiffeBundleUrl", trust_bundle::url_of(&url).map(RootsFrom::BundleAt)));
            let roots = match pem.or(url) {
                Some((_, Ok(roots))) => Some(roots),
                Some((name, Err(why))) => {
                    fields.warn(name, format!("{why}: {LEFT_OUT}"));
                    None
                }
                None => {
                    fields.warn("pem", format!("is missing, and so is spiffeBundleUrl: {LEFT_OUT}"));
                    None
                }
            };
            let trust_domains = trust_domains(fields);
            let cert_signers = cert_signers(fields, matches!(roots, Some(RootsFrom::BundleAt(_))));
            Self(roots.zip(trust_domains).map(|(roots, trust_domains)| CaCertificate { roots, trust_domains, cert_signers }))
        })
    }
}

/// Returns the external signers whose roots these are. Names that no signer has are told, since nobody is held against these roots then.
fn cert_signers(fields: &Fields<'_>, published: bool) -> Vec<SmolStr> {
    let written: Vec<SmolStr> = fields.get("certSigners");
    let is_name = |name: &SmolStr| name.split_once('/').is_some_and(|(domain, path)| domain.contains('.') && !path.is_empty());
    if let Some(other) = written.iter().find(|name| !is_name(name)) {
        fields.warn("certSigners", format!("{other:?} is no signer: write example.com/mesh"));
    } else if published && !written.is_empty() {
        fields.warn("certSigners", "has no effect beside spiffeBundleUrl: roots of signers are written as pem");
    }
    written
}

/// Returns the trust domains of an entry; `None` if one of them cannot be meant.
fn trust_domains(fields: &Fields<'_>) -> Option<Vec<SmolStr>> {
    let written: Vec<SmolStr> = fields.get("trustDomains");
    let is_name = |domain: &SmolStr| {
        !domain.is_empty() && !domain.contains(|letter: char| letter == '/' || letter.is_whitespace() || letter.is_control())
    };
    if let Some(other) = written.iter().find(|domain| !is_name(domain)) {
        fields.warn("trustDomains", format!("{other:?} is no trust domain: {LEFT_OUT}"));
        return None;
    }
    if written.is_empty() {
        let what = "says no trust domain, so that these roots vouch for every one, ours included: name those that are theirs";
        fields.warn("trustDomains", what);
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{object::Spec, read::parse_mesh_config, trust_bundle::tests::root};

    fn read(value: Value) -> (Vec<CaCertificate>, Vec<String>) {
        let parsed = parse_mesh_config(&json!({ "caCertificates": value }), &"Kubernetes".into());
        let findings = parsed.diagnostics.iter().map(ToString::to_string).collect();
        let Spec::MeshConfig(mesh) = &parsed.objects[0].spec else { panic!() };
        (mesh.ca_certificates.clone(), findings)
    }

    #[test]
    fn an_entry_that_cannot_be_used_is_named_and_harms_no_other() {
        let good = root("west");
        let west = json!({ "pem": good, "trustDomains": ["west.example"] });
        let kept = CaCertificate {
            roots: RootsFrom::Pem(good.clone().into()),
            trust_domains: vec!["west.example".into()],
            cert_signers: Vec::new(),
        };
        for (wrong, field) in [
            (json!({ "pem": "nonsense", "trustDomains": ["a"] }), "caCertificates[0].pem"),
            (json!({ "pem": &good[..good.len() / 2], "trustDomains": ["a"] }), "caCertificates[0].pem"),
            (json!({ "spiffeBundleUrl": "http://west.example", "trustDomains": ["a"] }), "caCertificates[0].spiffeBundleUrl"),
            (json!({ "trustDomains": ["a"] }), "caCertificates[0].pem"),
            (json!({ "pem": good, "trustDomains": ["a", ""] }), "caCertificates[0].trustDomains"),
            (json!({ "pem": good, "trustDomains": ["a/ns/b"] }), "caCertificates[0].trustDomains"),
        ] {
            let (entries, findings) = read(json!([wrong, west]));
            assert_eq!(entries, std::slice::from_ref(&kept), "{wrong}");
            assert!(findings.len() == 1 && findings[0].contains(field) && findings[0].contains("left out"), "{wrong}: {findings:?}");
        }
    }

    #[test]
    fn signers_are_named_as_kubernetes_names_them() {
        let entry = |signer: &str| json!([{ "pem": root("company"), "trustDomains": ["a"], "certSigners": [signer] }]);
        let (entries, findings) = read(entry("example.com/mesh"));
        assert!(entries[0].cert_signers == ["example.com/mesh"] && findings.is_empty(), "{findings:?}");
        let (_, findings) = read(entry("mesh"));
        assert!(findings.len() == 1 && findings[0].contains("is no signer: write example.com/mesh"), "{findings:?}");
    }

    #[test]
    fn roots_that_vouch_for_everybody_are_named() {
        let (entries, findings) =
            read(json!([{ "spiffeBundleUrl": "bundle.west.example", "certSigners": ["clusterissuers.cert-manager.io/a"] }]));
        assert_eq!(entries[0].roots, RootsFrom::BundleAt("https://bundle.west.example".into()));
        assert_eq!(entries[0].cert_signers, ["clusterissuers.cert-manager.io/a"]);
        assert!(findings.len() == 2 && findings.iter().any(|found| found.contains("vouch for every one")), "{findings:?}");
        assert!(findings.iter().any(|found| found.contains("certSigners") && found.contains("beside spiffeBundleUrl")), "{findings:?}");
    }
}
