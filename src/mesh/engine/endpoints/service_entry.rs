//! Endpoints of a ServiceEntry: those written in it, those that it selects, or its own host.

use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use super::{Tables, entry_address, is_dns};
use crate::{
    api::{Kind, Labels, Object, istio, kubernetes},
    mesh::{
        engine::workloads::{self, entry_labels, pod_id},
        model::{Endpoint, EndpointAddress, Health, Resolution, Service, ServicePort, TargetPort, Unusable, Workload},
    },
};

impl Tables<'_> {
    pub(super) fn of_service_entry(&self, service: &Service) -> Vec<(u16, Endpoint)> {
        let Some((object, entry)) = self.store.config_of::<istio::ServiceEntry>(&service.namespace, &service.name) else {
            return Vec::new();
        };
        if matches!(service.resolution, Resolution::Passthrough | Resolution::DynamicDns) {
            return Vec::new();
        }
        if entry.workload_selector.is_some() {
            return self.selected(service);
        }
        if entry.endpoints.is_empty() {
            return if is_dns(service) { self.of_own_name(service, object) } else { Vec::new() };
        }
        let inline = entry.endpoints.iter().enumerate();
        inline
            .flat_map(|(index, endpoint)| {
                let name = format_smolstr!("{}-{index}", object.key.name);
                self.at_ports(service, (object, Some(index)), endpoint, Arc::new(endpoint.labels.clone()), &name)
            })
            .collect()
    }

    /// Returns what stands for the endpoints of a DNS service without any: its own host, once for each address written.
    fn of_own_name(&self, service: &Service, object: &Object) -> Vec<(u16, Endpoint)> {
        let entry = istio::WorkloadEntry { address: service.hostname.text().clone(), ..Default::default() };
        let times = service.addresses.len().max(1);
        let once = self.at_ports(service, (object, None), &entry, Arc::default(), &object.key.name);
        std::iter::repeat_n(once, times).flatten().collect()
    }

    /// Returns the endpoints of the pods and WorkloadEntries that a ServiceEntry's `workloadSelector` selects.
    fn selected(&self, service: &Service) -> Vec<(u16, Endpoint)> {
        let mut found = Vec::new();
        for object in self.store.configs_in(Kind::WorkloadEntry, &service.namespace) {
            let Some(entry) = object.content::<istio::WorkloadEntry>() else { continue };
            if workloads::of_entry(object, entry).located_labels().are_selected_by(&service.selector) {
                found.extend(self.at_ports(service, (object, None), entry, Arc::new(entry_labels(object, entry)), &object.key.name));
            }
        }
        let of_namespace = self.world.workloads_in(&service.namespace, "");
        for pod in of_namespace.filter(|pod| pod.kind == Kind::Pod && pod.located_labels().are_selected_by(&service.selector)) {
            if let Some((object, spec)) = self.store.local_of::<kubernetes::Pod>(&pod_id(&pod.key())) {
                found.extend(self.of_selected_pod(service, object, spec, pod));
            }
        }
        found
    }

    /// Returns the endpoints of a pod that no slice names: it says itself whether it is ready.
    fn of_selected_pod(&self, service: &Service, object: &Object, spec: &kubernetes::Pod, pod: &Workload) -> Vec<(u16, Endpoint)> {
        let is_known = !spec.terminating && (spec.ready || self.world.mesh.send_unready_endpoints);
        let Some(ip) = pod.ips.first().filter(|_| is_known) else { return Vec::new() };
        let health = if spec.ready { Health::Healthy } else { Health::Unready };
        let backend = Arc::new(self.of_pod(object, pod, &SmolStr::default(), health));
        let at_port = |port: &ServicePort| {
            let number = target_number(port);
            let mtls = self.pod_takes_mtls(pod, number);
            (port.number, Endpoint { address: EndpointAddress::Ip(*ip), port: number, backend: Arc::clone(&backend), mtls })
        };
        service.ports.iter().map(at_port).collect()
    }

    /// Returns the endpoints of an entry; `object` names it, as the endpoint of that index or as a whole.
    fn at_ports(
        &self,
        service: &Service,
        (object, index): (&Object, Option<usize>),
        entry: &istio::WorkloadEntry,
        labels: Arc<Labels>,
        workload: &SmolStr,
    ) -> Vec<(u16, Endpoint)> {
        let Some(address) = entry_address(&entry.address, is_dns(service)) else {
            // Who has no address is told so already, and may be reached by its network.
            if !entry.address.is_empty() {
                let field = index.map_or("spec.address".into(), |index| format_smolstr!("spec.endpoints[{index}].address"));
                self.note_unused(&object.key, field, &service.hostname, Unusable::Address(entry.address.clone()));
            }
            return Vec::new();
        };
        let backend = Arc::new(self.of_entry(object, entry, labels, workload));
        let at_port = |port: &ServicePort| {
            let own = entry.ports.iter().find(|(name, _)| *name == port.name);
            let number = own.map_or_else(|| target_number(port), |(_, number)| *number);
            let mtls = self.entry_takes_mtls(entry, &backend, number);
            (port.number, Endpoint { address: address.clone(), port: number, backend: Arc::clone(&backend), mtls })
        };
        service.ports.iter().map(at_port).collect()
    }
}

fn target_number(port: &ServicePort) -> u16 {
    match port.target_port {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.number,
    }
}
