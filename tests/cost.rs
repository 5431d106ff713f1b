//! Cost follows change (architecture, rule 4), told by the counters: one endpoint change translates one resource, one
//! weight change exactly the distinct virtual hosts that contain the route, and both cost the same with 10 and with
//! 2,000 other services.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use istiod_lite::{
    api::{self, Object, ObjectKey, mesh_config::MeshConfig, yaml},
    mesh::{
        engine::Engine,
        model::{Caller, Proxy, ProxyKind},
        validate,
    },
    visits::Visits,
    xds::{
        classes::Classes,
        node::{Node, Proven},
        resource_type::ResourceType,
        view::{Attachment, Views},
    },
};
use proptest::prelude::*;

const CANARY: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.7.7, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.7.8, selector: {app: ratings}, ports: [{name: http, port: 9090}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}]}
";

fn weights(v1: u32) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: shop}}
spec:
  hosts: [reviews, shop.example.com]
  gateways: [public, mesh]
  http:
  - route:
    - {{destination: {{host: reviews, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: reviews, subset: v2}}, weight: {}}}
",
        100 - v1
    )
}

fn ratings(endpoints: &[&str]) -> String {
    let mut text = String::from(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ratings-a, namespace: shop, labels: {kubernetes.io/service-name: ratings}}
addressType: IPv4
ports: [{name: http, port: 9090}]
endpoints:
",
    );
    for address in endpoints {
        let _ = writeln!(text, "- {{addresses: [{address}], conditions: {{ready: true}}}}");
    }
    text
}

fn others(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, n| {
        let (high, low) = (n / 250, 1 + n % 250);
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: load}}\n\
             spec: {{clusterIP: 10.97.{high}.{low}, selector: {{app: s{n}}}, ports: [{{name: http, port: 9080}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s{n}, namespace: load, labels: {{kubernetes.io/service-name: s{n}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 9080}}]\n\
             endpoints: [{{addresses: [10.98.{high}.{low}], conditions: {{ready: true}}}}]\n"
        );
        text
    })
}

fn parse(text: &str) -> Vec<Arc<Object>> {
    let documents = yaml::documents(text).into_iter().map(|document| {
        let read = yaml::document(document);
        assert!(read.is_ok(), "{read:?}");
        read.unwrap_or_default()
    });
    let parsed: Vec<_> = documents.map(|document| api::parse(&document, &"Kubernetes".into())).collect();
    for parsed in &parsed {
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    }
    parsed.into_iter().flat_map(|parsed| parsed.objects).collect()
}

fn keyed(objects: &[Arc<Object>]) -> Vec<(ObjectKey, Option<Arc<Object>>)> {
    objects.iter().map(|object| (object.key.clone(), Some(Arc::clone(object)))).collect()
}

fn proxy(kind: ProxyKind, namespace: &str, last: u8) -> Proxy {
    let label = |key: &str, value: &str| (key.into(), value.into());
    let labels = match kind {
        ProxyKind::Gateway => [label("istio", "ingressgateway")].into(),
        ProxyKind::Sidecar => [label("app", "client")].into(),
    };
    Proxy { ips: vec![[10, 1, 0, last].into()], labels: Arc::new(labels), ..Proxy::new(kind, &format!("p{last}.{namespace}")) }
}

/// A mesh with proxies attached: three sidecars of two namespaces and a gateway.
struct Mesh {
    engine: Engine,
    classes: Classes,
    receivers: Vec<Attachment>,
}

/// What one change cost.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    recomputed: usize,
    translated: BTreeMap<&'static str, u64>,
    changed: BTreeMap<ResourceType, u64>,
    proxies: usize,
}

impl Mesh {
    fn with_others(count: usize) -> Self {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let text = [CANARY, "---", &weights(90), "---", &ratings(&["10.1.1.1"]), &others(count)].concat();
        let applied = engine.apply(keyed(&parse(&text)));
        let classes = Classes::default();
        classes.prepare(applied.world, &applied.touched).send();
        let sidecars = [("shop", 1), ("shop", 2), ("other", 3)].map(|(namespace, last)| proxy(ProxyKind::Sidecar, namespace, last));
        let proxies = sidecars.into_iter().chain([proxy(ProxyKind::Gateway, "shop", 4)]);
        let receivers = proxies.map(|proxy| attach(&classes, proxy)).collect();
        Self { engine, classes, receivers }
    }

