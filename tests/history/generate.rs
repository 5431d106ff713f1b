//! Makes histories: objects of few names come, change and go, some in a version that is refused, and proxies connect and leave.
//! Half of the objects are those of `tests/conflicts`, the rest are of the kinds and fields that conflict with nothing.

use std::collections::BTreeMap;

use harness::random::Random;

use crate::conflicts;

use super::run::PROXIES;

/// What happens at once.
pub(super) type Step = Vec<Event>;

/// What happens to an object or a proxy.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The object is written.
    Written(String),
    /// It is removed.
    Removed(String),
    /// The proxy of that place in [`PROXIES`] connects.
    Connected(usize),
    /// It leaves.
    Left(usize),
}

const NAMESPACES: [&str; 3] = ["shop", "web", "istio-system"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const HOSTS: [&str; 7] = [
    "a",
    "b.web.svc.cluster.local",
    "a.shop.svc.cluster.local",
    "a.example.com",
    "*.example.com",
    "*.svc.cluster.local",
    "alias.shop.svc.cluster.local",
];
const SECONDS: [&str; 3] = ["1", "2", "3"];
const EXPORTS: [&str; 6] = ["", "", ", exportTo: ['.']", ", exportTo: ['*']", ", exportTo: [web]", ", exportTo: ['~']"];
const APPS: [&str; 4] = ["client", "a", "b", "edge"];
const LABELS: [&str; 3] = ["version: v1", "version: v2", "topology.kubernetes.io/zone: north-1"];

const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "x": "2AQnw_LVvkQb81SOAWW8DV2Jf7Eip6yNFCEBsQcEHlk", "y": "zKH22cX99-CKqp1CkpdcfquxVo2n7dQeBo7-rakurf4"}]}"#;

/// Objects that are refused, and one of each kind that leaves something of itself.
const REFUSED: [&str; 9] = [
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: shop}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}, weight: -1}]}]}",
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, namespace: shop}\nspec: {host: a.shop.svc.cluster.local, trafficPolicy: {tls: {mode: SIMPEL}}}",
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: b, namespace: web}\nspec: {host: b, trafficPolicy: {tls: {mode: SIMPLE}, loadBalancer: {simple: BEST}}}",
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICKT}}",
    "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: shop}\nspec: {egress: [{hosts: [nowhere]}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, namespace: shop}\nspec: {hosts: [a.example.com], ports: [{number: 99999, name: a, protocol: TCP}]}",
    "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a, namespace: shop}\nspec: {selector: {app: edge}, servers: 7}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: 7}",
    "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: a, namespace: shop}\nspec: {url: 'ftp://a'}",
];

/// Returns the history of that number among those of the seed.
pub(super) fn history(seed: u64, number: u64, steps: u64) -> Vec<Step> {
    let mut made =
        Made { random: Random::seeded(Random::seeded(seed.wrapping_add(number)).bits()), there: BTreeMap::new(), before: Vec::new() };
    (0..steps).map(|at| made.step(at)).collect()
}

/// Returns what names an object in its document.
pub(super) fn identity(document: &str) -> String {
    let named = document.lines().find_map(|line| line.strip_prefix("metadata: ")).unwrap_or_default();
    let part = |key: &str| named.split_once(key).map_or("", |(_, rest)| rest.split([',', '}']).next().unwrap_or_default());
    let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default();
    format!("{kind}/{}/{}", part("namespace: "), part("name: "))
}

struct Made {
    random: Random,
    /// What there is, by its identity.
    there: BTreeMap<String, String>,
    /// All that ever was.
    before: Vec<String>,
}

impl Made {
    fn step(&mut self, at: u64) -> Step {
        if at == 0 {
            return self.first();
        }
        let count = self.random.within(1..4);
        (0..count).map(|_| self.event()).collect()
    }

    /// Connects most proxies to a mesh in which there is something to change.
    fn first(&mut self) -> Step {
        let documents = (0..45).map(|at| KINDS[at % KINDS.len()](self)).collect::<Vec<_>>();
        let mut step: Step = documents.into_iter().map(|document| self.written(document)).collect();
        step.extend((0..PROXIES.len()).filter(|_| self.random.within(0..4) > 0).map(Event::Connected));
        step
    }

