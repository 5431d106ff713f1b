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
        body: body.into(),
        references: kind.warms_with().map(|with| (with, name.into())).into_iter().collect(),
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
    Resource { references: clusters_named(clusters), ..resource(ResourceType::Listener, name, content) }
}

pub(crate) fn route(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { references: clusters_named(clusters), ..resource(ResourceType::Route, name, content) }
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
