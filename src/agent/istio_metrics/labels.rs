//! Istio's labels, of the tags by which Envoy counts and of what the agent knows of its own workload. What is not known is `unknown`,
//! as Istio's tools expect it, and a revision that is not known `latest`.

use super::own::Own;
use crate::{
    metric_tags::{DESTINATION, HOST, PEER, REQUEST, SERVICE, TCP},
    workload_labels::WorkloadLabels,
};

const UNKNOWN: &str = "unknown";

/// Returns the labels of a series but for `le`, as they are written between braces. A label that stands beside the tags goes over
/// Istio's of that name; an empty one takes it away.
pub(super) fn expanded(pairs: &[(&str, &str)], own: &Own) -> String {
    let of = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map_or("", |(_, value)| *value);
    let counted = Counted::of(of(REQUEST), of(PEER), of(SERVICE), of(HOST));
    let mut labels = counted.labels(own);
    for (key, value) in pairs.iter().filter(|(key, _)| ![REQUEST, PEER, SERVICE, HOST, "le"].contains(key)) {
        match labels.iter_mut().find(|(name, _)| name == key) {
            Some(label) => label.1 = value,
            None => labels.push((key, value)),
        }
        labels.retain(|(name, value)| name != key || !value.is_empty());
    }
    let written: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    written.join(",")
}

/// What the tags say.
struct Counted<'a> {
    request: Request<'a>,
    peer: WorkloadLabels<'a>,
    service: Service<'a>,
}

/// The parts of the tag of that name.
#[derive(Default)]
struct Request<'a> {
    reporter: &'a str,
    protocol: &'a str,
    flags: &'a str,
    /// The identity in the peer's certificate; empty without mTLS.
    principal: &'a str,
    code: &'a str,
    grpc_status: &'a str,
}

/// The service that was called; empty where it is not known.
struct Service<'a> {
    host: &'a str,
    name: &'a str,
    namespace: &'a str,
}

impl<'a> Counted<'a> {
    fn of(request: &'a str, peer: &'a str, service: &'a str, host: &'a str) -> Self {
        Self { request: Request::of(request), peer: WorkloadLabels::parse(peer).unwrap_or_default(), service: Service::of(service, host) }
    }

    fn labels(&self, own: &'a Own) -> Vec<(&'a str, &'a str)> {
        let mut labels = vec![("reporter", self.request.reporter)];
        labels.extend(if self.request.reporter == DESTINATION { self.of_server(own) } else { self.of_client(own) });
        labels.push(("request_protocol", self.request.protocol));
        if self.request.protocol != TCP {
            labels.extend([("response_code", self.request.code), ("grpc_response_status", self.request.grpc_status)]);
        }
        labels.push(("response_flags", self.request.flags));
        labels
    }

    fn of_client(&self, own: &'a Own) -> Vec<(&'a str, &'a str)> {
        let (service, namespace) = (&self.service, self.peer_namespace());
        let mut labels: Vec<_> = workload(&SOURCE_LABELS, own.labels(), self.own_principal(own)).collect();
        labels.extend(workload(&DESTINATION_LABELS, WorkloadLabels { namespace, ..self.peer }, self.request.principal));
        labels.extend([
            ("destination_service", known(service.host)),
            ("destination_service_name", known(service.name)),
            ("destination_service_namespace", known(first(service.namespace, namespace))),
            // Only a server sees whether its client has a certificate.
            ("connection_security_policy", UNKNOWN),
        ]);
        labels
    }

    fn of_server(&self, own: &'a Own) -> Vec<(&'a str, &'a str)> {
        let (service, namespace, known_of_own) = (&self.service, self.peer_namespace(), own.labels());
        let mut labels: Vec<_> = workload(&SOURCE_LABELS, WorkloadLabels { namespace, ..self.peer }, self.request.principal).collect();
        labels.extend(workload(&DESTINATION_LABELS, known_of_own, self.own_principal(own)));
        labels.extend([
            ("destination_service", known(first(service.host, known_of_own.canonical_service))),
            ("destination_service_name", known(first(service.name, known_of_own.canonical_service))),
            ("destination_service_namespace", known(known_of_own.namespace)),
            ("connection_security_policy", if self.request.principal.is_empty() { "none" } else { "mutual_tls" }),
        ]);
        labels
    }

