//! Translated messages become shared resources: canonical bytes, content hash, origins. Here and nowhere else.

mod canonical;
pub mod checked;
pub mod constraints;
mod entries;
mod field_at;
pub mod patch_report;
pub mod patched;
pub(super) mod standing_in;
mod unfit;

use std::sync::Arc;

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::TypedExtensionConfig,
        endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener,
        route::v3::{RouteConfiguration, VirtualHost},
    },
    extensions::transport_sockets::tls::v3::Secret,
};
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    resource::{Body, ContentHash, EncodedVirtualHost, Resource},
    resource_type::ResourceType,
};
use crate::{
    mesh::model::Origin,
    proto::mesh::ProxyConfig,
    translate::{input::Built, wire},
};

pub use self::{
    canonical::canonical,
    unfit::{Part, Unfit},
};

/// Field number of `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;

/// Encodes a cluster.
pub fn cluster(built: Built<Cluster>) -> Resource {
    let body = canonical(&built.message);
    encoded_cluster(built, body)
}

/// Encodes a load assignment.
pub fn load_assignment(built: Built<ClusterLoadAssignment>) -> Resource {
    let name = built.message.cluster_name.as_str().into();
    let references = references(built.clusters, built.routes).collect();
    resource(ResourceType::Endpoint, name, canonical(&built.message).into(), references, built.origins)
}

/// Takes a load assignment that is encoded already, in canonical order.
pub fn encoded_load_assignment(name: SmolStr, built: Built<Vec<u8>>) -> Resource {
    let references = references(built.clusters, built.routes).collect();
    resource(ResourceType::Endpoint, name, built.message.into(), references, built.origins)
}

/// Encodes a listener.
pub fn listener(built: Built<Listener>) -> Resource {
    let body = canonical(&built.message);
    encoded_listener(built, body)
}

/// Encodes an extension configuration.
pub fn extension_config(built: Built<TypedExtensionConfig>) -> Resource {
    let body = canonical(&built.message);
    encoded_extension_config(built, body)
}

/// Encodes a secret.
pub fn secret(message: &Secret, origins: Vec<Origin>) -> Resource {
    resource(ResourceType::Secret, message.name.as_str().into(), canonical(message).into(), Vec::new(), origins)
}

/// Encodes what Istio's agents are told of their proxies. It has no name, as there is one only.
pub fn proxy_config(message: &ProxyConfig) -> Resource {
    resource(ResourceType::ProxyConfig, SmolStr::default(), canonical(message).into(), Vec::new(), Vec::new())
}

/// Encodes one virtual host.
pub fn virtual_host(built: Built<VirtualHost>) -> EncodedVirtualHost {
    let body = canonical(&built.message);
    encoded_virtual_host(built, &body)
}

/// Joins a route table from its own fields (`header`, without virtual hosts) and encoded virtual hosts: repeated
/// fields concatenate on the wire.
pub fn route_configuration(header: &RouteConfiguration, hosts: impl IntoIterator<Item = Arc<EncodedVirtualHost>>) -> Resource {
    joined(header.name.as_str().into(), canonical(header), hosts.into_iter().collect())
}

/// Makes a route table with other virtual hosts, and all else as in `table`.
pub fn with_virtual_hosts(table: &Resource, hosts: Vec<Arc<EncodedVirtualHost>>) -> Resource {
    joined(table.name.clone(), table.header().to_vec(), hosts)
}

fn joined(name: SmolStr, mut body: Vec<u8>, hosts: Vec<Arc<EncodedVirtualHost>>) -> Resource {
    let (mut clusters, mut origins) = (Vec::new(), Vec::new());
    for host in &hosts {
        body.extend_from_slice(&host.field);
        clusters.extend(host.clusters.iter().cloned());
        origins.extend(host.origins.iter().cloned());
    }
    let references = references(clusters, Vec::new()).collect();
    let table = resource(ResourceType::Route, name, body.into(), references, origins);
    // All share one empty list.
    Resource { virtual_hosts: if hosts.is_empty() { Arc::default() } else { hosts.into() }, ..table }
}

