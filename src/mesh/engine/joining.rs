//! Several definitions of one host: what those of one namespace are together, and what of them is lost.
//!
//! As in istiod, the ports of ServiceEntries that say the same but for their ports are put together; of others the first
//! counts. Endpoints are joined in any case (see [`super::endpoints`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use smol_str::SmolStr;

use crate::{
    mesh::model::{Eclipsed, Obstacle, Protocol, Registry, Service, UNSPECIFIED, Visibility},
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
    let mut views: Vec<Service> = Vec::new();
    let is_kubernetes = |service: &Service| service.registry == Registry::Kubernetes;
    for definition in &definitions {
        // The same Service in several clusters is one, as the first of them has it.
        if is_kubernetes(definition) && views.iter().any(is_kubernetes) {
            continue;
        }
        match views.iter_mut().find(|view| view.export_to == definition.export_to) {
            None => views.push((*definition).clone()),
            Some(view) if obstacle(view, definition).is_none() => add(view, definition),
            Some(_) => {}
        }
    }
    views.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let eclipsed = definitions.iter().filter_map(|definition| eclipsed(&views, definition)).collect();
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

/// Addresses as ports share them.
type Shared = Arc<[SmolStr]>;

// As in istiod, a port is reached at the addresses of those that define it.
fn add(service: &mut Service, other: &Service) {
    let known: BTreeSet<u16> = service.ports.iter().map(|port| port.number).collect();
    let own: Shared = service.addresses.iter().visiting(Visited::Written).cloned().collect();
    let others: Shared = if other.addresses == service.addresses { Arc::clone(&own) } else { other.addresses.iter().cloned().collect() };
    // Many ports have the same addresses: they are united once.
    let mut united_from: Vec<(Shared, Shared)> = Vec::new();
    for port in &other.ports {
        let addresses = if known.contains(&port.number) {
            let first = service.port_addresses.get(&port.number).unwrap_or(&own);
            match united_from.iter().find(|(from, _)| Arc::ptr_eq(from, first)) {
                Some((_, united)) => Arc::clone(united),
                None => {
                    let united = united(first, &others);
                    united_from.push((Arc::clone(first), Arc::clone(&united)));
                    united
                }
            }
        } else {
            service.ports.push(port.clone());
            Arc::clone(&others)
        };
        if !Arc::ptr_eq(&addresses, &own) {
            service.port_addresses.insert(port.number, addresses);
        }
    }
    service.joined.push(other.origin.clone());
}

/// Returns the addresses of two definitions; one without any is reached at all.
fn united(first: &Shared, other: &Shared) -> Shared {
    if first == other {
        return Arc::clone(first);
    }
    let all = [SmolStr::new_static(UNSPECIFIED)];
    let (first, other) = (if first.is_empty() { &all } else { &**first }, if other.is_empty() { &all } else { &**other });
    let known: BTreeSet<&SmolStr> = first.iter().visiting(Visited::Written).collect();
    first.iter().chain(other.iter().filter(|address| !known.contains(address))).cloned().collect()
}

/// Returns what of a definition has no effect: for those who see it, the first view that they see holds.
fn eclipsed(views: &[Service], definition: &Service) -> Option<Eclipsed> {
    let first = views.iter().find(|view| share_a_namespace(&view.export_to, &definition.export_to, ""))?;
    if first.origin == definition.origin || (first.registry, definition.registry) == (Registry::Kubernetes, Registry::Kubernetes) {
        return None;
    }
    behind(first, definition, obstacle(first, definition))
}

/// Returns what services have no effect outside of their namespaces, because that of another namespace goes first there.
/// Within its namespace each goes first.
pub(super) fn eclipsed_abroad<'a>(services: impl Iterator<Item = &'a Arc<Service>>) -> Vec<Eclipsed> {
    let mut services: Vec<&Arc<Service>> = services.collect();
    if services.len() < 2 {
        return Vec::new();
    }
    services.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let eclipsed = services.iter().enumerate().filter_map(|(at, service)| {
        let abroad = |first: &&&Arc<Service>| {
            first.namespace != service.namespace && share_a_namespace(&first.export_to, &service.export_to, &service.namespace)
        };
        behind(services[..at].iter().find(abroad)?, service, Some(Obstacle::Namespace))
    });
    eclipsed.collect()
}

/// Returns what of a definition has no effect where another goes first; `None` where all of it has.
fn behind(first: &Service, definition: &Service, obstacle: Option<Obstacle>) -> Option<Eclipsed> {
    let protocols: BTreeMap<u16, Protocol> = first.ports.iter().rev().map(|port| (port.number, port.protocol)).collect();
    let protocol = |number: u16| protocols.get(&number).copied();
    let (known, lost): (Vec<_>, Vec<_>) = definition.ports.iter().partition(|port| protocol(port.number).is_some());
    let eclipsed = Eclipsed {
        hostname: definition.hostname.clone(),
        object: definition.origin.object.clone(),
        by: first.origin.object.clone(),
        obstacle,
        ports: lost.into_iter().map(|port| port.number).collect(),
        protocols: known.into_iter().filter(|port| protocol(port.number) != Some(port.protocol)).map(|port| port.number).collect(),
        fields: fields_without_effect(first, definition),
    };
    (!eclipsed.is_nothing()).then_some(eclipsed)
}

fn fields_without_effect(first: &Service, other: &Service) -> Vec<&'static str> {
    let mut of_ports: Vec<&Shared> = Vec::new();
    for addresses in first.port_addresses.values() {
        if !of_ports.iter().any(|known| Arc::ptr_eq(known, addresses)) {
            of_ports.push(addresses);
        }
    }
    let reached = first.addresses.iter().chain(of_ports.into_iter().flat_map(|addresses| addresses.iter()));
    let known: BTreeSet<&SmolStr> = reached.visiting(Visited::Written).collect();
    let lost_address = other.addresses.iter().any(|address| !known.contains(address));
    let differing = [
        (first.resolution != other.resolution, "resolution"),
        (first.mesh_external != other.mesh_external, "location"),
        (first.distribution != other.distribution, "traffic distribution"),
        (lost_address, "addresses"),
        (first.subject_alt_names != other.subject_alt_names, "subjectAltNames"),
    ];
    differing.into_iter().filter_map(|(differs, field)| differs.then_some(field)).collect()
}

/// Returns whether some namespace but `except` sees both.
fn share_a_namespace(one: &Visibility, other: &Visibility, except: &str) -> bool {
    match (one, other) {
        (Visibility::Public, Visibility::Public) => true,
        (Visibility::Namespaces(names), other) | (other, Visibility::Namespaces(names)) => {
            names.iter().any(|name| name != except && other.allows(name))
        }
        (Visibility::None, _) | (_, Visibility::None) => false,
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
