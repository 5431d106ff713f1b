//! Listeners made from objects, read as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use envoy_types::pb::envoy::config::listener::v3::Listener;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};

use super::{
    gateway::{self, GatewayPlan, GatewayView},
    inbound::{self, InboundView},
    outbound::{self, Group, ListenerInput, OutboundView, Planned},
    refused::{Onward, Reason, Refused},
};
use crate::{
    api::{
        self, Object, ObjectKey,
        mesh_config::{MeshConfig, PathNormalization},
        yaml,
    },
    mesh::{
        engine::Engine,
        gateway::Refusal,
        model::{Flavour, Interception, Labels, MtlsMode, Proxy, ProxyKind, ProxyPorts},
        policy::{mtls::workload_mtls, request_authentication::token_rules, workload::WorkloadPolicies},
        scope,
        telemetry::EffectiveTelemetry,
        world::World,
    },
    translate::input::{Built, ProxyClass},
};

mod conflicts;

const OWN: &str = "10.0.0.9";

/// A proxy `app` in namespace `shop`.
struct Asked {
    world: Arc<World>,
    class: ProxyClass,
    labels: Labels,
    ports: ProxyPorts,
}

impl Asked {
    fn of(objects: &str) -> Self {
        Self::with(MeshConfig::default(), objects)
    }

    fn with(mesh: MeshConfig, objects: &str) -> Self {
        let class = ProxyClass {
            kind: ProxyKind::Sidecar,
            flavour: Flavour::Istio,
            interception: Interception::Redirect,
            namespace: "shop".into(),
            dns_domain: "shop.svc.cluster.local".into(),
            ipv4: true,
            ipv6: false,
            http10: false,
            idle_timeout: None,
            labels: Arc::default(),
            peers: false,
            routes: Default::default(),
            preserves_case: false,
            listener: Default::default(),
        };
        let labels = [("app".into(), "app".into())].into_iter().collect();
        Self { world: world(mesh, objects), class, labels, ports: ProxyPorts::USUAL }
    }

    fn stock(mut self) -> Self {
        self.class.flavour = Flavour::Stock;
        self
    }

    /// Reports what the mesh has all proxies report.
    fn reporting(mut self) -> Self {
        let proxy = Proxy::new(self.class.kind, "app.shop");
        self.class.listener.reports = EffectiveTelemetry::of(&self.world, &self.scope(), &proxy).client;
        self
    }

    fn uncaptured(mut self) -> Self {
        self.class.interception = Interception::None;
        self
    }

    fn unprivileged(mut self) -> Self {
        self.ports.unprivileged = true;
        self
    }

    fn dual_stack(mut self) -> Self {
        self.class.ipv6 = true;
        self
    }

    fn scope(&self) -> scope::Scope {
        scope::scope(&self.world, self.class.kind, &self.class.namespace, &self.labels)
    }

    fn planned(&self) -> BTreeMap<Group, Planned> {
        let own = [OWN.parse::<IpAddr>().unwrap()];
        let scope = self.scope();
        let (class, mesh, endpoints) = (&self.class, &self.world.mesh, &self.world.endpoints);
        let view = OutboundView { scope: &scope, class, mesh, endpoints, own: &own, ports: self.ports };
        let all = outbound::all_planned(view);
        for group in outbound::groups(view) {
            assert_eq!(outbound::planned(view, group), all.get(&group).cloned().unwrap_or_default(), "{group:?} alone and among all");
        }
        all
    }

    fn inputs(&self) -> BTreeMap<Group, Vec<ListenerInput>> {
        self.planned().into_iter().map(|(group, planned)| (group, planned.listeners)).collect()
    }

    /// Returns what has no place among the outbound listeners.
    fn refused(&self) -> Vec<String> {
        let refused = self.planned().into_values().flat_map(|planned| planned.refused);
        refused.map(|refused| format!("{} {}: {}", refused.origin.object, refused.field, refused.reason)).collect()
    }

    fn outbound(&self) -> BTreeMap<String, Value> {
        shown(self.inputs().values().flatten().map(outbound::listener))
    }

    fn proxy(&self) -> Proxy {
        Proxy {
            namespace: self.class.namespace.clone(),
            ips: vec![OWN.parse().unwrap()],
            labels: Arc::new(self.labels.clone()),
            interception: self.class.interception,
            flavour: self.class.flavour,
            dns_domain: self.class.dns_domain.clone(),
            ..Proxy::new(self.class.kind, "app.shop")
        }
    }

