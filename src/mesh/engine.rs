//! Applies batches of changes to the tables and makes the next world.
//!
//! Every derived value is a pure function of the objects that stand, so order and batching of changes do not show
//! (rule 1). A batch marks what depends on what it changed; the stages then derive only that, in dependency order
//! (policies and workloads → services → endpoints → identities and aliases → routes), and stop where the new value
//! equals the old.
//!
//! Each stage ends when the patience with it is over: admission asks a copy, and throws that away then.

mod credentials;
mod definitions;
mod delegations;
mod endpoints;
mod extensions;
mod joining;
mod links;
mod marks;
mod pods_at;
mod policies;
mod relation;
mod routes;
mod service_tables;
mod services;
mod store;
#[cfg(test)]
mod tests;
mod trust;
mod workloads;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};
use smol_str::{SmolStr, format_smolstr};

use self::{
    credentials::SecretsByName, definitions::Definitions, links::Links, marks::Marks, pods_at::PodsAt, routes::RouteLinks, store::Store,
};
use super::{
    model::{Hostname, NamedKey, ServiceKey, TrafficDistribution, Workload, WorkloadKey},
    settings::{MeshSettings, ProxyDefaults},
    trust::Trust,
    world::{Touched, World},
};
use crate::{
    api::{ConfigId, Id, Kind, LocalId, Object, ObjectKey, istio, kubernetes, mesh_config::MeshConfig},
    patience::Patient,
    visits::{Visit, Visited},
};

/// The objects, the tables derived from them, and what depends on what.
///
/// A clone costs nothing that depends on the size of the mesh: it shares all tables with its source, and what is
/// applied to one of the two afterwards does not show in the other. That is how one asks what a change would do.
#[derive(Clone)]
pub struct Engine {
    domain: SmolStr,
    defaults: Arc<MeshConfig>,
    store: Store,
    world: Arc<World>,
    definitions: Definitions,
    /// EndpointSlices, and the Service of their cluster that each belongs to.
    slices: Links<Arc<LocalId>, LocalId>,
    /// EndpointSlices, and the many pods of their cluster that each names.
    slice_pods: Links<Arc<LocalId>, NamedKey>,
    /// EndpointSlices with endpoints that name no pod: their addresses say which pods they mean.
    slices_by_hand: OrdSet<Arc<LocalId>>,
    /// Pods by address, for such slices.
    pods_at: PodsAt,
    /// Kubernetes Services and the WorkloadEntries that they select.
    selected_entries: Links<ServiceKey, NamedKey>,
    /// Pods by the node that they run on, which their workload names.
    pods_on: OrdMap<NodeKey, OrdSet<NamedKey>>,
    /// Namespaces that say which endpoints of their services go first.
    distributions: OrdMap<SmolStr, TrafficDistribution>,
    routes: RouteLinks,
    secrets: SecretsByName,
}

/// `(cluster, name)` of a node.
type NodeKey = (SmolStr, SmolStr);

/// What a batch did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The world after it.
    pub world: Arc<World>,
    /// What differs from the world before.
    pub touched: Touched,
    /// Derived values that were made again, whether or not they came out the same.
    pub recomputed: usize,
}

/// What has to be derived again, filled by each stage for those after it.
#[derive(Default)]
struct Dirty {
    workloads: Marks<WorkloadKey>,
    definitions: Marks<Id>,
    endpoints: Marks<ServiceKey>,
    services: Marks<ServiceKey>,
    routes: Marks<NamedKey>,
    /// VirtualServices that lead to a service which differs.
    leading: Marks<NamedKey>,
    touched: Touched,
    recomputed: usize,
}

impl Engine {
    /// Makes an engine without objects. `domain` is the cluster's DNS domain; `mesh` counts while no MeshConfig object
    /// is there.
    pub fn new(domain: &str, mesh: MeshConfig) -> Self {
        let defaults = Arc::new(MeshConfig { domain: domain.into(), ..mesh });
        let mesh = Arc::new(MeshSettings::of(&defaults));
        let world = World {
            trust: Arc::new(Trust::of(&mesh, &BTreeMap::new(), None)),
            mesh,
            proxy_defaults: Arc::new(ProxyDefaults::of(&defaults)),
            ..World::default()
        };
        Self {
            domain: domain.into(),
            defaults,
            store: Store::default(),
            world: Arc::new(world),
            definitions: Definitions::default(),
            slices: Links::default(),
            slice_pods: Links::default(),
            slices_by_hand: OrdSet::new(),
            pods_at: PodsAt::default(),
            selected_entries: Links::default(),
            pods_on: OrdMap::new(),
            distributions: OrdMap::new(),
            routes: RouteLinks::default(),
            secrets: SecretsByName::default(),
        }
    }

