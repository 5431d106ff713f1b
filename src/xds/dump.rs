//! Views in the form of an Envoy's own config dump, so that tools can compare the two.

use std::collections::BTreeSet;

use envoy_types::pb::{
    envoy::admin::v3::{
        BootstrapConfigDump, ClustersConfigDump, EcdsConfigDump, EndpointsConfigDump, ListenersConfigDump, RoutesConfigDump,
        ScopedRoutesConfigDump, SecretsConfigDump,
        clusters_config_dump::DynamicCluster,
        ecds_config_dump::EcdsFilterConfig,
        endpoints_config_dump::DynamicEndpointConfig,
        listeners_config_dump::{DynamicListener, DynamicListenerState},
        routes_config_dump::DynamicRouteConfig,
        secrets_config_dump::DynamicSecret,
    },
    google::protobuf::Any,
};
use prost::Name;
use smol_str::SmolStr;

use super::{redacted::redacted, resource::Resource, resource_type::ResourceType, stand_in::stand_in, view::View};

/// Returns the sections in Envoy's order. As with Envoy, endpoints come only on demand.
pub fn sections(view: &View, include_endpoints: bool) -> Vec<Any> {
    let mut sections = vec![section(&BootstrapConfigDump::default()), section(&clusters(view))];
    if include_endpoints {
        sections.push(section(&endpoints(view)));
    }
    sections.extend([
        section(&listeners(view)),
        section(&ScopedRoutesConfigDump::default()),
        section(&routes(view)),
        section(&secrets(view)),
        section(&extensions(view)),
    ]);
    sections
}

/// Returns the resources of one type that the proxy is to have.
pub fn resources(view: &View, kind: ResourceType) -> Vec<Any> {
    match kind {
        ResourceType::Route => {
            // A class shares more route tables than one proxy's listeners ask for. One that is missing is sent empty.
            let asked = view.iter(ResourceType::Listener).flat_map(|listener| listener.references_to(kind));
            let asked: BTreeSet<&SmolStr> = asked.collect();
            let table = |name: &SmolStr| view.get(kind, name).cloned().or_else(|| stand_in(kind, name));
            asked.into_iter().filter_map(table).map(|table| any(&table)).collect()
        }
        _ => view.iter(kind).map(|resource| any(resource)).collect(),
    }
}

fn clusters(view: &View) -> ClustersConfigDump {
    let dynamic = view.iter(ResourceType::Cluster).map(|resource| DynamicCluster {
        version_info: resource.version.to_string(),
        cluster: Some(any(resource)),
        ..DynamicCluster::default()
    });
    ClustersConfigDump { dynamic_active_clusters: dynamic.collect(), ..ClustersConfigDump::default() }
}

fn endpoints(view: &View) -> EndpointsConfigDump {
    let dynamic = view.iter(ResourceType::Endpoint).map(|resource| DynamicEndpointConfig {
        version_info: resource.version.to_string(),
        endpoint_config: Some(any(resource)),
        ..DynamicEndpointConfig::default()
    });
    EndpointsConfigDump { dynamic_endpoint_configs: dynamic.collect(), ..EndpointsConfigDump::default() }
}

fn listeners(view: &View) -> ListenersConfigDump {
    let dynamic = view.iter(ResourceType::Listener).map(|resource| {
        let (version_info, listener) = (resource.version.to_string(), Some(any(resource)));
        let active_state = Some(DynamicListenerState { version_info, listener, ..DynamicListenerState::default() });
        DynamicListener { name: resource.name.to_string(), active_state, ..DynamicListener::default() }
    });
    ListenersConfigDump { dynamic_listeners: dynamic.collect(), ..ListenersConfigDump::default() }
}

fn routes(view: &View) -> RoutesConfigDump {
    let tables = resources(view, ResourceType::Route).into_iter();
    let dynamic = tables.map(|table| DynamicRouteConfig { route_config: Some(table), ..DynamicRouteConfig::default() });
    RoutesConfigDump { dynamic_route_configs: dynamic.collect(), ..RoutesConfigDump::default() }
}

fn secrets(view: &View) -> SecretsConfigDump {
    let dynamic = view.iter(ResourceType::Secret).map(|resource| DynamicSecret {
        name: resource.name.to_string(),
        version_info: resource.version.to_string(),
        secret: Some(any(resource)),
        ..DynamicSecret::default()
    });
    SecretsConfigDump { dynamic_active_secrets: dynamic.collect(), ..SecretsConfigDump::default() }
}

fn extensions(view: &View) -> EcdsConfigDump {
    let filters = resources(view, ResourceType::ExtensionConfig).into_iter();
    let filters = filters.map(|filter| EcdsFilterConfig { ecds_filter: Some(filter), ..EcdsFilterConfig::default() });
    EcdsConfigDump { ecds_filters: filters.collect() }
}

fn any(resource: &Resource) -> Any {
    Any { type_url: resource.kind.type_url().into(), value: redacted(resource).into_owned() }
}

fn section<M: Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;

    use super::*;
    use crate::xds::session::tests::{cluster, endpoint, listener, route, view};

    #[test]
    fn route_tables_are_those_that_the_listeners_ask_for() {
        let references = Arc::new([(ResourceType::Route, "80".into()), (ResourceType::Route, "gone".into())]);
        let asking = Resource { references, ..listener("l", 1, &[]) };
        let view = view(1, [cluster("c", 1), endpoint("c", 1), asking, route("80", 1, &[]), route("9090", 1, &[])]);
        let dump = sections(&view, false);
        let names: Vec<&str> = dump.iter().map(|any| any.type_url.rsplit('.').next().unwrap()).collect();
        let expected = ["Bootstrap", "Clusters", "Listeners", "ScopedRoutes", "Routes", "Secrets", "Ecds"];
        assert_eq!(names, expected.map(|name| format!("{name}ConfigDump")));
        let routes = RoutesConfigDump::decode(&dump[4].value[..]).unwrap();
        assert_eq!(routes.dynamic_route_configs.len(), 2, "the table asked for, and an empty one for that which is missing");
        let endpoints = EndpointsConfigDump::decode(&sections(&view, true)[2].value[..]).unwrap();
        assert_eq!(endpoints.dynamic_endpoint_configs.len(), 1);
    }
}
