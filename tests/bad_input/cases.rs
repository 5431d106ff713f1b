//! Mistakes, and what is to be said of each.

use std::{fs, os::unix::fs::symlink, path::Path};

use harness::mistakes::{self, Mistake};

use crate::{extensions::extensions, policies::policies, rate_limits::rate_limits, telemetries::telemetries};

/// A file beside the good ones, and the findings it leads to.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    content: Content,
    /// Whole lines, as they are said. Sorted as they are shown: errors first.
    pub(crate) findings: Vec<String>,
}

enum Content {
    Bytes(Vec<u8>),
    LinkOut,
}

/// The file with the mistake. Its name comes after that of the good one, which therefore counts where both say the same.
pub(crate) const FILE: &str = "z.yaml";
/// The good file.
pub(crate) const GOOD_FILE: &str = "good.yaml";

/// Two services, a client and a gateway, without a mistake.
pub(crate) const GOOD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, namespace: shop, labels: {app: client}}
spec: {serviceAccountName: client}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: gateway-1, namespace: shop, labels: {istio: ingress}}
spec: {serviceAccountName: gateway}
status: {phase: Running, podIP: 10.0.0.2}
";

/// A cluster of the good file: that it is served shows that the mistake hurts nobody else.
pub(crate) const GOOD_CLUSTER: &str = "outbound|9080||ratings.shop.svc.cluster.local";

/// Two Gateways that want one port for different things. The proxy that serves them tells which of them goes without.
pub(crate) const RIVAL_GATEWAYS: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a-web, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {selector: {istio: ingress}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: b-tcp, namespace: shop, creationTimestamp: '2026-01-02T00:00:00Z'}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 9000, name: other, protocol: TCP}, hosts: ['*']}
  - {port: {number: 8080, name: tcp, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: both, namespace: shop}
spec:
  hosts: [reviews.example.com]
  gateways: [a-web, b-tcp]
  http: [{route: [{destination: {host: reviews}}]}]
  tcp: [{match: [{port: 9000}], route: [{destination: {host: reviews}}]}]
";

/// What is said of them.
pub(crate) const RIVAL_FINDING: &str = "warning: Gateway.networking.istio.io/shop/b-tcp (z.yaml, document 2) spec.servers[1]: \
    port 8080 is held by an older server of another kind: this server gets no listener";

/// A Service that would have every client's proxy listen where that captures all traffic.
pub(crate) const TAKEN_PORT: &str = "\
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: shop}
spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 15001}, {name: http-web, port: 8080}]}
";

/// What is said of it.
pub(crate) const TAKEN_PORT_FINDING: &str = "warning: Service/shop/odd (z.yaml, document 1) spec.ports: port 15001 is the proxy's own \
    for captured outbound traffic (proxyListenPort): there is no other listener on it; use another port";

impl Case {
    pub(crate) fn new(name: &'static str, text: impl Into<Vec<u8>>, findings: &[&str]) -> Self {
        let findings = findings.iter().map(|finding| (*finding).to_owned()).collect();
        Self { name, content: Content::Bytes(text.into()), findings }
    }

    /// Puts the mistake into a folder.
    pub(crate) fn put_into(&self, folder: &Path) {
        let file = folder.join(FILE);
        match &self.content {
            // In one step, so that nobody sees half of it.
            Content::Bytes(bytes) => {
                let draft = folder.join(".draft");
                fs::write(&draft, bytes).unwrap();
                fs::rename(draft, file).unwrap();
            }
            Content::LinkOut => symlink("/etc/hostname", file).unwrap(),
        }
    }

    /// Returns whether an object or a file is refused.
    pub(crate) fn refuses(&self) -> bool {
        self.findings.iter().any(|finding| finding.starts_with("error: "))
    }
}

/// Returns all mistakes that one file can hold.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = documents();
    cases.extend(istio());
    cases.extend(policies());
    cases.extend(telemetries());
    cases.extend(extensions());
    cases.extend(rate_limits());
    cases.extend(kubernetes());
    cases
}

