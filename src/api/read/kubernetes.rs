//! Reads the built-in kinds of Kubernetes. Most of their fields are not used, so unknown ones are ignored.

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::{
    Metadata,
    kubernetes::{ConfigMap, EndpointSlice, Pod, PortRef, Secret, Service, ServicePort, SliceEndpoint},
};

impl Read for Service {
    fn read(node: Node<'_>) -> Option<Self> {
        let spec = node.fields()?;
        let mut addresses: Vec<SmolStr> = spec.get("clusterIPs");
        if let Some(address) = spec.opt::<SmolStr>("clusterIP").filter(|address| !addresses.contains(address)) {
            addresses.insert(0, address);
        }
        let external = spec.get::<SmolStr>("type") == "ExternalName";
        Some(Self {
            external_name: external.then(|| spec.get("externalName")),
            headless: addresses.iter().any(|address| address == "None"),
            cluster_ips: cluster_ips(&spec, &addresses),
            selector: Arc::new(spec.get("selector")),
            ports: spec.get("ports"),
            publish_not_ready_addresses: spec.get("publishNotReadyAddresses"),
            internal_traffic_local: spec.get::<SmolStr>("internalTrafficPolicy") == "Local",
            traffic_distribution: spec.get("trafficDistribution"),
        })
    }
}

fn cluster_ips(spec: &Fields<'_>, addresses: &[SmolStr]) -> Vec<IpAddr> {
    let mut parsed = Vec::new();
    for address in addresses.iter().filter(|address| !address.is_empty() && *address != "None") {
        match address.parse() {
            Ok(address) => parsed.push(address),
            Err(_) => spec.refuse("clusterIP", format!("must be an IP address or None, is {address:?}")),
        }
    }
    parsed
}

impl Read for ServicePort {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let port = fields.opt::<u16>("port");
        if port == Some(0) || !fields.has("port") {
            fields.refuse("port", "must be from 1 to 65535");
        }
        Some(Self {
            name: fields.get("name"),
            port: port.unwrap_or_default(),
            target_port: fields.opt("targetPort"),
            protocol: fields.get("protocol"),
            app_protocol: fields.get("appProtocol"),
        })
    }
}

impl Read for PortRef {
    fn read(node: Node<'_>) -> Option<Self> {
        match node.value {
            Value::String(name) => Some(Self::Name(name.into())),
            _ => u16::read(node).map(Self::Number),
        }
    }
}

/// Reads an EndpointSlice, which has its fields beside the metadata and no `spec`.
pub(super) fn endpoint_slice(fields: Fields<'_>, metadata: &Metadata) -> Option<EndpointSlice> {
    Some(EndpointSlice {
        service: metadata.labels.get("kubernetes.io/service-name").cloned().unwrap_or_default(),
        address_type: fields.get("addressType"),
        ports: fields.get::<Vec<SlicePort>>("ports").into_iter().filter_map(|SlicePort(name, port)| Some((name, port?))).collect(),
        endpoints: fields.get("endpoints"),
    })
}

struct SlicePort(SmolStr, Option<u16>);

impl Read for SlicePort {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let port = fields.opt("port");
        if port == Some(0) {
            fields.refuse("port", "must be from 1 to 65535");
        }
        Some(Self(fields.get("name"), port))
    }
}

impl Read for SliceEndpoint {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let conditions = fields.with("conditions", |node| {
            let fields = node.fields()?;
            Some((fields.opt("ready"), fields.opt("serving"), fields.get("terminating")))
        });
        let (ready, serving, terminating) = conditions.unwrap_or_default();
        let ready = ready.unwrap_or(true);
        let mut addresses: Vec<SmolStr> = fields.get("addresses");
        addresses.shrink_to_fit();
        Some(Self {
            addresses,
            ready,
            serving: serving.unwrap_or(ready),
            terminating,
            node: fields.get("nodeName"),
            zone: fields.get("zone"),
            pod: fields.with("targetRef", target_pod),
        })
    }
}

fn target_pod(node: Node<'_>) -> Option<(SmolStr, SmolStr)> {
    let fields = node.fields()?;
    let is_pod = fields.get::<SmolStr>("kind") == "Pod";
    let pod = (fields.get("namespace"), fields.get("name"));
    is_pod.then_some(pod)
}

/// Reads a Secret. `stringData`, which only files have, goes before `data`.
pub(super) fn secret(document: Fields<'_>, _: &Metadata) -> Option<Secret> {
    let entries_of = |field: &'static str, decoded: fn(&Fields<'_>, &'static str) -> Option<Vec<u8>>| {
        document.with(field, |node| {
            let fields = node.fields()?;
            let entry = |key: &'static str| fields.has(key).then(|| decoded(&fields, key)).flatten().map(|bytes| (key, bytes.into()));
            Some(Secret::CREDENTIAL_KEYS.into_iter().filter_map(entry).collect::<Vec<_>>())
        })
    };
    let mut entries = entries_of("stringData", |fields, key| Some(fields.get::<SmolStr>(key).as_bytes().to_vec())).unwrap_or_default();
    for (key, value) in entries_of("data", from_base64).unwrap_or_default() {
        if entries.iter().all(|(given, _)| *given != key) {
            entries.push((key, value));
        }
    }
    Some(Secret { entries })
}

