//! What many routes ask of the world, looked up once.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use smol_str::SmolStr;

use crate::{
    api::host_index::HostIndex,
    mesh::{
        model::{Hostname, Service},
        policy::destination_rule,
        traffic::EffectiveDestinationRule,
        world::{Gateway, World},
    },
    visits::{Visit, Visited},
};

/// What is known of the world so far.
pub(super) struct Lookups<'a> {
    world: &'a World,
    /// The services that are wildcards.
    wildcards: OnceCell<HostIndex>,
    destinations: RefCell<BTreeMap<(SmolStr, Hostname), Destination<'a>>>,
    /// The hosts of Gateways.
    gateways: RefCell<BTreeMap<*const Gateway, Rc<HostIndex>>>,
}

/// `None`: no service has the host.
type Destination<'a> = Option<Rc<Known<'a>>>;

/// A destination as routes of one namespace see it.
pub(super) struct Known<'a> {
    pub(super) service: &'a Service,
    ports: OnceCell<HashSet<u16>>,
    subsets: OnceCell<Option<Subsets>>,
}

/// The subsets of a destination.
pub(super) struct Subsets {
    pub(super) rule: Arc<EffectiveDestinationRule>,
    names: HashSet<SmolStr>,
}

impl<'a> Lookups<'a> {
    pub(super) fn of(world: &'a World) -> Self {
        Self { world, wildcards: OnceCell::new(), destinations: RefCell::default(), gateways: RefCell::default() }
    }

    /// Returns the service that routes of a namespace mean by a host.
    pub(super) fn destination(&self, namespace: &SmolStr, host: &Hostname) -> Option<Rc<Known<'a>>> {
        let key = (namespace.clone(), host.clone());
        let found = || {
            let seen = self.world.services_named(host).filter(|service| service.export_to.allows(namespace));
            let service = self.world.services.get(&seen.min_by_key(|service| service.namespace != *namespace)?.key())?;
            Some(Rc::new(Known { service, ports: OnceCell::new(), subsets: OnceCell::new() }))
        };
        self.destinations.borrow_mut().entry(key).or_insert_with(found).clone()
    }

    /// Returns the subsets of a destination, as clients in a namespace see them; `None` where no rule is for it.
    pub(super) fn subsets<'k>(&self, namespace: &str, known: &'k Known<'a>) -> Option<&'k Subsets> {
        let found = || {
            let rule = destination_rule::effective(self.world, namespace, &[], known.service)?;
            let names = rule.subsets.iter().visiting(Visited::Written).map(|subset| subset.name.clone()).collect();
            Some(Subsets { rule, names })
        };
        known.subsets.get_or_init(found).as_ref()
    }

    /// Returns whether a service that is a wildcard stands for the host.
    pub(super) fn is_covered(&self, host: &Hostname) -> bool {
        let hosts = || self.world.services.keys().visiting(Visited::Service).map(|key| &key.hostname);
        // Wildcards sort before names.
        let index = self.wildcards.get_or_init(|| hosts().take_while(|host| host.is_wildcard()).map(Hostname::as_str).collect());
        index.covering(host.as_str()).is_some()
    }

    /// Returns whether a Gateway serves one of the hosts.
    pub(super) fn serves(&self, gateway: &Arc<Gateway>, hosts: &[Hostname]) -> bool {
        let served = || Rc::new(gateway.spec.listeners.iter().flat_map(|listener| &listener.hosts).map(|of| of.host.as_str()).collect());
        let index = Rc::clone(self.gateways.borrow_mut().entry(Arc::as_ptr(gateway)).or_insert_with(served));
        hosts.iter().any(|host| index.overlapping(host.as_str()).is_some())
    }
}

impl Known<'_> {
    pub(super) fn has_port(&self, number: u16) -> bool {
        let ports = || self.service.ports.iter().visiting(Visited::Port).map(|port| port.number).collect();
        self.ports.get_or_init(ports).contains(&number)
    }
}

impl Subsets {
    pub(super) fn has(&self, name: &SmolStr) -> bool {
        self.names.contains(name)
    }
}