    fn event(&mut self) -> Event {
        match self.random.within(0..24) {
            0 => Event::Connected(self.index(PROXIES.len())),
            1 if self.random.within(0..2) == 0 => Event::Left(self.index(PROXIES.len())),
            2 => Event::Written(self.text(&REFUSED).to_owned()),
            3..=6 if !self.there.is_empty() => {
                let identity = self.some();
                Event::Removed(self.there.remove(&identity).unwrap_or_default())
            }
            7..=8 if !self.before.is_empty() => {
                let at = self.index(self.before.len());
                self.written(self.before[at].clone())
            }
            9..=11 => {
                let number = self.random.within(0..1 << 32);
                let objects = conflicts::objects(number);
                let at = self.index(objects.len());
                self.written(objects[at].clone())
            }
            12..=17 => {
                let identity = self.some();
                self.another(&identity)
            }
            _ => {
                let kind = self.index(KINDS.len());
                let document = KINDS[kind](self);
                self.written(document)
            }
        }
    }

    /// Returns the identity of something that there is.
    fn some(&mut self) -> String {
        let at = self.index(self.there.len().max(1));
        self.there.keys().nth(at).cloned().unwrap_or_default()
    }

    /// Writes another version of an object, if a few tries come to one.
    fn another(&mut self, of: &str) -> Event {
        let mut made = Vec::new();
        for _ in 0..8 {
            made.extend(KINDS.map(|kind| kind(self)));
            if let Some(at) = made.iter().position(|document| identity(document) == of) {
                return self.written(made.swap_remove(at));
            }
        }
        let last = made.pop().unwrap_or_default();
        self.written(last)
    }

    fn written(&mut self, document: String) -> Event {
        self.there.insert(identity(&document), document.clone());
        self.before.push(document.clone());
        Event::Written(document)
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.random.within(0..count as u64)).unwrap_or_default()
    }

    fn text(&mut self, of: &[&'static str]) -> &'static str {
        of[self.index(of.len())]
    }

    fn object(&mut self, version: &str, kind: &str, name: &str, namespace: &str, spec: &str) -> String {
        let second = self.text(&SECONDS);
        let namespace = if namespace.is_empty() { String::new() } else { format!(", namespace: {namespace}") };
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{namespace}, creationTimestamp: \"2024-01-01T00:00:0{second}Z\"}}\n{spec}"
        )
    }

    fn istio(&mut self, kind: &str, spec: &str) -> String {
        let (name, namespace) = (self.text(&NAMES), self.text(&NAMESPACES));
        self.object("networking.istio.io/v1", kind, name, namespace, &format!("spec: {{{spec}}}"))
    }

    fn extension(&mut self, kind: &str, spec: &str) -> String {
        let (name, namespace, app) = (self.text(&NAMES[..2]), self.text(&NAMESPACES), self.text(&APPS));
        let selector = self.text(&["", "yes"]).replace("yes", &format!(", selector: {{matchLabels: {{app: {app}}}}}"));
        let place = self.text(&["", ", phase: AUTHN", ", phase: STATS", ", priority: 7"]);
        self.object("extensions.istio.io/v1alpha1", kind, name, namespace, &format!("spec: {{{spec}{selector}{place}}}"))
    }

    fn port(&mut self) -> &'static str {
        self.text(&[
            "{name: http, port: 80, targetPort: 8080}",
            "{name: tcp, port: 3306}",
            "{name: any, port: 7000}",
            "{name: http, port: 80, targetPort: web}, {name: tls, port: 443}",
        ])
    }

    fn selector(&mut self) -> String {
        let app = self.text(&APPS);
        self.text(&["", "yes"]).replace("yes", &format!(", workloadSelector: {{labels: {{app: {app}}}}}"))
    }
}

