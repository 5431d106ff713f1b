//! The `tracing` block of connection managers: always there, so that sampling and tags are right as soon as a
//! provider is configured (contract §3.5).

use envoy_types::pb::envoy::{
    extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing,
    r#type::{
        metadata::v3::{MetadataKey, MetadataKind, metadata_key, metadata_kind},
        tracing::v3::{CustomTag, custom_tag},
        v3::Percent,
    },
};

use crate::mesh::model::{Flavour, TelemetryIdentity};

/// The tags that name the proxy itself, each with the environment variable that a stock Envoy reads it from. The agent
/// (or the injected pod) sets them; so all proxies of a class share one listener.
pub const IDENTITY_TAGS: [(&str, &str); 5] = [
    ("istio.canonical_revision", "CANONICAL_REVISION"),
    ("istio.canonical_service", "CANONICAL_SERVICE"),
    ("istio.cluster_id", "ISTIO_META_CLUSTER_ID"),
    ("istio.mesh_id", "ISTIO_META_MESH_ID"),
    ("istio.namespace", "POD_NAMESPACE"),
];

const DRY_RUN_TAGS: [(&str, &str); 4] = [
    ("istio.authorization.dry_run.allow_policy.name", "istio_dry_run_allow_shadow_effective_policy_id"),
    ("istio.authorization.dry_run.allow_policy.result", "istio_dry_run_allow_shadow_engine_result"),
    ("istio.authorization.dry_run.deny_policy.name", "istio_dry_run_deny_shadow_effective_policy_id"),
    ("istio.authorization.dry_run.deny_policy.result", "istio_dry_run_deny_shadow_engine_result"),
];

/// Returns the block for a class of proxies.
pub fn tracing(flavour: Flavour, identity: &TelemetryIdentity) -> Tracing {
    let percent = |value| Some(Percent { value });
    let dry_run = DRY_RUN_TAGS.iter().map(|(tag, key)| dry_run_tag(tag, key));
    let own = IDENTITY_TAGS.iter().map(|(tag, variable)| match flavour {
        Flavour::Istio => {
            // As istiod has it, which says `default` of a namespace alone.
            let default = if *tag == "istio.namespace" { "default" } else { default_of(tag) };
            let value = Some(value_of(tag, identity)).filter(|value| !value.is_empty()).unwrap_or(default);
            custom(tag, custom_tag::Type::Literal(custom_tag::Literal { value: value.into() }))
        }
        Flavour::Stock => {
            let environment = custom_tag::Environment { name: (*variable).into(), default_value: default_of(tag).into() };
            custom(tag, custom_tag::Type::Environment(environment))
        }
    });
    Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(1.0),
        overall_sampling: percent(100.0),
        custom_tags: dry_run.chain(own).collect(),
        ..Default::default()
    }
}

fn value_of<'a>(tag: &str, identity: &'a TelemetryIdentity) -> &'a str {
    match tag {
        "istio.canonical_revision" => &identity.canonical_revision,
        "istio.canonical_service" => &identity.canonical_name,
        "istio.cluster_id" => &identity.cluster_id,
        "istio.mesh_id" => &identity.mesh_id,
        _ => &identity.namespace,
    }
}

/// Returns what stands for a value that a proxy does not say: Envoy takes no empty one.
fn default_of(tag: &str) -> &'static str {
    match tag {
        "istio.canonical_revision" => "latest",
        _ => "unknown",
    }
}

fn dry_run_tag(tag: &str, key: &str) -> CustomTag {
    let segment = metadata_key::PathSegment { segment: Some(metadata_key::path_segment::Segment::Key(key.into())) };
    let metadata = custom_tag::Metadata {
        kind: Some(MetadataKind { kind: Some(metadata_kind::Kind::Request(metadata_kind::Request {})) }),
        metadata_key: Some(MetadataKey { key: "envoy.filters.http.rbac".into(), path: vec![segment] }),
        ..Default::default()
    };
    custom(tag, custom_tag::Type::Metadata(metadata))
}

fn custom(tag: &str, kind: custom_tag::Type) -> CustomTag {
    CustomTag { tag: tag.into(), r#type: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tag_of_a_proxy_that_says_nothing_of_itself_is_empty() {
        let tags = tracing(Flavour::Istio, &TelemetryIdentity::default()).custom_tags;
        let literal = |tag: CustomTag| match tag.r#type {
            Some(custom_tag::Type::Literal(literal)) => Some((tag.tag, literal.value)),
            _ => None,
        };
        let said: Vec<_> = tags.into_iter().filter_map(literal).map(|(tag, value)| format!("{tag}={value}")).collect();
        let defaults =
            ["canonical_revision=latest", "canonical_service=unknown", "cluster_id=unknown", "mesh_id=unknown", "namespace=default"];
        assert_eq!(said, defaults.map(|tag| format!("istio.{tag}")));
    }
}