    /// Returns the world as it is.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Returns whether an object of that name is among those that stand.
    pub fn has(&self, key: &ObjectKey) -> bool {
        self.store.has(&Id::from(key))
    }

    /// Applies a batch: each object's new content, or `None` where it is gone. Where several are about one object, the
    /// last one counts.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = (ObjectKey, Option<Arc<Object>>)>) -> Applied {
        let mut changed = Marks::default();
        for (key, object) in changes.into_iter().visiting(Visited::Object) {
            if self.store.put(&key, object) {
                changed.insert(Id::from(&key));
            }
        }
        let mut dirty = Dirty::default();
        let changed = changed.take();
        if !changed.is_empty() {
            let mut world = World::clone(&self.world);
            world.generation += 1;
            self.derive(&mut world, changed, &mut dirty);
            self.world = Arc::new(world);
        }
        Applied { world: Arc::clone(&self.world), touched: dirty.touched, recomputed: dirty.recomputed }
    }

    fn derive(&mut self, world: &mut World, changed: Vec<Id>, dirty: &mut Dirty) {
        let changed = self.derive_mesh(world, changed, dirty);
        self.derive_trust(world, &changed);
        self.mark(world, &changed, dirty);
        self.derive_policies(world, &changed, dirty);
        self.derive_extensions(world, &changed, dirty);
        self.derive_credentials(world, &changed, dirty);
        self.derive_workloads(world, dirty);
        self.derive_definitions(world, dirty);
        self.derive_endpoints(world, dirty);
        self.derive_services(world, dirty);
        self.touch_asking(world, dirty);
        self.touch_reporting(world, dirty);
        self.derive_routes(world, dirty);
    }

    /// Derives the settings. They decide about everything: when they differ, every object counts as changed.
    fn derive_mesh(&self, world: &mut World, changed: Vec<Id>, dirty: &mut Dirty) -> Vec<Id> {
        if !changed.iter().any(|id| id.kind() == Kind::MeshConfig) {
            return changed;
        }
        world.mesh_config = self.store.all_of(Kind::MeshConfig).next().map(|object| object.key.clone());
        let written = self.store.first_of::<MeshConfig>();
        let MeshConfig { features, multi_root, .. } = *self.defaults;
        let written = written.map(|mesh| MeshConfig { domain: self.domain.clone(), features, multi_root, ..MeshConfig::clone(mesh) });
        let config = written.map_or_else(|| Arc::clone(&self.defaults), Arc::new);
        let (mesh, proxy_defaults) = (MeshSettings::of(&config), ProxyDefaults::of(&config));
        if proxy_defaults != *world.proxy_defaults {
            world.proxy_defaults = Arc::new(proxy_defaults);
        }
        if mesh == *world.mesh {
            return changed;
        }
        world.mesh = Arc::new(mesh);
        dirty.touched.everything = true;
        let mut all = Marks::default();
        all.extend(changed.into_iter().chain(self.store.ids().visiting(Visited::Object)));
        all.take()
    }

    /// Finds the derived values that read the changed objects.
    fn mark(&mut self, world: &World, changed: &[Id], dirty: &mut Dirty) {
        for id in changed.iter().visiting(Visited::Object) {
            match id {
                Id::Local(local) => self.mark_local(world, local, dirty),
                Id::Config(config) => self.mark_config(world, config, dirty),
            }
            if matches!(id.kind(), Kind::Service | Kind::ServiceEntry) {
                dirty.definitions.insert(id.clone());
            }
        }
    }

    fn mark_local(&mut self, world: &World, id: &LocalId, dirty: &mut Dirty) {
        let key = id.key();
        match key.kind {
            Kind::Pod => dirty.workloads.insert(WorkloadKey::of(key)),
            Kind::Node => {
                let pods = self.pods_on.get(&(key.cluster.clone(), key.name.clone()));
                dirty.workloads.extend(pods.into_iter().flatten().map(|pod| workload_key(pod, &key.cluster)));
            }
            Kind::EndpointSlice => self.mark_slice(world, id, dirty),
            Kind::Namespace => self.mark_namespace(&key.name, dirty),
            _ => {}
        }
    }

    /// Marks the services of a namespace, if what it says about traffic distribution differs.
    fn mark_namespace(&mut self, name: &SmolStr, dirty: &mut Dirty) {
        let said = self.store.named(Kind::Namespace, &SmolStr::default(), name).next();
        let said = said.and_then(|object| services::annotated_distribution(&object.metadata));
        if self.distributions.get(name).copied() == said {
            return;
        }
        match said {
            Some(said) => _ = self.distributions.insert(name.clone(), said),
            None => _ = self.distributions.remove(name),
        }
        let defining = [Kind::Service, Kind::ServiceEntry].into_iter().flat_map(|kind| self.store.ids_in(kind, name));
        dirty.definitions.extend(defining.visiting(Visited::Object));
    }

    fn mark_config(&self, world: &World, id: &ConfigId, dirty: &mut Dirty) {
        match id.kind {
            Kind::WorkloadEntry => {
                let before = world.workloads_in(&id.namespace, &id.name).take_while(|workload| workload.name == id.name);
                dirty.workloads.extend(before.map(|workload| workload.key()));
                dirty.workloads.extend(self.store.config(id).map(|object| WorkloadKey::of(&object.key)));
                // It says more than its workload shows (weight, ports), and a pod may hide it.
                dirty.endpoints.extend(self.definitions.selecting(&id.namespace));
                dirty.endpoints.extend(self.services_selecting(id));
            }
            Kind::VirtualService => {
                let named = (id.namespace.clone(), id.name.clone());
                dirty.routes.extend(self.routes.roots_of(&named));
                dirty.routes.insert(named);
            }
            _ => {}
        }
    }

    /// Returns the Kubernetes Services that have selected a WorkloadEntry, and those that select it now.
    fn services_selecting(&self, id: &ConfigId) -> impl Iterator<Item = ServiceKey> {
        let entry = (id.namespace.clone(), id.name.clone());
        let before: Vec<ServiceKey> = self.selected_entries.readers_of(&entry).cloned().collect();
        let now = self.store.config_of::<istio::WorkloadEntry>(&id.namespace, &id.name);
        let now = now.map(|(object, entry)| self.definitions.selecting_entry(&workloads::of_entry(object, entry)));
        before.into_iter().chain(now.into_iter().flatten())
    }

    fn mark_slice(&mut self, world: &World, id: &LocalId, dirty: &mut Dirty) {
        let (cluster, namespace) = (&id.key().cluster, &id.key().namespace);
        let slice = self.store.local_of::<kubernetes::EndpointSlice>(id).map(|(_, slice)| slice);
        let now = slice.map(|slice| LocalId::new(cluster, Kind::Service, namespace, &slice.service));
        let pods = slice.into_iter().flat_map(|slice| slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone()));
        let services = self.slices.read_by(id).chain(&now);
        dirty.endpoints.extend(services.map(|service| kubernetes_key(service, world)));
        let shared = Arc::new(id.clone());
        self.slice_pods.set(&shared, pods);
        match slice.is_some_and(|slice| slice.endpoints.iter().any(|endpoint| endpoint.pod.is_none())) {
            true => _ = self.slices_by_hand.insert(Arc::clone(&shared)),
            false => _ = self.slices_by_hand.remove(&shared),
        }
        self.slices.set(&shared, now);
    }

    fn derive_workloads(&mut self, world: &mut World, dirty: &mut Dirty) {
        for key in dirty.workloads.take().into_iter().patiently().visiting(Visited::Object) {
            dirty.recomputed += 1;
            let new = workloads::derive(&self.store, &key).map(|new| self.share_locality(world, new));
            let old = world.workloads.get(&key);
            let pod = (key.namespace.clone(), key.name.clone());
            let naming = self.slice_pods.readers_of(&pod).filter(|slice| slice.key().cluster == key.cluster);
            let services = naming.flat_map(|slice| self.slices.read_by(slice));
            dirty.endpoints.extend(services.map(|service| kubernetes_key(service, world)));
            for workload in old.iter().map(|old| &***old).chain(&new) {
                dirty.endpoints.extend(self.services_at_by_hand(world, workload));
                dirty.endpoints.extend(self.definitions.selecting_labels(&key.namespace, workload.located_labels()));
            }
            if old.map(|old| &**old) == new.as_ref() {
                continue;
            }
            dirty.touched.namespaces.insert(key.namespace.clone());
            dirty.touched.addresses.extend(old.into_iter().flat_map(|old| old.ips.iter().copied()));
            dirty.touched.addresses.extend(new.iter().flat_map(|new| new.ips.iter().copied()));
            move_pod(&mut self.pods_on, &pod, old.and_then(|old| node_of(old)), new.as_ref().and_then(node_of));
            let new = new.map(Arc::new);
            self.pods_at.replace(old, new.as_ref());
            match new {
                Some(new) => _ = world.workloads.insert(key, new),
                None => _ = world.workloads.remove(&key),
            }
        }
    }

    /// Returns the services that have an endpoint at a workload's addresses, and an EndpointSlice that names no pods.
    fn services_at_by_hand<'a>(&'a self, world: &'a World, workload: &'a Workload) -> impl Iterator<Item = ServiceKey> {
        let services = workload.ips.iter().filter_map(|ip| world.services_at.get(ip)).flat_map(|services| services.iter());
        let by_hand = |key: &&ServiceKey| {
            let Some(service) = world.services.get(*key).filter(|_| key.namespace == workload.namespace) else { return false };
            let of = LocalId::new(&workload.cluster, Kind::Service, &key.namespace, &service.name);
            self.slices.readers_of(&of).any(|slice| self.slices_by_hand.contains(slice))
        };
        services.filter(by_hand).cloned()
    }

    /// Lets a workload share its locality with a neighbour: pods of one node mostly have the same one.
    fn share_locality(&self, world: &World, mut workload: Workload) -> Workload {
        let neighbours = node_of(&workload).and_then(|node| self.pods_on.get(&node));
        let neighbour = neighbours.and_then(OrdSet::get_min).and_then(|pod| world.workloads.get(&workload_key(pod, &workload.cluster)));
        if let Some(neighbour) = neighbour.filter(|neighbour| neighbour.locality == workload.locality) {
            workload.locality = Arc::clone(&neighbour.locality);
        }
        workload
    }

    fn derive_routes(&mut self, world: &mut World, dirty: &mut Dirty) {
        let mut changed: BTreeSet<NamedKey> = dirty.routes.take().into_iter().collect();
        changed.extend(self.routes.delegate(&self.store, world, &changed));
        for key in changed.into_iter().patiently().visiting(Visited::Route) {
            dirty.recomputed += 1;
            self.routes.derive(&self.store, world, &key, &mut dirty.touched);
        }
    }
}

