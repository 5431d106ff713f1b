//! Several definitions of one host: what those of one namespace are together, and what of them is lost.
//!
//! As in istiod, the ports of ServiceEntries that say the same but for their ports are put together; of others the first
//! counts. Endpoints are joined in any case (see [`super::endpoints`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use smol_str::SmolStr;

use crate::{
    mesh::{
        first_seen::FirstSeen,
        model::{Eclipsed, Obstacle, Protocol, Registry, Service, UNSPECIFIED, Visibility},
    },
    visits::{Visit, Visited},
};

/// What the definitions of a host in a namespace are together.
pub(super) struct Joined {
    /// The service. Namespaces that do not see it may see one of its `other_views`.
    pub(super) service: Service,
    /// Definitions of which something has no effect.
    pub(super) eclipsed: Vec<Eclipsed>,
}

/// Joins definitions; the first that comes goes first.
pub(super) fn join<'a>(definitions: impl Iterator<Item = &'a Service>) -> Option<Joined> {
    let definitions: Vec<&Service> = definitions.collect();
    if let [only] = definitions[..] {
        return Some(Joined { service: only.clone(), eclipsed: Vec::new() });
    }
    let mut views: Vec<View> = Vec::new();
    let mut by_visibility: HashMap<&Visibility, usize> = HashMap::new();
    let mut has_kubernetes = false;
    for definition in definitions.iter().visiting(Visited::Written) {
        // The same Service in several clusters is one, as the first of them has it.
        if definition.registry == Registry::Kubernetes && std::mem::replace(&mut has_kubernetes, true) {
            continue;
        }
        match by_visibility.entry(&definition.export_to) {
            Entry::Vacant(free) => {
                free.insert(views.len());
                views.push(View::of(definition));
            }
            Entry::Occupied(at) => views[*at.get()].join(definition),
        }
    }
    let mut views: Vec<Service> = views.into_iter().map(View::into_service).collect();
    views.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let eclipsed = eclipsed(&views, &definitions);
    let mut views = views.into_iter();
    let mut service = views.next()?;
    service.other_views = views.map(Arc::new).collect();
    Some(Joined { service, eclipsed })
}

/// Returns what keeps the ports of a definition from being added to those of another that goes first.
fn obstacle(first: &Service, other: &Service) -> Option<Obstacle> {
    let differing = [
        (first.registry == Registry::Kubernetes, Obstacle::KubernetesService),
        (first.export_to != other.export_to, Obstacle::ExportTo),
        (first.resolution != other.resolution, Obstacle::Resolution),
        (first.labels != other.labels, Obstacle::Labels),
        (first.selector != other.selector, Obstacle::WorkloadSelector),
    ];
    differing.into_iter().find_map(|(differs, obstacle)| differs.then_some(obstacle))
}

/// What the definitions with one `exportTo` are together.
struct View {
    service: Service,
    /// Where each port is reached, among `reached`.
    places: BTreeMap<u16, usize>,
    /// The first is that of the first definition, which stays as it is.
    reached: Vec<Reached>,
}

/// The addresses of some ports.
#[derive(Clone)]
struct Reached {
    addresses: Vec<SmolStr>,
    known: HashSet<SmolStr>,
    /// How many ports have them.
    ports: usize,
}

impl View {
    fn of(first: &Service) -> Self {
        let places: BTreeMap<u16, usize> = first.ports.iter().map(|port| (port.number, 0)).collect();
        let own = Reached { ports: places.len(), ..Reached::at(&first.addresses) };
        Self { service: first.clone(), places, reached: vec![own] }
    }

    /// Adds a definition, unless something is in the way. As in istiod, a port is reached at the addresses of those that define it.
    fn join(&mut self, other: &Service) {
        if obstacle(&self.service, other).is_some() {
            return;
        }
        let mut shared: BTreeMap<usize, BTreeSet<u16>> = BTreeMap::new();
        let mut new = Vec::new();
        for port in &other.ports {
            match self.places.get(&port.number) {
                Some(place) => _ = shared.entry(*place).or_default().insert(port.number),
                None => new.push(port),
            }
        }
        for (place, ports) in shared {
            self.extend(place, &ports, &other.addresses);
        }
        if !new.is_empty() {
            let place = if other.addresses == self.service.addresses { 0 } else { self.place(Reached::at(&other.addresses)) };
            for port in new {
                self.service.ports.push(port.clone());
                // A definition may give a number twice.
                if self.places.insert(port.number, place).is_none() {
                    self.reached[place].ports += 1;
                }
            }
        }
        self.service.joined.push(other.origin.clone());
    }

