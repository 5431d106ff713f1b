//! Makes cases. Everything is drawn from short lists, so that names, hosts, ports and addresses meet.

use harness::random::Random;
use istiod_lite::{api::mesh_config::MeshConfig, mesh::model::Interception};

use super::case::Case;

const PORTS: [u16; 14] = [80, 80, 443, 443, 3306, 8000, 8000, 8080, 8443, 15001, 15006, 15021, 15090, 15443];
const PROTOCOLS: [&str; 12] = ["HTTP", "HTTP", "HTTP2", "GRPC", "HTTPS", "HTTPS", "TLS", "TLS", "TCP", "TCP", "MYSQL", ""];
const PREFIXES: [&str; 10] = ["http", "http", "http2", "grpc", "https", "tls", "tcp", "tcp", "mongo", "p"];
const HOSTS: [&str; 9] = [
    "a.example.com",
    "a.example.com",
    "b.example.com",
    "A.example.com",
    "*.example.com",
    "*.com",
    "*",
    "a.shop.svc.cluster.local",
    "b.web.svc.cluster.local",
];
const DESTINATIONS: [&str; 6] = ["a", "b.web", "a.example.com", "b.example.com", "*.example.com", "gone"];
const ADDRESSES: [&str; 10] = [
    "240.0.0.1",
    "240.0.0.1/32",
    "240.0.0.2",
    "10.96.0.1",
    "240.0.0.0/8",
    "240.1.0.0/8",
    "2001:db8::1",
    "2001:DB8:0::1/128",
    "2001:db8::/32",
    "0.0.0.0",
];
const CLUSTER_ADDRESSES: [&str; 6] = ["10.96.0.1", "10.96.0.2", "None", "None", "fd00::1", "240.0.0.1"];
const NETWORKS: [&str; 4] = ["240.0.0.0/8", "240.1.2.3/8", "10.0.0.0/16", "2001:db8::/32"];
const NAMESPACES: [&str; 2] = ["shop", "web"];
const SUBSETS: [&str; 3] = ["v1", "v2", ""];
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client, version: v1}}
spec: {serviceAccountName: client}
status: {podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}], phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: edge, namespace: shop, labels: {app: edge}}
spec: {serviceAccountName: edge}
status: {podIP: 10.0.0.100, podIPs: [{ip: 10.0.0.100}], phase: Running}
";

/// Returns the case of that number among those of the seed.
pub(crate) fn case(seed: u64, number: u64) -> Case {
    let mut made = Made { random: Random::seeded(Random::seeded(seed.wrapping_add(number)).bits()), objects: vec![PODS.to_owned()] };
    for (least, most, make) in KINDS {
        for index in 0..made.random.within(*least..*most + 1) {
            make(&mut made, index);
        }
    }
    let interceptions = [Interception::Redirect, Interception::Redirect, Interception::Redirect, Interception::Tproxy, Interception::None];
    let ips: [Addresses; 4] = [&["10.0.0.9"], &["10.0.0.9"], &["10.0.0.9", "fd00::9"], &["fd00::9"]];
    let mesh = MeshConfig { proxy_http_port: *made.pick(&[0, 0, 15002, 8080]), ..MeshConfig::default() };
    Case {
        number,
        mesh,
        interception: *made.pick(&interceptions),
        unprivileged: made.chance(4),
        ips: made.pick::<Addresses>(&ips),
        objects: made.objects,
    }
}

type Addresses = &'static [&'static str];
type Kind = (u64, u64, fn(&mut Made, u64));

const KINDS: &[Kind] = &[
    (0, 4, Made::service),
    (0, 4, Made::service_entry),
    (0, 3, Made::gateway),
    (0, 4, Made::virtual_service),
    (0, 2, Made::destination_rule),
    (0, 1, Made::sidecar),
    (0, 1, Made::peer_authentication),
];

struct Made {
    random: Random,
    objects: Vec<String>,
}

