use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use prost::Message;
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use crate::translate::input::Built;
use crate::xds::{
    encode,
    per_type::PerType,
    resource::{ContentHash, Resource},
    resource_type::ResourceType,
    view::View,
};

pub(crate) fn resource(kind: ResourceType, name: &str, content: u64) -> Resource {
    let body = Bytes::from(content.to_le_bytes().to_vec());
    Resource {
        kind,
        name: name.into(),
        version: ContentHash(xxh3_64(&body)),
        body: body.into(),
        references: kind.warms_with().map(|with| (with, name.into())).into_iter().collect(),
        origins: Arc::new([]),
        virtual_hosts: Arc::default(),
    }
}

pub(crate) fn cluster(name: &str, content: u64) -> Resource {
    resource(ResourceType::Cluster, name, content)
}

pub(crate) fn endpoint(name: &str, content: u64) -> Resource {
    resource(ResourceType::Endpoint, name, content)
}

pub(crate) fn listener(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { references: clusters_named(clusters), ..resource(ResourceType::Listener, name, content) }
}

pub(crate) fn route(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { references: clusters_named(clusters), ..resource(ResourceType::Route, name, content) }
}

/// Returns a route table of virtual hosts, each with its name, a content, and the cluster that its routes name.
pub(crate) fn route_of_hosts(name: &str, hosts: &[(String, u64, String)]) -> Resource {
    let header = RouteConfiguration { name: name.into(), ..RouteConfiguration::default() };
    let host = |(name, content, cluster): &(String, u64, String)| {
        let response_headers_to_remove = vec![content.to_string(), cluster.clone()];
        let message = VirtualHost { name: name.clone(), domains: vec![name.clone()], response_headers_to_remove, ..VirtualHost::default() };
        Arc::new(encode::virtual_host(Built { clusters: vec![cluster.into()], ..Built::new(message, []) }))
    };
    encode::route_configuration(&header, hosts.iter().map(host))
}

/// Returns the contents of a table's virtual hosts, by their names.
pub(crate) fn contents_of_hosts(table: &Resource) -> BTreeMap<String, u64> {
    let hosts = table.virtual_hosts.iter().map(|host| VirtualHost::decode(host.message()).unwrap());
    hosts.map(|host| (host.name, host.response_headers_to_remove[0].parse().unwrap())).collect()
}

/// Returns a view of one layer per type.
pub(crate) fn view(generation: u64, resources: impl IntoIterator<Item = Resource>) -> View {
    let mut layers = PerType::<imbl::OrdMap<SmolStr, Arc<Resource>>>::default();
    for resource in resources {
        layers[resource.kind].insert(resource.name.clone(), Arc::new(resource));
    }
    View::new(generation, PerType::from_fn(|kind| vec![Arc::new(std::mem::take(&mut layers[kind]))]))
}

fn clusters_named(names: &[&str]) -> Arc<[(ResourceType, SmolStr)]> {
    let mut references: Vec<_> = names.iter().map(|name| (ResourceType::Cluster, SmolStr::new(name))).collect();
    references.sort_unstable();
    references.into()
}
