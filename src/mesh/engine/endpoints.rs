//! Endpoints of a service: EndpointSlices joined with pods, and the endpoints of ServiceEntries (contract §3.1, §6.4).

use std::{cell::Cell, collections::BTreeMap, net::IpAddr, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use super::{
    services::identity,
    store::Store,
    workloads::{entry_labels, locality, pod_id},
};
use crate::{
    api::{Kind, Labels, LocalId, Object, istio, kubernetes, selects},
    mesh::{
        model::{
            Backend, Endpoint, EndpointAddress, EndpointSet, Health, MtlsMode, NamedKey, Registry, Resolution, Service, ServicePort,
            SpiffeId, TargetPort, Workload, WorkloadKey,
        },
        policy::mtls,
        world::World,
    },
};

/// What the injector writes on pods that have a sidecar.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Tables that endpoints are made from.
pub(super) struct Tables<'a> {
    /// The objects.
    pub(super) store: &'a Store,
    /// Workloads, policies and settings as they are after this batch.
    pub(super) world: &'a World,
    /// The identity of the endpoint made last.
    last_identity: Cell<Option<Arc<SpiffeId>>>,
}

impl<'t> Tables<'t> {
    /// Returns the tables for the endpoints of one service.
    pub(super) fn new(store: &'t Store, world: &'t World) -> Self {
        Self { store, world, last_identity: Cell::default() }
    }

    /// Returns the endpoints that one definition of a service has; `slices` are those of a Kubernetes Service.
    pub(super) fn endpoints<'a>(&self, service: &Service, slices: impl IntoIterator<Item = &'a LocalId>) -> Vec<(u16, Endpoint)> {
        match service.registry {
            Registry::Kubernetes => {
                let mut found = Vec::new();
                slices.into_iter().for_each(|slice| self.of_slice(service, slice, &mut found));
                found
            }
            Registry::External => self.of_service_entry(service),
        }
    }

    fn of_slice(&self, service: &Service, slice: &LocalId, found: &mut Vec<(u16, Endpoint)>) {
        let Some((object, slice)) = self.store.local_of::<kubernetes::EndpointSlice>(slice) else { return };
        let cluster = &object.key.cluster;
        let workload_of = |(namespace, name): &NamedKey| {
            let key = WorkloadKey { namespace: namespace.clone(), name: name.clone(), cluster: cluster.clone() };
            self.world.workloads.get(&key)
        };
        let mut of_node: Option<Arc<Backend>> = None;
        found.reserve(slice.endpoints.len());
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready || service.publish_not_ready) {
            let workload = match &endpoint.pod {
                // A pod that is named but not known yet is waited for, because its labels and identity decide.
                Some(pod) => match workload_of(pod) {
                    Some(workload) => Some(&**workload),
                    None => continue,
                },
                None => None,
            };
            let backend = match workload {
                Some(pod) => Arc::new(self.of_pod(object, pod, &endpoint.node)),
                // Without pods the endpoints of a node are alike.
                None => match of_node.as_ref().filter(|backend| backend.node == endpoint.node) {
                    Some(backend) => Arc::clone(backend),
                    None => Arc::clone(of_node.insert(Arc::new(Backend { node: endpoint.node.clone(), ..blank(object, Health::Healthy) }))),
                },
            };
            self.of_slice_endpoint(service, slice, endpoint, workload, &backend, found);
        }
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
                let mtls = workload.is_some_and(|pod| has_sidecar(&pod.labels) && self.takes_mtls(&pod.namespace, &pod.labels, *number));
                let ips = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
                let at = |ip| Endpoint { address: EndpointAddress::Ip(ip), port: *number, backend: Arc::clone(backend), mtls };
                found.extend(ips.map(|ip| (port.number, at(ip))));
            }
        }
    }

    fn of_pod(&self, object: &Object, pod: &Workload, node: &SmolStr) -> Backend {
        Backend {
            labels: Arc::clone(&pod.labels),
            locality: Arc::clone(&pod.locality),
            network: pod.labels.get("topology.istio.io/network").cloned().unwrap_or_default(),
            node: if pod.node.is_empty() { node.clone() } else { pod.node.clone() },
            identity: Some(self.identity(&pod.namespace, &pod.service_account)),
            workload: self.workload_name(pod),
            namespace: pod.namespace.clone(),
            ..blank(object, Health::Healthy)
        }
    }

    /// Returns the identity of an endpoint. Endpoints of a service mostly have the same one, which is then kept once.
    fn identity(&self, namespace: &SmolStr, service_account: &SmolStr) -> Arc<SpiffeId> {
        let id = identity(&self.world.mesh, namespace, service_account.clone());
        let last = self.last_identity.take().filter(|last| **last == id);
        let shared = last.unwrap_or_else(|| Arc::new(id));
        self.last_identity.set(Some(Arc::clone(&shared)));
        shared
    }

    /// Returns the owner's name, else the pod's.
    fn workload_name(&self, workload: &Workload) -> SmolStr {
        let pod = self.store.local_of::<kubernetes::Pod>(&pod_id(&workload.key()));
        pod.map(|(_, pod)| &pod.owner).filter(|owner| !owner.is_empty()).unwrap_or(&workload.name).clone()
    }

    fn of_service_entry(&self, service: &Service) -> Vec<(u16, Endpoint)> {
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
                self.of_entry(service, object, endpoint, Arc::new(endpoint.labels.clone()), &name)
            })
            .collect()
    }

    /// Returns what stands for the endpoints of a DNS service without any: its own host, once for each address written.
    fn of_own_name(&self, service: &Service, object: &Object) -> Vec<(u16, Endpoint)> {
        let entry = istio::WorkloadEntry { address: service.hostname.text().clone(), ..Default::default() };
        let times = service.addresses.len().max(1);
        let once = self.of_entry(service, object, &entry, Arc::default(), &object.key.name);
        std::iter::repeat_n(once, times).flatten().collect()
    }

    /// Returns the endpoints of the pods and WorkloadEntries that a ServiceEntry's `workloadSelector` selects.
    fn selected(&self, service: &Service) -> Vec<(u16, Endpoint)> {
        let mut found = Vec::new();
        for object in self.store.configs_in(Kind::WorkloadEntry, &service.namespace) {
            let Some(entry) = object.content::<istio::WorkloadEntry>() else { continue };
            let labels = entry_labels(object, entry);
            if selects(&service.selector, &labels) {
                found.extend(self.of_entry(service, object, entry, Arc::new(labels), &object.key.name));
            }
        }
        let of_namespace = self.world.workloads_in(&service.namespace, "");
        for pod in of_namespace.filter(|pod| pod.kind == Kind::Pod && selects(&service.selector, &pod.labels)) {
            if let Some(object) = self.store.local(&pod_id(&pod.key())) {
                found.extend(self.of_selected_pod(service, object, pod));
            }
        }
        found
    }

    fn of_selected_pod(&self, service: &Service, object: &Object, pod: &Workload) -> Vec<(u16, Endpoint)> {
        let Some(ip) = pod.ips.first() else { return Vec::new() };
        let backend = Arc::new(self.of_pod(object, pod, &SmolStr::default()));
        let at_port = |port: &ServicePort| {
            let number = target_number(port);
            let mtls = has_sidecar(&pod.labels) && self.takes_mtls(&pod.namespace, &pod.labels, number);
            (port.number, Endpoint { address: EndpointAddress::Ip(*ip), port: number, backend: Arc::clone(&backend), mtls })
        };
        service.ports.iter().map(at_port).collect()
    }

    fn of_entry(
        &self,
        service: &Service,
        object: &Object,
        entry: &istio::WorkloadEntry,
        labels: Arc<Labels>,
        workload: &SmolStr,
    ) -> Vec<(u16, Endpoint)> {
        let namespace = &object.key.namespace;
        let Some(address) = entry_address(&entry.address, is_dns(service)) else { return Vec::new() };
        let sidecar = match labels.get(TLS_MODE) {
            Some(mode) => mode == "istio",
            None => !entry.service_account.is_empty(),
        };
        let backend = Arc::new(Backend {
            locality: locality(&entry.locality, '/').into(),
            network: entry.network.clone(),
            weight: entry.weight.max(1),
            identity: (!entry.service_account.is_empty()).then(|| self.identity(namespace, &entry.service_account)),
            workload: workload.clone(),
            namespace: namespace.clone(),
            labels: Arc::clone(&labels),
            ..blank(object, Health::Unknown)
        });
        let at_port = |port: &ServicePort| {
            let own = entry.ports.iter().find(|(name, _)| *name == port.name);
            let number = own.map_or_else(|| target_number(port), |(_, number)| *number);
            let mtls = sidecar && self.takes_mtls(namespace, &labels, number);
            (port.number, Endpoint { address: address.clone(), port: number, backend: Arc::clone(&backend), mtls })
        };
        service.ports.iter().map(at_port).collect()
    }

    fn takes_mtls(&self, namespace: &str, labels: &Labels, port: u16) -> bool {
        mtls::workload_mtls(self.world, namespace, labels).port(port) != MtlsMode::Disable
    }
}

