//! What we send to a proxy of a case: objects read, meshed and translated by the code of the server, in this process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

use envoy_types::pb::envoy::config::core::v3;
use istiod_lite::{
    api::{
        self, Kind, Object, ObjectKey, Spec,
        mesh_config::{Features, MeshConfig},
        trust_bundle::{OWN, TrustBundle},
        yaml,
    },
    mesh::{
        engine::Engine,
        model::Proxy,
        world::{Touched, World},
    },
    proto,
    xds::{classes::Classes, node::Node, render, resource::Resource, resource_type::ResourceType, view::View},
};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use smol_str::SmolStr;

use super::compare::Dump;

/// The API server's own Service: istiod saw it, the cases do not list it.
const KUBERNETES: &str = r#"---
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default, creationTimestamp: "2020-01-01T00:00:00Z"}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}
"#;

/// Returns the dump of the proxy of that name in a case.
pub(crate) fn answer(case: &Path, proxy: &str) -> Dump {
    let (objects, proxy) = asked(case, proxy);
    dump(&view_of(world_with(&objects, fs::read_to_string(case.join("root-cert.pem")).ok()), &proxy))
}

/// The objects of a case, and the proxy of that name.
pub(crate) fn asked(case: &Path, proxy: &str) -> (String, Proxy) {
    let node: Value = serde_json::from_str(&fs::read_to_string(case.join(format!("{proxy}.node.json"))).unwrap()).unwrap();
    let node = Node::parse(&node_of(&node)).unwrap();
    let objects = fs::read_to_string(case.join("in.yaml")).unwrap() + KUBERNETES;
    (objects, Proxy::clone(&node.proxy))
}

/// Reads what a proxy says about itself, written as JSON.
fn node_of(json: &Value) -> v3::Node {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).unwrap());
    let descriptor = POOL.get_message_by_name("envoy.config.core.v3.Node").unwrap();
    DynamicMessage::deserialize(descriptor, json).unwrap().transcode_to().unwrap()
}

/// Returns what a proxy has, given objects as YAML.
pub(crate) fn view(objects: &str, proxy: &Proxy) -> View {
    view_of(world(objects), proxy)
}

fn view_of(world: Arc<World>, proxy: &Proxy) -> View {
    let classes = Classes::default();
    classes.prepare(world, &Touched { everything: true, ..Touched::default() }).send();
    classes.view_for(proxy)
}

/// What objects mean that are given as YAML.
pub(crate) fn world(objects: &str) -> Arc<World> {
    world_with(objects, None)
}

/// The same with the root of our own CA, if proxies are given the roots of all meshes.
fn world_with(objects: &str, root: Option<String>) -> Arc<World> {
    let cluster = SmolStr::new_static("Kubernetes");
    // istiod 1.30 tells nobody of endpoints that are not ready. Its variables stand in the first lines of a case.
    let several_ext_authz = objects.starts_with("# PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS=true\n");
    let features = Features { send_unready_endpoints: false, several_ext_authz };
    let mesh = MeshConfig { features, multi_root: root.is_some(), ..MeshConfig::default() };
    let mut engine = Engine::new("cluster.local", mesh);
    let mut changes: Vec<(ObjectKey, Option<Arc<Object>>)> = Vec::new();
    if let Some(root) = root {
        let key = ObjectKey { cluster: cluster.clone(), kind: Kind::TrustBundle, namespace: SmolStr::default(), name: OWN.into() };
        let spec = Spec::TrustBundle(Arc::new(TrustBundle { roots: Some(root.into()), ..TrustBundle::default() }));
        let own = Object { key: key.clone(), version: SmolStr::default(), metadata: Arc::default(), spec };
        changes.push((key, Some(Arc::new(own))));
    }
    for document in yaml::documents(objects) {
        let parsed = api::parse(&yaml::document(document).unwrap(), &cluster);
        assert!(parsed.refused.is_empty(), "{:?}", parsed.diagnostics);
        changes.extend(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))));
    }
    engine.apply(changes).world
}

// As Envoy does, the dumps ask for the assignments of the clusters and for the route tables that listeners name.
fn dump(view: &View) -> Dump {
    let assigned: BTreeSet<&SmolStr> = view
        .iter(ResourceType::Cluster)
        .filter(|cluster| cluster.refers_to(ResourceType::Endpoint, &cluster.name))
        .map(|cluster| &cluster.name)
        .collect();
    let named =
        |kind| -> BTreeSet<&SmolStr> { view.iter(ResourceType::Listener).flat_map(|listener| listener.references_to(kind)).collect() };
    let (routed, extending) = (named(ResourceType::Route), named(ResourceType::ExtensionConfig));
    let asked = |resource: &&Arc<Resource>| match resource.kind {
        ResourceType::Cluster | ResourceType::Listener => true,
        ResourceType::Endpoint => assigned.contains(&resource.name),
        ResourceType::Route => routed.contains(&resource.name),
        ResourceType::ExtensionConfig => extending.contains(&resource.name),
        ResourceType::ProxyConfig => true,
        ResourceType::Secret | ResourceType::NameTable => false,
    };
    let kinds = ResourceType::in_views().filter(|kind| !kind.is_confidential()).map(|kind| {
        let shown = |resource: &Arc<Resource>| (resource.name.to_string(), render::resource_to_json(resource));
        (kind.as_str().to_owned(), view.iter(kind).filter(asked).map(shown).collect::<BTreeMap<_, _>>())
    });
    kinds.collect()
}
