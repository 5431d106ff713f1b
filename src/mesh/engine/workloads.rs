//! Workloads: pods, and WorkloadEntries whose name no pod has.

use std::{net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::store::Store;
use crate::{
    api::{Kind, Labels, LocalId, Object, istio, kubernetes},
    mesh::model::{
        Locality, Workload, WorkloadKey,
        label::{NETWORK, REGION, SUBZONE, ZONE},
    },
};

/// Returns the workload of that key.
pub(super) fn derive(store: &Store, key: &WorkloadKey) -> Option<Workload> {
    if let Some((object, pod)) = store.local_of::<kubernetes::Pod>(&pod_id(key)) {
        return is_alive(pod).then(|| of_pod(store, object, pod));
    }
    let (object, entry) = store.config_of::<istio::WorkloadEntry>(&key.namespace, &key.name)?;
    (object.key.cluster == key.cluster).then(|| of_entry(object, entry))
}

/// Identifies the pod of a workload.
pub(super) fn pod_id(key: &WorkloadKey) -> LocalId {
    LocalId::new(&key.cluster, Kind::Pod, &key.namespace, &key.name)
}

/// Returns whether the pod still has its address. One that has ended has none, and another pod may have it.
fn is_alive(pod: &kubernetes::Pod) -> bool {
    pod.phase != "Succeeded" && pod.phase != "Failed"
}

fn of_pod(store: &Store, object: &Object, pod: &kubernetes::Pod) -> Workload {
    Workload {
        name: object.key.name.clone(),
        namespace: object.key.namespace.clone(),
        labels: Arc::clone(&object.metadata.labels),
        annotations: Arc::clone(&object.metadata.annotations),
        service_account: if pod.service_account.is_empty() { "default".into() } else { pod.service_account.clone() },
        ips: Arc::clone(&pod.ips),
        node: pod.node.clone(),
        locality: pod_locality(store, object, &pod.node).into(),
        uid: object.metadata.uid.clone(),
        ports: Arc::clone(&pod.ports),
        kind: object.key.kind,
        cluster: object.key.cluster.clone(),
        generation: object.metadata.generation,
    }
}

/// Returns the locality of a pod: its own label wins over the node's (contract §2.4).
fn pod_locality(store: &Store, pod: &Object, node: &SmolStr) -> Locality {
    labelled_locality(&pod.metadata.labels).unwrap_or_else(|| node_locality(store, &pod.key.cluster, node))
}

fn labelled_locality(labels: &Labels) -> Option<Locality> {
    let written = labels.get("topology.istio.io/locality").or_else(|| labels.get("istio-locality"));
    let text = written.filter(|text| !text.is_empty())?;
    Some(locality(text, if text.contains('/') { '/' } else { '.' }))
}

fn node_locality(store: &Store, cluster: &SmolStr, node: &SmolStr) -> Locality {
    let node = LocalId::new(cluster, Kind::Node, &SmolStr::default(), node);
    let Some(object) = store.local(&node) else { return Locality::default() };
    let label = |name: &str| object.metadata.labels.get(name).cloned().unwrap_or_default();
    Locality { region: label(REGION), zone: label(ZONE), subzone: label(SUBZONE) }
}

/// Reads `region/zone/subzone`.
fn locality(text: &str, separator: char) -> Locality {
    let mut parts = text.splitn(3, separator).map(SmolStr::new);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), subzone: next() }
}

/// Returns the workload that a WorkloadEntry is.
pub(super) fn of_entry(object: &Object, entry: &istio::WorkloadEntry) -> Workload {
    let mut labels = entry_labels(object, entry);
    let locality = entry_locality(entry, &labels).into();
    if !entry.network.is_empty() {
        labels.entry(NETWORK.into()).or_insert_with(|| entry.network.clone());
    }
    Workload {
        name: object.key.name.clone(),
        namespace: object.key.namespace.clone(),
        labels: Arc::new(labels),
        annotations: Arc::clone(&object.metadata.annotations),
        service_account: entry.service_account.clone(),
        ips: entry.address.parse::<IpAddr>().into_iter().collect(),
        node: SmolStr::default(),
        locality,
        uid: object.metadata.uid.clone(),
        ports: entry.ports.as_slice().into(),
        kind: object.key.kind,
        cluster: object.key.cluster.clone(),
        generation: object.metadata.generation,
    }
}

/// Returns the labels of a WorkloadEntry: those of its metadata over those of its spec.
pub(super) fn entry_labels(object: &Object, entry: &istio::WorkloadEntry) -> Labels {
    let mut labels = entry.labels.clone();
    labels.extend(object.metadata.labels.iter().map(|(name, value)| (name.clone(), value.clone())));
    labels
}

/// Returns the locality of a WorkloadEntry with these labels: its own field wins over the label.
pub(super) fn entry_locality(entry: &istio::WorkloadEntry, labels: &Labels) -> Locality {
    match entry.locality.is_empty() {
        true => labelled_locality(labels).unwrap_or_default(),
        false => locality(&entry.locality, '/'),
    }
}