    /// Has some of the ports of a place reached at these addresses, too. Where all of them are, nothing is copied: many definitions
    /// may add an address each.
    fn extend(&mut self, place: usize, ports: &BTreeSet<u16>, addresses: &[SmolStr]) {
        if self.reached[place].has(addresses) {
            return;
        }
        if place > 0 && self.reached[place].ports == ports.len() {
            return self.reached[place].unite(addresses);
        }
        self.reached[place].ports -= ports.len();
        let mut united = Reached { ports: ports.len(), ..self.reached[place].clone() };
        united.unite(addresses);
        let united = self.place(united);
        self.places.extend(ports.iter().map(|port| (*port, united)));
    }

    fn place(&mut self, reached: Reached) -> usize {
        self.reached.push(reached);
        self.reached.len() - 1
    }

    fn into_service(mut self) -> Service {
        let shared: Vec<Arc<[SmolStr]>> = self.reached.into_iter().map(|reached| reached.addresses.into()).collect();
        let elsewhere = self.places.into_iter().filter(|(_, place)| *place > 0);
        self.service.port_addresses = elsewhere.map(|(port, place)| (port, Arc::clone(&shared[place]))).collect();
        self.service
    }
}

impl Reached {
    fn at(addresses: &[SmolStr]) -> Self {
        Self { addresses: addresses.to_vec(), known: addresses.iter().visiting(Visited::Written).cloned().collect(), ports: 0 }
    }

    fn has(&self, addresses: &[SmolStr]) -> bool {
        let unsaid = addresses.is_empty() && (self.addresses.is_empty() || self.known.contains(UNSPECIFIED));
        unsaid || !addresses.is_empty() && addresses.iter().visiting(Visited::Written).all(|address| self.known.contains(address))
    }

    /// Adds addresses; a definition without any is reached at all.
    fn unite(&mut self, addresses: &[SmolStr]) {
        let all = [SmolStr::new_static(UNSPECIFIED)];
        if self.addresses.is_empty() {
            self.addresses = all.to_vec();
            self.known = all.iter().cloned().collect();
        }
        let other = if addresses.is_empty() { &all } else { addresses };
        let known = &mut self.known;
        self.addresses.extend(other.iter().visiting(Visited::Written).filter(|address| known.insert((*address).clone())).cloned());
    }
}

/// Returns what of the definitions has no effect: for those who see one, the first view that they see holds.
fn eclipsed(views: &[Service], definitions: &[&Service]) -> Vec<Eclipsed> {
    let mut first = FirstSeen::default();
    views.iter().enumerate().for_each(|(at, view)| first.add(at, &view.export_to));
    let shown: Vec<Shown<'_>> = views.iter().map(Shown::of).collect();
    let eclipsed = definitions.iter().filter_map(|definition| {
        let first = &shown[first.seen_with(&definition.export_to, "")?];
        let (service, registries) = (first.service, (first.service.registry, definition.registry));
        if service.origin == definition.origin || registries == (Registry::Kubernetes, Registry::Kubernetes) {
            return None;
        }
        first.before(definition, obstacle(service, definition))
    });
    eclipsed.collect()
}

/// Returns what services have no effect outside of their namespaces, because that of another namespace goes first there.
/// Within its namespace each goes first.
pub(super) fn eclipsed_abroad<'a>(services: impl Iterator<Item = &'a Arc<Service>>) -> Vec<Eclipsed> {
    let mut services: Vec<&Arc<Service>> = services.collect();
    if services.len() < 2 {
        return Vec::new();
    }
    // No two of them are of one namespace.
    services.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let mut seen = FirstSeen::default();
    let mut shown: BTreeMap<usize, Shown<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    for (at, service) in services.iter().enumerate() {
        if let Some(first) = seen.seen_with(&service.export_to, &service.namespace) {
            let first = shown.entry(first).or_insert_with(|| Shown::of(services[first]));
            found.extend(first.before(service, Some(Obstacle::Namespace)));
        }
        seen.add(at, &service.export_to);
    }
    found
}

