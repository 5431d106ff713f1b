//! Holds the mesh against istiod 1.30.3, which was given the same objects: both have the same services, subsets,
//! endpoints and inbound ports for a proxy.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::{
    api::{
        mesh_config::Features,
        parse,
        yaml::{document, documents},
    },
    mesh::{
        model::{Endpoint, Health, Locality, Protocol, Proxy, Resolution},
        scope::{resolve_proxy, service_targets},
    },
};

/// One proxy of a case: istiod's answer and ours.
struct Case {
    theirs: Value,
    world: Arc<World>,
    proxy: Proxy,
    scope: Scope,
}

impl Case {
    fn new(objects: &str, node: &str, answer: &str) -> Self {
        // istiod 1.30 tells nobody of endpoints that are not ready.
        let features = Features { send_unready_endpoints: false, ..Features::default() };
        let mut engine = Engine::new("cluster.local", MeshConfig { features, ..MeshConfig::default() });
        for text in documents(objects) {
            let parsed = parse(&document(text).unwrap(), &"Kubernetes".into());
            engine.apply(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))));
        }
        let world = Arc::clone(engine.world());
        let proxy = resolve_proxy(&world, &declared(&serde_json::from_str(node).unwrap()));
        let scope = scope(&world, proxy.kind, &proxy.namespace, &proxy.labels);
        Self { theirs: serde_json::from_str(answer).unwrap(), world, proxy, scope }
    }

    /// Returns the names of the outbound clusters that istiod sends, except the API server's own.
    fn their_outbound(&self) -> BTreeSet<String> {
        let names = self.theirs["cds"].as_object().unwrap().keys();
        names.filter(|name| name.starts_with("outbound|") && !name.contains("|kubernetes.default.")).cloned().collect()
    }

    fn our_outbound(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (host, service) in self.scope.services.iter().filter(|(_, service)| service.external_name.is_none()) {
            let subsets = self.scope.destination_rules.get(host).map(|rule| &rule.subsets[..]).unwrap_or_default();
            for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
                let subsets = subsets.iter().map(|subset| subset.name.as_str());
                names.extend([""].into_iter().chain(subsets).map(|subset| format!("outbound|{}|{subset}|{host}", port.number)));
            }
        }
        names
    }

    /// Returns `address port health weight tls workload region/zone/subzone` of the endpoints that istiod sends by EDS.
    fn their_endpoints(&self) -> BTreeMap<String, Vec<String>> {
        let assignments = self.theirs["eds"].as_object().unwrap().iter();
        let ours = assignments.filter(|(name, _)| name.contains("||") && !name.contains("|kubernetes.default."));
        ours.map(|(name, assignment)| {
            let mut lines = Vec::new();
            for group in assignment["endpoints"].as_array().into_iter().flatten() {
                let locality = ["region", "zone", "sub_zone"].map(|part| group["locality"][part].as_str().unwrap_or_default());
                lines.extend(group["lb_endpoints"].as_array().unwrap().iter().map(|endpoint| line(endpoint, &locality.join("/"))));
            }
            lines.sort();
            (name.clone(), lines)
        })
        .collect()
    }

    fn our_endpoints(&self) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        for service in self.scope.services.values().filter(|service| self.by_eds(service)) {
            for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
                let endpoints = self.world.endpoints.get(&service.key()).map(|set| set.port(port.number)).unwrap_or_default();
                let mut lines: Vec<String> = endpoints.iter().map(our_line).collect();
                lines.sort();
                found.insert(format!("outbound|{}||{}", port.number, service.hostname), lines);
            }
        }
        found
    }

    /// Returns whether a service's endpoints come by EDS. Those of headless services do at gateways; sidecars resolve
    /// them by address.
    fn by_eds(&self, service: &Service) -> bool {
        let headless = service.headless && self.proxy.kind == ProxyKind::Gateway;
        (service.resolution == Resolution::ClientSideLb || headless) && service.external_name.is_none()
    }

    fn check(&self) {
        assert!(!self.their_outbound().is_empty() && !self.their_endpoints().is_empty());
        assert_eq!(self.our_outbound(), self.their_outbound());
        assert_eq!(self.our_endpoints(), self.their_endpoints());
    }

    fn inbound(&self) -> Vec<u16> {
        let ports: BTreeSet<u16> = service_targets(&self.world, &self.proxy).iter().map(|target| target.target_port).collect();
        ports.into_iter().collect()
    }
}

