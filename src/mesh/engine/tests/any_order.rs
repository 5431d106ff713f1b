//! Rule 1: any order and batching of the same changes gives an equal world, and patched scopes equal fresh ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use proptest::{prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};

use super::*;
use crate::{
    api::{
        mesh_config::{CaCertificate, RootsFrom},
        rate_limit_policy::{RateLimit, RateLimitPolicy},
        trust_bundle::TrustBundle,
    },
    mesh::{
        configured::Configured,
        envoy_filter::EnvoyFilter,
        model::Proxy,
        scope::{EgressScope, scope_key, service_targets},
        validate,
        world::EffectiveMtls,
    },
};

/// Generates a change in a small world in which names meet often.
fn change() -> impl Strategy<Value = Change> {
    let present = prop_oneof![
        select(vec!["n1", "n2"]).prop_flat_map(|name| select(vec!["west", "east"]).prop_map(move |region| node(name, region))),
        (namespace(), name(), 80..82u16, created(), any::<bool>()).prop_map(|(namespace, name, port, created, both)| {
            let service = created_at(service(namespace, name, port), created);
            if both { selecting_a(service) } else { service }
        }),
        (namespace(), select(vec!["alias", "a"]), namespace(), name()).prop_map(|(namespace, name, to, target)| external_name(
            namespace,
            name,
            &format!("{target}.{to}.svc.cluster.local")
        )),
        (namespace(), name(), 1..4u8, select(vec!["v1", "v2"]), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(namespace, app, at, version, sidecar, owned, ready)| {
                let mut labels = vec![("app", app), ("version", version)];
                labels.extend(sidecar.then_some(("security.istio.io/tlsMode", "istio")));
                let (key, object) = pod(namespace, &format!("pod-{at}"), &format!("10.0.0.{at}"), &labels);
                let mut object = Object::clone(&object.unwrap());
                if let Spec::Pod(spec) = &object.spec {
                    let owner = if owned { app.into() } else { SmolStr::default() };
                    object.spec = Spec::Pod(Arc::new(Pod { owner, ready, ..Pod::clone(spec) }));
                }
                (key, Some(Arc::new(object)))
            }
        ),
        (namespace(), name(), proptest::collection::vec(1..4u8, 0..3), 8080..8082u16).prop_map(|(namespace, service, pods, port)| {
            let named: Vec<(String, String)> = pods.iter().map(|at| (format!("pod-{at}"), format!("10.0.0.{at}"))).collect();
            let named: Vec<(&str, &str)> = named.iter().map(|(pod, ip)| (pod.as_str(), ip.as_str())).collect();
            with_slice_port(slice(namespace, service, &named), port)
        }),
        (namespace(), name(), host(), 0..3u32, select(vec!["", ".", "*"])).prop_map(|(namespace, name, to, weight, export)| {
            with_spec(weights(namespace, name, to, &[("v1", weight)]), |spec| {
                if let Spec::VirtualService(spec) = spec {
                    Arc::make_mut(spec).export_to = (!export.is_empty()).then(|| export.into()).into_iter().collect();
                }
            })
        }),
        (namespace(), name(), select(vec!["r", "a"])).prop_map(|(namespace, name, to)| delegating(namespace, name, to)),
        (namespace(), select(vec!["r", "a"])).prop_map(|(namespace, name)| delegate(namespace, name)),
        (namespace(), name(), host(), select(vec!["", ".", "*"]), any::<bool>())
            .prop_map(|(namespace, name, host, export, selecting)| rule(namespace, name, host, export, selecting)),
        (namespace(), select(vec!["default", "wl"]), mode(), any::<bool>())
            .prop_map(|(namespace, name, mode, selecting)| peer(namespace, name, mode, selecting)),
        (namespace(), name(), 0..2u32, any::<bool>())
            .prop_map(|(namespace, name, threads, selecting)| proxy_config(namespace, name, threads, selecting)),
        (namespace(), select(vec!["s1", "s2"]), select(vec!["./*", "*/*", "one/*", "two/a.two.svc.cluster.local"]), any::<bool>())
            .prop_map(|(namespace, name, import, selecting)| sidecar(namespace, name, import, selecting)),
        (namespace(), select(vec!["e1", "e2"]), select(vec!["ext.example.com", "a.one.svc.cluster.local"]), any::<bool>(), created())
            .prop_map(|(namespace, name, host, selecting, created)| entry(namespace, name, host, selecting, created)),
        (namespace(), select(vec!["vm", "pod-1"]), name(), 1..3u32)
            .prop_map(|(namespace, name, app, weight)| vm(namespace, name, app, weight)),
        (namespace(), name(), any::<bool>()).prop_map(|(namespace, team, near)| {
            let (key, object) = object(Kind::Namespace, "", namespace, &[("team", team)], Spec::Namespace);
            let annotations: &[(&str, &str)] = if near { &[("networking.istio.io/traffic-distribution", "PreferClose")] } else { &[] };
            let mut object = Object::clone(&object.unwrap());
            object.metadata = Arc::new(Metadata { annotations: labels_of(annotations).into(), ..Metadata::clone(&object.metadata) });
            (key, Some(Arc::new(object)))
        }),
        (namespace(), name(), secret_name()).prop_map(|(namespace, app, secret)| {
            let tls = istio::ServerTls { mode: istio::ServerTlsMode::Mutual, credential_name: secret.into(), ..Default::default() };
            let server = istio::Server { tls: Some(tls), ..Default::default() };
            let spec = istio::Gateway { selector: labels_of(&[("app", app)]), servers: vec![server] };
            object(Kind::Gateway, namespace, "public", &[], Spec::Gateway(Arc::new(spec)))
        }),
        (namespace(), secret_name(), select(vec!["x", "y"])).prop_map(|(namespace, name, text)| {
            let registries = format!(r#"{{"auths": {{"{text}": {{}}}}}}"#);
            let entries = [("tls.crt", text.to_owned()), (kubernetes::Secret::PULL_KEY, registries)];
            let secret = kubernetes::Secret { entries: entries.map(|(key, text)| (key, text.into_bytes().into())).into() };
            object(Kind::Secret, namespace, name, &[], Spec::Secret(Arc::new(secret)))
        }),
        (namespace(), name(), secret_name()).prop_map(|(namespace, app, roots)| {
            let tls = istio::ServerTls {
                mode: istio::ServerTlsMode::Mutual,
                credential_name: "till".into(),
                ca_cert_credential_name: format!("configmap://two/{roots}").into(),
                ..Default::default()
            };
            let server = istio::Server { tls: Some(tls), ..Default::default() };
            let spec = istio::Gateway { selector: labels_of(&[("app", app)]), servers: vec![server] };
            object(Kind::Gateway, namespace, "public", &[], Spec::Gateway(Arc::new(spec)))
        }),
        (namespace(), secret_name(), select(vec!["x", "y"])).prop_map(|(namespace, name, text)| {
            let map = kubernetes::ConfigMap { entries: vec![("ca.crt", text.as_bytes().to_vec().into())] };
            object(Kind::ConfigMap, namespace, name, &[], Spec::ConfigMap(Arc::new(map)))
        }),
        (namespace(), select(vec!["a", "envoy"]), any::<bool>()).prop_map(|(namespace, provider, disabled)| {
            let entry = istio::AccessLogging { providers: vec![provider.into()], disabled, ..Default::default() };
            let spec = istio::Telemetry { access_logging: vec![entry], ..Default::default() };
            object(Kind::Telemetry, namespace, "all", &[], Spec::Telemetry(Arc::new(spec)))
        }),
        (namespace(), select(vec![-1, 1])).prop_map(|(namespace, priority)| {
            let spec = istio::EnvoyFilter { priority, patches: vec![istio::ConfigPatch::default()], ..Default::default() };
            object(Kind::EnvoyFilter, namespace, "all", &[], Spec::EnvoyFilter(Arc::new(spec)))
        }),
        (namespace(), select(vec!["", "a", "two/a"])).prop_map(|(namespace, pull_secret)| {
            let module = istio::WasmModule { url: "a/b".into(), pull_secret: pull_secret.into(), ..Default::default() };
            let spec = istio::WasmPlugin { module, ..Default::default() };
            object(Kind::WasmPlugin, namespace, "all", &[], Spec::WasmPlugin(Arc::new(spec)))
        }),
        (namespace(), any::<bool>()).prop_map(|(namespace, is_script)| {
            let module = istio::WasmModule { url: "a/b".into(), pull_secret: "a".into(), ..Default::default() };
            let code = if is_script { istio::ExtensionCode::Lua("-- a".into()) } else { istio::ExtensionCode::Wasm(module) };
            let spec = istio::TrafficExtension { code: Some(code), ..Default::default() };
            object(Kind::TrafficExtension, namespace, "all", &[], Spec::TrafficExtension(Arc::new(spec)))
        }),
        (namespace(), select(vec![1, 2])).prop_map(|(namespace, requests)| {
            let limit = RateLimit { name: "a".into(), requests, ..RateLimit::default() };
            let spec = RateLimitPolicy { limits: vec![limit.into()], ..RateLimitPolicy::default() };
            object(Kind::RateLimitPolicy, namespace, "all", &[], Spec::RateLimitPolicy(Arc::new(spec)))
        }),
        (namespace(), any::<bool>()).prop_map(|(namespace, of_tokens)| match of_tokens {
            true => {
                let rule = istio::JwtRule { issuer: "a".into(), jwks_uri: "https://a/keys".into(), ..istio::JwtRule::default() };
                let spec = istio::RequestAuthentication { rules: vec![rule], ..Default::default() };
                object(Kind::RequestAuthentication, namespace, "all", &[], Spec::RequestAuthentication(Arc::new(spec)))
            }
            false => {
                let spec = istio::AuthorizationPolicy { rules: vec![Default::default()], ..Default::default() };
                object(Kind::AuthorizationPolicy, namespace, "all", &[], Spec::AuthorizationPolicy(Arc::new(spec)))
            }
        }),
        select(vec![None, Some("one"), Some("other")]).prop_map(|keys| {
            let set = crate::api::key_set::KeySet { keys: keys.map(Into::into), trouble: keys.is_none().then(|| "away".into()) };
            object(Kind::KeySet, "", "https://a/keys", &[], Spec::KeySet(Arc::new(set)))
        }),
        (select(vec!["", "https://a/bundle"]), select(vec![None, Some("one"), Some("other")])).prop_map(|(name, roots)| {
            let bundle = TrustBundle { roots: roots.map(Into::into), ..TrustBundle::default() };
            object(Kind::TrustBundle, "", name, &[], Spec::TrustBundle(Arc::new(bundle)))
        }),
        select(vec!["cluster.local", "other.local"]).prop_map(|trust_domain| {
            let published = CaCertificate {
                roots: RootsFrom::BundleAt("https://a/bundle".into()),
                trust_domains: vec![trust_domain.into()],
                cert_signers: Vec::new(),
            };
            let mesh = MeshConfig { trust_domain: trust_domain.into(), ca_certificates: vec![published], ..MeshConfig::default() };
            object(Kind::MeshConfig, "istio-system", "istio", &[], Spec::MeshConfig(Arc::new(mesh)))
        }),
    ];
    (present, 0..4u8, 0..4u8).prop_map(|(change, fate, cluster)| {
        let change = if fate == 0 { gone(change) } else { change };
        if cluster == 0 { elsewhere(change) } else { change }
    })
}

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["one", "two", "istio-system"])
}