/// What a service shows, to hold others against.
struct Shown<'a> {
    service: &'a Service,
    protocols: BTreeMap<u16, Protocol>,
    /// Where it is reached.
    addresses: BTreeSet<&'a SmolStr>,
}

impl<'a> Shown<'a> {
    fn of(service: &'a Service) -> Self {
        let mut of_ports: Vec<&Arc<[SmolStr]>> = service.port_addresses.values().collect();
        of_ports.sort_by_key(|addresses| Arc::as_ptr(addresses).cast::<()>());
        of_ports.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let reached = service.addresses.iter().chain(of_ports.into_iter().flat_map(|addresses| addresses.iter()));
        Self {
            service,
            protocols: service.ports.iter().rev().visiting(Visited::Port).map(|port| (port.number, port.protocol)).collect(),
            addresses: reached.visiting(Visited::Written).collect(),
        }
    }

    /// Returns what of a definition has no effect where this goes first; `None` where all of it has.
    fn before(&self, definition: &Service, obstacle: Option<Obstacle>) -> Option<Eclipsed> {
        let protocol = |number: u16| self.protocols.get(&number).copied();
        let (known, lost): (Vec<_>, Vec<_>) = definition.ports.iter().partition(|port| protocol(port.number).is_some());
        let eclipsed = Eclipsed {
            hostname: definition.hostname.clone(),
            object: definition.origin.object.clone(),
            by: self.service.origin.object.clone(),
            obstacle,
            ports: lost.into_iter().map(|port| port.number).collect(),
            protocols: known.into_iter().filter(|port| protocol(port.number) != Some(port.protocol)).map(|port| port.number).collect(),
            fields: self.fields_without_effect(definition),
        };
        (!eclipsed.is_nothing()).then_some(eclipsed)
    }