/// Reads a ConfigMap. Its `binaryData` holds no certificates for istiod either.
pub(super) fn config_map(document: Fields<'_>, _: &Metadata) -> Option<ConfigMap> {
    let entries = document.with("data", |node| {
        let fields = node.fields()?;
        let entry = |key: &'static str| fields.has(key).then(|| (key, fields.get::<SmolStr>(key).as_bytes().to_vec().into()));
        Some(ConfigMap::ROOT_KEYS.into_iter().filter_map(entry).collect())
    });
    Some(ConfigMap { entries: entries.unwrap_or_default() })
}

// What is wrong with it must not be told by repeating it.
fn from_base64(fields: &Fields<'_>, key: &'static str) -> Option<Vec<u8>> {
    let text: String = fields.get::<SmolStr>(key).split_ascii_whitespace().collect();
    let decoded = STANDARD.decode(text).ok();
    if decoded.is_none() {
        fields.refuse(key, "must be base64");
    }
    decoded
}

/// Reads a Pod: its specification, its status, and its owner from the metadata.
pub(super) fn pod(document: Fields<'_>, metadata: &Metadata) -> Option<Pod> {
    let mut pod = document.get::<PodSpec>("spec").0;
    document.with("status", |node| {
        let status = node.fields()?;
        pod.phase = status.get("phase");
        pod.ready =
            status.get::<Vec<PodCondition>>("conditions").iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
        let ips: Vec<IpAddr> = status.get::<Vec<PodIp>>("podIPs").into_iter().filter_map(|PodIp(ip)| ip).collect();
        pod.ips = if ips.is_empty() { status.with("podIP", ip).into_iter().collect() } else { ips.into() };
        Some(())
    });
    document.with("metadata", |node| {
        pod.owner = owner(node, metadata).unwrap_or_default();
        pod.terminating = node.fields()?.has("deletionTimestamp");
        Some(())
    });
    Some(pod)
}

#[derive(Default)]
struct PodSpec(Pod);

impl Read for PodSpec {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let mut containers: Vec<Container> = fields.get("containers");
        // Init containers that keep running are sidecars, whose named ports count. Those of others do not.
        containers.extend(fields.get::<Vec<Container>>("initContainers").into_iter().filter(|container| container.restarts));
        Some(Self(Pod {
            service_account: fields.opt("serviceAccountName").or_else(|| fields.opt("serviceAccount")).unwrap_or_default(),
            node: fields.get("nodeName"),
            host_network: fields.get("hostNetwork"),
            ports: containers.into_iter().flat_map(|container| container.ports).collect(),
            ..Pod::default()
        }))
    }
}

struct Container {
    ports: Vec<(SmolStr, u16)>,
    restarts: bool,
}

impl Read for Container {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let ports = fields.get::<Vec<ContainerPort>>("ports");
        let named = ports.into_iter().filter(|port| !port.0.is_empty()).map(|ContainerPort(name, port)| (name, port)).collect();
        Some(Self { ports: named, restarts: fields.get::<SmolStr>("restartPolicy") == "Always" })
    }
}

struct ContainerPort(SmolStr, u16);

impl Read for ContainerPort {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        Some(Self(fields.get("name"), fields.get("containerPort")))
    }
}

struct PodCondition {
    kind: SmolStr,
    status: SmolStr,
}

impl Read for PodCondition {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        Some(Self { kind: fields.get("type"), status: fields.get("status") })
    }
}

struct PodIp(Option<IpAddr>);

impl Read for PodIp {
    fn read(node: Node<'_>) -> Option<Self> {
        Some(Self(node.fields()?.with("ip", ip)))
    }
}

// A pod that has no address yet has an empty one.
fn ip(node: Node<'_>) -> Option<IpAddr> {
    if node.value.as_str() == Some("") { None } else { IpAddr::read(node) }
}

/// Returns the name of the controller, or else of the first owner. For a ReplicaSet the hash, which is also a label of the pod, is
/// removed from the name, which leaves the name of the Deployment.
fn owner(node: Node<'_>, metadata: &Metadata) -> Option<SmolStr> {
    let owners: Vec<OwnerReference> = node.fields()?.get("ownerReferences");
    let owner = owners.iter().find(|owner| owner.controller).or_else(|| owners.first())?;
    if owner.kind != "ReplicaSet" {
        return Some(owner.name.clone());
    }
    let hash = metadata.labels.get("pod-template-hash");
    let deployment = owner.name.rsplit_once('-').filter(|(_, suffix)| hash.is_none_or(|hash| hash == suffix));
    Some(deployment.map_or_else(|| owner.name.clone(), |(name, _)| name.into()))
}

struct OwnerReference {
    kind: SmolStr,
    name: SmolStr,
    controller: bool,
}

impl Read for OwnerReference {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        Some(Self { kind: fields.get("kind"), name: fields.get("name"), controller: fields.get("controller") })
    }
}
