//! Reads what MeshConfig says of TLS: `meshMTLS` and `tlsDefaults`.
//!
//! Every proxy has these lists in every listener, and refuses them for one name that it does not know. Such a name is left out, which
//! narrows the list; where nothing would be left, which would mean the proxy's own list, MeshConfig is refused.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::fields::{Fields, Node};
use crate::api::{
    istio::{TlsProtocol, is_cipher_suite},
    mesh_config::TlsConfig,
};

/// The groups for key exchange that every Envoy of today knows. Istio also lists P-224 and X25519Kyber768Draft00, which they refuse.
const CURVES: [&str; 5] = ["P-256", "P-384", "P-521", "X25519", "X25519MLKEM768"];

/// Reads `meshMTLS` or `tlsDefaults`. Istio refuses curves in the first, which are as useful there.
pub(super) fn tls(node: Node<'_>) -> Option<TlsConfig> {
    let fields = node.fields()?;
    let versions = [("TLS_AUTO", TlsProtocol::Auto), ("TLSV1_2", TlsProtocol::V1_2), ("TLSV1_3", TlsProtocol::V1_3)];
    let suites: Vec<SmolStr> = fields.get("cipherSuites");
    // Without an exclusion, or without the order that it gives, a list would be wider than it was meant.
    if let Some(expression) = suites.iter().find(|suite| is_expression(suite)) {
        fields.refuse("cipherSuites", format!("{expression:?} is an expression: write the names of cipher suites"));
    }
    let curves = fields.get("ecdhCurves");
    let config = TlsConfig {
        min_protocol_version: fields.with("minProtocolVersion", |node| node.one_of(&versions)).unwrap_or_default(),
        cipher_suites: known(&fields, "cipherSuites", suites, |suite| is_cipher_suite(suite) && !is_expression(suite)),
        ecdh_curves: known(&fields, "ecdhCurves", curves, |curve| CURVES.contains(&curve)),
    };
    fields.finish();
    Some(config)
}

fn is_expression(suite: &str) -> bool {
    suite.starts_with(|first: char| !first.is_ascii_alphanumeric())
}

/// Returns those that are known, each once.
fn known(fields: &Fields<'_>, name: &'static str, written: Vec<SmolStr>, is_known: impl Fn(&str) -> bool) -> Vec<SmolStr> {
    let mut seen = BTreeSet::new();
    let kept: Vec<SmolStr> = written.iter().filter(|one| is_known(one) && seen.insert(*one)).cloned().collect();
    if kept.is_empty() && !written.is_empty() {
        fields.refuse(name, "has nothing in it that Envoy knows, and would mean any");
    } else if kept.len() < written.len() {
        let left_out: Vec<&str> = written.iter().map(SmolStr::as_str).filter(|one| !is_known(one)).collect();
        match left_out.is_empty() {
            true => fields.warn(name, "has an entry twice"),
            false => fields.warn(name, format!("Envoy does not know {}, which is left out", left_out.join(", "))),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{object::Spec, read::parse_mesh_config};

    #[test]
    fn a_name_that_envoy_does_not_know_narrows_the_list_and_never_widens_it() {
        let read = |value: serde_json::Value| {
            let parsed = parse_mesh_config(&value, &"Kubernetes".into());
            let findings: Vec<String> = parsed.diagnostics.iter().map(ToString::to_string).collect();
            (parsed.objects, findings)
        };
        let (objects, findings) = read(json!({"tlsDefaults": {
            "minProtocolVersion": "TLSV1_3", "cipherSuites": ["AES128-SHA", "TLS_AES_128_GCM_SHA256", "AES128-SHA"], "ecdhCurves": ["P-256", "P-224"],
        }}));
        let Spec::MeshConfig(mesh) = &objects[0].spec else { panic!() };
        let defaults = mesh.tls_defaults.clone();
        assert_eq!((defaults.cipher_suites, defaults.ecdh_curves), (vec!["AES128-SHA".into()], vec!["P-256".into()]));
        assert_eq!(defaults.min_protocol_version, TlsProtocol::V1_3);
        assert_eq!(findings.len(), 2, "{findings:?}");
        for wider in [
            json!({"tlsDefaults": {"ecdhCurves": ["P-224"]}}),
            json!({"meshMTLS": {"cipherSuites": ["nonsense"]}}),
            json!({"meshMTLS": {"cipherSuites": ["ALL", "!AES128-SHA"]}}),
            json!({"meshMTLS": {"minProtocolVersion": "TLSV1_1"}}),
        ] {
            let (objects, findings) = read(wider.clone());
            assert!(objects.is_empty(), "{wider}");
            assert!(findings.iter().any(|finding| finding.starts_with("error")), "{wider}: {findings:?}");
        }
    }
}
