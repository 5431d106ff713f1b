//! Endpoints of a service: EndpointSlices joined with pods, WorkloadEntries, and the endpoints of ServiceEntries
//! (contract §3.1, §6.4).

mod kubernetes_service;
mod service_entry;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::Arc,
};

use smol_str::SmolStr;

use super::{
    pods_at::PodsAt,
    services::identity,
    store::Store,
    workloads::{entry_locality, pod_id},
};
use crate::{
    api::{Labels, LocalId, Object, istio, kubernetes},
    mesh::{
        model::{
            Backend, Endpoint, EndpointAddress, EndpointSet, Health, Hostname, MtlsMode, ObjectKey, Registry, Resolution, Service,
            SpiffeId, Unusable, UnusedEndpoint, Workload, label,
        },
        policy::mtls,
        world::World,
    },
};

pub(super) use self::kubernetes_service::{SelectedEntry, entries_selected_by, may_select_entries};

/// What the injector writes on pods that have a sidecar.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Tables that endpoints are made from.
pub(super) struct Tables<'a> {
    /// The objects.
    pub(super) store: &'a Store,
    /// Workloads, policies and settings as they are after this batch.
    pub(super) world: &'a World,
    /// Pods by address.
    pub(super) pods_at: &'a PodsAt,
    /// The identity of the endpoint made last.
    last_identity: Cell<Option<Arc<SpiffeId>>>,
    unused: RefCell<Vec<UnusedEndpoint>>,
}

impl<'t> Tables<'t> {
    /// Returns the tables for the endpoints of one service.
    pub(super) fn new(store: &'t Store, pods_at: &'t PodsAt, world: &'t World) -> Self {
        Self { store, pods_at, world, last_identity: Cell::default(), unused: RefCell::default() }
    }

    /// Returns the endpoints that one definition of a service has; `slices` and `entries` are those of a Kubernetes Service.
    pub(super) fn endpoints<'a>(
        &self,
        service: &Service,
        slices: impl IntoIterator<Item = &'a LocalId>,
        entries: &[SelectedEntry<'_>],
    ) -> Vec<(u16, Endpoint)> {
        match service.registry {
            Registry::Kubernetes => self.of_kubernetes(service, slices, entries),
            Registry::External => self.of_service_entry(service),
        }
    }

    /// Returns what was written and is not used, sorted.
    pub(super) fn into_unused(self) -> Vec<UnusedEndpoint> {
        let mut unused = self.unused.into_inner();
        unused.sort_unstable();
        unused
    }

    /// Notes what a definition wrote and the one that shapes the service does not use: `all` are the endpoints of the former.
    pub(super) fn note_unshaped(&self, first: &Service, definition: &Service, all: &[(u16, Endpoint)]) {
        let by_name = |(_, endpoint): &(u16, Endpoint)| matches!(endpoint.address, EndpointAddress::Host(_));
        if !is_dns(first) && all.iter().any(by_name) {
            let reason = Unusable::FoundByDns(first.origin.object.clone());
            self.note_unused(&definition.origin.object, "spec.resolution", &first.hostname, reason);
        }
    }

    /// Notes the ports of which Envoy takes one endpoint of several.
    pub(super) fn note_one_of_several(&self, first: &Service, gathered: &EndpointSet) {
        if first.resolution != Resolution::DnsRoundRobin {
            return;
        }
        for (port, endpoints) in &gathered.ports {
            let distinct = endpoints.chunk_by(|one, other| (&one.address, one.port) == (&other.address, other.port)).count();
            if distinct > 1 {
                self.note_unused(&first.origin.object, "spec.resolution", &first.hostname, Unusable::OneOf(distinct, *port));
            }
        }
    }

    fn note_unused(&self, object: &ObjectKey, field: impl Into<SmolStr>, host: &Hostname, reason: Unusable) {
        let (object, host) = (object.clone(), host.clone());
        self.unused.borrow_mut().push(UnusedEndpoint { object, field: field.into(), host, reason });
    }

    fn of_pod(&self, object: &Object, pod: &Workload, node: &SmolStr, health: Health) -> Backend {
        Backend {
            labels: Arc::clone(&pod.labels),
            locality: Arc::clone(&pod.locality),
            network: pod.labels.get(label::NETWORK).cloned().unwrap_or_default(),
            node: if pod.node.is_empty() { node.clone() } else { pod.node.clone() },
            identity: Some(self.identity(&pod.namespace, &pod.service_account)),
            workload: self.workload_name(pod),
            namespace: pod.namespace.clone(),
            ..blank(object, health)
        }
    }

    /// Returns what stands behind a WorkloadEntry or an endpoint of a ServiceEntry.
    fn of_entry(&self, object: &Object, entry: &istio::WorkloadEntry, labels: Arc<Labels>, workload: &SmolStr) -> Backend {
        let namespace = &object.key.namespace;
        Backend {
            locality: entry_locality(entry, &labels).into(),
            network: entry.network.clone(),
            weight: entry.weight.max(1),
            identity: (!entry.service_account.is_empty()).then(|| self.identity(namespace, &entry.service_account)),
            workload: workload.clone(),
            namespace: namespace.clone(),
            labels,
            ..blank(object, Health::Unknown)
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

    fn pod_takes_mtls(&self, pod: &Workload, port: u16) -> bool {
        pod.labels.get(TLS_MODE).is_some_and(|mode| mode == "istio") && self.takes_mtls(&pod.namespace, &pod.labels, port)
    }

    /// Returns whether a WorkloadEntry takes mTLS: its label says so, else an account does, which it would not have without a proxy.
    fn entry_takes_mtls(&self, entry: &istio::WorkloadEntry, backend: &Backend, port: u16) -> bool {
        let sidecar = match backend.labels.get(TLS_MODE) {
            Some(mode) => mode == "istio",
            None => !entry.service_account.is_empty(),
        };
        sidecar && self.takes_mtls(&backend.namespace, &backend.labels, port)
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
            && first.backend.health != Health::Unknown
            && (&first.address, first.port) == (&later.address, later.port)
    });
}

/// Returns whether proxies look up the names of a service's endpoints.
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
