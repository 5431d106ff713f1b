//! Of MeshConfig those settings hold whose defaults are open: where traffic may go, who sees whose objects, what is done to
//! paths before they are matched, how weak TLS may be, which namespaces are read, and whose policies are for the whole mesh.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Remnant, alone, field};
use crate::api::{Diagnostic, Metadata, Object, ObjectKey, Spec, mesh_config::MeshConfig, read::fields::Read};

/// Returns the names of the settings that are kept, with what closes each; `None`: no value of it does.
fn kept() -> [(&'static str, Option<Value>); 10] {
    let own_namespace = || Some(json!(["."]));
    let newest_tls = || Some(json!({ "minProtocolVersion": "TLSV1_3" }));
    [
        ("outboundTrafficPolicy", Some(json!({ "mode": "REGISTRY_ONLY" }))),
        ("defaultServiceExportTo", own_namespace()),
        ("defaultVirtualServiceExportTo", own_namespace()),
        ("defaultDestinationRuleExportTo", own_namespace()),
        ("pathNormalization", Some(json!({ "normalization": "DECODE_AND_MERGE_SLASHES" }))),
        ("meshMTLS", newest_tls()),
        ("tlsDefaults", newest_tls()),
        (
            "discoverySelectors",
            Some(
                json!([{ "matchExpressions": [{ "key": "a", "operator": "In", "values": ["a"] }, { "key": "a", "operator": "DoesNotExist" }] }]),
            ),
        ),
        ("rootNamespace", None),
        ("trustDomain", None),
    ]
}

/// Returns what holds of a document that is refused, as a document; `None` if the defaults are no more open. Of one that cannot be
/// read at all (`None`) nothing is known: no unknown destination is reached.
pub(crate) fn document(refused: Option<&Value>) -> Option<Value> {
    let kept: Map<String, Value> = match refused.filter(|document| document.is_object()) {
        Some(refused) => kept().into_iter().filter_map(|(name, closed)| Some((name.to_owned(), held(refused, name, closed)?))).collect(),
        None => kept().into_iter().take(1).filter_map(|(name, closed)| Some((name.to_owned(), closed?))).collect(),
    };
    let document = Value::Object(kept);
    (read(&document)? != MeshConfig::default()).then_some(document)
}

/// Returns what holds of MeshConfig that is refused, as an object.
pub(in crate::api::read) fn left(key: &ObjectKey, metadata: Metadata, refused: Option<&Value>) -> Option<Remnant> {
    let document = document(refused)?;
    let names = document.as_object()?.keys().cloned().collect::<Vec<_>>().join(", ");
    let spec = Spec::MeshConfig(Arc::new(read(&document)?));
    let message = format!("{}: of it these hold, and are closed where they cannot be read: {names}", super::NO_GOOD_VERSION);
    let object = Object { key: key.clone(), version: Default::default(), metadata: Arc::new(metadata), spec };
    Some(Remnant { object: Arc::new(object), finding: Diagnostic::warning("", message).of(key) })
}

/// Returns the value of a setting if it is right, and what closes it if it is not.
fn held(refused: &Value, name: &'static str, closed: Option<Value>) -> Option<Value> {
    let written = field(refused, name, |node| Some(node.value.clone()))?;
    let alone = written.filter(|value| read(&json!({ name: value })).is_some());
    alone.or(closed)
}

fn read(document: &Value) -> Option<MeshConfig> {
    alone(document, MeshConfig::read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        istio::{
            OutboundTrafficPolicy,
            TlsProtocol::{Auto, V1_3},
        },
        mesh_config::PathNormalization,
        yaml,
    };

    /// Returns what is left of a refused document.
    fn left_of(text: &str) -> Option<MeshConfig> {
        let value = yaml::document(yaml::Document { lines_before: 0, text }).unwrap();
        assert_eq!(read(&value), None, "{text} is to be refused");
        document(Some(&value)).map(|left| read(&left).unwrap())
    }

    const WRONG: &str = "connectTimeout: soon\n";

    #[test]
    fn what_closes_something_holds_as_it_is_written() {
        let text = "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, defaultServiceExportTo: [a], default_virtual_service_export_to: ['.'], \
                    defaultDestinationRuleExportTo: ['.'], pathNormalization: {normalization: MERGE_SLASHES}, rootNamespace: root, trustDomain: td, \
                    discoverySelectors: [{matchLabels: {mesh: a}}], proxyListenPort: 99999, accessLogFile: /dev/stdout}";
        let left = left_of(text).unwrap();
        assert_eq!(left.outbound_traffic_policy, OutboundTrafficPolicy::RegistryOnly);
        assert_eq!(left.default_service_export_to, ["a"]);
        assert_eq!((left.default_virtual_service_export_to, left.default_destination_rule_export_to), (vec![".".into()], vec![".".into()]));
        assert_eq!(left.path_normalization, PathNormalization::MergeSlashes);
        assert_eq!((left.root_namespace.as_str(), left.trust_domain.as_str()), ("root", "td"));
        assert_eq!(left.discovery_selectors.len(), 1);
        assert_eq!((left.proxy_listen_port, left.access_log_file.as_str()), (15001, ""), "the rest is left out");
    }

    #[test]
    fn what_cannot_be_read_is_closed() {
        let of = |text: &str| left_of(text).unwrap();
        for policy in ["{mode: REGISTRY_ONYL}", "REGISTRY_ONLY", "[]", "{mode: [REGISTRY_ONLY]}"] {
            assert_eq!(
                of(&format!("outboundTrafficPolicy: {policy}")).outbound_traffic_policy,
                OutboundTrafficPolicy::RegistryOnly,
                "{policy}"
            );
        }
        let twice = "{outboundTrafficPolicy: {mode: ALLOW_ANY}, outbound_traffic_policy: {mode: REGISTRY_ONLY}}";
        assert_eq!(of(twice).outbound_traffic_policy, OutboundTrafficPolicy::RegistryOnly);
        assert_eq!(of("defaultServiceExportTo: {a: b}").default_service_export_to, ["."]);
        assert_eq!(of("defaultVirtualServiceExportTo: [[]]").default_virtual_service_export_to, ["."]);
        assert_eq!(of("defaultDestinationRuleExportTo: {}").default_destination_rule_export_to, ["."]);
        assert_eq!(of("pathNormalization: MERGE_SLASHES").path_normalization, PathNormalization::DecodeAndMergeSlashes);
        for (text, floors) in
            [("meshMTLS: {cipherSuites: [nonsense]}", (V1_3, Auto)), ("tlsDefaults: {minProtocolVersion: TLSV1_1}", (Auto, V1_3))]
        {
            let left = of(text);
            assert_eq!((left.mesh_mtls.min_protocol_version, left.tls_defaults.min_protocol_version), floors, "{text}");
        }
        let selected = of("discoverySelectors: [{matchLabels: 5}]").discovery_selectors;
        let labels = |labels: &[(&str, &str)]| labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        assert!([labels(&[]), labels(&[("a", "a")])].iter().all(|labels| !selected.iter().any(|selector| selector.selects(labels))));
        let unreadable = read(&document(None).unwrap()).unwrap();
        assert_eq!(unreadable, MeshConfig { outbound_traffic_policy: OutboundTrafficPolicy::RegistryOnly, ..MeshConfig::default() });
        assert_eq!(document(Some(&json!(["a"]))), document(None));
    }

    #[test]
    fn what_asks_for_no_more_than_the_defaults_leaves_nothing() {
        for text in
            [WRONG, "connectTimeout: soon\noutboundTrafficPolicy: {mode: ALLOW_ANY}\ntrustDomain: cluster.local\n", "trustDomain: [a]"]
        {
            assert_eq!(left_of(text), None, "{text}");
        }
    }
}