    fn inbound(&self) -> BTreeMap<String, Value> {
        self.inbound_planned().0
    }

    fn inbound_planned(&self) -> (BTreeMap<String, Value>, BTreeSet<Refused>) {
        let scope = self.scope();
        let (input, refused) = inbound::planned(InboundView {
            class: &self.class,
            mesh: &self.world.mesh,
            mtls: &workload_mtls(&self.world, "shop", &self.labels),
            tokens: &Arc::new(token_rules(&self.world, "shop", &self.labels)),
            policies: &WorkloadPolicies::of(&self.world, "shop", &self.labels),
            sidecar: scope.sidecar.as_deref(),
            targets: &scope::service_targets(&self.world, &self.proxy()),
            workload: &[OWN.parse::<IpAddr>().unwrap()],
            ports: self.ports,
        });
        (shown(inbound::listeners(&input)), refused)
    }

    fn gateway(mut self) -> (GatewayPlan, BTreeMap<String, Value>) {
        self.class.kind = ProxyKind::Gateway;
        let gateways = scope::gateways_for(&self.world, &self.labels);
        let plan = gateway::plan(GatewayView {
            class: &self.class,
            mesh: &self.world.mesh,
            gateways: &gateways,
            world: &self.world,
            scope: &self.scope(),
            tokens: &Arc::new(token_rules(&self.world, "shop", &self.labels)),
            targets: &scope::service_targets(&self.world, &self.proxy()),
            policies: &WorkloadPolicies::of(&self.world, "shop", &self.labels),
            ports: self.ports,
        });
        let listeners = shown(plan.listeners.iter().map(gateway::listener));
        (plan, listeners)
    }
}

fn world(mesh: MeshConfig, objects: &str) -> Arc<World> {
    Engine::new("cluster.local", mesh).apply(read(objects)).world
}

fn read(objects: &str) -> Vec<(ObjectKey, Option<Arc<Object>>)> {
    let mut changes = Vec::new();
    for document in yaml::documents(objects) {
        let parsed = api::parse(&yaml::document(document).unwrap(), &"Kubernetes".into());
        assert!(parsed.refused.is_empty(), "{:?}", parsed.diagnostics);
        changes.extend(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))));
    }
    changes
}

fn shown(built: impl IntoIterator<Item = Built<Listener>>) -> BTreeMap<String, Value> {
    static POOL: std::sync::LazyLock<DescriptorPool> =
        std::sync::LazyLock::new(|| DescriptorPool::decode(crate::proto::DESCRIPTORS).unwrap());
    let descriptor = POOL.get_message_by_name("envoy.config.listener.v3.Listener").unwrap();
    let show = |built: Built<Listener>| {
        let message = DynamicMessage::decode(descriptor.clone(), built.message.encode_to_vec().as_slice()).unwrap();
        let options = SerializeOptions::new().use_proto_field_name(true);
        let json = message.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
        (built.message.name, json)
    };
    built.into_iter().map(show).collect()
}

/// Returns `(match, what the chain ends in)` for each chain, the default chain last.
fn chains(listener: &Value) -> Vec<(Value, String)> {
    let listed = listener["filter_chains"].as_array().unwrap().iter();
    let all = listed.chain(listener.get("default_filter_chain"));
    all.map(|chain| (chain.get("filter_chain_match").cloned().unwrap_or_default(), end(chain))).collect()
}

fn end(chain: &Value) -> String {
    let filters = chain["filters"].as_array().unwrap();
    let config = &filters.last().unwrap()["typed_config"];
    let inline = || config["route_config"]["name"].as_str().map(|name| format!("inline {name}"));
    let routes = || config["rds"]["route_config_name"].as_str().map(|name| format!("rds {name}"));
    let weighted = || config["weighted_clusters"]["clusters"].as_array().map(|clusters| format!("{} weighted", clusters.len()));
    inline().or_else(routes).or_else(|| config["cluster"].as_str().map(str::to_owned)).or_else(weighted).unwrap()
}

fn entry(name: &str, created: u32, port: u16, protocol: &str, more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"2024-01-01T00:00:{created:02}Z\"}}\n\
         spec: {{hosts: [{name}.example.com], resolution: DNS, location: MESH_EXTERNAL, ports: [{{number: {port}, name: p, protocol: {protocol}}}]{more}}}\n"
    )
}

fn sniffed() -> Value {
    json!({"application_protocols": ["http/1.1", "h2c"], "transport_protocol": "raw_buffer"})
}

