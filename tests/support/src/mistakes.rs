//! What users get wrong in objects of Istio's kinds, and what is to be said of each, however the object came: in a file, by
//! `kubectl apply` with the validating webhook, or past it. Right beside them are services `reviews` and `ratings` with port
//! 9080, and a pod with the label `istio: ingress`, all in namespace `shop`.

/// An object with a mistake, and the one finding that it leads to.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// What is wrong with it.
    pub name: &'static str,
    /// One document of YAML.
    pub yaml: String,
    /// Whether the object is refused; otherwise it is applied with a warning.
    pub refused: bool,
    /// `Kind/namespace/name`
    pub object: &'static str,
    /// Path of the field; empty for the object as a whole.
    pub field: &'static str,
    /// What is said of it.
    pub message: &'static str,
    /// What is said besides of what holds of it while no good version is known.
    pub remnant: Option<&'static str>,
}

impl Mistake {
    /// Returns the finding as it is told where there are no files.
    pub fn finding(&self) -> String {
        let severity = if self.refused { "error" } else { "warning" };
        let field = if self.field.is_empty() { String::new() } else { format!(" {}", self.field) };
        format!("{severity}: {}{field}: {}", self.object, self.message)
    }

    /// Returns what is said besides, likewise.
    pub fn remnant(&self) -> Option<String> {
        self.remnant.map(|remnant| format!("warning: {} spec: {NO_GOOD_VERSION}: {remnant}", self.object))
    }
}

/// How a finding begins that says what holds of a refused object.
pub const NO_GOOD_VERSION: &str = "no good version of it is known, and going without it would leave something open";

/// Returns a VirtualService for `reviews` with this route.
pub fn virtual_service(http: &str) -> String {
    networking("VirtualService", "reviews", &format!("{{hosts: [reviews], http: [{http}]}}"))
}

/// Returns one mistake of each sort.
pub fn all() -> Vec<Mistake> {
    let mut all = routes();
    all.extend(others());
    all
}