fn encoded_cluster(built: Built<Cluster>, body: Vec<u8>) -> Resource {
    let kind = &built.message.cluster_discovery_type;
    let is_eds = matches!(kind, Some(ClusterDiscoveryType::Type(kind)) if *kind == DiscoveryType::Eds as i32);
    let name = SmolStr::new(&built.message.name);
    let endpoints = is_eds.then(|| (ResourceType::Endpoint, name.clone()));
    let references = references(built.clusters, built.routes).chain(endpoints).collect();
    resource(ResourceType::Cluster, name, body.into(), references, built.origins)
}

fn encoded_listener(built: Built<Listener>, body: Vec<u8>) -> Resource {
    let name = built.message.name.as_str().into();
    let extensions = named(ResourceType::ExtensionConfig, built.extensions);
    let references = references(built.clusters, built.routes).chain(extensions).collect();
    resource(ResourceType::Listener, name, body.into(), references, built.origins)
}

fn encoded_extension_config(built: Built<TypedExtensionConfig>, body: Vec<u8>) -> Resource {
    let name = built.message.name.as_str().into();
    let references = references(built.clusters, built.routes).collect();
    resource(ResourceType::ExtensionConfig, name, body.into(), references, built.origins)
}

fn encoded_virtual_host(built: Built<VirtualHost>, body: &[u8]) -> EncodedVirtualHost {
    let mut field = Vec::with_capacity(body.len() + 8);
    wire::message(&mut field, VIRTUAL_HOSTS, body);
    EncodedVirtualHost { version: ContentHash(xxh3_64(&field)), field: field.into(), clusters: built.clusters, origins: built.origins }
}

fn references(clusters: Vec<SmolStr>, routes: Vec<SmolStr>) -> impl Iterator<Item = (ResourceType, SmolStr)> {
    named(ResourceType::Cluster, clusters).chain(named(ResourceType::Route, routes))
}

fn named(kind: ResourceType, names: Vec<SmolStr>) -> impl Iterator<Item = (ResourceType, SmolStr)> {
    names.into_iter().map(move |name| (kind, name))
}

fn resource(kind: ResourceType, name: SmolStr, body: Body, references: Vec<(ResourceType, SmolStr)>, origins: Vec<Origin>) -> Resource {
    let version = ContentHash(xxh3_64(&body));
    Resource { kind, name, version, body, references: sorted(references), origins: sorted(origins), virtual_hosts: Arc::default() }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Arc<[T]> {
    list.sort_unstable();
    list.dedup();
    // All share one empty list.
    if list.is_empty() { Arc::default() } else { list.into() }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_joined_table_equals_the_table_encoded_whole() {
        let host = |name: &str| VirtualHost { name: name.into(), domains: vec![name.into()], ..VirtualHost::default() };
        let header = RouteConfiguration { name: "80".into(), ..RouteConfiguration::default() };
        let parts = ["a", "b"].map(|name| Arc::new(virtual_host(Built::new(host(name), []))));
        let joined = route_configuration(&header, parts.clone());
        let whole = RouteConfiguration { virtual_hosts: vec![host("a"), host("b")], ..header.clone() };
        assert_eq!(RouteConfiguration::decode(&joined.body[..]).unwrap(), whole);
        let [a, b] = parts;
        let one = with_virtual_hosts(&joined, vec![b]);
        let expected = RouteConfiguration { virtual_hosts: vec![host("b")], ..whole };
        assert_eq!(RouteConfiguration::decode(&one.body[..]).unwrap(), expected);
        assert_eq!((one.header(), one.version), (joined.header(), route_configuration(&header, one.virtual_hosts.to_vec()).version));
        assert_eq!(VirtualHost::decode(a.message()).unwrap(), host("a"));
    }
}