    /// Returns what a change makes the control plane look at, validation included.
    fn looked_at(&mut self, text: &str) -> Visits {
        let before = Visits::of_this_thread();
        self.apply(text);
        validate::check(self.engine.world());
        Visits::of_this_thread() - before
    }

    /// Returns what a proxy that connects makes the control plane look at.
    fn looked_at_for(&mut self, proxy: Proxy) -> Visits {
        let before = Visits::of_this_thread();
        self.receivers.push(attach(&self.classes, proxy));
        Visits::of_this_thread() - before
    }

    fn apply(&mut self, text: &str) -> Cost {
        let before = self.classes.translated();
        let applied = self.engine.apply(keyed(&parse(text)));
        let prepared = self.classes.prepare(applied.world, &applied.touched);
        let cost = Cost {
            recomputed: applied.recomputed,
            translated: self
                .classes
                .translated()
                .into_iter()
                .map(|(what, now)| (what, now - before[what]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            changed: prepared.changed().filter(|(_, count)| *count > 0).collect(),
            proxies: prepared.proxies().len(),
        };
        prepared.send();
        cost
    }
}

#[test]
fn one_endpoint_change_translates_one_resource() {
    let [few, many] = [10, 2_000].map(|count| Mesh::with_others(count).apply(&ratings(&["10.1.1.1", "10.1.1.2"])));
    assert_eq!(few.translated, BTreeMap::from([("load_assignment", 1)]));
    assert_eq!(few.changed, BTreeMap::from([(ResourceType::Endpoint, 1)]));
    assert_eq!(few.proxies, 4, "all of them see the service");
    assert_eq!(few, many);
}

#[test]
fn one_weight_change_translates_the_distinct_virtual_hosts_with_the_route() {
    let [few, many] = [10, 2_000].map(|count| Mesh::with_others(count).apply(&weights(50)));
    // `reviews` as its own namespace and as another names it, the external host for sidecars, and the gateway's.
    assert_eq!(few.translated, BTreeMap::from([("route_table", 3), ("virtual_host", 4)]));
    assert_eq!(few.proxies, 4);
    assert_eq!(few, many);
}

#[test]
fn an_object_written_again_without_change_costs_nothing() {
    let mut mesh = Mesh::with_others(10);
    let cost = mesh.apply(&weights(90));
    assert_eq!((cost.translated, cost.changed, cost.proxies), (BTreeMap::new(), BTreeMap::new(), 0));
}

#[test]
fn a_policy_touches_the_workloads_that_it_selects_alone() {
    let policy = |namespace: &str, name: &str, app: &str, port: u16| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{action: DENY, selector: {{matchLabels: {{{app}}}}}, rules: [{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}]}}\n"
        )
    };
    for namespace in ["shop", "istio-system"] {
        let [few, many] = [10, 500].map(|others| {
            let mut mesh = Mesh::with_others(10);
            let for_others = (0..others).map(|n| policy(namespace, &format!("p{n}"), &format!("app: s{n}"), 80));
            mesh.apply(&for_others.collect::<String>());
            mesh.apply(&policy(namespace, "front", "istio: ingressgateway", 80));
            mesh.apply(&policy(namespace, "front", "istio: ingressgateway", 81))
        });
        assert_eq!((few.recomputed, few.proxies), (1, 1), "{few:?}");
        assert_eq!((few.translated.values().sum::<u64>(), &few.changed), (1, &BTreeMap::from([(ResourceType::Listener, 1)])), "{few:?}");
        assert_eq!(few, many);
    }
}

#[test]
fn a_change_of_one_service_leaves_the_layers_of_others_alone() {
    let mut mesh = Mesh::with_others(10);
    let cost = mesh.apply("apiVersion: v1\nkind: Service\nmetadata: {name: s3, namespace: load}\nspec: {clusterIP: 10.97.9.9, selector: {app: s3}, ports: [{name: http, port: 9080}]}\n");
    assert_eq!(cost.translated.get("virtual_host"), Some(&1), "every other namespace names it alike: {cost:?}");
    assert_eq!(cost.translated.get("load_assignment"), None, "{cost:?}");
}

