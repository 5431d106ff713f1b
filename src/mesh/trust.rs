//! Whom proxies verify each other with: the roots of our own CA and those of other meshes, each for the trust domains that it may
//! vouch for (contract §4, MeshConfig `caCertificates`).
//!
//! Our own roots vouch for our trust domain, and for its aliases, unless an alias is what an entry's roots are for. The roots of an
//! entry vouch for the trust domains that it names, and for no other: another mesh cannot pass its workloads off as ours. Those of an
//! entry that names none vouch for everybody.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::settings::MeshSettings;
use crate::api::{
    Diagnostic, ObjectKey,
    mesh_config::{CaCertificate, RootsFrom},
    trust_bundle::{OWN, TrustBundle},
};

/// What ends a certificate in PEM.
const END: &str = "-----END CERTIFICATE-----\n";

/// Whom proxies are told to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The PEM texts of all sources, sorted: what Istio's agents are told, which do not tell trust domains apart.
    pub everywhere: Vec<SmolStr>,
    /// What peers are verified with, if the control plane says it; `None`: their agents do.
    pub verified: Option<Verified>,
    /// What is wrong with roots of MeshConfig.
    pub findings: Vec<Diagnostic>,
}

/// What peers are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Every root vouches for everybody.
    Together(Roots),
    /// By trust domain, who vouches for it. There is at least one.
    Apart(BTreeMap<SmolStr, Roots>),
}

/// Certificates that are trusted, and those that are revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// The certificates, as PEM; each once.
    pub certificates: String,
    /// Lists of revoked certificates, as PEM; empty: there are none.
    pub revoked: SmolStr,
}

impl Trust {
    /// Returns whom proxies are told to trust, given the bundles by the names of their objects. `origin`: where MeshConfig was read.
    pub(in crate::mesh) fn of(mesh: &MeshSettings, bundles: &BTreeMap<SmolStr, &TrustBundle>, origin: Option<&ObjectKey>) -> Self {
        let known = Known { own: bundles.get(OWN).copied(), bundles };
        let findings = findings(mesh, &known).into_iter().map(|finding| match origin {
            Some(origin) => finding.of(origin),
            None => finding,
        });
        let findings = findings.collect();
        if !mesh.multi_root {
            return Self { findings, ..Self::default() };
        }
        let others = mesh.ca_certificates.iter().filter_map(|entry| known.roots_of(entry));
        let everywhere: BTreeSet<&SmolStr> = known.own_roots().into_iter().chain(others).collect();
        Self { everywhere: everywhere.into_iter().cloned().collect(), verified: verified(mesh, &known), findings }
    }
}

/// The roots that are known.
struct Known<'a> {
    own: Option<&'a TrustBundle>,
    bundles: &'a BTreeMap<SmolStr, &'a TrustBundle>,
}

impl<'a> Known<'a> {
    fn own_roots(&self) -> Option<&'a SmolStr> {
        self.own.and_then(|own| own.roots.as_ref())
    }

    fn roots_of(&self, entry: &'a CaCertificate) -> Option<&'a SmolStr> {
        match &entry.roots {
            RootsFrom::Pem(roots) => Some(roots),
            RootsFrom::BundleAt(url) => self.bundles.get(url).and_then(|bundle| bundle.roots.as_ref()),
        }
    }
}

fn verified(mesh: &MeshSettings, known: &Known<'_>) -> Option<Verified> {
    if !mesh.says_roots() {
        return None;
    }
    if mesh.ca_certificates.iter().all(|entry| entry.trust_domains.is_empty()) {
        let roots = vouching(mesh, known, None);
        return (!roots.certificates.is_empty()).then_some(Verified::Together(roots));
    }
    let domains = mesh.trust_domains().into_iter().map(|domain| (domain.clone(), vouching(mesh, known, Some(&domain))));
    let domains: BTreeMap<SmolStr, Roots> = domains.filter(|(_, roots)| !roots.certificates.is_empty()).collect();
    (!domains.is_empty()).then_some(Verified::Apart(domains))
}