#[test]
fn http_beside_tcp_turns_sniffing_on() {
    let objects = entry("bytes", 1, 8000, "TCP", "") + &entry("web", 2, 8000, "HTTP", "");
    let listener = &Asked::of(&objects).outbound()["0.0.0.0_8000"];
    assert_eq!(chains(listener), [(sniffed(), "rds 8000".to_owned()), (Value::Null, "outbound|8000||bytes.example.com".to_owned())]);
    assert_eq!(listener["listener_filters"][0]["name"], "envoy.filters.listener.http_inspector");
    assert_eq!(listener["default_filter_chain"].get("name"), None);
}

#[test]
fn of_two_tcp_services_on_one_address_the_older_has_it() {
    let objects = entry("young", 2, 8000, "TCP", "") + &entry("old", 1, 8000, "TCP", "");
    let listener = &Asked::of(&objects).outbound()["0.0.0.0_8000"];
    assert_eq!(chains(listener), [(Value::Null, "outbound|8000||old.example.com".to_owned())]);
}

#[test]
fn a_protocol_in_which_the_server_speaks_first_is_never_sniffed() {
    let objects = entry("db", 1, 8000, "MONGO", "") + &entry("web", 2, 8000, "HTTP", "");
    let listener = &Asked::of(&objects).outbound()["0.0.0.0_8000"];
    assert_eq!(chains(listener), [(Value::Null, "outbound|8000||db.example.com".to_owned())]);
    assert_eq!(listener["filter_chains"][0]["filters"][0]["name"], "envoy.filters.network.mongo_proxy");
}

#[test]
fn without_permission_unknown_destinations_end_in_the_black_hole() {
    let mesh = MeshConfig { outbound_traffic_policy: api::istio::OutboundTrafficPolicy::RegistryOnly, ..Default::default() };
    let listeners = Asked::with(mesh, &entry("web", 1, 80, "HTTP", "")).outbound();
    assert_eq!(listeners["0.0.0.0_80"]["default_filter_chain"]["name"], "PassthroughFilterChain");
    assert_eq!(end(&listeners["0.0.0.0_80"]["default_filter_chain"]), "BlackHoleCluster");
    assert_eq!(end(&listeners["virtualOutbound"]["filter_chains"][1]), "BlackHoleCluster");
}

#[test]
fn a_tcp_route_replaces_the_services_own_chain() {
    let route = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: shop}\n\
                 spec: {hosts: [bytes.example.com], tcp: [{match: [{port: 8000}], route: [{destination: {host: bytes.example.com, subset: a}, weight: 30}, {destination: {host: bytes.example.com}, weight: 70}]}]}\n";
    let listener = &Asked::of(&(entry("bytes", 1, 8000, "TCP", "") + route)).outbound()["0.0.0.0_8000"];
    let chain = &listener["filter_chains"][0];
    let proxy = &chain["filters"][0]["typed_config"];
    assert_eq!(proxy["stat_prefix"], "r.shop");
    assert_eq!(
        proxy["weighted_clusters"]["clusters"],
        json!([{"name": "outbound|8000|a|bytes.example.com", "weight": 30}, {"name": "outbound|8000||bytes.example.com", "weight": 70}])
    );
    let config = &chain["metadata"]["filter_metadata"]["istio"]["config"];
    assert_eq!(config, "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/r");
}