fn attach(classes: &Classes, proxy: Proxy) -> Attachment {
    classes.attach(&Proven::new(Arc::new(Node::from(Arc::new(proxy))), Caller::Anonymous).unwrap())
}

const SELECTING: &str = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: selecting, namespace: shop}
spec: {hosts: [selecting.example.com], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], workloadSelector: {labels: {app: reviews}}}
";

#[test]
fn a_pods_readiness_translates_the_endpoints_of_services_that_select_it_alone() {
    let pod = |ready: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: extra, namespace: shop, labels: {{app: reviews}}}}\nspec: {{serviceAccountName: reviews}}\n\
             status: {{podIP: 10.9.9.9, phase: Running, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
        )
    };
    let [few, many] = [10, 2_000].map(|count| {
        let mut mesh = Mesh::with_others(count);
        mesh.apply(&(pod("False") + SELECTING));
        mesh.apply(&pod("True"))
    });
    assert_eq!(few.translated, BTreeMap::from([("load_assignment", 1)]));
    assert_eq!(few.changed, BTreeMap::from([(ResourceType::Endpoint, 1)]));
    assert_eq!(few, many);
}

/// What each kind of change makes the control plane look at, from the engine over views to validation. Where a figure
/// grows with the mesh, a loop walks all of it: these are the loops to be rid of.
#[rustfmt::skip]
const LOOKED_AT: &str = "\
change             others  objects  services  ports  routes  proxies
an endpoint            10        9        65      0       4       12
an endpoint          2000        9     10015      0       4       12
a weight               10        7       120     52      26       12
a weight             2000        7     18030   8012      26       12
a service's port       10       10       251     76      29       16
a service's port     2000       10     38061  12016      29       16
a DestinationRule      10        9       177     52      25       12
a DestinationRule    2000        9     26047   8012      25       12
a near endpoint        10       14        68      0       4       12
a near endpoint      2000       14     10018      0       4       12
a pod                  10       11        60      0       4       12
a pod                2000       11     10010      0       4       12
a pod's readiness      10       11        70      0       4       12
a pod's readiness    2000       11     10020      0       4       12
nothing new            10        4         0      0       3       12
nothing new          2000        4         0      0       3       12
a sidecar comes        10        1        24      0       0        5
a sidecar comes      2000        1      4004      0       0        5
a gateway comes        10        2        12      0       1        5
a gateway comes      2000        2      2002      0       1        5
";

#[test]
fn what_a_change_looks_at() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\n\
                   spec: {clusterIP: 10.96.7.7, selector: {app: reviews}, ports: [{name: http, port: 9081}]}\n";
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews, namespace: shop}\n\
                spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v3}}]}\n";
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: extra, namespace: shop, labels: {app: reviews}}\n\
               spec: {serviceAccountName: reviews}\nstatus: {podIP: 10.9.9.9, phase: Running}\n";
    let mut found =
        format!("{:<18}{:>7}{:>9}{:>10}{:>7}{:>8}{:>9}\n", "change", "others", "objects", "services", "ports", "routes", "proxies");
    let mut note = |what: &str, look: &dyn Fn(&mut Mesh) -> Visits| {
        for count in [10, 2_000] {
            let Visits { objects, services, ports, routes, proxies, .. } = look(&mut Mesh::with_others(count));
            let _ = writeln!(found, "{what:<18}{count:>7}{objects:>9}{services:>10}{ports:>7}{routes:>8}{proxies:>9}");
        }
    };
    note("an endpoint", &|mesh| mesh.looked_at(&ratings(&["10.1.1.1", "10.1.1.2"])));
    note("a weight", &|mesh| mesh.looked_at(&weights(50)));
    note("a service's port", &|mesh| mesh.looked_at(service));
    note("a DestinationRule", &|mesh| mesh.looked_at(rule));
    // Its proxies are told apart by where they are.
    let near = rule.replace("subsets:", "trafficPolicy: {outlierDetection: {interval: 7s}}, subsets:").replace("reviews", "ratings");
    note("a near endpoint", &|mesh| {
        mesh.apply(&near);
        mesh.looked_at(&ratings(&["10.1.1.1", "10.1.1.2"]))
    });
    note("a pod", &|mesh| mesh.looked_at(pod));
    let unready = pod.replace("phase: Running", "phase: Running, conditions: [{type: Ready, status: \"False\"}]");
    let ready = unready.replace("False", "True");
    note("a pod's readiness", &|mesh| {
        mesh.apply(&(unready.clone() + SELECTING));
        mesh.looked_at(&ready)
    });
    note("nothing new", &|mesh| mesh.looked_at(&weights(90)));
    note("a sidecar comes", &|mesh| mesh.looked_at_for(proxy(ProxyKind::Sidecar, "shop", 9)));
    note("a gateway comes", &|mesh| mesh.looked_at_for(proxy(ProxyKind::Gateway, "shop", 9)));
    assert_eq!(found, LOOKED_AT, "as found:\n{found}");
}