#[cfg(test)]
impl Engine {
    /// Returns whether both have the very same tables.
    fn shares_all_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.world, &other.world)
            && self.store.is_shared_with(&other.store)
            && self.definitions.is_shared_with(&other.definitions)
            && self.slices.is_shared_with(&other.slices)
            && self.slice_pods.is_shared_with(&other.slice_pods)
            && self.slices_by_hand.ptr_eq(&other.slices_by_hand)
            && self.pods_at.is_shared_with(&other.pods_at)
            && self.selected_entries.is_shared_with(&other.selected_entries)
            && self.pods_on.ptr_eq(&other.pods_on)
            && self.distributions.ptr_eq(&other.distributions)
            && self.routes.is_shared_with(&other.routes)
            && self.secrets.is_shared_with(&other.secrets)
    }
}

fn move_pod(pods_on: &mut OrdMap<NodeKey, OrdSet<NamedKey>>, pod: &NamedKey, from: Option<NodeKey>, to: Option<NodeKey>) {
    if from == to {
        return;
    }
    if let Some(from) = from
        && let Some(pods) = pods_on.get_mut(&from)
    {
        pods.remove(pod);
        if pods.is_empty() {
            pods_on.remove(&from);
        }
    }
    if let Some(to) = to {
        pods_on.entry(to).or_default().insert(pod.clone());
    }
}

fn node_of(workload: &Workload) -> Option<NodeKey> {
    (!workload.node.is_empty()).then(|| (workload.cluster.clone(), workload.node.clone()))
}

fn workload_key((namespace, name): &NamedKey, cluster: &SmolStr) -> WorkloadKey {
    WorkloadKey { namespace: namespace.clone(), name: name.clone(), cluster: cluster.clone() }
}

fn kubernetes_key(service: &LocalId, world: &World) -> ServiceKey {
    let ObjectKey { namespace, name, .. } = service.key();
    let hostname = Hostname::new(format_smolstr!("{name}.{namespace}.svc.{}", world.mesh.domain));
    ServiceKey { hostname, namespace: namespace.clone() }
}