fn line(endpoint: &Value, locality: &str) -> String {
    let address = &endpoint["endpoint"]["address"];
    let metadata = &endpoint["metadata"]["filter_metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{}{} {} {} {} {} {} {locality}",
        text(&address["socket_address"]["address"]),
        text(&address["pipe"]["path"]),
        address["socket_address"]["port_value"].as_u64().unwrap_or_default(),
        endpoint["health_status"] == "HEALTHY",
        endpoint["load_balancing_weight"],
        metadata["envoy.transport_socket_match"]["tlsMode"] == "istio",
        text(&metadata["istio"]["workload"]).split(';').take(2).collect::<Vec<_>>().join(";"),
    )
}

fn our_line(endpoint: &Endpoint) -> String {
    let (address, port) = match &endpoint.address {
        EndpointAddress::Ip(ip) => (ip.to_string(), endpoint.port),
        EndpointAddress::Host(name) => (name.to_string(), endpoint.port),
        EndpointAddress::Pipe(path) => (path.to_string(), 0),
    };
    let Locality { region, zone, subzone } = &*endpoint.backend.locality;
    format!(
        "{address} {port} {} {} {} {};{} {region}/{zone}/{subzone}",
        endpoint.backend.health == Health::Healthy,
        endpoint.backend.weight,
        endpoint.mtls,
        endpoint.backend.workload,
        endpoint.backend.namespace,
    )
}

fn declared(node: &Value) -> Proxy {
    let id: Vec<&str> = node["id"].as_str().unwrap().split('~').collect();
    let metadata = |key: &str| SmolStr::new(node["metadata"][key].as_str().unwrap_or_default());
    let kind = if id[0] == "router" { ProxyKind::Gateway } else { ProxyKind::Sidecar };
    Proxy { namespace: metadata("NAMESPACE"), ips: vec![id[1].parse().unwrap()], ..Proxy::new(kind, id[2]) }
}

macro_rules! case {
    ($case:literal, $proxy:literal) => {
        Case::new(
            include_str!(concat!("../../../../tests/oracle/cases/", $case, "/in.yaml")),
            include_str!(concat!("../../../../tests/oracle/cases/", $case, "/", $proxy, ".node.json")),
            include_str!(concat!("../../../../tests/oracle/cases/", $case, "/", $proxy, ".json")),
        )
    };
}

#[test]
fn canary_as_istiod_sees_it() {
    let reviews = case!("canary", "reviews-1.shop");
    reviews.check();
    assert_eq!(reviews.inbound(), [9080]);
    let client = case!("canary", "client-1.shop");
    client.check();
    assert_eq!(client.inbound(), [8080]);
    case!("canary", "gateway-1.istio-system").check();
}

#[test]
fn protocols_as_istiod_sees_them() {
    case!("protocols", "client-1.shop").check();
    let store = case!("protocols", "store-0.shop");
    store.check();
    assert_eq!(store.inbound(), [7000, 7001, 7002]);
}

#[test]
fn mtls_and_sidecars_as_istiod_sees_them() {
    case!("mtls", "in-1.scoped").check();
    case!("mtls", "plain-1.scoped").check();
    case!("mtls", "none-1.mixed").check();
    let mixed = case!("mtls", "m-1.mixed");
    mixed.check();
    assert_eq!(mixed.inbound(), [8080, 8081, 8082]);
}

#[test]
fn gateways_as_istiod_sees_them() {
    case!("gateways", "gateway-1.istio-system").check();
}