/// Returns everything that every proxy is sent: names and versions.
fn served(classes: &Classes) -> Vec<(String, Vec<(String, String)>)> {
    let mut proxies = vec![proxy(ProxyKind::Gateway, "shop", 4)];
    proxies.extend([("shop", 1), ("other", 3)].map(|(namespace, last)| proxy(ProxyKind::Sidecar, namespace, last)));
    let of = |proxy: &Proxy| {
        let view = classes.view_for(proxy);
        let all = ResourceType::ALL
            .iter()
            .flat_map(|kind| view.iter(*kind).map(|r| (format!("{}/{}", kind.as_str(), r.name), r.version.to_string())));
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    };
    proxies.iter().map(|proxy| (proxy.id.to_string(), of(proxy))).collect()
}

/// Returns events whose end is always the same: some objects go through other states first.
fn events() -> impl Strategy<Value = Vec<Vec<(ObjectKey, Option<Arc<Object>>)>>> {
    let last = keyed(&parse(&[CANARY, "---", &weights(70), "---", &ratings(&["10.1.1.1", "10.1.1.2"]), &others(6)].concat()));
    let before = keyed(&parse(&[&weights(10), "---", &ratings(&["10.1.1.3"]), &others(9)].concat()));
    let gone: Vec<_> = keyed(&parse(&others(9))).into_iter().map(|(key, _)| (key, None)).collect();
    let shuffled = (Just(before.into_iter().chain(gone).collect::<Vec<_>>()).prop_shuffle(), Just(last).prop_shuffle());
    (shuffled, prop::collection::vec(1usize..9, 1..40)).prop_map(|((first, last), sizes)| {
        // What comes first may be anything; then each object's last state, in any order and batching.
        let wanted: std::collections::BTreeSet<ObjectKey> = last.iter().map(|(key, _)| key.clone()).collect();
        let strays: Vec<_> = first.iter().filter(|(key, _)| !wanted.contains(key)).map(|(key, _)| (key.clone(), None)).collect();
        let mut all = first.into_iter().chain(last).chain(strays).peekable();
        let mut batches = Vec::new();
        let mut sizes = sizes.into_iter().cycle();
        while all.peek().is_some() {
            batches.push(all.by_ref().take(sizes.next().unwrap_or(1)).collect());
        }
        batches
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_batching_gives_the_same_bytes(batches in events()) {
        let all_at_once = {
            let mut engine = Engine::new("cluster.local", MeshConfig::default());
            let text = [CANARY, "---", &weights(70), "---", &ratings(&["10.1.1.1", "10.1.1.2"]), &others(6)].concat();
            let applied = engine.apply(keyed(&parse(&text)));
            let classes = Classes::default();
            classes.prepare(applied.world, &applied.touched).send();
            served(&classes)
        };
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let classes = Classes::default();
        for batch in batches {
            let applied = engine.apply(batch);
            classes.prepare(applied.world, &applied.touched).send();
            // Views are kept up to date from the first batch on, not made at the end.
            served(&classes);
        }
        prop_assert_eq!(served(&classes), all_at_once);
    }
}