fn name() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b"])
}

fn secret_name() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "a-cacert", "two/a"])
}

fn host() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "a.two.svc.cluster.local", "*.svc.cluster.local", "ext.example.com"])
}

fn created() -> impl Strategy<Value = i64> {
    0..3i64
}

fn mode() -> impl Strategy<Value = PeerMtlsMode> {
    select(vec![PeerMtlsMode::Unset, PeerMtlsMode::Disable, PeerMtlsMode::Strict])
}

fn delegating(namespace: &str, name: &str, to: &str) -> Change {
    let delegate = Some(istio::Delegate { name: to.into(), namespace: "one".into() });
    let spec = istio::VirtualService {
        hosts: vec!["shop.example.com".into(), name.into()],
        gateways: vec!["mesh".into(), "one/public".into()],
        http: vec![istio::HttpRoute { delegate, ..Default::default() }],
        ..Default::default()
    };
    object(Kind::VirtualService, namespace, &format!("root-{name}"), &[], Spec::VirtualService(Arc::new(spec)))
}

fn delegate(namespace: &str, name: &str) -> Change {
    let route =
        istio::RouteDestination { destination: istio::Destination { host: "b".into(), ..Default::default() }, ..Default::default() };
    let spec = istio::VirtualService { http: vec![istio::HttpRoute { route: vec![route], ..Default::default() }], ..Default::default() };
    object(Kind::VirtualService, namespace, name, &[], Spec::VirtualService(Arc::new(spec)))
}

