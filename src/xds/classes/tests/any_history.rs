//! After any history of changes, proxies have and are told what they would if they and the control plane were new.

use super::*;

/// Objects that come, change and go, each in several versions. What one says decides about listeners, clusters and findings of
/// others.
const OBJECTS: [(&str, &str, &str, &[&str]); 14] = [
    (
        "v1",
        "Service",
        "shop/db",
        &[
            "{clusterIP: 10.96.0.1, selector: {app: b}, ports: [{name: tcp, port: 5432}]}",
            "{clusterIP: 10.96.0.1, selector: {app: b}, ports: [{name: tcp, port: 5432}, {name: tls, port: 8443}]}",
            "{clusterIP: 10.96.0.1, selector: {app: b}, ports: [{name: http, port: 5432}]}",
            "{clusterIP: 10.96.0.9, selector: {app: b}, ports: [{name: tcp, port: 5433}]}",
        ],
    ),
    (
        "v1",
        "Service",
        "shop/backup",
        &[
            "{clusterIP: 10.96.0.2, selector: {app: b}, ports: [{name: tcp, port: 5432}]}",
            "{clusterIP: 10.96.0.2, selector: {app: b}, ports: [{name: tcp, port: 6000}]}",
            "{clusterIP: None, selector: {app: b}, ports: [{name: tcp, port: 5432}]}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "ServiceEntry",
        "shop/wide",
        &[
            "{hosts: ['*.example.com'], location: MESH_EXTERNAL, resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}]}",
            "{hosts: ['*.example.com'], resolution: NONE, exportTo: ['.'], ports: [{number: 443, name: tls, protocol: TLS}]}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "ServiceEntry",
        "other/narrow",
        &[
            "{hosts: [a.example.com], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}",
            "{hosts: [a.example.com, b.example.com], resolution: DNS, exportTo: ['.'], ports: [{number: 443, name: tls, protocol: TLS}]}",
            "{hosts: [b.example.com], addresses: [10.96.0.1], resolution: STATIC, ports: [{number: 5432, name: tcp, protocol: TCP}], \
         endpoints: [{address: 192.0.2.1}]}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "DestinationRule",
        "shop/backup",
        &[
            "{host: backup, subsets: [{name: v1, labels: {app: b}}]}",
            "{host: backup, exportTo: ['.'], subsets: [{name: v1, labels: {app: b}}]}",
            "{host: backup, trafficPolicy: {tls: {mode: SIMPLE}}}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "VirtualService",
        "shop/db",
        &[
            "{hosts: [db], tcp: [{route: [{destination: {host: backup, subset: v1}}]}]}",
            "{hosts: [db, backup], tcp: [{match: [{port: 5432}], route: [{destination: {host: a.example.com, port: {number: 443}}}]}]}",
            "{hosts: [db], http: [{route: [{destination: {host: backup}}]}]}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "VirtualService",
        "shop/names",
        &[
            "{hosts: ['*.example.com'], tls: [{match: [{port: 443, sniHosts: ['*.example.com']}], route: [{destination: {host: backup, port: {number: 5432}}}]}]}",
            "{hosts: [a.example.com], tls: [{match: [{port: 443, sniHosts: [a.example.com]}], route: [{destination: {host: db, port: {number: 8443}}}]}]}",
            "{hosts: ['*.example.com'], tls: [{match: [{sniHosts: [b.example.com]}], route: [{destination: {host: backup, subset: v1, port: {number: 5432}}}]}]}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "VirtualService",
        "other/names",
        &[
            "{hosts: [a.example.com], tls: [{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: gone.shop.svc.cluster.local, port: {number: 1}}}]}]}",
            "{hosts: [db.shop.svc.cluster.local], http: [{route: [{destination: {host: a.example.com}}]}]}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "Sidecar",
        "shop/a",
        &[
            "{workloadSelector: {labels: {app: a}}, egress: [{hosts: ['./*']}]}",
            "{workloadSelector: {labels: {app: a}}, egress: [{port: {number: 0, protocol: TCP}, bind: 'unix:///run/out', hosts: ['./db.shop.svc.cluster.local']}, {hosts: ['*/*']}]}",
            "{workloadSelector: {labels: {app: a}}, egress: [{port: {number: 5432, protocol: TCP}, hosts: ['./db.shop.svc.cluster.local']}, {hosts: ['other/*']}]}",
            "{egress: [{hosts: ['*/a.example.com', './backup.shop.svc.cluster.local']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "Gateway",
        "shop/public",
        &[
            "{selector: {istio: ingress}, servers: [{port: {number: 5432, name: tcp, protocol: TCP}, hosts: ['*']}]}",
            "{selector: {istio: ingress}, servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}}, \
          {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com]}]}",
            "{selector: {istio: ingress}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}]}",
        ],
    ),
    (
        "networking.istio.io/v1",
        "VirtualService",
        "shop/public",
        &[
            "{hosts: ['*'], gateways: [public], tcp: [{match: [{port: 5432}], route: [{destination: {host: backup, port: {number: 5432}}}]}]}",
            "{hosts: [a.example.com], gateways: [public], tls: [{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: db, port: {number: 8443}}}]}]}",
            "{hosts: [a.example.com], gateways: [public], http: [{route: [{destination: {host: backup, subset: v1, port: {number: 5432}}}]}]}",
        ],
    ),
    ("security.istio.io/v1", "PeerAuthentication", "shop/all", &["{mtls: {mode: STRICT}}", "{mtls: {mode: DISABLE}}"]),
    (
        "networking.istio.io/v1",
        "WorkloadEntry",
        "shop/vm",
        &["{address: 192.0.2.7, labels: {app: b}}", "{address: 192.0.2.8, labels: {app: b}}"],
    ),
    (
        "networking.istio.io/v1",
        "ServiceEntry",
        "shop/vms",
        &[
            "{hosts: [vms.shop.svc.cluster.local], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 5432, name: tcp, protocol: TCP}], \
         workloadSelector: {labels: {app: b}}}",
            "{hosts: [vms.shop.svc.cluster.local], location: MESH_INTERNAL, resolution: NONE, ports: [{number: 5432, name: tcp, protocol: TCP}]}",
        ],
    ),
];

/// Endpoints of `shop/db`, which change alone.
const SLICES: [&str; 2] =
    ["[]", "[{addresses: [10.0.0.3], conditions: {ready: true}, targetRef: {kind: Pod, name: b-1, namespace: shop}}]"];

impl Plane {
    /// Checks what all connected proxies have, and what is told of them.
    fn check_findings(&self) {
        self.check();
        let fresh = Classes::default();
        let everything = Touched { everything: true, ..Touched::default() };
        fresh.prepare(Arc::clone(self.engine.world()), &everything).send();
        let told: BTreeSet<Diagnostic> = self.connected.iter().flat_map(|(node, _)| fresh.findings_for(&node.proxy)).collect();
        let findings = self.classes.findings().borrow().clone();
        assert_eq!(findings, told);
    }

    fn change(&mut self, at: usize, version: usize) {
        let (yaml, gone) = if let Some((api_version, kind, name, versions)) = OBJECTS.get(at) {
            let (namespace, name) = name.split_once('/').unwrap();
            let spec = versions.get(version).copied();
            let metadata = format!("{{name: {name}, namespace: {namespace}}}");
            (
                format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {metadata}\nspec: {}\n", spec.unwrap_or(versions[0])),
                spec.is_none(),
            )
        } else {
            let endpoints = SLICES.get(version).copied();
            let metadata = "{name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}";
            let ports = "[{name: tcp, port: 5432}]";
            let text = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {metadata}\naddressType: IPv4\nports: {ports}\nendpoints: {}\n",
                endpoints.unwrap_or("[]")
            );
            (text, endpoints.is_none())
        };
        let parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert!(parsed.refused.is_empty(), "{yaml} {:?}", parsed.diagnostics);
        let objects = parsed.objects.into_iter().map(|object| (object.key.clone(), (!gone).then_some(object)));
        let applied = self.engine.apply(objects.collect::<Vec<_>>());
        self.classes.prepare(applied.world, &applied.touched).send();
    }
}

/// Histories of which proxies once had something else: objects by their place above, each with its next version (or gone).
const HISTORIES: [&[(usize, usize)]; 4] = [
    // A route that led out of a Sidecar's sight goes.
    &[(5, 0), (1, 2), (8, 2), (5, 3)],
    // Routes for a wildcard come to a service that it covers.
    &[(3, 0), (6, 2)],
    // A service leaves the only port of a table.
    &[(0, 2), (0, 3)],
    // Endpoints behind a gateway that passes mTLS on change alone.
    &[(0, 0), (9, 2), (12, 0)],
];

#[test]
fn proxies_have_and_are_told_what_new_ones_would_be() {
    for history in HISTORIES {
        let mut plane = Plane::new();
        plane.apply(SHOP);
        plane.connect(ProxyKind::Gateway, "gateway-1.istio-system", [10, 0, 0, 1]);
        plane.connect(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]);
        plane.connect(ProxyKind::Sidecar, "b-1.shop", [10, 0, 0, 3]);
        for (at, version) in history {
            plane.change(*at, *version);
            plane.check_findings();
        }
    }
}