    /// Returns the namespace of the peer: that of its certificate, which cannot be made up, before what it says.
    fn peer_namespace(&self) -> &'a str {
        let proven = self.request.principal.split_once("/ns/").and_then(|(_, rest)| rest.split('/').next());
        first(proven.unwrap_or_default(), self.peer.namespace)
    }

    /// Returns who this proxy is to its peer: nobody without mTLS.
    fn own_principal(&self, own: &'a Own) -> &'a str {
        if self.request.principal.is_empty() { "" } else { own.identity() }
    }
}

impl<'a> Request<'a> {
    fn of(text: &'a str) -> Self {
        let mut parts = text.split(';');
        let mut next = || parts.next().unwrap_or_default();
        let (reporter, protocol, flags, principals) = (next(), next(), next(), next());
        let principal = principals.split(',').next().unwrap_or_default();
        Self { reporter, protocol, flags, principal, code: next(), grpc_status: next() }
    }
}

impl<'a> Service<'a> {
    fn of(service: &'a str, host: &'a str) -> Self {
        if let Some((name, namespace)) = service.split_once(';') {
            return Self { host, name, namespace };
        }
        // All that leads nowhere, or somewhere unknown, is one for Istio.
        let name = match service {
            "BlackHoleCluster" | "PassthroughCluster" | "InboundPassthroughCluster" => service,
            "block_all" => "BlackHoleCluster",
            "allow_any" => "PassthroughCluster",
            _ => host,
        };
        Self { host, name, namespace: "" }
    }
}

/// The names of a side's labels, in the order of [`workload`].
type SideLabels = [&'static str; 8];

const SOURCE_LABELS: SideLabels = [
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_cluster",
];
const DESTINATION_LABELS: SideLabels = [
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_cluster",
];

fn workload<'a>(names: &'static SideLabels, labels: WorkloadLabels<'a>, principal: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let values = [
        known(labels.workload),
        known(labels.namespace),
        known(principal),
        known(labels.app),
        known(labels.version),
        known(labels.canonical_service),
        first(labels.canonical_revision, "latest"),
        known(labels.cluster),
    ];
    names.iter().copied().zip(values)
}

fn known(value: &str) -> &str {
    first(value, UNKNOWN)
}

