use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use crate::xds::{
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
        body,
        clusters: Arc::new([]),
        routes: Arc::new([]),
        eds: kind == ResourceType::Cluster,
        origins: Arc::new([]),
    }
}

pub(crate) fn cluster(name: &str, content: u64) -> Resource {
    resource(ResourceType::Cluster, name, content)
}

pub(crate) fn endpoint(name: &str, content: u64) -> Resource {
    resource(ResourceType::Endpoint, name, content)
}

pub(crate) fn listener(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { clusters: names(clusters), ..resource(ResourceType::Listener, name, content) }
}

pub(crate) fn route(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { clusters: names(clusters), ..resource(ResourceType::Route, name, content) }
}

/// A view of one layer per type.
pub(crate) fn view(generation: u64, resources: impl IntoIterator<Item = Resource>) -> View {
    let mut layers = PerType::<imbl::OrdMap<SmolStr, Arc<Resource>>>::default();
    for resource in resources {
        layers[resource.kind].insert(resource.name.clone(), Arc::new(resource));
    }
    View::new(generation, layers.map(|layer| vec![Arc::new(layer)]))
}

fn names(names: &[&str]) -> Arc<[SmolStr]> {
    let mut names: Vec<SmolStr> = names.iter().copied().map(SmolStr::from).collect();
    names.sort_unstable();
    names.into()
}