fn routes() -> Vec<Mistake> {
    vec![
        doubtful(
            "an unknown field",
            virtual_service("{route: [{destination: {host: reviews}}], tiemout: 1s}"),
            "VirtualService/shop/reviews",
            "spec.http[0].tiemout",
            "unknown field: it has no effect",
        ),
        doubtful(
            "a missing subset",
            virtual_service("{route: [{destination: {host: reviews, subset: v9}}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].route[0].destination.subset",
            "subset v9 of reviews.shop.svc.cluster.local is defined by no DestinationRule; requests get 503",
        ),
        doubtful(
            "an unknown destination",
            virtual_service("{route: [{destination: {host: gone}}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].route[0].destination.host",
            "no service has the host gone.shop.svc.cluster.local; requests get 503",
        ),
        doubtful(
            "a port that the destination lacks",
            virtual_service("{route: [{destination: {host: reviews, port: {number: 1}}}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].route[0].destination.port",
            "reviews.shop.svc.cluster.local has no port 1; requests get 503",
        ),
        refused(
            "a negative weight",
            virtual_service("{route: [{destination: {host: reviews}, weight: 101}, {destination: {host: ratings}, weight: -1}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].route[1].weight",
            "must not be negative, is -1",
        ),
        refused(
            "weights of zero",
            virtual_service("{route: [{destination: {host: reviews}, weight: 0}, {destination: {host: ratings}, weight: 0}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].route",
            "the weights of several destinations must not all be 0",
        ),
        refused(
            "a time without a unit",
            virtual_service("{route: [{destination: {host: reviews}}], timeout: '5'}"),
            "VirtualService/shop/reviews",
            "spec.http[0].timeout",
            "must be a duration such as 1.5s or 250ms, is \"5\"",
        ),
        refused(
            "a time that Envoy cannot count",
            virtual_service("{route: [{destination: {host: reviews}}], timeout: 9999999999s}"),
            "VirtualService/shop/reviews",
            "spec.http[0].timeout",
            "must be at most 2562047h (292 years), is \"9999999999s\"",
        ),
        refused(
            "a regular expression that is none",
            virtual_service("{route: [{destination: {host: reviews}}], match: [{uri: {regex: '(a'}}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].match[0].uri.regex",
            "is no RE2 expression: found open group without closing ')'",
        ),
        refused(
            "a match of two forms",
            virtual_service("{route: [{destination: {host: reviews}}], match: [{uri: {prefix: /a, exact: /b}}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].match[0].uri",
            "only one of exact, prefix may be set",
        ),
        refused(
            "a host that is none",
            virtual_service("{route: [{destination: {host: 're views'}}]}"),
            "VirtualService/shop/reviews",
            "spec.http[0].route[0].destination.host",
            "must be a host name, is \"re views\"",
        ),
        refused(
            "a redirect and a route",
            virtual_service("{route: [{destination: {host: reviews}}], redirect: {uri: /}}"),
            "VirtualService/shop/reviews",
            "spec.http[0]",
            "only one of route, redirect may be set",
        ),
        refused(
            "negative retries",
            virtual_service("{route: [{destination: {host: reviews}}], retries: {attempts: -1}}"),
            "VirtualService/shop/reviews",
            "spec.http[0].retries.attempts",
            "must not be negative, is -1",
        ),
        refused(
            "a field in two spellings",
            virtual_service("{route: [{destination: {host: reviews}}], retries: {attempts: 1, retryOn: 5xx, retry_on: reset}}"),
            "VirtualService/shop/reviews",
            "spec.http[0].retries.retry_on",
            "is the same field as retryOn, which is given too",
        ),
        refused(
            "more faults than requests",
            virtual_service("{route: [{destination: {host: reviews}}], fault: {abort: {httpStatus: 503, percentage: {value: 150}}}}"),
            "VirtualService/shop/reviews",
            "spec.http[0].fault.abort.percentage.value",
            "must be 0 or from 0.0001 to 100, is 150",
        ),
    ]
}

fn others() -> Vec<Mistake> {
    vec![
        refused(
            "a text for a list",
            networking("VirtualService", "reviews", "{hosts: reviews, http: [{route: [{destination: {host: reviews}}]}]}"),
            "VirtualService/shop/reviews",
            "spec.hosts",
            "must be a list, is \"reviews\"",
        ),
        refused(
            "a virtual service without routes",
            networking("VirtualService", "reviews", "{hosts: [reviews]}"),
            "VirtualService/shop/reviews",
            "spec",
            "needs http, tls or tcp",
        ),
        doubtful(
            "a server name twice",
            networking(
                "VirtualService",
                "reviews",
                "{hosts: [reviews], tls: [{match: [{sniHosts: [reviews]}], route: [{destination: {host: reviews}}]}, \
                 {match: [{sniHosts: [reviews]}], route: [{destination: {host: ratings}}]}]}",
            ),
            "VirtualService/shop/reviews",
            "spec.tls[1].match[0]",
            "has no effect: tls[0].match[0] takes connections for reviews first",
        ),
        doubtful(
            "an unknown gateway",
            networking(
                "VirtualService",
                "web",
                "{hosts: [web.example], gateways: [public], http: [{route: [{destination: {host: reviews}}]}]}",
            ),
            "VirtualService/shop/web",
            "spec.gateways[0]",
            "there is no Gateway shop/public",
        ),
        refused(
            "a number for a label",
            networking("DestinationRule", "reviews", "{host: reviews, subsets: [{name: v1, labels: {version: 1}}]}"),
            "DestinationRule/shop/reviews",
            "spec.subsets[0].labels[\"version\"]",
            "must be a string, is 1: put it in quotes",
        ),
        refused(
            "a subset twice",
            networking(
                "DestinationRule",
                "reviews",
                "{host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v1, labels: {version: v2}}]}",
            ),
            "DestinationRule/shop/reviews",
            "spec.subsets[1].name",
            "v1 is given twice",
        ),
        doubtful(
            "a rule for nobody",
            networking("DestinationRule", "gone", "{host: gone, trafficPolicy: {tls: {mode: DISABLE}}}"),
            "DestinationRule/shop/gone",
            "spec.host",
            "no service has the host gone.shop.svc.cluster.local: the rule has no effect",
        ),
        refused(
            "a gateway without servers",
            networking("Gateway", "public", "{selector: {istio: ingress}}"),
            "Gateway.networking.istio.io/shop/public",
            "spec.servers",
            "must not be empty",
        ),
        refused(
            "HTTPS without a certificate",
            networking(
                "Gateway",
                "public",
                "{selector: {istio: ingress}, servers: [{port: {number: 8443, name: https, protocol: HTTPS}, hosts: ['*']}]}",
            ),
            "Gateway.networking.istio.io/shop/public",
            "spec.servers[0].tls",
            "is missing: protocols HTTPS and TLS need it",
        ),
        doubtful(
            "a gateway that no pod serves",
            networking(
                "Gateway",
                "public",
                "{selector: {istio: egress}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}",
            ),
            "Gateway.networking.istio.io/shop/public",
            "spec.selector",
            "no pod has the labels istio=egress: nothing serves this Gateway",
        ),
        refused(
            "a gateway's certificate in what is no Secret",
            networking(
                "Gateway",
                "public",
                "{selector: {istio: ingress}, servers: [{port: {number: 8443, name: https, protocol: HTTPS}, hosts: ['*'], \
                 tls: {mode: SIMPLE, credentialName: 'sds://c'}}]}",
            ),
            "Gateway.networking.istio.io/shop/public",
            "spec.servers[0].tls.credentialName",
            "only Secrets are read, and ConfigMaps: write the name of a Secret, kubernetes:// or configmap://; this server is not opened; \
             label istiod-lite.io/allow-unsupported: \"true\" stores it all the same",
        ),
        refused(
            "a client's certificate in what is no Secret",
            networking(
                "DestinationRule",
                "reviews",
                "{host: reviews, workloadSelector: {matchLabels: {app: a}}, trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'sds://c'}}}",
            ),
            "DestinationRule/shop/reviews",
            "spec.trafficPolicy.tls.credentialName",
            "only Secrets are read, and ConfigMaps: write the name of a Secret, kubernetes:// or configmap://: rather than without it, no connection is made (use files: caCertificates, …); \
             label istiod-lite.io/allow-unsupported: \"true\" stores it all the same",
        ),
        refused(
            "a gateway's certificate in a ConfigMap",
            networking(
                "Gateway",
                "public",
                "{selector: {istio: ingress}, servers: [{port: {number: 8443, name: https, protocol: HTTPS}, hosts: ['*'], \
                 tls: {mode: MUTUAL, credentialName: 'configmap://shop/c'}}]}",
            ),
            "Gateway.networking.istio.io/shop/public",
            "spec.servers[0].tls.credentialName",
            "is a ConfigMap, where a certificate with its key is needed: name a Secret; this server is not opened; \
             label istiod-lite.io/allow-unsupported: \"true\" stores it all the same",
        ),
        refused(
            "a client that trusts a ConfigMap of another namespace",
            networking(
                "DestinationRule",
                "reviews",
                "{host: reviews, trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'configmap://bank/roots'}}}",
            ),
            "DestinationRule/shop/reviews",
            "spec.trafficPolicy.tls.credentialName",
            "must be a ConfigMap of the rule's own namespace (configmap://shop/NAME)",
        )
        .leaving("connections to reviews for which its TLS cannot be read are not made"),
        refused(
            "a key that no condition has",
            security("AuthorizationPolicy", "{action: DENY, rules: [{when: [{key: source.namespaces, values: [bank]}]}]}"),
            "AuthorizationPolicy/shop/all",
            "spec.rules[0].when[0].key",
            "is no key of a condition, is \"source.namespaces\"",
        )
        .leaving("what rules that can be read hold for is denied, and everything if one cannot be read"),
        refused(
            "a network that is none",
            networking(
                "ServiceEntry",
                "outside",
                "{hosts: [outside.example], addresses: [10.0.0.0/99], ports: [{number: 80, name: http, protocol: HTTP}]}",
            ),
            "ServiceEntry/shop/outside",
            "spec.addresses[0]",
            "must be an IP address or a network such as 10.0.0.0/8, is \"10.0.0.0/99\"",
        ),
        refused(
            "endpoints and a selector",
            networking(
                "ServiceEntry",
                "outside",
                "{hosts: [outside.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 192.0.2.1}], workloadSelector: {labels: {app: x}}}",
            ),
            "ServiceEntry/shop/outside",
            "spec",
            "only one of workloadSelector and endpoints may be set",
        ),
        refused(
            "a host without a namespace",
            networking("Sidecar", "default", "{egress: [{hosts: [reviews]}]}"),
            "Sidecar/shop/default",
            "spec.egress[0].hosts[0]",
            "must be namespace/host, is \"reviews\"",
        ),
        refused(
            "a workload without an address",
            networking("WorkloadEntry", "vm", "{labels: {app: x}}"),
            "WorkloadEntry/shop/vm",
            "spec.address",
            "is missing",
        ),
        refused(
            "an unknown enum value",
            peer_authentication("{mtls: {mode: STRCT}}"),
            "PeerAuthentication/shop/all",
            "spec.mtls.mode",
            "unknown value \"STRCT\"; known are UNSET, DISABLE, PERMISSIVE, STRICT",
        )
        .leaving(STRICT),
        refused(
            "ports of every workload",
            peer_authentication("{mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}"),
            "PeerAuthentication/shop/all",
            "spec.portLevelMtls",
            "needs a selector: ports are those of one workload",
        )
        .leaving(STRICT),
        refused(
            "a TLS mode that is misspelled",
            networking("DestinationRule", "reviews", "{host: reviews, trafficPolicy: {tls: {mode: SIMPEL}}}"),
            "DestinationRule/shop/reviews",
            "spec.trafficPolicy.tls.mode",
            "unknown value \"SIMPEL\"; known are DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL",
        )
        .leaving("connections to reviews for which its TLS cannot be read are not made"),
        refused(
            "TLS beside a timeout that is none",
            networking(
                "DestinationRule",
                "ratings",
                "{host: ratings, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, connectionPool: {tcp: {connectTimeout: soon}}}}",
            ),
            "DestinationRule/shop/ratings",
            "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            "must be a duration such as 1.5s or 250ms, is \"soon\"",
        )
        .leaving("its TLS holds for connections to ratings, and nothing else of it"),
        refused(
            "a policy for unknown destinations that is misspelled",
            networking("Sidecar", "default", "{outboundTrafficPolicy: {mode: REGISTRY_ONYL}}"),
            "Sidecar/shop/default",
            "spec.outboundTrafficPolicy.mode",
            "unknown value \"REGISTRY_ONYL\"; known are REGISTRY_ONLY, ALLOW_ANY",
        )
        .leaving("unknown destinations are blocked (REGISTRY_ONLY), and of its egress only what is right is imported"),
    ]
}

const STRICT: &str = "its modes hold where they can be read, and STRICT where not";

impl Mistake {
    fn leaving(self, remnant: &'static str) -> Self {
        Self { remnant: Some(remnant), ..self }
    }
}

fn refused(name: &'static str, yaml: String, object: &'static str, field: &'static str, message: &'static str) -> Mistake {
    Mistake { name, yaml, refused: true, object, field, message, remnant: None }
}

fn doubtful(name: &'static str, yaml: String, object: &'static str, field: &'static str, message: &'static str) -> Mistake {
    Mistake { refused: false, ..refused(name, yaml, object, field, message) }
}

fn networking(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

fn security(kind: &str, spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: all, namespace: shop}}\nspec: {spec}\n")
}

fn peer_authentication(spec: &str) -> String {
    security("PeerAuthentication", spec)
}