fn first<'a>(value: &'a str, otherwise: &'a str) -> &'a str {
    if value.is_empty() { otherwise } else { value }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::agent::settings::tests::settings;

    const MTLS: &str = "spiffe://cluster.local/ns/web/sa/front";

    /// Returns the labels of a series of `reviews`, or the client of it, by name.
    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let expanded = expanded(pairs, &Own::of(&settings()));
        let label = |pair: &str| pair.split_once("=\"").map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        expanded.split("\",").filter_map(label).collect()
    }

    fn http(request: &str, peer: &str, service: &str, host: &str) -> BTreeMap<String, String> {
        labels(&[(REQUEST, request), (PEER, peer), (SERVICE, service), (HOST, host), ("le", "5")])
    }

    fn are(labels: &BTreeMap<String, String>, expected: &str) {
        let written: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(written, expected.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn a_server_names_its_client() {
        let peer = "front-v2;elsewhere;front;v2;c2;web-front;v2.1";
        let request = format!("destination;grpc;-;{MTLS};200;5");
        are(
            &http(&request, peer, "reviews;shop", "reviews.shop.svc.cluster.local"),
            "connection_security_policy=mutual_tls destination_app=reviews destination_canonical_revision=v1 \
             destination_canonical_service=reviews destination_cluster=Kubernetes \
             destination_principal=spiffe://cluster.local/ns/shop/sa/reviews destination_service=reviews.shop.svc.cluster.local \
             destination_service_name=reviews destination_service_namespace=shop destination_version=v1 \
             destination_workload=reviews-v1 destination_workload_namespace=shop grpc_response_status=5 reporter=destination \
             request_protocol=grpc response_code=200 response_flags=- source_app=web-front source_canonical_revision=v2 \
             source_canonical_service=front source_cluster=c2 source_principal=spiffe://cluster.local/ns/web/sa/front \
             source_version=v2.1 source_workload=front-v2 source_workload_namespace=web",
        );
    }

    #[test]
    fn a_client_names_its_server() {
        let request = format!("source;http;UC,URX;{MTLS};503;");
        are(
            &http(&request, "front-v2;web;front;v2;Kubernetes", "front;web", "front.web.svc.cluster.local"),
            "connection_security_policy=unknown destination_app=front destination_canonical_revision=v2 \
             destination_canonical_service=front destination_cluster=Kubernetes \
             destination_principal=spiffe://cluster.local/ns/web/sa/front destination_service=front.web.svc.cluster.local \
             destination_service_name=front destination_service_namespace=web destination_version=v2 destination_workload=front-v2 \
             destination_workload_namespace=web grpc_response_status= reporter=source request_protocol=http response_code=503 \
             response_flags=UC,URX source_app=reviews source_canonical_revision=v1 source_canonical_service=reviews \
             source_cluster=Kubernetes source_principal=spiffe://cluster.local/ns/shop/sa/reviews source_version=v1 \
             source_workload=reviews-v1 source_workload_namespace=shop",
        );
    }

    #[test]
    fn connections_have_no_status() {
        let labels = labels(&[(REQUEST, "destination;tcp;-;"), (SERVICE, ""), (HOST, "")]);
        are(
            &labels,
            "connection_security_policy=none destination_app=reviews destination_canonical_revision=v1 \
             destination_canonical_service=reviews destination_cluster=Kubernetes destination_principal=unknown \
             destination_service=reviews destination_service_name=reviews destination_service_namespace=shop destination_version=v1 \
             destination_workload=reviews-v1 destination_workload_namespace=shop reporter=destination request_protocol=tcp \
             response_flags=- source_app=unknown source_canonical_revision=latest source_canonical_service=unknown \
             source_cluster=unknown source_principal=unknown source_version=unknown source_workload=unknown \
             source_workload_namespace=unknown",
        );
    }

    #[test]
    fn what_has_no_service_is_folded_as_istio_folds_it() {
        let table = [
            (("PassthroughCluster", "a.example"), ("a.example", "PassthroughCluster")),
            (("allow_any", "a.example"), ("a.example", "PassthroughCluster")),
            (("block_all", "a.example"), ("a.example", "BlackHoleCluster")),
            (("BlackHoleCluster", ""), ("unknown", "BlackHoleCluster")),
            (("outbound|443||*.example", "a.example"), ("a.example", "a.example")),
            (("", ""), ("unknown", "unknown")),
        ];
        for ((service, host), expected) in table {
            let labels = http("source;http;-;;200;", "", service, host);
            assert_eq!((labels["destination_service"].as_str(), labels["destination_service_name"].as_str()), expected);
            assert_eq!(labels["destination_workload"], "unknown");
        }
        let server = http("destination;http;-;;200;", "", "InboundPassthroughCluster", "");
        assert_eq!(
            (server["destination_service"].as_str(), server["destination_service_name"].as_str()),
            ("reviews", "InboundPassthroughCluster")
        );
    }

    #[test]
    fn a_name_that_was_made_up_leaves_the_rest_alone() {
        let request = format!("destination;http;-;{MTLS};200;");
        for peer in ["", "a", "a;b;c;d;e;f", r#"a\";b"#] {
            let labels = http(&request, peer, "", "");
            assert_eq!((labels["source_workload"].as_str(), labels["source_workload_namespace"].as_str()), ("unknown", "web"));
            assert_eq!((labels["response_code"].as_str(), labels.len()), ("200", 25));
        }
    }

    #[test]
    fn labels_that_stand_beside_go_over_istios() {
        let request = (REQUEST, "source;http;-;;200;");
        let labels = labels(&[request, ("response_code", "2xx"), ("request_operation", "list"), ("source_app", "")]);
        assert_eq!((labels["response_code"].as_str(), labels["request_operation"].as_str()), ("2xx", "list"));
        assert!(!labels.contains_key("source_app"));
    }
}