/// Returns who vouches for a trust domain; `None`: for everybody.
fn vouching(mesh: &MeshSettings, known: &Known<'_>, domain: Option<&SmolStr>) -> Roots {
    let names = |entry: &&CaCertificate| domain.is_some_and(|domain| entry.trust_domains.contains(domain));
    let is_ours = domain.is_none_or(|domain| *domain == mesh.trust_domain || !mesh.ca_certificates.iter().any(|entry| names(&entry)));
    let others = mesh.ca_certificates.iter().filter(|entry| entry.trust_domains.is_empty() || names(entry));
    let others = others.filter_map(|entry| known.roots_of(entry));
    let (mut seen, mut certificates) = (BTreeSet::new(), String::new());
    for certificate in known.own_roots().filter(|_| is_ours).into_iter().chain(others).flat_map(|roots| roots.split_inclusive(END)) {
        if seen.insert(certificate) {
            certificates += certificate;
        }
    }
    let revoked = known.own.filter(|_| is_ours).map(|own| own.revoked.clone()).unwrap_or_default();
    Roots { certificates, revoked }
}

fn findings(mesh: &MeshSettings, known: &Known<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if !mesh.multi_root {
        // Those of signers of ours are known by them all the same.
        if mesh.ca_certificates.iter().any(|entry| entry.cert_signers.is_empty()) {
            let what = "are given to no proxy, because ISTIO_MULTIROOT_MESH is not true (--multi-root-mesh); of these entries only the trust \
                        domains count";
            found.push(Diagnostic::warning("caCertificates", what));
        }
        return found;
    }
    for entry in &mesh.ca_certificates {
        let RootsFrom::BundleAt(url) = &entry.roots else { continue };
        let bundle = known.bundles.get(url);
        let what = match (bundle.is_some_and(|bundle| bundle.roots.is_some()), bundle.and_then(|bundle| bundle.trouble.as_ref())) {
            (true, None) => continue,
            (true, Some(why)) => format!("roots cannot be fetched again, and the last ones stay: {why}"),
            (false, Some(why)) => format!("roots cannot be fetched, and until they are nobody under them is trusted: {why}"),
            (false, None) => format!("roots are not fetched yet ({url}): until then nobody under them is trusted"),
        };
        found.push(Diagnostic::warning("caCertificates", what));
    }
    let together = mesh.ca_certificates.iter().any(|entry| entry.trust_domains.is_empty());
    if together && known.own.is_some_and(|own| !own.revoked.is_empty()) {
        let what = "an entry without trustDomains is not trusted while there are lists of certificates that our own CA revoked, which \
                    proxies then want of every CA: name the trust domains of the entry";
        found.push(Diagnostic::warning("caCertificates", what));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{name}\n{END}")
    }

    fn entry(name: &str, trust_domains: &[&str]) -> CaCertificate {
        let trust_domains = trust_domains.iter().map(|domain| (*domain).into()).collect();
        CaCertificate { roots: RootsFrom::Pem(block(name).into()), trust_domains, cert_signers: Vec::new() }
    }

    fn mesh(aliases: &[&str], ca_certificates: Vec<CaCertificate>) -> MeshSettings {
        let trust_domain_aliases = aliases.iter().map(|alias| (*alias).into()).collect();
        MeshSettings { trust_domain: "east".into(), trust_domain_aliases, ca_certificates, multi_root: true, ..MeshSettings::default() }
    }

    fn own() -> TrustBundle {
        TrustBundle { roots: Some(block("own").into()), revoked: "crl".into(), trouble: None }
    }

    /// Returns who vouches for each trust domain, by the names of the roots, with `+crl` for the list of revoked certificates.
    fn apart(mesh: &MeshSettings) -> Vec<(String, String)> {
        let own = own();
        let trust = Trust::of(mesh, &BTreeMap::from([(OWN.into(), &own)]), None);
        let Some(Verified::Apart(domains)) = trust.verified else { panic!("{trust:?}") };
        let names = |roots: &Roots| {
            let names: Vec<&str> = roots.certificates.lines().filter(|line| !line.starts_with('-')).collect();
            format!("{}{}", names.join(" "), if roots.revoked.is_empty() { "" } else { " +crl" })
        };
        domains.iter().map(|(domain, roots)| (domain.to_string(), names(roots))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(domain, roots)| ((*domain).to_owned(), (*roots).to_owned())).collect()
    }

    #[test]
    fn the_roots_of_another_mesh_vouch_for_its_trust_domain_alone() {
        let west = entry("west", &["west"]);
        assert_eq!(apart(&mesh(&[], vec![west.clone()])), pairs(&[("east", "own +crl"), ("west", "west")]));
        // An alias that an entry is for is that entry's; any other is ours.
        assert_eq!(apart(&mesh(&["old", "west"], vec![west])), pairs(&[("east", "own +crl"), ("old", "own +crl"), ("west", "west")]));
    }

    #[test]
    fn several_entries_for_one_trust_domain_count_together_and_each_root_once() {
        let twice = format!("{}{}", block("a"), block("b"));
        let both = CaCertificate { roots: RootsFrom::Pem(twice.into()), ..entry("", &["west"]) };
        assert_eq!(
            apart(&mesh(&[], vec![entry("a", &["west", "north"]), both])),
            pairs(&[("east", "own +crl"), ("north", "a"), ("west", "a b")])
        );
        assert_eq!(apart(&mesh(&[], vec![entry("next", &["east"])])), pairs(&[("east", "own next +crl")]));
    }

    #[test]
    fn an_entry_without_trust_domains_is_for_everybody() {
        let every = entry("every", &[]);
        assert_eq!(
            apart(&mesh(&[], vec![entry("west", &["west"]), every.clone()])),
            pairs(&[("east", "own every +crl"), ("west", "west every")])
        );
        let own = own();
        let trust = Trust::of(&mesh(&[], vec![every]), &BTreeMap::from([(OWN.into(), &own)]), None);
        let roots = Roots { certificates: format!("{}{}", block("own"), block("every")), revoked: "crl".into() };
        assert_eq!(trust.verified, Some(Verified::Together(roots)));
        assert!(trust.findings.iter().any(|finding| finding.message.contains("revoked")), "{:?}", trust.findings);
    }

    #[test]
    fn agents_are_told_all_roots_sorted() {
        let own = own();
        let bundles = BTreeMap::from([(OWN.into(), &own)]);
        let trust = Trust::of(&mesh(&[], vec![entry("west", &["west"]), entry("a", &[]), entry("a", &["b"])]), &bundles, None);
        assert_eq!(trust.everywhere, [block("a"), block("own"), block("west")]);
        let alone = Trust::of(&mesh(&[], Vec::new()), &bundles, None);
        assert_eq!((alone.everywhere.len(), alone.verified), (1, None), "agents verify by what they got with their certificates");
    }

    #[test]
    fn without_the_setting_nobody_is_told_anything_and_somebody_is_told_that() {
        let own = own();
        let off = MeshSettings { multi_root: false, ..mesh(&[], vec![entry("west", &["west"])]) };
        let trust = Trust::of(&off, &BTreeMap::from([(OWN.into(), &own)]), None);
        assert_eq!((trust.everywhere.len(), trust.verified, trust.findings.len()), (0, None, 1));
    }

    #[test]
    fn roots_that_are_not_fetched_are_nobodys() {
        let url = || SmolStr::from("https://west/bundle");
        let published = CaCertificate { roots: RootsFrom::BundleAt(url()), ..entry("", &["west"]) };
        let mesh = mesh(&[], vec![published]);
        let said = |bundle: Option<TrustBundle>| {
            let own = own();
            let bundles: BTreeMap<SmolStr, &TrustBundle> =
                [(OWN.into(), &own)].into_iter().chain(bundle.iter().map(|bundle| (url(), bundle))).collect();
            let trust = Trust::of(&mesh, &bundles, None);
            let Some(Verified::Apart(domains)) = trust.verified else { panic!() };
            (domains.contains_key("west"), trust.findings.first().map(|finding| finding.message.clone()).unwrap_or_default())
        };
        let bundle = |roots: Option<&str>, trouble: Option<&str>| {
            Some(TrustBundle { roots: roots.map(Into::into), trouble: trouble.map(Into::into), ..TrustBundle::default() })
        };
        for (bundle, trusted, told) in [
            (None, false, "not fetched yet"),
            (bundle(None, Some("away")), false, "cannot be fetched, and until"),
            (bundle(Some(&block("west")), Some("away")), true, "the last ones stay: away"),
        ] {
            let (has, message) = said(bundle);
            assert!(has == trusted && message.contains(told), "{has} {message}");
        }
        assert_eq!(said(bundle(Some(&block("west")), None)), (true, String::new()));
    }
}
