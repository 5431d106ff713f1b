//! Hostnames of listeners, and whose routes may attach to them.

use smol_str::SmolStr;

use crate::mesh::model::Hostname;

/// A hostname that a listener serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerHost {
    /// May be a wildcard.
    pub host: Hostname,
    /// Whose routes may attach.
    pub routes_from: RoutesFrom,
}

/// The namespaces whose routes may attach to a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RoutesFrom {
    /// All.
    All,
    /// This one.
    Namespace(SmolStr),
}

impl ListenerHost {
    /// Returns the names that a route of `namespace` for `host` serves here: the narrower of both hosts. `None` when the
    /// route may not attach, or no name is of both.
    pub fn shared<'a>(&'a self, namespace: &str, host: &'a Hostname) -> Option<&'a Hostname> {
        if !self.routes_from.allows(namespace) {
            None
        } else if self.host.covers(host) {
            Some(host)
        } else if host.covers(&self.host) {
            Some(&self.host)
        } else {
            None
        }
    }
}

impl RoutesFrom {
    fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(only) => only == namespace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_serves_the_names_that_it_shares_with_the_listener() {
        let wide = ListenerHost { host: Hostname::new("*.example.com"), routes_from: RoutesFrom::Namespace("shop".into()) };
        let [one, all, other] = ["a.example.com", "*", "example.org"].map(Hostname::new);
        assert_eq!(wide.shared("shop", &one), Some(&one));
        assert_eq!(wide.shared("shop", &all), Some(&wide.host));
        assert_eq!(wide.shared("shop", &other), None);
        assert_eq!(wide.shared("bank", &one), None, "routes of other namespaces may not attach");
        let open = ListenerHost { routes_from: RoutesFrom::All, ..wide };
        assert_eq!(open.shared("bank", &one), Some(&one));
    }
}
