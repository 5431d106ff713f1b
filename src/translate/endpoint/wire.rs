//! Load assignments straight on the wire.
//!
//! They are the most numerous messages of a mesh, and each endpoint in one holds maps of maps for a line of text. So
//! they are written in canonical order from the start (see `xds::encode`), and metadata that endpoints share is
//! written once. Numbers are those of the fields in `envoy.config.endpoint.v3` and `envoy.config.core.v3`.

use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use crate::{
    mesh::model::{Backend, Endpoint, EndpointAddress, Health, Locality},
    translate::{
        metadata::ISTIO,
        wire::{chosen_number, nested, number, text},
    },
    workload_labels::WorkloadLabels,
};

const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// Endpoints of one locality.
#[derive(Clone)]
pub(super) struct Group<'a> {
    pub(super) locality: &'a Locality,
    /// Groups of a higher number have traffic when those of lower ones are not ready.
    pub(super) priority: u32,
    /// Its part of the traffic, where such weights count; zero: none is told.
    pub(super) weight: u32,
    pub(super) endpoints: Vec<Sent<'a>>,
}

impl<'a> Group<'a> {
    /// Makes a group that weighs as much as its endpoints.
    pub(super) fn new(locality: &'a Locality, endpoints: Vec<Sent<'a>>) -> Self {
        let weight = endpoints.iter().fold(0u32, |sum, sent| sum.saturating_add(sent.endpoint.backend.weight));
        Self { locality, priority: 0, weight, endpoints }
    }
}

/// An endpoint as one cluster is sent it.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// What is said of its health.
    pub(super) health: Health,
    /// Whether it says that it can do mTLS.
    pub(super) mtls: bool,
    /// Whether it says all that metrics say of a workload.
    pub(super) all_labels: bool,
}

/// Returns the encoding of a `ClusterLoadAssignment` with these localities, in this order.
pub(super) fn encode(name: &str, localities: &[Group<'_>]) -> Vec<u8> {
    let endpoints: usize = localities.iter().map(|group| group.endpoints.len()).sum();
    let mut bytes = Vec::with_capacity(name.len() + 16 + 96 * endpoints);
    let mut shared = Shared::default();
    text(&mut bytes, 1, name);
    for group in localities {
        nested(&mut bytes, 2, |bytes| locality(bytes, group, &mut shared));
    }
    bytes
}

fn locality<'a>(bytes: &mut Vec<u8>, Group { locality, priority, weight, endpoints }: &Group<'a>, shared: &mut Shared<'a>) {
    nested(bytes, 1, |bytes| {
        text(bytes, 1, &locality.region);
        text(bytes, 2, &locality.zone);
        text(bytes, 3, &locality.subzone);
    });
    for sent in endpoints {
        nested(bytes, 2, |bytes| lb_endpoint(bytes, *sent, shared));
    }
    if *weight > 0 {
        nested(bytes, 3, |bytes| number(bytes, 1, *weight));
    }
    number(bytes, 5, *priority);
}

fn lb_endpoint<'a>(bytes: &mut Vec<u8>, sent: Sent<'a>, shared: &mut Shared<'a>) {
    let endpoint = sent.endpoint;
    // LbEndpoint.endpoint, Endpoint.address
    nested(bytes, 1, |bytes| nested(bytes, 1, |bytes| address(bytes, endpoint)));
    // HEALTHY, UNHEALTHY
    match sent.health {
        Health::Healthy => number(bytes, 2, 1),
        Health::Unready => number(bytes, 2, 2),
        Health::Unknown => {}
    }
    nested(bytes, 3, |bytes| bytes.extend_from_slice(shared.metadata(sent)));
    nested(bytes, 4, |bytes| number(bytes, 1, endpoint.backend.weight));
}

fn address(bytes: &mut Vec<u8>, endpoint: &Endpoint) {
    if let EndpointAddress::Pipe(path) = &endpoint.address {
        return nested(bytes, 2, |bytes| text(bytes, 1, path));
    }
    nested(bytes, 1, |bytes| {
        match &endpoint.address {
            EndpointAddress::Ip(ip) => text(bytes, 2, &format_smolstr!("{ip}")),
            EndpointAddress::Host(name) | EndpointAddress::Pipe(name) => text(bytes, 2, name),
        }
        // A port is written even when it is zero: it is a choice between kinds of ports.
        chosen_number(bytes, 3, endpoint.port.into());
    });
}

/// The encoded metadata of the previous endpoint: neighbours are often alike.
#[derive(Default)]
struct Shared<'a> {
    of: Option<Sent<'a>>,
    bytes: Vec<u8>,
}

impl<'a> Shared<'a> {
    fn metadata(&mut self, sent: Sent<'a>) -> &[u8] {
        let alike = |other: Sent<'_>| {
            (sent.mtls, sent.all_labels) == (other.mtls, other.all_labels) && same_workload(sent.endpoint, other.endpoint)
        };
        if !self.of.is_some_and(alike) {
            self.of = Some(sent);
            self.bytes.clear();
            metadata(&mut self.bytes, sent);
        }
        &self.bytes
    }
}

fn same_workload(one: &Endpoint, other: &Endpoint) -> bool {
    let (one, other) = (&one.backend, &other.backend);
    let alike = |one: &Backend, other: &Backend| {
        (&one.workload, &one.namespace, &one.cluster) == (&other.workload, &other.namespace, &other.cluster) && one.labels == other.labels
    };
    Arc::ptr_eq(one, other) || alike(one, other)
}