impl Made {
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.random.within(0..of.len() as u64)).unwrap()]
    }

    fn text(&mut self, of: &[&'static str]) -> &'static str {
        self.pick::<&'static str>(of)
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.random.within(0..one_in) == 0
    }

    fn several(&mut self, least: u64, most: u64, mut make: impl FnMut(&mut Self) -> String) -> String {
        let count = self.random.within(least..most + 1);
        (0..count).map(|_| make(self)).collect::<Vec<_>>().join(", ")
    }

    /// The text, or nothing one time in two.
    fn perhaps(&mut self, make: impl FnOnce(&mut Self) -> String) -> String {
        if self.chance(2) { make(self) } else { String::new() }
    }

    fn add(&mut self, version: &str, kind: &str, name: &str, namespace: &str, spec: &str) {
        let second = self.random.within(1..4);
        self.objects.push(format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: \"2024-01-01T00:00:0{second}Z\"}}\nspec: {{{spec}}}"
        ));
    }

    fn named(&mut self, index: u64) -> (String, &'static str) {
        (["a", "b", "c", "d"][usize::try_from(index).unwrap()].to_owned(), self.text(&NAMESPACES))
    }

    fn quoted(&mut self, of: &[&'static str]) -> String {
        format!("'{}'", self.text(of))
    }

    // === services ===

    fn service(&mut self, index: u64) {
        let (name, namespace) = self.named(index);
        let mut index = 0;
        let ports = self.several(1, 3, |made| {
            index += 1;
            let (prefix, port, target) = (made.text(&PREFIXES), *made.pick(&PORTS), *made.pick(&PORTS));
            let udp = if made.chance(8) { ", protocol: UDP" } else { "" };
            format!("{{name: {prefix}-{index}, port: {port}, targetPort: {target}{udp}}}")
        });
        let address = self.text(&CLUSTER_ADDRESSES);
        let addresses = if self.chance(4) { ", clusterIPs: [10.96.0.1, 'fd00::1']" } else { "" };
        let selected = self.text(&["client", "edge", "other"]);
        let external = if self.chance(8) { ", type: ExternalName, externalName: a.example.com" } else { "" };
        self.add(
            "v1",
            "Service",
            &name,
            namespace,
            &format!("clusterIP: '{address}'{addresses}, selector: {{app: {selected}}}, ports: [{ports}]{external}"),
        );
        let address = self.text(&["10.0.0.9", "10.0.0.100", "10.1.0.1", "10.1.0.1"]);
        let target = *self.pick(&PORTS);
        self.objects.push(format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{name: http-1, port: {target}}}, {{name: tcp-1, port: {target}}}, {{name: tls-2, port: {target}}}]\n\
             endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}, {{addresses: [10.1.0.2], conditions: {{ready: true}}}}]"
        ));
    }

    fn service_entry(&mut self, index: u64) {
        let (name, namespace) = self.named(index);
        let hosts = self.several(1, 2, |made| made.quoted(&HOSTS));
        let addresses = self.perhaps(|made| format!(", addresses: [{}]", made.several(1, 2, |made| made.quoted(&ADDRESSES))));
        let resolution = self.text(&["DNS", "NONE", "STATIC", "DNS_ROUND_ROBIN", "NONE", "DYNAMIC_DNS"]);
        let mut index = 0;
        let ports = self.several(1, 2, |made| {
            index += 1;
            format!("{{number: {}, name: p{index}, protocol: {}}}", made.pick(&PORTS), made.quoted(&PROTOCOLS))
        });
        let endpoints =
            self.perhaps(|made| format!(", endpoints: [{{address: {}}}]", made.quoted(&["10.1.0.1", "c.example.org", "2001:db8::5"])));
        let location = self.text(&["MESH_EXTERNAL", "MESH_INTERNAL"]);
        let spec = format!("hosts: [{hosts}], resolution: {resolution}, location: {location}, ports: [{ports}]{addresses}{endpoints}");
        self.add("networking.istio.io/v1", "ServiceEntry", &name, namespace, &spec);
    }

    fn sidecar(&mut self, _: u64) {
        let egress = self.several(0, 2, |made| {
            let (port, protocol) = (*made.pick(&PORTS), made.text(&["HTTP", "TCP", "TLS", "HTTPS"]));
            let bind = made.perhaps(|made| format!("bind: {}, ", made.quoted(&["127.0.0.1", "0.0.0.0", "::", "240.0.0.1", "::1"])));
            let capture = made.text(&["DEFAULT", "IPTABLES", "NONE"]);
            let host = made.quoted(&["*/*", "./*", "web/*", "*/a.example.com"]);
            format!("{{port: {{number: {port}, protocol: {protocol}, name: p{port}}}, {bind}captureMode: {capture}, hosts: [{host}]}}")
        });
        let ingress = self.several(0, 2, |made| {
            let (port, protocol) = (*made.pick(&PORTS), made.text(&["HTTP", "TCP", "GRPC"]));
            let bind = made.perhaps(|made| format!("bind: {}, ", made.quoted(&["127.0.0.1", "0.0.0.0", "::", "10.0.0.9"])));
            let capture = made.text(&["DEFAULT", "IPTABLES", "NONE"]);
            format!("{{port: {{number: {port}, protocol: {protocol}, name: i{port}}}, {bind}captureMode: {capture}, defaultEndpoint: '127.0.0.1:9000'}}")
        });
        let rest = if egress.is_empty() { "{hosts: ['*/*']}" } else { ", {hosts: ['*/*']}" };
        let ingress = if ingress.is_empty() { ingress } else { format!(", ingress: [{ingress}]") };
        self.add("networking.istio.io/v1", "Sidecar", "s", "shop", &format!("egress: [{egress}{rest}]{ingress}"));
    }

    fn peer_authentication(&mut self, _: u64) {
        let (mode, port, own) = (self.text(&["STRICT", "PERMISSIVE", "DISABLE"]), *self.pick(&PORTS), self.text(&["STRICT", "DISABLE"]));
        let spec =
            format!("selector: {{matchLabels: {{app: client}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{{port}: {{mode: {own}}}}}");
        self.add("security.istio.io/v1", "PeerAuthentication", "p", "shop", &spec);
    }

    fn destination_rule(&mut self, index: u64) {
        let (name, namespace) = self.named(index);
        let host = self.quoted(&DESTINATIONS);
        let policy = self.text(&[
            "tls: {mode: ISTIO_MUTUAL}",
            "tls: {mode: SIMPLE, sni: a.example.com}",
            "tls: {mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem}",
            "connectionPool: {tcp: {maxConnections: 1}, http: {h2UpgradePolicy: UPGRADE, http1MaxPendingRequests: 1}}",
            "loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}}}",
            "loadBalancer: {consistentHash: {useSourceIp: true}}",
            "loadBalancer: {simple: PASSTHROUGH}",
            "outlierDetection: {consecutive5xxErrors: 1, interval: 1s, minHealthPercent: 50}",
            "portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]",
        ]);
        let mut index = 0;
        let subsets = self.several(0, 2, |_| {
            index += 1;
            format!("{{name: v{index}, labels: {{version: v{index}}}}}")
        });
        self.add(
            "networking.istio.io/v1",
            "DestinationRule",
            &name,
            namespace,
            &format!("host: {host}, trafficPolicy: {{{policy}}}, subsets: [{subsets}]"),
        );
    }

    // === gateways and routes ===

    fn gateway(&mut self, index: u64) {
        let (name, namespace) = self.named(index);
        let mut index = 0;
        let servers = self.several(1, 3, |made| {
            index += 1;
            let (port, protocol) = (*made.pick(&PORTS), made.text(&["HTTP", "HTTP", "HTTPS", "HTTPS", "TLS", "TLS", "TCP", "GRPC"]));
            let hosts = made.several(1, 2, |made| {
                let namespace = made.text(&["", "", "./", "*/", "web/"]);
                format!("'{namespace}{}'", made.text(&HOSTS))
            });
            let tls = match protocol {
                "HTTPS" | "TLS" => made.text(&[
                    ", tls: {mode: PASSTHROUGH}",
                    ", tls: {mode: PASSTHROUGH}",
                    ", tls: {mode: AUTO_PASSTHROUGH}",
                    ", tls: {mode: ISTIO_MUTUAL}",
                    ", tls: {mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem}",
                    ", tls: {mode: MUTUAL, serverCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem}",
                ]),
                "HTTP" => made.text(&["", "", ", tls: {httpsRedirect: true}"]),
                _ => "",
            };
            let bind = if made.chance(4) { format!(", bind: {}", made.quoted(&["0.0.0.0", "::", "10.0.0.100"])) } else { String::new() };
            format!("{{port: {{number: {port}, name: s{index}, protocol: {protocol}}}, hosts: [{hosts}]{tls}{bind}}}")
        });
        self.add("networking.istio.io/v1", "Gateway", &name, namespace, &format!("selector: {{app: edge}}, servers: [{servers}]"));
    }

    fn virtual_service(&mut self, index: u64) {
        let (name, namespace) = self.named(index);
        let hosts = self.several(1, 2, |made| made.quoted(&HOSTS));
        let gateways = self.several(1, 3, |made| made.text(&["mesh", "shop/a", "web/a", "shop/b", "web/b", "shop/c"]).to_owned());
        let http = self.perhaps(|made| format!(", http: [{}]", made.several(1, 3, Self::http_route)));
        let tls = self.perhaps(|made| format!(", tls: [{}]", made.several(1, 2, Self::tls_route)));
        let tcp = if self.chance(3) { format!(", tcp: [{}]", self.several(1, 2, Self::tcp_route)) } else { String::new() };
        self.add(
            "networking.istio.io/v1",
            "VirtualService",
            &name,
            namespace,
            &format!("hosts: [{hosts}], gateways: [{gateways}]{http}{tls}{tcp}"),
        );
    }

    fn destination(&mut self) -> String {
        let (host, subset) = (self.quoted(&DESTINATIONS), self.text(&SUBSETS));
        let port = self.perhaps(|made| format!(", port: {{number: {}}}", made.pick(&PORTS)));
        let subset = if subset.is_empty() { String::new() } else { format!(", subset: {subset}") };
        let weight = self.text(&["", ", weight: 1", ", weight: 0", ", weight: 99"]);
        format!("{{destination: {{host: {host}{port}{subset}}}{weight}}}")
    }

    fn l4_match(&mut self) -> String {
        let port = self.perhaps(|made| format!("port: {}, ", made.pick(&PORTS)));
        let networks = if self.chance(3) {
            format!("destinationSubnets: [{}], ", self.several(1, 2, |made| made.quoted(&NETWORKS)))
        } else {
            String::new()
        };
        let labels = if self.chance(4) { "sourceLabels: {version: v1}, " } else { "" };
        format!("{port}{networks}{labels}")
    }

    fn tls_route(&mut self) -> String {
        let matches = self.several(1, 2, |made| {
            let other = made.l4_match();
            format!("{{{other}sniHosts: [{}]}}", made.several(1, 2, |made| made.quoted(&HOSTS)))
        });
        format!("{{match: [{matches}], route: [{}]}}", self.several(1, 2, Self::destination))
    }

    fn tcp_route(&mut self) -> String {
        let matches = self.several(0, 2, |made| format!("{{{}}}", made.l4_match().trim_end_matches(", ")));
        format!("{{match: [{matches}], route: [{}]}}", self.several(1, 2, Self::destination))
    }

    fn http_route(&mut self) -> String {
        let matches = self.several(0, 2, |made| {
            made.text(&[
                "{uri: {prefix: /}}",
                "{uri: {prefix: /api}}",
                "{uri: {prefix: /api/}}",
                "{uri: {exact: /api}, ignoreUriCase: true}",
                "{uri: {regex: '.*'}}",
                "{uri: {regex: '/(a|b)+'}, method: {exact: GET}}",
                "{headers: {x-a: {exact: b}, x-c: {regex: '[a-z]+'}}}",
                "{headers: {':authority': {prefix: a}}, authority: {exact: a.example.com}}",
                "{withoutHeaders: {x-a: {}}, scheme: {exact: https}}",
                "{queryParams: {q: {exact: ''}, r: {regex: '.+'}}}",
                "{port: 80}",
                "{sourceLabels: {version: v1}}",
                "{gateways: [mesh]}",
            ])
            .to_owned()
        });
        let more = self.text(&[
            "",
            "",
            ", timeout: 0s",
            ", retries: {attempts: 3, retryOn: '5xx,404', perTryTimeout: 1s}",
            ", fault: {abort: {httpStatus: 503, percentage: {value: 0.0001}}, delay: {fixedDelay: 1s}}",
            ", mirror: {host: a}, mirrorPercentage: {value: 50}",
            ", mirrors: [{destination: {host: a}}, {destination: {host: b.web}}]",
            ", corsPolicy: {allowOrigins: [{regex: '.*'}, {exact: '*'}], allowMethods: [GET], maxAge: 24h}",
            ", headers: {request: {set: {host: x, x-a: '%START_TIME%'}, remove: [x-b]}, response: {add: {':status': '200', 'x y': z}}}",
            ", headers: {request: {set: {x-a: '%NOTHING%'}, add: {x-b: '100%'}}}",
            ", rewrite: {uri: /, authority: b.example.com}",
            ", rewrite: {uriRegexRewrite: {match: '/(.*)', rewrite: '/\\1\\2'}}",
        ]);
        let action = self.text(&[
            "",
            "",
            "",
            "redirect: {uri: /x}",
            "redirect: {authority: b.example.com, redirectCode: 308, scheme: https, port: 444}",
            "redirect: {redirectCode: 304}",
            "redirect: {redirectCode: 302, derivePort: FROM_REQUEST_PORT}",
            "redirect: {uri: '%PREFIX()%/y'}",
            "directResponse: {status: 200, body: {string: hello}}",
            "directResponse: {status: 99}",
            "directResponse: {status: 600}",
        ]);
        let action = if action.is_empty() { format!("route: [{}]", self.several(1, 3, Self::destination)) } else { action.to_owned() };
        let matches = if matches.is_empty() { matches } else { format!("match: [{matches}], ") };
        format!("{{{matches}{action}{more}}}")
    }
}
