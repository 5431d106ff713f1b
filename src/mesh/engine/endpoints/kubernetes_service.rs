//! Endpoints of a Kubernetes Service: what its EndpointSlices name, and the WorkloadEntries that its selector takes.

use std::{net::IpAddr, sync::Arc};

use smol_str::SmolStr;

use super::{Tables, blank, entry_address};
use crate::{
    api::{Kind, LocalId, Object, istio, kubernetes},
    mesh::{
        engine::{
            store::Store,
            workloads::{self, entry_labels},
        },
        model::{
            Backend, Endpoint, EndpointAddress, Health, NamedKey, Registry, Resolution, Service, ServicePort, TargetPort,
            TrafficDistribution, Unusable, Workload, WorkloadKey,
        },
    },
};

impl Tables<'_> {
    pub(super) fn of_kubernetes<'a>(
        &self,
        service: &Service,
        slices: impl IntoIterator<Item = &'a LocalId>,
        entries: &[SelectedEntry<'_>],
    ) -> Vec<(u16, Endpoint)> {
        let mut found = Vec::new();
        slices.into_iter().for_each(|slice| self.of_slice(service, slice, &mut found));
        for (object, entry) in entries {
            found.extend(self.of_workload_entry(service, object, entry));
        }
        found
    }

    fn of_slice(&self, service: &Service, slice: &LocalId, found: &mut Vec<(u16, Endpoint)>) {
        let Some((object, slice)) = self.store.local_of::<kubernetes::EndpointSlice>(slice) else { return };
        let cluster = &object.key.cluster;
        let workload_of = |(namespace, name): &NamedKey| {
            let key = WorkloadKey { namespace: namespace.clone(), name: name.clone(), cluster: cluster.clone() };
            self.world.workloads.get(&key)
        };
        let at_address = |address: &SmolStr| self.pods_at.get(cluster, &object.key.namespace, address.parse().ok()?);
        let mut of_node: Option<Arc<Backend>> = None;
        found.reserve(slice.endpoints.len());
        for (endpoint, health) in slice.endpoints.iter().filter_map(|endpoint| Some((endpoint, self.health(service, endpoint)?))) {
            let workload = match &endpoint.pod {
                // A pod that is named but not known yet is waited for, because its labels and identity decide.
                Some(pod) => match workload_of(pod) {
                    Some(workload) => Some(&**workload),
                    None => continue,
                },
                None => endpoint.addresses.iter().find_map(at_address),
            };
            let backend = match workload {
                Some(pod) => Arc::new(self.of_pod(object, pod, &endpoint.node, health)),
                // Without pods the endpoints of a node are alike.
                None => match of_node.as_ref().filter(|backend| (&backend.node, backend.health) == (&endpoint.node, health)) {
                    Some(backend) => Arc::clone(backend),
                    None => Arc::clone(of_node.insert(Arc::new(Backend { node: endpoint.node.clone(), ..blank(object, health) }))),
                },
            };
            self.of_slice_endpoint(service, slice, endpoint, workload, &backend, found);
        }
    }

    /// Returns the health of an endpoint; `None` where no proxy hears of it.
    fn health(&self, service: &Service, endpoint: &kubernetes::SliceEndpoint) -> Option<Health> {
        if endpoint.ready || service.publish_not_ready {
            return Some(Health::Healthy);
        }
        // Who prefers some endpoints must know when they are not ready.
        let is_known = self.world.mesh.send_unready_endpoints || service.distribution != TrafficDistribution::Any;
        (is_known && !endpoint.terminating).then_some(Health::Unready)
    }

    fn of_slice_endpoint(
        &self,
        service: &Service,
        slice: &kubernetes::EndpointSlice,
        endpoint: &kubernetes::SliceEndpoint,
        workload: Option<&Workload>,
        backend: &Arc<Backend>,
        found: &mut Vec<(u16, Endpoint)>,
    ) {
        for (name, number) in &slice.ports {
            for port in service.ports.iter().filter(|port| port.name == *name) {
                let mtls = workload.is_some_and(|pod| self.pod_takes_mtls(pod, *number));
                let ips = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
                let at = |ip| Endpoint { address: EndpointAddress::Ip(ip), port: *number, backend: Arc::clone(backend), mtls };
                found.extend(ips.map(|ip| (port.number, at(ip))));
            }
        }
    }

    fn of_workload_entry(&self, service: &Service, object: &Object, entry: &istio::WorkloadEntry) -> Vec<(u16, Endpoint)> {
        let Some(address @ EndpointAddress::Ip(_)) = entry_address(&entry.address, false) else {
            if !entry.address.is_empty() {
                self.note_unused(&object.key, "spec.address", &service.hostname, Unusable::Address(entry.address.clone()));
            }
            return Vec::new();
        };
        let labels = Arc::new(entry_labels(object, entry));
        let backend = Arc::new(self.of_entry(object, entry, labels, &object.key.name));
        let at_port = |port: &ServicePort| {
            let Some(number) = listening_port(port, entry) else {
                if let TargetPort::Name(name) = &port.target_port {
                    self.note_unused(&object.key, "spec.ports", &service.hostname, Unusable::Port(name.clone()));
                }
                return None;
            };
            let mtls = self.entry_takes_mtls(entry, &backend, number);
            Some((port.number, Endpoint { address: address.clone(), port: number, backend: Arc::clone(&backend), mtls }))
        };
        service.ports.iter().filter_map(at_port).collect()
    }
}

/// A WorkloadEntry that a Kubernetes Service selects, with its content.
pub(in crate::mesh::engine) type SelectedEntry<'a> = (&'a Object, &'a istio::WorkloadEntry);

/// Returns the WorkloadEntries that a Kubernetes Service selects, sorted by name: those of its cluster and namespace with
/// its labels.
pub(in crate::mesh::engine) fn entries_selected_by<'a>(service: &'a Service, store: &'a Store) -> impl Iterator<Item = SelectedEntry<'a>> {
    let all = may_select_entries(service).then(|| store.configs_in(Kind::WorkloadEntry, &service.namespace)).into_iter().flatten();
    let with_entry = all.filter_map(|object| Some((&**object, &**object.content::<istio::WorkloadEntry>()?)));
    with_entry.filter(|(object, entry)| {
        let of_cluster = object.key.cluster == service.origin.object.cluster;
        of_cluster && workloads::of_entry(object, entry).located_labels().are_selected_by(&service.selector)
    })
}

/// Returns whether the selector of a Kubernetes Service takes WorkloadEntries too; those of headless Services do not.
pub(in crate::mesh::engine) fn may_select_entries(service: &Service) -> bool {
    service.registry == Registry::Kubernetes && service.resolution == Resolution::ClientSideLb && !service.selector.is_empty()
}

/// Returns the port on which a WorkloadEntry answers for a port of a Kubernetes Service: it may have one of the service
/// port's name; for a named target port it must have one of that name.
fn listening_port(port: &ServicePort, entry: &istio::WorkloadEntry) -> Option<u16> {
    let named = |wanted: &SmolStr| entry.ports.iter().find(|(name, _)| name == wanted).map(|(_, number)| *number);
    match &port.target_port {
        TargetPort::Number(number) => Some(named(&port.name).unwrap_or(*number)),
        TargetPort::Name(name) => named(name),
    }
}