fn rule(namespace: &str, name: &str, host: &str, export: &str, selecting: bool) -> Change {
    let spec = istio::DestinationRule {
        host: host.into(),
        export_to: (!export.is_empty()).then(|| export.into()).into_iter().collect(),
        workload_selector: selecting.then(|| labels_of(&[("app", "a")])),
        subsets: vec![istio::Subset { name: name.into(), ..Default::default() }],
        ..Default::default()
    };
    object(Kind::DestinationRule, namespace, name, &[], Spec::DestinationRule(Arc::new(spec)))
}

fn peer(namespace: &str, name: &str, mode: PeerMtlsMode, selecting: bool) -> Change {
    let spec = istio::PeerAuthentication { mode, selector: selecting.then(|| labels_of(&[("app", "a")])), ..Default::default() };
    object(Kind::PeerAuthentication, namespace, name, &[], Spec::PeerAuthentication(Arc::new(spec)))
}

fn proxy_config(namespace: &str, name: &str, threads: u32, selecting: bool) -> Change {
    let selector = selecting.then(|| labels_of(&[("app", "a")]));
    let spec = istio::ProxyConfig { selector, concurrency: Some(threads), ..Default::default() };
    object(Kind::ProxyConfig, namespace, name, &[], Spec::ProxyConfig(Arc::new(spec)))
}

