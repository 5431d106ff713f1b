//! What is sent for a name that a proxy asks for and that does not exist, where Envoy waits for an answer.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::config::{endpoint::v3::ClusterLoadAssignment, route::v3::RouteConfiguration},
    google::protobuf::BoolValue,
};

use super::{
    encode,
    resource::{Body, ContentHash, Resource},
    resource_type::ResourceType,
};
use crate::translate::input::Built;

/// Returns what stands in for a resource that does not exist; `None` for types of which Envoy never waits for a single
/// resource.
pub(super) fn stand_in(kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
    let resource = match kind {
        ResourceType::Cluster
        | ResourceType::Listener
        | ResourceType::Secret
        | ResourceType::ExtensionConfig
        | ResourceType::ProxyConfig => return None,
        ResourceType::Endpoint => encode::load_assignment(Built::new(empty_load_assignment(name), [])),
        ResourceType::Route => encode::route_configuration(&empty_route_configuration(name), []),
        ResourceType::NameTable => blank(kind, name),
    };
    Some(Arc::new(resource))
}

fn empty_load_assignment(name: &str) -> ClusterLoadAssignment {
    ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() }
}

fn empty_route_configuration(name: &str) -> RouteConfiguration {
    RouteConfiguration { name: name.into(), validate_clusters: Some(BoolValue { value: false }), ..RouteConfiguration::default() }
}

/// Returns a message at its default, without a version.
fn blank(kind: ResourceType, name: &str) -> Resource {
    Resource {
        kind,
        name: name.into(),
        version: ContentHash::NONE,
        body: Body::default(),
        references: Arc::default(),
        origins: Arc::default(),
        virtual_hosts: Arc::default(),
    }
}
