//! What we send to a proxy of a case: objects read, meshed and translated in this process.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use envoy_types::pb::envoy::config::{core::v3, route::v3::RouteConfiguration};
use istiod_lite::{
    api::{
        self, Object, ObjectKey,
        istio::{ServerTls, ServerTlsMode},
        mesh_config::MeshConfig,
        yaml,
    },
    mesh::{
        engine::Engine,
        model::{Proxy, ProxyKind},
        policy::mtls,
        scope::{self, Scope},
        world::World,
    },
    translate::{
        cluster::{self, ClusterInput, InboundTarget},
        endpoint,
        input::ProxyClass,
        route,
    },
    xds::{node::Node, render, resource::ResourceType},
};
use prost::Message;
use serde_json::Value;
use smol_str::SmolStr;

use super::compare::Dump;

pub fn answer(case: &Path, proxy: &str) -> Dump {
    let world = world(&fs::read_to_string(case.join("in.yaml")).unwrap());
    let node: Value = serde_json::from_str(&fs::read_to_string(case.join(format!("{proxy}.node.json"))).unwrap()).unwrap();
    let node = render::from_json("type.googleapis.com/envoy.config.core.v3.Node", &node).unwrap();
    let node = Node::parse(&v3::Node::decode(&node[..]).unwrap()).unwrap();
    let proxy = scope::resolve_proxy(&world, &node.proxy);
    let class = class(&proxy);
    let scope = scope::scope(&world, proxy.kind, &proxy.namespace, &proxy.labels);
    Dump::from([
        ("cds".to_owned(), clusters(&world, &proxy, &class, &scope)),
        ("eds".to_owned(), endpoints(&world, &proxy, &class, &scope)),
        ("rds".to_owned(), routes(&world, &proxy, &class, &scope)),
    ])
}

fn world(yaml: &str) -> Arc<World> {
    let cluster = SmolStr::new_static("Kubernetes");
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let mut changes: Vec<(ObjectKey, Option<Arc<Object>>)> = Vec::new();
    for document in yaml::documents(yaml) {
        let parsed = api::parse(&yaml::document(document).unwrap(), &cluster);
        assert!(parsed.refused.is_empty(), "{:?}", parsed.diagnostics);
        changes.extend(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))));
    }
    engine.apply(changes).world
}

fn class(proxy: &Proxy) -> ProxyClass {
    ProxyClass {
        kind: proxy.kind,
        flavour: proxy.flavour,
        interception: proxy.interception,
        namespace: proxy.namespace.clone(),
        dns_domain: proxy.dns_domain.clone(),
        ipv4: proxy.ips.iter().any(|ip| ip.is_ipv4()),
        ipv6: proxy.ips.iter().any(|ip| ip.is_ipv6()),
        http10: proxy.http10,
        idle_timeout: proxy.idle_timeout,
        telemetry: proxy.telemetry.clone(),
    }
}

fn clusters(world: &World, proxy: &Proxy, class: &ProxyClass, scope: &Scope) -> BTreeMap<String, Value> {
    let mut inputs = cluster::fixed_inputs(class, &world.mesh);
    for (host, service) in &scope.services {
        let mode = mtls::service_mtls(world, &service.namespace);
        let endpoints = world.endpoints.get(&service.key());
        let rule = scope.destination_rules.get(host);
        inputs.extend(cluster::inputs(class, &world.mesh, service, rule, Some(mode), endpoints));
        if passes_on(world, proxy) {
            inputs.extend(cluster::auto_passthrough_inputs(class, &world.mesh, service, rule, endpoints));
        }
    }
    if proxy.kind == ProxyKind::Sidecar {
        let targets: Vec<_> = scope::service_targets(world, proxy)
            .into_iter()
            .map(|target| InboundTarget {
                port: target.service.ports[target.port].number,
                rule: scope.destination_rules.get(&target.service.hostname).cloned(),
                target_port: target.target_port,
                service: target.service,
            })
            .collect();
        inputs.extend(cluster::inbound_inputs(class, &world.mesh, scope.sidecar.as_ref(), &targets, proxy.ips[0]));
    }
    let built = inputs.iter().map(|input: &ClusterInput| {
        let built = cluster::cluster(input);
        assert_eq!(built.message.name, input.name());
        (built.message.name.clone(), shown(ResourceType::Cluster, &built.message))
    });
    built.collect()
}

// Whether the proxy is a gateway that passes mTLS on as it is.
fn passes_on(world: &World, proxy: &Proxy) -> bool {
    let gateways = scope::gateways_for(world, &proxy.labels);
    let mut servers = gateways.iter().flat_map(|gateway| &gateway.spec.servers);
    let asks = |tls: &ServerTls| tls.mode == ServerTlsMode::AutoPassthrough;
    proxy.kind == ProxyKind::Gateway && servers.any(|server| server.tls.as_ref().is_some_and(asks))
}

fn endpoints(world: &World, proxy: &Proxy, class: &ProxyClass, scope: &Scope) -> BTreeMap<String, Value> {
    let forms: &[bool] = if passes_on(world, proxy) { &[false, true] } else { &[false] };
    let inputs = scope.services.iter().flat_map(|(host, service)| {
        let (rule, endpoints) = (scope.destination_rules.get(host), world.endpoints.get(&service.key()));
        forms.iter().flat_map(move |form| endpoint::inputs(class, service, rule, endpoints, *form))
    });
    let built = inputs.map(|input| {
        let built = endpoint::load_assignment(&input);
        (input.name().to_string(), shown(ResourceType::Endpoint, &built.message))
    });
    built.collect()
}

fn routes(world: &World, proxy: &Proxy, class: &ProxyClass, scope: &Scope) -> BTreeMap<String, Value> {
    if proxy.kind == ProxyKind::Gateway {
        return BTreeMap::new();
    }
    let names = route::tables(scope, &world.mesh);
    let tables = names.iter().map(|name| {
        let table = route::table(scope, class, &proxy.labels, &world.mesh, name).unwrap();
        let virtual_hosts = table.hosts.iter().map(|host| route::virtual_host(host).message).collect();
        let configuration = RouteConfiguration { virtual_hosts, ..route::route_configuration_header(&table) };
        (name.to_string(), shown(ResourceType::Route, &configuration))
    });
    tables.collect()
}

fn shown(kind: ResourceType, message: &impl Message) -> Value {
    render::to_json(kind.type_url(), &message.encode_to_vec())
}
