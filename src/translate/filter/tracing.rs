//! The `tracing` block of connection managers (contract §3.5, §6.8). Without a provider it is there all the same, so that sampling and
//! tags are right as soon as a provider is configured.

mod provider;

use envoy_types::pb::envoy::{
    extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing,
    r#type::{
        metadata::v3::{MetadataKey, MetadataKind, metadata_key, metadata_kind},
        tracing::v3::{CustomTag, custom_tag},
        v3::Percent,
    },
};
use smol_str::SmolStr;

use super::Direction;
use crate::{
    mesh::{
        model::{Flavour, TelemetryIdentity},
        telemetry::{self, SideTelemetry, Tracer},
    },
    translate::{input::ListenerClass, naming::outbound_cluster, wkt},
};

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

/// Returns the block for a class of proxies; `None` where requests are not traced.
pub fn tracing(class: &ListenerClass, direction: Direction) -> Option<Tracing> {
    let asked = class.own.reports.tracing.as_ref()?;
    let percent = |value| Some(Percent { value });
    let mut custom_tags: Vec<CustomTag> = Vec::new();
    if asked.istio_tags {
        custom_tags.extend(DRY_RUN_TAGS.iter().map(|(tag, key)| dry_run_tag(tag, key)));
        custom_tags.extend(IDENTITY_TAGS.iter().map(|(tag, variable)| identity_tag(class, tag, variable)));
    }
    custom_tags.extend(asked.custom_tags.iter().map(|(name, tag)| own_tag(name, tag)));
    custom_tags.sort_by(|a, b| a.tag.cmp(&b.tag));
    let tracer = asked.tracer.as_ref();
    Some(Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(asked.sampling.value()),
        overall_sampling: percent(100.0),
        custom_tags,
        max_path_tag_length: tracer.and_then(|tracer| provider::max_tag_length(&tracer.provider)).and_then(wkt::uint32),
        provider: tracer.and_then(|tracer| provider::provider(tracer, &class.own.service_name)),
        // A gateway's own time and that of the call which it makes are two spans.
        spawn_upstream_span: tracer.filter(|_| direction == Direction::Gateway).and_then(|_| wkt::boolean(true)),
        no_context_propagation: asked.without_propagation,
        ..Default::default()
    })
}

/// Returns the cluster that spans are sent to.
pub fn cluster(reports: &SideTelemetry) -> Option<SmolStr> {
    reports.tracing.as_ref()?.tracer.as_ref().and_then(cluster_of)
}

fn cluster_of(tracer: &Tracer) -> Option<SmolStr> {
    let (_, port) = tracer.provider.service()?;
    Some(outbound_cluster(port, "", &tracer.collector))
}

fn identity_tag(class: &ListenerClass, tag: &str, variable: &str) -> CustomTag {
    match class.flavour {
        Flavour::Istio => {
            // As istiod has it, which says `default` of a namespace alone.
            let default = if tag == "istio.namespace" { "default" } else { default_of(tag) };
            let value = Some(value_of(tag, &class.own.telemetry)).filter(|value| !value.is_empty()).unwrap_or(default);
            custom(tag, custom_tag::Type::Literal(custom_tag::Literal { value: value.into() }))
        }
        Flavour::Stock => {
            let environment = custom_tag::Environment { name: variable.into(), default_value: default_of(tag).into() };
            custom(tag, custom_tag::Type::Environment(environment))
        }
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

fn own_tag(name: &str, tag: &telemetry::CustomTag) -> CustomTag {
    let text = SmolStr::to_string;
    custom(
        name,
        match tag {
            telemetry::CustomTag::Literal(value) => custom_tag::Type::Literal(custom_tag::Literal { value: text(value) }),
            telemetry::CustomTag::Environment { name, default } => {
                custom_tag::Type::Environment(custom_tag::Environment { name: text(name), default_value: text(default) })
            }
            telemetry::CustomTag::Header { name, default } => {
                custom_tag::Type::RequestHeader(custom_tag::Header { name: text(name), default_value: text(default) })
            }
            telemetry::CustomTag::Formatter(format) => custom_tag::Type::Value(text(format)),
        },
    )
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
    use std::sync::Arc;

    use super::*;
    use crate::mesh::{model::Interception, telemetry::Percentage};

    fn class(flavour: Flavour, tracing: Option<telemetry::Tracing>) -> ListenerClass {
        let reports = Arc::new(SideTelemetry { tracing, ..SideTelemetry::default() });
        let own = crate::translate::input::ListenerTraits { reports, ..Default::default() };
        ListenerClass { flavour, interception: Interception::Redirect, ipv4: true, ipv6: false, http10: false, idle_timeout: None, own }
    }

    fn asked(istio_tags: bool, custom_tags: Vec<(SmolStr, telemetry::CustomTag)>) -> Option<telemetry::Tracing> {
        let sampling = Percentage::new(2.5);
        Some(telemetry::Tracing { tracer: None, sampling, istio_tags, custom_tags, by_request_id: true, without_propagation: false })
    }

    #[test]
    fn no_tag_of_a_proxy_that_says_nothing_of_itself_is_empty() {
        let block = tracing(&class(Flavour::Istio, asked(true, vec![])), Direction::Outbound).unwrap();
        assert_eq!(block.random_sampling.map(|percent| percent.value), Some(2.5));
        let literal = |tag: CustomTag| match tag.r#type {
            Some(custom_tag::Type::Literal(literal)) => Some((tag.tag, literal.value)),
            _ => None,
        };
        let said: Vec<_> = block.custom_tags.into_iter().filter_map(literal).map(|(tag, value)| format!("{tag}={value}")).collect();
        let defaults =
            ["canonical_revision=latest", "canonical_service=unknown", "cluster_id=unknown", "mesh_id=unknown", "namespace=default"];
        assert_eq!(said, defaults.map(|tag| format!("istio.{tag}")));
    }

    #[test]
    fn tags_of_the_users_own_stand_among_istios_by_name() {
        let literal = |name: &str| (name.into(), telemetry::CustomTag::Literal("v".into()));
        let names = |istio_tags| {
            let block = tracing(&class(Flavour::Stock, asked(istio_tags, vec![literal("a"), literal("z")])), Direction::Gateway).unwrap();
            block.custom_tags.into_iter().map(|tag| tag.tag).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a", "z"]);
        let among = names(true);
        assert_eq!((among.len(), among[0].as_str(), among[10].as_str()), (11, "a", "z"));
        assert_eq!(tracing(&class(Flavour::Stock, None), Direction::Inbound), None);
    }
}