// What is wrong before there is an object.
fn documents() -> Vec<Case> {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", "));
    }
    vec![
        Case::new(
            "malformed YAML",
            "# first\n---\nkind: Service\n  name: x\n",
            &["error: (z.yaml, document 1): mapping values are not allowed in this context at line 4 column 7"],
        ),
        Case::new(
            "tabs",
            "apiVersion: v1\n---\nmetadata:\n\tname: x\n",
            &[
                "error: (z.yaml, document 1): apiVersion and kind are missing: this is no object",
                "error: (z.yaml, document 2): found character that cannot start any token at line 4 column 1, while scanning for the next token",
            ],
        ),
        Case::new("not UTF-8", b"kind: \xff\n".as_slice(), &["error: (z.yaml): is not UTF-8 text at byte 6"]),
        Case::new("aliases that multiply", bomb, &["error: (z.yaml, document 1): repetition limit exceeded"]),
        Case::new("open brackets", "[".repeat(1_000_000), &["error: (z.yaml, document 1): has more than 256 brackets open at once"]),
        Case::new("50 MB", vec![b'\n'; 50 << 20], &["error: (z.yaml): has 52428800 bytes, more than the 10485760 that are read"]),
        Case {
            name: "a link out of the folder",
            content: Content::LinkOut,
            findings: vec!["error: (z.yaml): is a link out of the folder: not read".to_owned()],
        },
        Case::new("BOM and CRLF", "\u{feff}apiVersion: v1\r\nkind: Namespace\r\nmetadata:\r\n  name: x\r\n---\r\n# end\r\n", &[]),
        Case::new(
            "a kind that is not read",
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: x}\n",
            &["warning: (z.yaml, document 1) kind: Endpoints (v1) is not read: the document has no effect"],
        ),
    ]
}

// What is wrong with an object of Istio's kinds, as the second document of its file.
fn istio() -> Vec<Case> {
    let case = |mistake: Mistake| {
        let place = format!("{} (z.yaml, document 2)", mistake.object);
        let found = [Some(mistake.finding()), mistake.remnant()].into_iter().flatten();
        let findings = found.map(|finding| finding.replacen(mistake.object, &place, 1)).collect();
        Case { findings, ..Case::new(mistake.name, format!("---\n---\n{}", mistake.yaml), &[]) }
    };
    mistakes::all().into_iter().map(case).collect()
}

// What is wrong with an object of Kubernetes: an API server would refuse most of it itself.
fn kubernetes() -> Vec<Case> {
    vec![
        Case::new(
            "two objects of one name",
            "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec: {clusterIP: 10.96.0.9, ports: [{port: 1}]}\n",
            &[
                "error: Service/shop/reviews (z.yaml, document 1): is given already in good.yaml, document 1, which counts; this one has no effect",
            ],
        ),
        Case::new(
            "ports",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\n\
             spec: {clusterIP: 10.96.0.9, ports: [{port: 80, name: a}, {port: 80, name: a}, {port: 80, protocol: UDP}]}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {name: y, namespace: shop}\n\
             spec: {clusterIP: 10.96.0.9, ports: [{port: 0}, {name: none}, {port: 70000}]}\n",
            &[
                "error: Service/shop/x (z.yaml, document 1) spec.ports[1].name: a is given twice",
                "error: Service/shop/x (z.yaml, document 1) spec.ports[1].port: 80/TCP is given twice",
                "error: Service/shop/y (z.yaml, document 2) spec.ports[0].port: must be from 1 to 65535",
                "error: Service/shop/y (z.yaml, document 2) spec.ports[1].port: must be from 1 to 65535",
                "error: Service/shop/y (z.yaml, document 2) spec.ports[2].port: must be from 0 to 65535, is 70000",
            ],
        ),
        Case::new(
            "addresses",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {name: x, namespace: shop, labels: {kubernetes.io/service-name: reviews}}\naddressType: IPv4\n\
             ports: [{name: http, port: 0}]\nendpoints: [{addresses: [10.0.0.300]}, {addresses: []}]\n",
            &["error: EndpointSlice/shop/x (z.yaml, document 1) ports[0].port: must be from 1 to 65535"],
        ),
        Case::new(
            "addresses of endpoints",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {name: x, namespace: shop, labels: {kubernetes.io/service-name: reviews}}\naddressType: IPv4\n\
             ports: [{name: http, port: 80}]\nendpoints: [{addresses: [10.0.0.300]}, {addresses: []}]\n",
            &[
                "error: EndpointSlice/shop/x (z.yaml, document 1) endpoints[0].addresses[0]: must be an IP address, is \"10.0.0.300\"",
                "error: EndpointSlice/shop/x (z.yaml, document 1) endpoints[1].addresses: must not be empty",
            ],
        ),
        Case::new(
            "mesh config",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
             data: {mesh: '{connectTimeout: soon, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}'}\n",
            &[
                "error: MeshConfig/istio (z.yaml, document 1) data.mesh.connectTimeout: must be a duration such as 1.5s or 250ms, is \"soon\"",
                "warning: MeshConfig/istio (z.yaml, document 1) data.mesh: no good version of it is known, and going without it would leave \
                 something open: of it these hold, and are closed where they cannot be read: outboundTrafficPolicy",
            ],
        ),
        Case::new(
            "an external name",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\nspec: {type: ExternalName, externalName: 'a b'}\n",
            &["error: Service/shop/x (z.yaml, document 1) spec.externalName: must be a host name, is \"a b\""],
        ),
    ]
}