fn sidecar(namespace: &str, name: &str, import: &str, selecting: bool) -> Change {
    let egress = vec![istio::EgressListener { hosts: vec![import.into()], ..Default::default() }];
    let spec = istio::Sidecar { egress, workload_selector: selecting.then(|| labels_of(&[("app", "a")])), ..Default::default() };
    object(Kind::Sidecar, namespace, name, &[], Spec::Sidecar(Arc::new(spec)))
}

fn entry(namespace: &str, name: &str, host: &str, selecting: bool, created: i64) -> Change {
    let endpoint = istio::WorkloadEntry { address: "10.9.0.1".into(), service_account: name.into(), ..Default::default() };
    let number = if name == "e1" { 80 } else { 81 };
    let export_to = [&[][..], &["."], &["*"]][usize::try_from(created).unwrap()].iter().map(|to| (*to).into()).collect();
    let spec = istio::ServiceEntry {
        hosts: vec![host.into()],
        export_to,
        ports: vec![istio::Port { number, name: "http".into(), protocol: "HTTP".into(), target_port: 0 }],
        resolution: istio::ServiceEntryResolution::Static,
        endpoints: if selecting { Vec::new() } else { vec![endpoint] },
        workload_selector: selecting.then(|| labels_of(&[("app", "a")])),
        ..Default::default()
    };
    created_at(object(Kind::ServiceEntry, namespace, name, &[], Spec::ServiceEntry(Arc::new(spec))), created)
}

fn created_at((key, object): Change, created: i64) -> Change {
    let object = object.map(|object| Object { metadata: Arc::new(Metadata { created, ..Metadata::default() }), ..Object::clone(&object) });
    (key, object.map(Arc::new))
}

fn with_spec((key, object): Change, change: impl Fn(&mut Spec)) -> Change {
    let changed = |object: Arc<Object>| {
        let mut object = Object::clone(&object);
        change(&mut object.spec);
        Arc::new(object)
    };
    (key, object.map(changed))
}

fn with_slice_port(slice: Change, port: u16) -> Change {
    with_spec(slice, |spec| {
        if let Spec::EndpointSlice(slice) = spec {
            Arc::make_mut(slice).ports = vec![("http".into(), port)];
        }
    })
}

fn selecting_a(service: Change) -> Change {
    with_spec(service, |spec| {
        if let Spec::Service(service) = spec {
            Arc::make_mut(service).selector = labels_of(&[("app", "a")]).into();
        }
    })
}

fn vm(namespace: &str, name: &str, app: &str, weight: u32) -> Change {
    let spec = istio::WorkloadEntry { address: "10.8.0.1".into(), labels: labels_of(&[("app", app)]), weight, ..Default::default() };
    object(Kind::WorkloadEntry, namespace, name, &[], Spec::WorkloadEntry(Arc::new(spec)))
}

fn assert_same(left: &World, right: &World) {
    assert_eq!(without_history(left), without_history(right));
}