#[test]
fn a_tls_route_matches_by_name_and_lets_the_rest_pass() {
    let route = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: shop}\n\
                 spec: {hosts: [safe.example.com], tls: [{match: [{sniHosts: [safe.example.com]}], route: [{destination: {host: safe.example.com}}]}]}\n";
    let service = entry("safe", 1, 8443, "TLS", ", addresses: [240.0.0.1]");
    let without = &Asked::of(&service).outbound()["240.0.0.1_8443"];
    assert_eq!(chains(without), [(Value::Null, "outbound|8443||safe.example.com".to_owned())]);
    let with = &Asked::of(&(service + route)).outbound()["240.0.0.1_8443"];
    assert_eq!(
        chains(with),
        [
            (json!({"server_names": ["safe.example.com"]}), "outbound|8443||safe.example.com".to_owned()),
            (json!({}), "PassthroughCluster".to_owned())
        ]
    );
    assert_eq!(with["listener_filters"][0]["name"], "envoy.filters.listener.tls_inspector");
}

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: app, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 81, targetPort: 8081}, {name: auto, port: 82, targetPort: 8082}]}
---
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: shop, labels: {app: app}}
spec: {serviceAccountName: app, containers: [{name: c, image: x}]}
status: {podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}], phase: Running}
---
apiVersion: v1
kind: Service
metadata: {name: parts, namespace: shop}
spec: {clusterIP: None, selector: {app: app}, ports: [{name: tcp, port: 7000, targetPort: 7000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: parts-1, namespace: shop, labels: {kubernetes.io/service-name: parts}}
addressType: IPv4
ports: [{name: tcp, port: 7000, protocol: TCP}]
endpoints: [{addresses: [10.0.0.9], conditions: {ready: true}}, {addresses: [10.0.0.10], conditions: {ready: true}}]
";

#[test]
fn without_capture_listeners_bind_themselves() {
    let listeners = Asked::of(MESH).uncaptured().outbound();
    let names: Vec<_> = listeners.keys().map(String::as_str).collect();
    assert_eq!(names, ["127.0.0.1_7000", "127.0.0.1_80", "127.0.0.1_81", "127.0.0.1_82"]);
    let http = &listeners["127.0.0.1_80"];
    assert_eq!((http.get("bind_to_port"), http.get("default_filter_chain")), (None, None));
    assert_eq!(http["max_connections_to_accept_per_socket_event"], 1);
    assert_eq!(chains(http), [(Value::Null, "rds 80".to_owned())]);
}

#[test]
fn each_part_of_a_headless_service_has_a_listener_but_for_oneself() {
    let listeners = Asked::of(MESH).outbound();
    let parts: Vec<_> = listeners.keys().filter(|name| name.ends_with("_7000")).collect();
    assert_eq!(parts, ["10.0.0.10_7000"]);
}

#[test]
fn a_sidecars_port_keeps_other_services_of_that_port_out() {
    let sidecar = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: shop}\n\
                   spec: {egress: [{port: {number: 8000, protocol: TCP, name: t}, hosts: [./one.example.com]}, {hosts: ['*/*']}]}\n";
    let objects = entry("two", 1, 8000, "TCP", "") + &entry("one", 2, 8000, "TCP", "") + &entry("three", 3, 8001, "TCP", "") + sidecar;
    let listeners = Asked::of(&objects).outbound();
    assert_eq!(chains(&listeners["0.0.0.0_8000"]), [(Value::Null, "outbound|8000||one.example.com".to_owned())]);
    assert!(listeners.contains_key("0.0.0.0_8001"));
}

#[test]
fn a_service_that_changes_behind_its_ports_plans_the_same() {
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let mut inputs = |objects: &str| {
        let mut asked = Asked::of("");
        asked.world = engine.apply(read(objects)).world;
        asked.inputs()
    };
    let before = inputs(MESH);
    let labelled = MESH.replace("metadata: {name: app, namespace: shop}", "metadata: {name: app, namespace: shop, labels: {a: b}}");
    assert_eq!(inputs(&labelled), before);
    let renumbered = labelled.replace("port: 81, targetPort", "port: 91, targetPort");
    let after = inputs(&renumbered);
    let changed: Vec<_> = after.iter().filter(|(group, inputs)| before.get(group) != Some(inputs)).map(|(group, _)| *group).collect();
    assert_eq!(changed, [Group::Port(91)]);
    assert!(!after.contains_key(&Group::Port(81)));
}

#[test]
fn a_stock_envoy_gets_nothing_that_only_istios_has() {
    let asked = Asked::of(MESH).stock().reporting();
    let text = serde_json::to_string(&[asked.outbound(), asked.inbound()]).unwrap();
    for only in ["istio.metadata_exchange", "istio.alpn", "istio.stats", "TypedStruct"] {
        assert!(!text.contains(only), "{only}");
    }
    assert!(!text.contains("\"alpn_protocols\":[\"istio-peer-exchange\""), "the ALPN name needs the filter");
    assert!(text.contains(r#""name":"CANONICAL_SERVICE""#));
    let sniffed = serde_json::to_string(&asked.outbound()["10.96.0.1_82"]).unwrap();
    assert!(sniffed.contains("envoy.network.application_protocols"), "HTTP of sniffed ports says so to the server");
    let known = serde_json::to_string(&asked.outbound()["0.0.0.0_80"]).unwrap();
    assert!(!known.contains("envoy.network.application_protocols"));
}

fn policy(mode: MtlsMode) -> String {
    let mode = format!("{mode:?}").to_uppercase();
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

/// Returns `transport alpn… → http or tcp, + where mTLS ends here`, for the chains of a port.
fn shapes(listeners: &BTreeMap<String, Value>, port: u16) -> Vec<String> {
    let chains = listeners["virtualInbound"]["filter_chains"].as_array().unwrap().iter();
    let of_port = chains.filter(|chain| chain["filter_chain_match"]["destination_port"] == port);
    let shape = |chain: &Value| {
        let alpn = chain["filter_chain_match"]["application_protocols"].as_array().map_or(0, Vec::len);
        let kind = if end(chain).starts_with("inline") { "http" } else { "tcp" };
        let ends = if chain.get("transport_socket").is_some() { "+" } else { "" };
        format!("{} {alpn} {kind}{ends}", chain["filter_chain_match"]["transport_protocol"].as_str().unwrap())
    };
    of_port.map(shape).collect()
}

#[test]
fn inbound_chains_follow_mode_and_protocol() {
    let table = [
        (
            MtlsMode::Permissive,
            [
                vec!["tls 5 http+", "raw_buffer 0 http"],
                vec!["tls 5 tcp+", "tls 0 tcp", "raw_buffer 0 tcp"],
                vec!["tls 3 http+", "raw_buffer 2 http", "tls 2 tcp+", "raw_buffer 0 tcp", "tls 0 tcp"],
            ],
        ),
        (MtlsMode::Strict, [vec!["tls 0 http+"], vec!["tls 0 tcp+"], vec!["tls 3 http+", "tls 0 tcp+"]]),
        (MtlsMode::Disable, [vec!["raw_buffer 0 http"], vec!["raw_buffer 0 tcp"], vec!["raw_buffer 2 http", "raw_buffer 0 tcp"]]),
    ];
    for (mode, ports) in table {
        let listeners = Asked::of(&(MESH.to_owned() + &policy(mode))).inbound();
        for (port, wanted) in [8080, 8081, 8082].into_iter().zip(ports) {
            assert_eq!(shapes(&listeners, port), wanted, "{mode:?} {port}");
        }
        let tls = listeners["virtualInbound"]["listener_filters"].as_array().unwrap().iter();
        let inspects_tls = tls.filter(|filter| filter["name"] == "envoy.filters.listener.tls_inspector").count() == 1;
        assert_eq!(inspects_tls, mode != MtlsMode::Disable);
    }
}

#[test]
fn a_sidecars_ingress_binds_where_nothing_is_captured() {
    let sidecar = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: shop}\n\
                   spec: {workloadSelector: {labels: {app: app}}, ingress: [{port: {number: 9080, protocol: HTTP, name: h}, bind: 127.0.1.1, defaultEndpoint: '127.0.0.1:8080'}], egress: [{hosts: ['*/*']}]}\n";
    let listeners = Asked::of(&(MESH.to_owned() + sidecar)).uncaptured().inbound();
    assert_eq!(listeners.len(), 1);
    let listener = &listeners["127.0.1.1_9080"];
    assert_eq!(listener["traffic_direction"], "INBOUND");
    let inspectors = listener["listener_filters"].as_array().unwrap();
    assert_eq!(inspectors.len(), 1, "no original_dst, and nothing is sniffed: {inspectors:?}");
    assert_eq!(inspectors[0]["filter_disabled"], json!({"not_match": {"destination_port_range": {"start": 9080, "end": 9081}}}));
    assert_eq!(chains(listener)[0].1, "inline inbound|9080||");
    let captured = Asked::of(&(MESH.to_owned() + sidecar)).inbound();
    assert_eq!(captured.keys().collect::<Vec<_>>(), ["virtualInbound"], "under capture it is part of the one listener");
}

#[test]
fn paths_are_normalized_as_the_mesh_asks() {
    let table = [
        (PathNormalization::None, (false, Value::Null, "KEEP_UNCHANGED")),
        (PathNormalization::Base, (true, Value::Null, "KEEP_UNCHANGED")),
        (PathNormalization::MergeSlashes, (true, json!(true), "KEEP_UNCHANGED")),
        (PathNormalization::DecodeAndMergeSlashes, (true, json!(true), "UNESCAPE_AND_FORWARD")),
    ];
    for (path_normalization, (normalize, merge, escaped)) in table {
        let listeners = Asked::with(MeshConfig { path_normalization, ..Default::default() }, MESH).outbound();
        let manager = &listeners["0.0.0.0_80"]["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(manager["normalize_path"], normalize, "{path_normalization:?}");
        assert_eq!(manager["merge_slashes"], merge, "{path_normalization:?}");
        assert_eq!(manager["path_with_escaped_slashes_action"], escaped, "{path_normalization:?}");
    }
}

#[test]
fn logs_are_where_traffic_is() {
    let mesh = MeshConfig { access_log_file: "/dev/stdout".into(), proxy_http_port: 15002, ..Default::default() };
    let asked = Asked::with(mesh, MESH).reporting();
    let (out, inside) = (asked.outbound(), asked.inbound());
    let log = |value: &Value| value.get("access_log").is_some();
    let last = |chain: &Value| chain["filters"].as_array().unwrap().last().unwrap()["typed_config"].clone();
    assert!(log(&out["virtualOutbound"]) && !log(&out["0.0.0.0_80"]));
    assert!(log(&last(&out["0.0.0.0_80"]["filter_chains"][0])) && log(&last(&out["10.96.0.1_81"]["filter_chains"][0])));
    assert!(!log(&last(&out["virtualOutbound"]["filter_chains"][0])), "the black hole does not log");
    assert!(!log(&last(&inside["virtualInbound"]["filter_chains"][0])));
    assert_eq!(inside["virtualInbound"]["access_log"][0]["filter"]["response_flag_filter"]["flags"], json!(["NR"]));
    let explicit = &out["127.0.0.1_15002"]["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(explicit["http_protocol_options"]["allow_absolute_url"], true);
    assert_eq!(explicit["rds"]["route_config_name"], "http_proxy");
}

const GATEWAYS: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: one, namespace: shop, creationTimestamp: \"2024-01-01T00:00:01Z\"}
spec:
  selector: {app: app}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [./a.example.com], tls: {mode: SIMPLE, serverCertificate: /a.pem, privateKey: /a.key}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: two, namespace: shop, creationTimestamp: \"2024-01-01T00:00:02Z\"}
spec:
  selector: {app: app}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [b.example.com], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, serverCertificate: /b.pem, privateKey: /b.key}}
  - {port: {number: 443, name: plain, protocol: HTTP}, hosts: [c.example.com]}
";

#[test]
fn servers_of_all_gateways_share_what_can_be_shared() {
    let (plan, listeners) = Asked::of(&(MESH.to_owned() + GATEWAYS)).gateway();
    assert_eq!(listeners.keys().collect::<Vec<_>>(), ["0.0.0.0_443", "0.0.0.0_8080"], "a TCP server without routes has no listener");
    let http = plan.tables.iter().find(|table| table.name == "http.8080").unwrap();
    let servers: Vec<_> =
        http.servers.iter().map(|server| (server.origin.object.name.as_str(), server.port, server.https_redirect)).collect();
    assert_eq!(servers, [("one", 80, false), ("two", 80, true)]);
    assert_eq!(plan.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["http.8080", "https.443.https.one.shop"]);
    assert_eq!(
        chains(&listeners["0.0.0.0_443"]),
        [(json!({"server_names": ["a.example.com"]}), "rds https.443.https.one.shop".to_owned())]
    );
    let reasons: Vec<_> = plan.refused.iter().map(|refused| (refused.field.as_str(), refused.reason.clone())).collect();
    let host = crate::mesh::model::Hostname::new("a.example.com");
    let expected = [
        ("spec.servers[2]", Reason::LeadsNowhere(9000, Onward::Tcp)),
        ("spec.servers[1]", Reason::Server(Refusal::HostTaken(host))),
        ("spec.servers[2]", Reason::Server(Refusal::PortTaken(443))),
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn a_gateway_without_rights_leaves_low_ports_out() {
    let (plan, listeners) = Asked::of(&(MESH.to_owned() + GATEWAYS)).unprivileged().gateway();
    assert_eq!(listeners.keys().collect::<Vec<_>>(), ["0.0.0.0_8080"]);
    assert!(plan.refused.iter().any(|refused| refused.reason == Reason::Server(Refusal::Privileged(443))));
}

#[test]
fn a_tcp_server_has_a_listener_once_it_has_a_route() {
    let route = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: shop}\n\
                 spec: {hosts: ['*'], gateways: [one], tcp: [{match: [{port: 9000}], route: [{destination: {host: app, port: {number: 81}}}]}]}\n";
    let (_, listeners) = Asked::of(&(MESH.to_owned() + GATEWAYS + route)).gateway();
    assert_eq!(chains(&listeners["0.0.0.0_9000"]), [(Value::Null, "outbound|81||app.shop.svc.cluster.local".to_owned())]);
}
