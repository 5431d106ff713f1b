//! The roots in the bundles that proxies acknowledged: what a rotation knows of who trusts what, without waiting for their next
//! requests for certificates.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret},
};
use prost::Message;
use smol_str::SmolStr;

use crate::{
    identity::{certificate::Certificate, root_id::RootId},
    proto::mesh::ProxyConfig,
    translate::tls::TRUST_BUNDLE,
    xds::{
        ledger::{Acknowledged, Ledger},
        resource::{ContentHash, Resource},
        resource_type::ResourceType,
    },
};

/// Returns by connection which roots of our own trust domain a proxy has acknowledged; proxies that were sent none are left out.
pub(super) fn roots(ledger: &Ledger, trust_domain: &str) -> BTreeMap<SmolStr, Arc<BTreeSet<RootId>>> {
    let mut read: BTreeMap<ContentHash, Arc<BTreeSet<RootId>>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    // What peers are verified with goes before what the agent is told.
    for (kind, name) in [(ResourceType::ProxyConfig, ""), (ResourceType::Secret, TRUST_BUNDLE)] {
        for (connection, acknowledged) in ledger.acknowledged(kind, name) {
            let roots = match acknowledged {
                Acknowledged::Refused => Arc::default(),
                Acknowledged::Taken(resource) => {
                    Arc::clone(read.entry(resource.version).or_insert_with(|| Arc::new(roots_in(&resource, trust_domain))))
                }
            };
            // Agents are told nothing where the roots of their certificates are all that there are.
            if kind == ResourceType::Secret || !roots.is_empty() {
                found.insert(connection, roots);
            }
        }
    }
    found
}

fn roots_in(resource: &Resource, trust_domain: &str) -> BTreeSet<RootId> {
    let text = match resource.kind {
        ResourceType::ProxyConfig => ProxyConfig::decode(&resource.body[..]).map(|config| config.ca_certificates_pem.concat()).ok(),
        _ => Secret::decode(&resource.body[..]).ok().and_then(|secret| bundle(secret, trust_domain)),
    };
    let (certificates, _) = Certificate::each_from_pem(&text.unwrap_or_default());
    certificates.iter().map(RootId::of).collect()
}

/// Returns the bundle of a trust domain, as PEM.
fn bundle(secret: Secret, trust_domain: &str) -> Option<String> {
    let Some(secret::Type::ValidationContext(CertificateValidationContext { trusted_ca, custom_validator_config, .. })) = secret.r#type
    else {
        return None;
    };
    let Some(verifier) = custom_validator_config.and_then(|verifier| verifier.typed_config) else { return trusted_ca.and_then(inline) };
    let SpiffeCertValidatorConfig { trust_domains, .. } = SpiffeCertValidatorConfig::decode(&verifier.value[..]).ok()?;
    let ours = trust_domains.into_iter().find(|domain| domain.name == trust_domain);
    ours.and_then(|domain| domain.trust_bundle).and_then(inline)
}

fn inline(source: DataSource) -> Option<String> {
    match source.specifier {
        Some(Specifier::InlineString(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;
    use crate::{
        mesh::trust::{Roots, Trust, Verified},
        translate::trust,
        xds::encode,
    };

    fn root(name: &str) -> (String, RootId) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let id = RootId::of(&Certificate::all_from_pem(&pem).unwrap()[0]);
        (pem, id)
    }

    #[test]
    fn of_a_bundle_the_roots_of_our_own_trust_domain_count() {
        let ((own, own_id), (other, other_id)) = (root("own"), root("other"));
        let roots = |pem: &[&String]| Roots {
            certificates: pem.iter().map(|pem| pem.as_str()).collect(),
            revoked: "-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n".into(),
        };
        let of = |verified: Verified| roots_in(&encode::secret(&trust::bundle(&verified), Vec::new()), "east");
        let apart = BTreeMap::from([("east".into(), roots(&[&own])), ("west".into(), roots(&[&other]))]);
        assert_eq!(of(Verified::Apart(apart)), BTreeSet::from([own_id.clone()]));
        assert_eq!(of(Verified::Together(roots(&[&own, &other]))), BTreeSet::from([own_id.clone(), other_id.clone()]));
        let told = Trust { everywhere: vec![own.into(), other.into()], ..Trust::default() };
        assert_eq!(roots_in(&encode::proxy_config(&trust::proxy_config(&told)), "east"), BTreeSet::from([own_id, other_id]));
    }
}