/// Returns a world without what is to differ by how it came about: its count, and what EnvoyFilters said before.
fn without_history(world: &World) -> World {
    let mut world = World { generation: 0, ..world.clone() };
    let filters: Vec<_> = world.envoy_filters.values().map(|filter| Configured::clone(filter)).collect();
    for filter in filters {
        let key = (filter.origin.object.namespace.clone(), filter.origin.object.name.clone());
        let spec = EnvoyFilter { earlier: Vec::new(), ..EnvoyFilter::clone(&filter.spec) };
        world.envoy_filters.replace(&key, Some(Configured { spec: spec.into(), ..filter }));
    }
    world
}

fn assert_same_scope(left: &Scope, right: &Scope) {
    let egress = |egress: &EgressScope| (egress.listener.clone(), egress.services.clone(), egress.routes.clone());
    assert_eq!(left.sidecar, right.sidecar);
    assert_eq!(left.egress.iter().map(egress).collect::<Vec<_>>(), right.egress.iter().map(egress).collect::<Vec<_>>());
    assert_eq!(left.services, right.services);
    assert_eq!(left.destination_rules, right.destination_rules);
    assert_eq!(left.allow_any, right.allow_any);
}

/// Returns the hosts whose values in one table differ.
fn differing<K: Ord + Clone, V: PartialEq>(
    old: &imbl::OrdMap<K, Arc<V>>,
    new: &imbl::OrdMap<K, Arc<V>>,
    hosts: impl Fn(&K, &V) -> Vec<Hostname>,
) -> BTreeSet<Hostname> {
    let gone = old.iter().filter(|(key, value)| new.get(*key) != Some(*value));
    let new = new.iter().filter(|(key, value)| old.get(*key) != Some(*value));
    gone.chain(new).flat_map(|(key, value)| hosts(key, value)).collect()
}

/// Checks that what was touched is exactly what differs (for services and routes, also what depends on policies).
fn assert_exact(old: &World, new: &World, touched: &Touched) {
    assert_eq!(differing(&old.endpoints, &new.endpoints, |key, _| vec![key.hostname.clone()]), touched.endpoints);
    let services = differing(&old.services, &new.services, |key, _| vec![key.hostname.clone()]);
    assert!(services.is_subset(&touched.services), "{services:?} {touched:?}");
    if !touched.everything {
        for key in new.services.keys().filter(|key| mtls::service_mtls(old, &key.namespace) != mtls::service_mtls(new, &key.namespace)) {
            assert!(touched.services.contains(&key.hostname), "{key:?} {touched:?}");
        }
    }
    let routes = differing(&old.routes, &new.routes, |_, routes| routes.hosts.clone());
    assert!(routes.is_subset(&touched.routes), "{routes:?} {touched:?}");
}

const PROXIES: [(ProxyKind, &str, &str); 4] = [
    (ProxyKind::Sidecar, "one", "a"),
    (ProxyKind::Sidecar, "two", "b"),
    (ProxyKind::Sidecar, "istio-system", "b"),
    (ProxyKind::Gateway, "istio-system", "a"),
];

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn inbound_modes(world: &World, namespace: &str, app: &str) -> EffectiveMtls {
    mtls::workload_mtls(world, namespace, &labels_of(&[("app", app)]))
}

/// Returns what a proxy at that address answers for: `(host, service port, target port)`.
fn targets(world: &World, namespace: &str, app: &str) -> Vec<(Hostname, u16, u16)> {
    let proxy = Proxy {
        ips: vec![ADDRESS],
        labels: Arc::new(labels_of(&[("app", app)])),
        ..Proxy::new(ProxyKind::Sidecar, &format!(".{namespace}"))
    };
    let targets = service_targets(world, &proxy);
    targets
        .into_iter()
        .map(|target| (target.service.hostname.clone(), target.service.ports[target.port].number, target.target_port))
        .collect()
}

/// Checks that values of a table that did not change keep their `Arc`.
fn assert_kept<K: Ord + Clone, V: PartialEq>(old: &imbl::OrdMap<K, Arc<V>>, new: &imbl::OrdMap<K, Arc<V>>) {
    for (key, value) in new {
        assert!(old.get(key).filter(|old| *old == value).is_none_or(|old| Arc::ptr_eq(old, value)), "a value lost its pointer");
    }
}

// Tables of policies hold to it by themselves: `PolicyTable::replace`.
fn assert_pointers(old: &World, new: &World) {
    assert_kept(&old.services, &new.services);
    assert_kept(&old.endpoints, &new.endpoints);
    assert_kept(&old.workloads, &new.workloads);
    assert_kept(&old.routes, &new.routes);
}

