//! What is patched over many changes equals what is made from nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use smol_str::SmolStr;

mod any_history;
mod earlier_patches;
mod extensions;
mod patches;
mod rate_limits;
mod secrets;
mod telemetry;

use super::*;
use crate::{
    api::{
        Kind, ObjectKey,
        mesh_config::MeshConfig,
        parse,
        yaml::{document, documents},
    },
    mesh::{
        engine::Engine,
        model::{Caller, ExactBalance, ProxyKind},
    },
    visits::Visits,
    xds::resource::ContentHash,
};

const SHOP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: gateway-1, namespace: istio-system, labels: {istio: ingress}}
spec: {serviceAccountName: gateway}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: a-1, namespace: shop, labels: {app: a}}
spec: {serviceAccountName: a}
status: {podIP: 10.0.0.2, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: b-1, namespace: shop, labels: {app: b}}
spec: {serviceAccountName: b}
status: {podIP: 10.0.0.3, phase: Running}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec: {selector: {istio: ingress}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: shop}
spec: {hosts: [shop.example.com], gateways: [public], http: [{route: [{destination: {host: reviews}}]}]}
";

const REVIEWS: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: b}, ports: [{name: http, port: 9080}]}
";

const CONNECTIONS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}}
";

const SIDECAR: &str = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a, namespace: shop}
spec: {workloadSelector: {labels: {app: a}}, egress: [{hosts: [istio-system/*]}]}
";

struct Plane {
    engine: Engine,
    classes: Classes,
    connected: Vec<(Arc<Node>, Attachment)>,
}

impl Plane {
    fn new() -> Self {
        Self { engine: Engine::new("cluster.local", MeshConfig::default()), classes: Classes::default(), connected: Vec::new() }
    }

    /// Makes a plane of the shop with a gateway and two sidecars, the second behind `reviews`.
    fn of_three() -> Self {
        let mut plane = Self::new();
        plane.apply(SHOP);
        plane.apply(REVIEWS);
        plane.connect(ProxyKind::Gateway, "gateway-1.istio-system", [10, 0, 0, 1]);
        plane.connect(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]);
        plane.connect(ProxyKind::Sidecar, "b-1.shop", [10, 0, 0, 3]);
        plane
    }

    fn apply(&mut self, yaml: &str) {
        let parsed = documents(yaml).into_iter().map(|text| parse(&document(text).unwrap(), &"Kubernetes".into()));
        let objects: Vec<_> = parsed.flat_map(|parsed| parsed.objects).map(|object| (object.key.clone(), Some(object))).collect();
        assert!(!objects.is_empty());
        let applied = self.engine.apply(objects);
        self.classes.prepare(applied.world, &applied.touched).send();
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = ObjectKey { cluster: "Kubernetes".into(), kind, namespace: namespace.into(), name: name.into() };
        let applied = self.engine.apply([(key, None)]);
        self.classes.prepare(applied.world, &applied.touched).send();
    }

    fn connect(&mut self, kind: ProxyKind, id: &str, ip: [u8; 4]) {
        self.attach(proxy(kind, id, ip));
    }

    fn attach(&mut self, proxy: Proxy) {
        let node = Arc::new(Node::from(Arc::new(proxy)));
        let views = self.classes.attach(&Proven::new(Arc::clone(&node), Caller::Anonymous).unwrap());
        self.connected.push((node, views));
    }

    /// Checks that every proxy has what it would have if it and the control plane were new.
    fn check(&self) {
        let fresh = Classes::default();
        let everything = Touched { everything: true, ..Touched::default() };
        fresh.prepare(Arc::clone(self.engine.world()), &everything).send();
        for (node, views) in &self.connected {
            assert_eq!(content(&views.borrow()), content(&fresh.view_for(&node.proxy)), "{}", node.proxy.id);
        }
    }
}

/// Returns the content of a view by type and name.
fn content(view: &View) -> BTreeMap<(&'static str, SmolStr), ContentHash> {
    let all = ResourceType::ALL.into_iter().flat_map(|kind| view.iter(kind).map(move |resource| (kind, resource)));
    all.map(|(kind, resource)| ((kind.as_str(), resource.name.clone()), resource.version)).collect()
}

fn proxy(kind: ProxyKind, id: &str, ip: [u8; 4]) -> Proxy {
    Proxy { ips: vec![ip.into()], ..Proxy::new(kind, id) }
}

#[test]
fn a_proxys_own_side_follows_its_services_and_rules() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.connect(ProxyKind::Gateway, "gateway-1.istio-system", [10, 0, 0, 1]);
    plane.connect(ProxyKind::Sidecar, "b-1.shop", [10, 0, 0, 3]);
    for change in [REVIEWS, CONNECTIONS] {
        plane.apply(change);
        plane.check();
    }
}

#[test]
fn listeners_follow_services_whatever_only_listeners_read() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    let balanced =
        Proxy { exact_balance: ExactBalance { inbound: true, outbound: true }, ..proxy(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]) };
    plane.attach(balanced);
    let before = plane.connected[0].1.borrow().iter(ResourceType::Listener).count();
    plane.apply(&REVIEWS.replace("name: http", "name: tcp"));
    plane.check();
    assert_eq!(plane.connected[0].1.borrow().iter(ResourceType::Listener).count(), before + 1);
}

#[test]
fn a_sidecar_for_one_proxy_leaves_the_others_of_its_group_alone() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.apply(REVIEWS);
    plane.connect(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]);
    plane.connect(ProxyKind::Sidecar, "b-1.shop", [10, 0, 0, 3]);
    plane.apply(SIDECAR);
    plane.check();
}

const FIRST_DEFINITION: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: other}
spec: {hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a, namespace: shop}
spec: {egress: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*/*']}, {hosts: ['./*']}]}
";

const SECOND_DEFINITION: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: shop}
spec: {hosts: [a.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
";

#[test]
fn the_ports_of_a_sidecar_may_show_a_host_as_other_namespaces_define_it() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.connect(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]);
    for change in [FIRST_DEFINITION, SECOND_DEFINITION] {
        plane.apply(change);
        plane.check();
    }
}

const FOREIGN_SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: machines, namespace: other}
spec:
  hosts: [machines.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.3}]
";

const FOREIGN_CONNECTIONS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: machines, namespace: shop}
spec: {host: '*.example.com', trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}, exportTo: ['.']}
";

#[test]
fn a_rule_counts_on_the_own_side_for_a_service_of_another_namespace_too() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.connect(ProxyKind::Sidecar, "b-1.shop", [10, 0, 0, 3]);
    for change in [FOREIGN_SERVICE, FOREIGN_CONNECTIONS] {
        plane.apply(change);
        plane.check();
    }
}

const NARROW: &str = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec: {egress: [{hosts: [istio-system/*]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop, namespace: istio-system}
spec: {hosts: [shop.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: imports, namespace: istio-system}
spec: {hosts: [shop.example.com], http: [{route: [{destination: {host: shop.example.com}}]}]}
";

const IMPORTING: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: imports, namespace: istio-system}
spec: {hosts: [shop.example.com], http: [{route: [{destination: {host: reviews.shop.svc.cluster.local}}]}]}
";

#[test]
fn a_rule_counts_on_the_own_side_once_a_route_imports_its_service() {
    let mut plane = Plane::new();
    for change in [SHOP, REVIEWS, CONNECTIONS, NARROW] {
        plane.apply(change);
    }
    plane.connect(ProxyKind::Sidecar, "b-1.shop", [10, 0, 0, 3]);
    for change in [IMPORTING, NARROW] {
        plane.apply(change);
        plane.check();
    }
}

#[test]
fn places_count_only_while_endpoints_are_chosen_by_them() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.apply(REVIEWS);
    plane.connect(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]);
    let groups = |plane: &mut Plane, change: &str| {
        plane.apply(change);
        plane.check();
        plane.classes.size().shared.groups
    };
    let before = groups(&mut plane, CONNECTIONS);
    let detecting = CONNECTIONS.replace("trafficPolicy: {", "trafficPolicy: {outlierDetection: {interval: 7s}, ");
    assert_ne!(detecting, CONNECTIONS);
    assert_eq!(groups(&mut plane, &detecting), before + 1);
    assert_eq!(groups(&mut plane, CONNECTIONS), before);
}

const PRIVATE_SERVICE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: gateway-2, namespace: shop, labels: {istio: ingress}}
spec: {serviceAccountName: gateway}
status: {podIP: 10.0.0.4, phase: Running}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.9}]
  exportTo: ['.']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: shop}
spec: {hosts: [shop.example.com], gateways: [public], http: [{route: [{destination: {host: reviews, port: {number: 80}}}]}]}
";

#[test]
fn gateways_of_several_namespaces_are_told_what_each_cannot_reach() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.apply(PRIVATE_SERVICE);
    plane.connect(ProxyKind::Gateway, "gateway-2.shop", [10, 0, 0, 4]);
    assert_eq!(*plane.classes.findings().borrow(), BTreeSet::new());
    // What this one is given looks the same, but it does not see the service.
    plane.connect(ProxyKind::Gateway, "gateway-1.istio-system", [10, 0, 0, 1]);
    let found = plane.classes.findings().borrow().clone();
    assert!(
        matches!(&*found.iter().collect::<Vec<_>>(), [one] if one.message.contains("not exported to namespace istio-system")),
        "{found:?}"
    );
}

/// Checks that nothing is left of proxies that are gone, however many kinds of them there were, and that a change costs what
/// it did before them.
#[test]
fn what_was_made_for_a_proxy_goes_with_it() {
    const SHAPES: u32 = 500;
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.connect(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]);
    plane.apply(REVIEWS);
    let cost_of = |plane: &mut Plane, change: &str| {
        let before = Visits::of_this_thread();
        plane.apply(change);
        Visits::of_this_thread() - before
    };
    let (connections, other) = (CONNECTIONS, CONNECTIONS.replace("7s", "8s"));
    cost_of(&mut plane, connections);
    let quiet = (cost_of(&mut plane, &other), plane.classes.size());
    assert_eq!(quiet.1.proxies, 1);
    for shape in 0..SHAPES {
        let ip = [10, 1, (shape >> 8) as u8, shape as u8];
        let like = proxy(ProxyKind::Sidecar, &format!("a-1.ns-{shape}"), ip);
        for proxy in [
            Proxy { idle_timeout: Some(Duration::from_secs(shape.into())), ..like.clone() },
            Proxy { dns_domain: format!("d{shape}.local").into(), kind: ProxyKind::Gateway, ..like.clone() },
            Proxy { labels: Arc::new([("app".into(), format!("app-{shape}").into())].into()), http_proxy_port: Some(shape as u16), ..like },
        ] {
            let node = Arc::new(Node::from(Arc::new(proxy)));
            drop(plane.classes.attach(&Proven::new(node, Caller::Anonymous).unwrap()));
        }
    }
    let kept = plane.classes.size();
    assert_eq!(kept.proxies, 1);
    assert!(kept.shared.groups <= quiet.1.shared.groups + 5 * KEPT, "{kept:?}, {quiet:?}");
    assert!(kept.shared.translations < quiet.1.shared.translations + 2_000, "{kept:?}, {quiet:?}");
    cost_of(&mut plane, connections);
    let (cost, left) = (cost_of(&mut plane, &other), plane.classes.size());
    assert_eq!((cost, left.proxies, left.shared.groups), (quiet.0, 1, quiet.1.shared.groups));
    assert!(left.shared.translations <= quiet.1.shared.translations, "{left:?}, {quiet:?}");
}

#[test]
fn groups_stay_for_a_moment_for_a_proxy_that_comes_back() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    let Plane { classes, .. } = plane;
    let empty = classes.size();
    let node = Arc::new(Node::from(Arc::new(proxy(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]))));
    let proven = Proven::new(node, Caller::Anonymous).unwrap();
    drop(classes.attach(&proven));
    let now = Instant::now();
    assert!(classes.0.let_go(now), "there is something to let go of later");
    let translated = classes.translated();
    let back = classes.attach(&proven);
    assert_eq!(classes.translated(), translated, "nothing is made again");
    assert!(!classes.0.let_go(now + 2 * GRACE));
    assert!(classes.size().shared.groups > empty.shared.groups, "it is there");
    drop(back);
    assert!(!classes.0.let_go(now + 4 * GRACE));
    assert_eq!(classes.size(), empty, "the world did not change, and nothing is left all the same");
}
