//! The domains of virtual hosts (contract §3.6).

use std::{collections::HashSet, net::IpAddr};

use smol_str::{SmolStr, format_smolstr};

use crate::mesh::model::{Hostname, Registry, Resolution, Service};

/// The names and addresses by which a service is reached from a namespace.
pub(super) struct Domains {
    /// All, in Istio's order.
    pub(super) all: Vec<SmolStr>,
    /// How many names stand for themselves; the short forms among them give way to a service that really has the name.
    short: HashSet<SmolStr>,
}

/// The domains of a service for proxies whose DNS domain is `dns_domain` (`<namespace>.svc.<domain>`).
pub(super) fn of_service(service: &Service, dns_domain: &str) -> Domains {
    let mut all = Vec::with_capacity(8);
    let mut short = HashSet::new();
    for host in std::iter::once(&service.hostname).chain(&service.aliases) {
        all.push(host.text().clone());
        let forms = forms(host, dns_domain);
        short.extend(forms.iter().cloned());
        all.extend(forms);
    }
    if service.resolution == Resolution::Passthrough && service.registry == Registry::Kubernetes {
        let wildcards: Vec<_> = all.iter().map(|domain| format_smolstr!("*.{domain}")).collect();
        all.extend(wildcards);
    }
    all.extend(service.addresses.iter().filter(|address| !matches!(address.as_str(), "" | "0.0.0.0")).map(bracketed));
    Domains { all, short }
}

/// Keeps no domain twice within a table, in any case of letters: Envoy refuses the whole table otherwise.
#[derive(Default)]
pub(super) struct Taken(HashSet<SmolStr>);

impl Taken {
    /// The domains that are still free, which are then taken. `known` are names of services themselves.
    pub(super) fn claim(&mut self, domains: Domains, known: &dyn Fn(&str) -> bool) -> Vec<SmolStr> {
        let Domains { all, short } = domains;
        all.into_iter().filter(|domain| !(short.contains(domain) && known(domain)) && self.0.insert(domain.to_lowercase().into())).collect()
    }

    /// As [`Self::claim`] for one name.
    pub(super) fn claim_one(&mut self, domain: SmolStr) -> Vec<SmolStr> {
        self.claim(Domains { all: vec![domain], short: HashSet::new() }, &|_| false)
    }
}

// The absolute form, and the forms that the search path of the proxy's namespace makes valid.
fn forms(host: &Hostname, dns_domain: &str) -> Vec<SmolStr> {
    let host = host.as_str();
    let mut forms = Vec::with_capacity(4);
    if host.parse::<IpAddr>().is_err() {
        forms.push(format_smolstr!("{host}."));
    }
    let Some((proxy_namespace, domain)) = dns_domain.split_once(".svc.") else { return forms };
    let Some(with_namespace) = host.strip_suffix(domain).and_then(|host| host.strip_suffix(".svc.")) else { return forms };
    let Some((name, namespace)) = with_namespace.split_once('.') else { return forms };
    let svc = format_smolstr!("{with_namespace}.svc");
    if namespace == proxy_namespace {
        forms.extend([name.into(), svc, with_namespace.into()]);
    } else {
        forms.extend([with_namespace.into(), svc]);
    }
    forms
}

fn bracketed(address: &SmolStr) -> SmolStr {
    if address.contains(':') { format_smolstr!("[{address}]") } else { address.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_depend_on_the_namespace() {
        let host = Hostname::new("reviews.shop.svc.cluster.local");
        let own = forms(&host, "shop.svc.cluster.local");
        assert_eq!(own, ["reviews.shop.svc.cluster.local.", "reviews", "reviews.shop.svc", "reviews.shop"]);
        let other = forms(&host, "web.svc.cluster.local");
        assert_eq!(other, ["reviews.shop.svc.cluster.local.", "reviews.shop", "reviews.shop.svc"]);
        assert_eq!(forms(&Hostname::new("api.example.com"), "shop.svc.cluster.local"), ["api.example.com."]);
    }

    #[test]
    fn no_domain_is_given_twice() {
        let mut taken = Taken::default();
        assert_eq!(taken.claim_one("a".into()), ["a"]);
        assert!(taken.claim_one("A".into()).is_empty());
        let domains = Domains { all: vec!["b".into(), "c".into()], short: HashSet::from(["c".into()]) };
        assert_eq!(taken.claim(domains, &|name| name == "c"), ["b"], "a short form gives way to the service of that name");
    }
}