/// Puts the endpoints of all definitions together, each list sorted, because the order of arrival must not show.
pub(super) fn gather(endpoints: impl IntoIterator<Item = (u16, Endpoint)>) -> EndpointSet {
    let mut by_port: BTreeMap<u16, Vec<Endpoint>> = BTreeMap::new();
    for (port, endpoint) in endpoints {
        by_port.entry(port).or_default().push(endpoint);
    }
    let ports = by_port.into_iter().map(|(port, mut endpoints)| {
        endpoints.sort();
        drop_repeated_addresses(&mut endpoints);
        (port, endpoints.into())
    });
    EndpointSet { ports: ports.collect() }
}

/// Drops addresses that slices name twice while they move between them; DNS names are repeated on purpose.
fn drop_repeated_addresses(endpoints: &mut Vec<Endpoint>) {
    endpoints.dedup_by(|later, first| {
        matches!(first.address, EndpointAddress::Ip(_))
            && first.backend.health == Health::Healthy
            && (&first.address, first.port) == (&later.address, later.port)
    });
}

fn has_sidecar(labels: &Labels) -> bool {
    labels.get(TLS_MODE).is_some_and(|mode| mode == "istio")
}

fn is_dns(service: &Service) -> bool {
    matches!(service.resolution, Resolution::DnsLb | Resolution::DnsRoundRobin)
}

fn entry_address(written: &SmolStr, names_allowed: bool) -> Option<EndpointAddress> {
    if let Some(path) = written.strip_prefix("unix://") {
        return Some(EndpointAddress::Pipe(path.into()));
    }
    match written.parse() {
        Ok(ip) => Some(EndpointAddress::Ip(ip)),
        Err(_) => (names_allowed && !written.is_empty()).then(|| EndpointAddress::Host(written.clone())),
    }
}

fn target_number(port: &ServicePort) -> u16 {
    match port.target_port {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.number,
    }
}

fn blank(object: &Object, health: Health) -> Backend {
    Backend {
        labels: Arc::default(),
        locality: Arc::default(),
        network: SmolStr::default(),
        cluster: object.key.cluster.clone(),
        node: SmolStr::default(),
        weight: 1,
        identity: None,
        workload: SmolStr::default(),
        namespace: SmolStr::default(),
        health,
    }
}