#[test]
fn changes_are_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let kinds: BTreeSet<Kind> = (0..1_000).map(|_| change().new_tree(&mut runner).unwrap().current().0.kind).collect();
    assert_eq!(kinds, Kind::ALL.into());
}

type Batches = Vec<Vec<Change>>;

/// Applies the batches and holds every step against what it must not show.
fn assert_unshown(batches: Batches) {
    let mut engine = engine();
    let scopes = |world: &World| PROXIES.map(|(kind, namespace, app)| scope(world, kind, namespace, &labels_of(&[("app", app)])));
    let keys = |world: &World| PROXIES.map(|(kind, namespace, app)| scope_key(world, kind, namespace, &labels_of(&[("app", app)])));
    let mut patched = scopes(engine.world());
    let mut sorted = keys(engine.world());
    let mut last: BTreeMap<ObjectKey, Option<Arc<Object>>> = BTreeMap::new();
    for batch in batches {
        last.extend(batch.iter().cloned());
        let old = Arc::clone(engine.world());
        let Applied { world, touched, .. } = engine.apply(batch);
        assert_exact(&old, &world, &touched);
        assert_pointers(&old, &world);
        let (fresh, now) = (scopes(&world), keys(&world));
        for (at, (.., app)) in PROXIES.iter().enumerate() {
            let namespace = fresh[at].namespace.as_str();
            let resorted = touched.everything || touched.namespaces.contains(namespace);
            let stays = now[at] == sorted[at];
            assert!(resorted || stays);
            assert!(resorted || inbound_modes(&old, namespace, app) == inbound_modes(&world, namespace, app));
            let answers = touched.addresses.contains(&ADDRESS);
            assert!(resorted || answers || targets(&old, namespace, app) == targets(&world, namespace, app), "{touched:?}");
            if !stays {
                // A proxy that is sorted anew leaves its scope for that of its new key: nothing is patched.
                patched[at] = fresh[at].clone();
                continue;
            }
            let next = patched[at].update(&world, &sorted[at], &touched);
            assert_same_scope(&next, &fresh[at]);
            assert_kept(&patched[at].services, &next.services);
            assert_kept(&patched[at].destination_rules, &next.destination_rules);
            for (before, after) in patched[at].egress.iter().zip(&next.egress) {
                assert_kept(&before.services, &after.services);
                assert_kept(&before.routes, &after.routes);
            }
            patched[at] = next;
        }
        sorted = now;
        validate::check(&world);
    }
    let mut whole = self::engine();
    let world = whole.apply(last.into_iter().rev()).world;
    assert_same(engine.world(), &world);
}

/// Checks a Sidecar that hides an alias: the service it trims is a new value for proxies that the Sidecar takes over,
/// and stays the old one for those that had the Sidecar before.
#[test]
fn an_alias_that_a_sidecar_hides() {
    let target = || vec![service("two", "a", 80)];
    let narrow = || sidecar("one", "s1", "two/a.two.svc.cluster.local", false);
    let alias = || external_name("one", "alias", "a.two.svc.cluster.local");
    assert_unshown(vec![target(), vec![narrow(), alias()]]);
    assert_unshown(vec![target(), vec![narrow()], vec![alias()]]);
    assert_unshown(vec![target(), vec![narrow()], vec![alias()], vec![gone(alias())]]);
}

/// Checks that a proxy's targets follow a port that moves while the address stays.
#[test]
fn an_endpoint_that_moves_to_another_port() {
    let workload = || pod("one", "pod-1", "10.0.0.1", &[("app", "a")]);
    let at = |port| with_slice_port(slice("one", "a", &[("pod-1", "10.0.0.1")]), port);
    assert_unshown(vec![vec![service("one", "a", 80), workload(), at(8080)], vec![at(8081)]]);
}

/// Checks that age decides which of two services a proxy answers for first.
#[test]
fn a_service_that_is_made_anew() {
    let both = || vec![service("one", "a", 80), selecting_a(service("one", "b", 80))];
    assert_unshown(vec![both(), vec![created_at(service("one", "a", 80), 2)]]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_and_batches_do_not_show(batches in proptest::collection::vec(proptest::collection::vec(change(), 1..6), 1..12)) {
        assert_unshown(batches);
    }
}