    fn fields_without_effect(&self, other: &Service) -> Vec<&'static str> {
        let first = self.service;
        let lost_address = other.addresses.iter().any(|address| !self.addresses.contains(address));
        let differing = [
            (first.resolution != other.resolution, "resolution"),
            (first.mesh_external != other.mesh_external, "location"),
            (first.distribution != other.distribution, "traffic distribution"),
            (lost_address, "addresses"),
            (first.subject_alt_names != other.subject_alt_names, "subjectAltNames"),
        ];
        differing.into_iter().filter_map(|(differs, field)| differs.then_some(field)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Kind, Metadata, Object, ObjectKey, Spec, istio},
        mesh::{engine::services::defined_by, model::TrafficDistribution, settings::MeshSettings},
    };

    /// Returns a ServiceEntry of namespace `shop` for `a.example.com` with TCP ports, changed by `edit`.
    fn entry(name: &str, ports: &[u16], edit: impl FnOnce(&mut istio::ServiceEntry)) -> Service {
        let port = |number: &u16| istio::Port { number: *number, name: "web".into(), protocol: "TCP".into(), target_port: 0 };
        let mut spec = istio::ServiceEntry {
            hosts: vec!["a.example.com".into()],
            ports: ports.iter().map(port).collect(),
            resolution: istio::ServiceEntryResolution::Static,
            ..Default::default()
        };
        edit(&mut spec);
        let key = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::ServiceEntry, namespace: "shop".into(), name: name.into() };
        let spec = Spec::ServiceEntry(Arc::new(spec));
        let object = Object { key, version: "v1".into(), metadata: Arc::new(Metadata::default()), spec };
        defined_by(&object, &MeshSettings::default(), TrafficDistribution::Any).remove(0)
    }

    fn ports(service: &Service) -> Vec<u16> {
        service.ports.iter().map(|port| port.number).collect()
    }

    #[test]
    fn ports_of_entries_that_say_the_same_are_put_together_by_number() {
        let definitions = [entry("a", &[80], |_| {}), entry("b", &[8080, 80], |_| {})];
        let joined = join(definitions.iter()).unwrap();
        assert_eq!(ports(&joined.service), [80, 8080], "also when they have one name");
        assert_eq!(joined.service.origin, definitions[0].origin);
        assert_eq!(joined.service.joined, [definitions[1].origin.clone()]);
        assert!(joined.eclipsed.is_empty() && joined.service.other_views.is_empty());
    }

    #[test]
    fn what_cannot_be_put_together_is_told() {
        let by_name = |spec: &mut istio::ServiceEntry| spec.resolution = istio::ServiceEntryResolution::Dns;
        let inside = |spec: &mut istio::ServiceEntry| {
            spec.mesh_internal = true;
            spec.ports[0].protocol = "HTTP".into();
        };
        let definitions = [entry("a", &[80], |_| {}), entry("b", &[80, 8080], by_name), entry("c", &[80, 81], inside)];
        let joined = join(definitions.iter()).unwrap();
        assert_eq!(ports(&joined.service), [80, 81]);
        let [b, c] = &joined.eclipsed[..] else { panic!("{:?}", joined.eclipsed) };
        assert_eq!((&b.ports[..], b.obstacle, &b.fields[..]), (&[8080][..], Some(Obstacle::Resolution), &["resolution"][..]));
        assert_eq!((&c.protocols[..], c.obstacle, &c.fields[..]), (&[80][..], None, &["location"][..]));
    }

    #[test]
    fn each_namespace_sees_what_is_exported_to_it() {
        let only = |to: &'static str| move |spec: &mut istio::ServiceEntry| spec.export_to = vec![to.into()];
        let definitions = [entry("a", &[80], |_| {}), entry("b", &[81], only(".")), entry("c", &[82], only("~"))];
        let joined = join(definitions.iter()).unwrap();
        assert_eq!(ports(&joined.service), [81], "what is exported to a namespace goes before what is public");
        let others: Vec<_> = joined.service.other_views.iter().map(|view| ports(view)).collect();
        assert_eq!(others, [[80], [82]]);
        let [a] = &joined.eclipsed[..] else { panic!("{:?}", joined.eclipsed) };
        assert_eq!((a.object.name.as_str(), a.obstacle), ("a", Some(Obstacle::ExportTo)));
    }

    #[test]
    fn what_another_namespace_eclipses_abroad_is_told() {
        let abroad = |service: Service| Service { namespace: "other".into(), ..service };
        let only = |to: &'static str| move |spec: &mut istio::ServiceEntry| spec.export_to = vec![to.into()];
        let lost = |services: [Service; 2]| {
            let found = eclipsed_abroad(services.map(Arc::new).iter());
            found.iter().map(|eclipsed| (eclipsed.object.name.to_string(), eclipsed.ports.clone())).collect::<Vec<_>>()
        };
        assert_eq!(lost([entry("a", &[80], |_| {}), abroad(entry("b", &[80, 81], |_| {}))]), [("b".to_owned(), vec![81])]);
        assert_eq!(lost([entry("a", &[80], |_| {}), abroad(entry("b", &[80], |_| {}))]), []);
        assert_eq!(lost([entry("a", &[80], only(".")), abroad(entry("b", &[81], only("other")))]), []);
        // Whom the first is exported to does not see the second, which all others do; in its own namespace it goes first.
        assert_eq!(lost([entry("a", &[80], only("third")), abroad(entry("b", &[81], |_| {}))]), [("b".to_owned(), vec![81])]);
        assert_eq!(lost([entry("a", &[80], only("other")), abroad(entry("b", &[81], |_| {}))]), []);
    }

    #[test]
    fn a_port_is_reached_at_the_addresses_of_those_that_define_it() {
        let at = |address: &'static str| move |spec: &mut istio::ServiceEntry| spec.addresses = vec![address.into()];
        let definitions = [entry("a", &[80], at("240.0.0.1")), entry("b", &[81], at("240.0.0.2"))];
        let service = join(definitions.iter()).unwrap().service;
        assert_eq!((service.addresses_at(80), service.addresses_at(81)), (&["240.0.0.1".into()][..], &["240.0.0.2".into()][..]));
        let definitions = [entry("a", &[80], at("240.0.0.1")), entry("b", &[80, 81], |_| {}), entry("c", &[80, 81], at("240.0.0.2"))];
        let joined = join(definitions.iter()).unwrap();
        assert_eq!(joined.service.addresses_at(80), ["240.0.0.1", "0.0.0.0", "240.0.0.2"], "one has no address");
        assert_eq!(joined.service.addresses_at(81), ["0.0.0.0", "240.0.0.2"]);
        assert!(joined.eclipsed.is_empty());
    }
}
