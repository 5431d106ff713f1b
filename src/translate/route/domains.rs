//! The domains of virtual hosts (contract §3.6).

use std::collections::{HashMap, hash_map::Entry};

use smol_str::{SmolStr, format_smolstr};

use super::LostDomain;
use crate::{
    mesh::model::{Origin, Registry, Resolution, Service, UNSPECIFIED},
    translate::naming,
};

/// The names and addresses by which a service is reached from a namespace, in Istio's order.
pub(super) struct Domains(Vec<Domain>);

struct Domain {
    text: SmolStr,
    /// Whether it is another form of a name, which gives way to a service that really has it.
    form: bool,
}

/// Returns the domains of a port of a service for proxies whose DNS domain is `dns_domain` (`<namespace>.svc.<domain>`).
pub(super) fn of_service(service: &Service, port: u16, dns_domain: &str) -> Domains {
    let mut all = Vec::with_capacity(8);
    for host in std::iter::once(&service.hostname).chain(&service.aliases) {
        all.push(Domain { text: host.text().clone(), form: false });
        all.extend(naming::other_forms(host, dns_domain).into_iter().map(|text| Domain { text, form: true }));
    }
    if service.resolution == Resolution::Passthrough && service.registry == Registry::Kubernetes {
        let wildcards: Vec<_> = all.iter().map(|Domain { text, .. }| format_smolstr!("*.{text}")).collect();
        all.extend(wildcards.into_iter().map(|text| Domain { text, form: false }));
    }
    let addresses = service.addresses_at(port).iter().filter(|address| !matches!(address.as_str(), "" | UNSPECIFIED));
    all.extend(addresses.map(|address| Domain { text: bracketed(address), form: false }));
    Domains(all)
}

/// The domains that a table has so far, in lower case: Envoy refuses a table that has one twice, in whatever case.
pub(super) struct Taken<'a> {
    /// By domain the object that has it; `None`: the table itself.
    holders: HashMap<SmolStr, Option<&'a Origin>>,
    lost: Vec<LostDomain>,
}

impl<'a> Taken<'a> {
    /// Begins a table, which itself takes `*` for all other destinations.
    pub(super) fn new() -> Self {
        Self { holders: HashMap::from([("*".into(), None)]), lost: Vec::new() }
    }

    /// Returns the domains that are still free, which the object then has. `known` are names of services themselves.
    pub(super) fn claim(&mut self, object: &'a Origin, domains: Domains, known: &dyn Fn(&str) -> bool) -> Vec<SmolStr> {
        let free = |domain: &Domain| {
            if domain.form && known(&domain.text) {
                return false;
            }
            match self.holders.entry(lowercase(&domain.text)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Some(object));
                    return true;
                }
                Entry::Occupied(held) if !domain.form && *held.get() != Some(object) => {
                    let holder = held.get().cloned();
                    self.lost.push(LostDomain { object: object.clone(), domain: domain.text.clone(), holder });
                }
                Entry::Occupied(_) => {}
            }
            false
        };
        domains.0.into_iter().filter(free).map(|domain| domain.text).collect()
    }

    /// Does what [`Self::claim`] does, for one name.
    pub(super) fn claim_one(&mut self, object: &'a Origin, domain: SmolStr) -> Vec<SmolStr> {
        self.claim(object, Domains(vec![Domain { text: domain, form: false }]), &|_| false)
    }

    /// Returns what objects asked for in vain.
    pub(super) fn into_lost(self) -> Vec<LostDomain> {
        self.lost
    }
}

// Most names are lower case already and are not copied.
fn lowercase(domain: &SmolStr) -> SmolStr {
    if domain.bytes().any(|byte| !byte.is_ascii() || byte.is_ascii_uppercase()) { domain.to_lowercase().into() } else { domain.clone() }
}

fn bracketed(address: &SmolStr) -> SmolStr {
    if address.contains(':') { format_smolstr!("[{address}]") } else { address.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Kind, ObjectKey};

    #[test]
    fn no_domain_is_given_twice() {
        let origin = |name: &str| {
            let (cluster, namespace) = ("Kubernetes".into(), "shop".into());
            Origin { object: ObjectKey { cluster, kind: Kind::ServiceEntry, namespace, name: name.into() }, generation: 1 }
        };
        let (old, young) = (origin("old"), origin("young"));
        let mut taken = Taken::new();
        assert_eq!(taken.claim_one(&old, "a".into()), ["a"]);
        assert!(taken.claim_one(&young, "A".into()).is_empty());
        assert!(taken.claim_one(&young, "*".into()).is_empty());
        let domain = |text: &str| Domain { text: text.into(), form: text == "c" };
        let domains = Domains(vec![domain("b"), domain("c")]);
        assert_eq!(taken.claim(&young, domains, &|name| name == "c"), ["b"], "a short form gives way to the service of that name");
        let lost: Vec<String> = taken.into_lost().iter().map(ToString::to_string).collect();
        assert_eq!(
            lost,
            [
                "ServiceEntry/shop/old has the domain A already: no request for it comes here",
                "* stands for all other destinations already: no request for it comes here",
            ]
        );
    }
}
