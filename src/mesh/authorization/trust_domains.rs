//! Names of the mesh's trust domain: identities of its aliases count as those of the mesh (contract §6.7).

use smol_str::{SmolStr, format_smolstr};

use crate::api::istio::Values;

/// The trust domain that stands for the mesh's own in every mesh.
const LOCAL: &str = "cluster.local";

/// The trust domain of the mesh, and its aliases.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrustDomains<'a> {
    pub(super) own: &'a SmolStr,
    pub(super) aliases: &'a [SmolStr],
}

impl<'a> TrustDomains<'a> {
    /// Returns principals, of which each that is of the mesh stands once for each of the mesh's names.
    pub(super) fn principals(self, values: &Values<SmolStr>) -> Values<SmolStr> {
        let expanded = |values: &[SmolStr]| values.iter().flat_map(|principal| self.principal(principal)).collect();
        Values { any_of: expanded(&values.any_of), none_of: expanded(&values.none_of) }
    }

    /// Returns trust domains, of which each that is the mesh's stands for all of the mesh's names.
    pub(super) fn names(self, values: &Values<SmolStr>) -> Values<SmolStr> {
        let expanded = |values: &[SmolStr]| {
            let mut names: Vec<SmolStr> = Vec::new();
            for value in values {
                let of_mesh = self.all().any(|known| known == value);
                let stands_for: Vec<&SmolStr> = if of_mesh { self.all().collect() } else { vec![value] };
                for name in stands_for {
                    if !names.contains(name) {
                        names.push(name.clone());
                    }
                }
            }
            names
        };
        Values { any_of: expanded(&values.any_of), none_of: expanded(&values.none_of) }
    }

    fn all(self) -> impl Iterator<Item = &'a SmolStr> {
        std::iter::once(self.own).chain(self.aliases)
    }

    fn principal(self, principal: &SmolStr) -> Vec<SmolStr> {
        let same = || vec![principal.clone()];
        let parts: Vec<&str> = principal.split('/').collect();
        let [domain, _, _, _, _] = parts[..] else { return same() };
        let of_mesh = domain == LOCAL || self.all().any(|known| matches(known, domain));
        if domain == "*" || !of_mesh {
            return same();
        }
        let mut found = Vec::new();
        for known in self.all() {
            // Where a wildcard covers a name already, it stays as it is.
            let named = match covers(domain, known) {
                true => principal.clone(),
                false => format_smolstr!("{known}/{}", parts[1..].join("/")),
            };
            if !found.contains(&named) {
                found.push(named);
            }
        }
        found
    }
}

/// Returns whether two names, of which either may begin or end with a wildcard, may mean the same.
fn matches(known: &str, domain: &str) -> bool {
    known == domain
        || known == "*"
        || covers(known, domain)
        || covers(domain, known)
        || continues(known, domain)
        || continues(domain, known)
}

/// Returns whether a pattern `*suffix` covers a name.
fn covers(pattern: &str, name: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix))
}

/// Returns whether a pattern `prefix*` covers a name.
fn continues(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(principal: &str) -> Vec<SmolStr> {
        let (own, aliases) = (SmolStr::new("new-td"), [SmolStr::new("old-td"), SmolStr::new("other")]);
        TrustDomains { own: &own, aliases: &aliases }.principal(&principal.into())
    }

    #[test]
    fn a_principal_of_the_mesh_stands_for_all_its_names() {
        let all = ["new-td/ns/a/sa/b", "old-td/ns/a/sa/b", "other/ns/a/sa/b"];
        assert_eq!(expanded("old-td/ns/a/sa/b"), all);
        assert_eq!(expanded("cluster.local/ns/a/sa/b"), all);
        assert_eq!(expanded("new*/ns/a/sa/b"), all);
        // The wildcard covers two of the names, and is said once.
        assert_eq!(expanded("*-td/ns/a/sa/b"), ["*-td/ns/a/sa/b", "other/ns/a/sa/b"]);
        for same in ["foreign/ns/a/sa/b", "*/ns/a/sa/b", "*", "old-td", "old-td/ns/a/sa/b/c"] {
            assert_eq!(expanded(same), [same]);
        }
    }

    #[test]
    fn a_trust_domain_of_the_mesh_stands_for_all_its_names() {
        let (own, aliases) = (SmolStr::new("new-td"), [SmolStr::new("old-td")]);
        let domains = TrustDomains { own: &own, aliases: &aliases };
        let values = Values { any_of: vec!["x".into(), "old-td".into(), "new-td".into(), "*-td".into()], none_of: vec!["old-td".into()] };
        let names = domains.names(&values);
        assert_eq!(names.any_of, ["x", "new-td", "old-td", "*-td"]);
        assert_eq!(names.none_of, ["new-td", "old-td"]);
    }
}