// The entries stand in canonical order: the shorter key first.
fn metadata(bytes: &mut Vec<u8>, sent: Sent<'_>) {
    entry(bytes, ISTIO, "workload", &workload(&sent.endpoint.backend, sent.all_labels).to_string());
    if sent.mtls {
        entry(bytes, TRANSPORT_SOCKET_MATCH, "tlsMode", "istio");
    }
}

// `filter_metadata: {key: {field: value}}`
fn entry(bytes: &mut Vec<u8>, key: &str, field: &str, value: &str) {
    nested(bytes, 1, |bytes| {
        text(bytes, 1, key);
        // The Struct, its one entry, and its Value.
        nested(bytes, 2, |bytes| {
            nested(bytes, 1, |bytes| {
                text(bytes, 1, field);
                nested(bytes, 2, |bytes| nested(bytes, 3, |bytes| bytes.extend_from_slice(value.as_bytes())));
            });
        });
    });
}

// Labels `app` and `version` are mostly the canonical ones, and Istio's proxy is not told them.
fn workload(backend: &Backend, all_labels: bool) -> WorkloadLabels<'_> {
    let label = |keys: [&str; 3]| keys.iter().find_map(|key| backend.labels.get(*key)).map_or("", SmolStr::as_str);
    let canonical_service = label(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let canonical_service = if canonical_service.is_empty() { backend.workload.as_str() } else { canonical_service };
    let canonical_revision = label(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let own = |key: &str, canonical| if all_labels { backend.labels.get(key).map_or("", SmolStr::as_str) } else { canonical };
    WorkloadLabels {
        workload: &backend.workload,
        namespace: &backend.namespace,
        canonical_service,
        canonical_revision,
        cluster: &backend.cluster,
        app: own("app", canonical_service),
        version: own("version", canonical_revision),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use prost::Message;

    use super::*;
    use crate::{api::Labels, xds::encode::canonical};

    fn endpoint(address: EndpointAddress, health: Health) -> Endpoint {
        Endpoint {
            address,
            port: 8080,
            mtls: true,
            backend: Arc::new(Backend {
                labels: Arc::new(Labels::from([("app".into(), "reviews".into()), ("version".into(), "v1".repeat(70).into())])),
                locality: Arc::default(),
                network: SmolStr::default(),
                cluster: "Kubernetes".into(),
                node: SmolStr::default(),
                weight: 300,
                identity: None,
                workload: "reviews-v1".into(),
                namespace: "shop".into(),
                health,
            }),
        }
    }

    fn sent((endpoint, mtls): (&Endpoint, bool)) -> Sent<'_> {
        Sent { endpoint, health: endpoint.backend.health, mtls, all_labels: true }
    }

    fn group<'a>(locality: &'a Locality, priority: u32, endpoints: Vec<Sent<'a>>) -> Group<'a> {
        Group { priority, ..Group::new(locality, endpoints) }
    }

    fn of_workload(workload: &str, endpoint: &Endpoint) -> Endpoint {
        let backend = Backend { workload: workload.into(), ..Backend::clone(&endpoint.backend) };
        Endpoint { backend: Arc::new(backend), ..endpoint.clone() }
    }

    #[test]
    fn what_is_written_is_canonical() {
        let locality = Locality { region: "eu".into(), zone: "a".into(), subzone: SmolStr::default() };
        let ends = [
            endpoint(EndpointAddress::Ip([10, 0, 0, 1].into()), Health::Healthy),
            endpoint(EndpointAddress::Host("a.example.com".into()), Health::Unready),
            Endpoint { port: 0, ..of_workload("other", &endpoint(EndpointAddress::Ip([0; 16].into()), Health::Healthy)) },
            endpoint(EndpointAddress::Pipe("/run/a".into()), Health::Unknown),
        ];
        let all: Vec<Sent<'_>> = ends.iter().zip([true, true, false, true]).map(sent).collect();
        let nowhere = Locality::default();
        let bytes = encode("outbound|80||a", &[group(&nowhere, 0, Vec::new()), group(&locality, 2, all)]);
        let message = ClusterLoadAssignment::decode(&bytes[..]).unwrap();
        assert_eq!(canonical(&message), bytes);
        assert_eq!(message.endpoints.iter().map(|group| group.lb_endpoints.len()).collect::<Vec<_>>(), [0, 4]);
        let weights: Vec<_> = message.endpoints.iter().map(|group| group.load_balancing_weight.map(|weight| weight.value)).collect();
        assert_eq!(weights, [None, Some(1200)]);
    }

    #[test]
    fn only_what_is_alike_shares_its_metadata() {
        let ip = |last| EndpointAddress::Ip([10, 0, 0, last].into());
        let ends = [1, 2, 3, 4].map(|last| endpoint(ip(last), Health::Healthy));
        let [first, second, third, fourth] = &ends;
        let third = of_workload("ratings", third);
        let all = [(first, true), (second, true), (&third, true), (fourth, false)].map(sent);
        let bytes = encode("a", &[group(&first.backend.locality, 0, all.to_vec())]);
        let message = ClusterLoadAssignment::decode(&bytes[..]).unwrap();
        let [group] = &message.endpoints[..] else { panic!("one locality") };
        let metadata: Vec<_> = group.lb_endpoints.iter().map(|endpoint| endpoint.metadata.clone().unwrap()).collect();
        assert_eq!(metadata[0], metadata[1]);
        assert_ne!(metadata[1], metadata[2]);
        assert_eq!([1, 2, 3].map(|at| metadata[at].filter_metadata.len()), [2, 2, 1]);
    }
}