/// Each makes an object of one kind.
const KINDS: [fn(&mut Made) -> String; 19] = [
    |made| {
        let url = made.text(&["file:///a.wasm", "https://a.example.com/a.wasm", "oci://a.example.com/a:v1"]);
        let more = made.text(&[
            "failStrategy: FAIL_OPEN",
            "type: NETWORK",
            "pluginConfig: {a: 1}",
            "pluginConfig: {a: 2}",
            "imagePullSecret: a",
            "match: [{mode: SERVER, ports: [{number: 8080}]}]",
        ]);
        made.extension("WasmPlugin", &format!("url: '{url}', {more}"))
    },
    |made| {
        let (name, namespace, app) = (made.text(&NAMES[..2]), made.text(&NAMESPACES), made.text(&APPS));
        let target =
            made.text(&["", "selector: {matchLabels: {app: APP}}, ", "targetRefs: [{kind: Service, name: APP}], "]).replace("APP", app);
        let limits =
            made.text(&["requests: 1", "requests: 2, interval: 1m", "requests: 1, per: {header: x-user}", "requests: 1, shadow: true"]);
        let spec = format!("spec: {{{target}limits: [{{name: a, {limits}}}]}}");
        made.object("istiod-lite.io/v1alpha1", "RateLimitPolicy", name, namespace, &spec)
    },
    |made| {
        let code = made.text(&["-- a", "-- b"]);
        made.extension("TrafficExtension", &format!("lua: {{inlineCode: '{code}'}}"))
    },
    |made| {
        let (name, namespace) = (made.text(&["default", "a"]), made.text(&NAMESPACES));
        let (issuer, app) = (made.text(&["a.example.org", "b.example.org"]), made.text(&APPS));
        let selector = made.text(&["", "yes"]).replace("yes", &format!(", selector: {{matchLabels: {{app: {app}}}}}"));
        let spec = format!("spec: {{jwtRules: [{{issuer: {issuer}, jwks: '{KEYS}'}}]{selector}}}");
        made.object("security.istio.io/v1", "RequestAuthentication", name, namespace, &spec)
    },
    |made| {
        let (name, namespace, app) = (made.text(&["default", "a"]), made.text(&NAMESPACES), made.text(&APPS));
        let selector = made.text(&["", "yes"]).replace("yes", &format!("selector: {{matchLabels: {{app: {app}}}}}, "));
        let provider = made.text(&["", "envoy", "logs", "lost"]).to_owned();
        let providers = if provider.is_empty() { String::new() } else { format!("providers: [{{name: {provider}}}], ") };
        let more = made.text(&["", "disabled: true", "match: {mode: CLIENT}", "match: {mode: SERVER}", "filter: {expression: 'true'}"]);
        let tracing = made.text(&[
            "",
            ", tracing: [{providers: [{name: spans}]}]",
            ", tracing: [{randomSamplingPercentage: 5, match: {mode: CLIENT}}]",
        ]);
        let metrics = made.text(&[
            "",
            ", metrics: [{overrides: [{disabled: true}]}]",
            ", metrics: [{overrides: [{match: {mode: SERVER}, tagOverrides: {a: {operation: REMOVE}}}]}]",
        ]);
        let spec = format!("spec: {{{selector}accessLogging: [{{{providers}{more}}}]{tracing}{metrics}}}");
        made.object("telemetry.istio.io/v1", "Telemetry", name, namespace, &spec)
    },
    |made| {
        let zone = made.text(&["north-1", "north-2"]);
        let labels = format!("{{topology.kubernetes.io/region: north, topology.kubernetes.io/zone: {zone}}}");
        format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {}, labels: {labels}}}", made.text(&["n1", "n2"]))
    },
    |made| {
        let near = made.text(&["", ", annotations: {networking.istio.io/traffic-distribution: PreferClose}"]);
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}{near}}}", made.text(&NAMESPACES))
    },
    |made| {
        let (name, namespace, app, version) = (made.text(&NAMES), made.text(&NAMESPACES), made.text(&APPS), made.text(&LABELS[..2]));
        let (mtls, node) = (made.text(&["", ", security.istio.io/tlsMode: istio"]), made.text(&["n1", "n2"]));
        let (phase, ready) = (made.text(&["Running", "Running", "Succeeded"]), made.text(&["True", "True", "False"]));
        let ip = made.text(&["10.1.0.1", "10.1.0.2", "10.0.0.9", "10.0.0.8", "10.0.0.100"]);
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}, {version}{mtls}}}}}\n\
             spec: {{serviceAccountName: {app}, nodeName: {node}, containers: [{{name: app, ports: [{{name: web, containerPort: 8081}}]}}]}}\n\
             status: {{phase: {phase}, podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: '{ready}'}}]}}"
        )
    },
    |made| {
        let (name, namespace, port, app) = (made.text(&NAMES), made.text(&NAMESPACES), made.port(), made.text(&APPS));
        let address = made.text(&["10.96.0.1", "10.96.0.2", "None"]);
        let near = made.text(&["", "", ", trafficDistribution: PreferClose", ", internalTrafficPolicy: Local"]);
        let spec = format!("spec: {{clusterIP: {address}, selector: {{app: {app}}}, ports: [{port}]{near}}}");
        made.object("v1", "Service", name, namespace, &spec)
    },
    |made| {
        let target = made.text(&["a.shop.svc.cluster.local", "b.web.svc.cluster.local", "a.example.com", "alias.web.svc.cluster.local"]);
        let namespace = made.text(&NAMESPACES);
        let spec = format!("spec: {{type: ExternalName, externalName: {target}, ports: [{{name: http, port: 80}}]}}");
        made.object("v1", "Service", "alias", namespace, &spec)
    },
    |made| {
        let (name, namespace) = (made.text(&NAMES), made.text(&NAMESPACES));
        let ports = made.text(&[
            "{name: http, port: 8080}",
            "{name: http, port: 8081}, {name: tls, port: 443}",
            "{name: tcp, port: 3306}, {name: any, port: 7000}",
        ]);
        let ready = made.text(&["ready: true", "ready: false", "ready: false, serving: true, terminating: true"]);
        let (ip, pod) = (made.text(&["10.1.0.1", "10.1.0.2", "10.0.0.9"]), made.text(&NAMES));
        let labels = format!("labels: {{kubernetes.io/service-name: {name}}}");
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-2, namespace: {namespace}, {labels}}}\naddressType: IPv4\nports: [{ports}]\n\
             endpoints: [{{addresses: [{ip}], conditions: {{{ready}}}, targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}}}}}, \
             {{addresses: [10.1.0.3], conditions: {{ready: true}}}}]"
        )
    },
    |made| {
        let (address, app) = (made.text(&["192.0.2.1", "10.1.0.1", "vm.example.com"]), made.text(&APPS));
        let (label, weight) =
            (made.text(&LABELS[..2]), made.text(&["", ", weight: 3", ", locality: north/north-1", ", ports: {http: 9090}"]));
        made.istio("WorkloadEntry", &format!("address: {address}, labels: {{app: {app}, {label}}}, serviceAccount: vm{weight}"))
    },
    |made| {
        let (host, export, app) =
            (made.text(&["a.example.com", "a.shop.svc.cluster.local", "b.example.com"]), made.text(&EXPORTS), made.text(&APPS));
        let port = made.text(&[
            "{number: 80, name: http, protocol: HTTP}",
            "{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 3306, name: tcp, protocol: TCP}",
        ]);
        let location = made.text(&["MESH_INTERNAL", "MESH_EXTERNAL"]);
        let spec = format!(
            "hosts: [{host}], location: {location}, resolution: STATIC, ports: [{port}], workloadSelector: {{labels: {{app: {app}}}}}{export}"
        );
        made.istio("ServiceEntry", &spec)
    },
    |made| {
        let (host, export, label, app) = (made.text(&HOSTS), made.text(&EXPORTS), made.text(&LABELS), made.text(&APPS));
        let selector = made.text(&["", "", "yes"]).replace("yes", &format!(", workloadSelector: {{matchLabels: {{app: {app}}}}}"));
        let policy = made.text(&[
            "connectionPool: {tcp: {maxConnections: 7}}",
            "outlierDetection: {consecutive5xxErrors: 3}",
            "outlierDetection: {interval: 7s}, loadBalancer: {localityLbSetting: {failoverPriority: [app, topology.kubernetes.io/zone]}}",
            "loadBalancer: {localityLbSetting: {distribute: [{from: west/*, to: {east/*: 30, west/*: 70}}]}}",
            "tls: {mode: DISABLE}",
            "portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]",
        ]);
        let spec = format!("host: '{host}', trafficPolicy: {{{policy}}}, subsets: [{{name: v1, labels: {{{label}}}}}]{selector}{export}");
        made.istio("DestinationRule", &spec)
    },
    |made| {
        let (host, to, export) = (made.text(&HOSTS), made.text(&HOSTS[..4]), made.text(&EXPORTS));
        let gateways = made.text(&["", ", gateways: [mesh]", ", gateways: [shop/a, mesh]", ", gateways: [web/b]"]);
        let matches = made.text(&[
            "",
            "match: [{sourceLabels: {app: client}}], ",
            "match: [{port: 80}, {uri: {prefix: /x}}], ",
            "match: [{sourceNamespace: web}], ",
        ]);
        let action = made.text(&["route", "subset", "delegate"]);
        let action = match action {
            "route" => format!("route: [{{destination: {{host: '{to}', port: {{number: 80}}}}}}]"),
            "subset" => format!("route: [{{destination: {{host: '{to}', subset: v1}}}}]"),
            _ => "delegate: {name: d, namespace: shop}".to_owned(),
        };
        made.istio("VirtualService", &format!("hosts: ['{host}']{gateways}, http: [{{{matches}{action}}}]{export}"))
    },
    |made| {
        let (to, export) = (made.text(&HOSTS[..4]), made.text(&EXPORTS));
        let spec = format!("spec: {{http: [{{match: [{{uri: {{prefix: /d}}}}], route: [{{destination: {{host: '{to}'}}}}]}}]{export}}}");
        made.object("networking.istio.io/v1", "VirtualService", "d", "shop", &spec)
    },
    |made| {
        let (name, namespace, selector) = (made.text(&["default", "a"]), made.text(&NAMESPACES), made.selector());
        let egress = made.text(&[
            "{hosts: ['./*']}",
            "{hosts: ['*/a.example.com', 'web/*']}",
            "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*/*']}, {hosts: ['./*']}",
            "{hosts: ['~/*']}",
        ]);
        let outbound = made.text(&["", ", outboundTrafficPolicy: {mode: REGISTRY_ONLY}"]);
        let ingress =
            made.text(&["", ", ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: '127.0.0.1:9000'}]"]);
        let spec = format!("spec: {{egress: [{egress}]{outbound}{selector}{ingress}}}");
        made.object("networking.istio.io/v1", "Sidecar", name, namespace, &spec)
    },
    |made| {
        let (name, namespace, mode) =
            (made.text(&["default", "a"]), made.text(&NAMESPACES), made.text(&["STRICT", "PERMISSIVE", "DISABLE", "UNSET"]));
        let app = made.text(&APPS);
        let spec = made
            .text(&["", "yes"])
            .replace("yes", &format!(", selector: {{matchLabels: {{app: {app}}}}}, portLevelMtls: {{8080: {{mode: DISABLE}}}}"));
        made.object("security.istio.io/v1", "PeerAuthentication", name, namespace, &format!("spec: {{mtls: {{mode: {mode}}}{spec}}}"))
    },
    |made| {
        let mesh = made.text(&[
            "trustDomain: example.org",
            "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            "{enableAutoMtls: false, trustDomainAliases: [old.example.org]}",
            "defaultServiceExportTo: ['.']",
            "proxyHttpPort: 15002",
            "inboundTrafficPolicy: {mode: LOCALHOST}",
            "{defaultProviders: {accessLogging: [envoy], metrics: [prometheus]}, extensionProviders: [{name: logs, envoyHttpAls: {service: a.shop.svc.cluster.local, port: 80}}, {name: spans, zipkin: {service: b.web.svc.cluster.local, port: 80}}]}",
        ]);
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{mesh}\"}}")
    },
];
