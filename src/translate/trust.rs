//! Whom proxies trust: the secret that peers are verified with, and what Istio's agents are told.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret, spiffe_cert_validator_config::TrustDomain,
    },
};
use smol_str::SmolStr;

use super::{tls::TRUST_BUNDLE, wkt};
use crate::{
    mesh::trust::{Roots, Trust, Verified},
    proto::mesh::ProxyConfig,
};

/// Envoy's verifier that knows which roots are for which trust domain.
const BY_TRUST_DOMAIN: &str = "envoy.tls.cert_validator.spiffe";

/// Makes the secret that peers are verified with.
pub fn bundle(verified: &Verified) -> Secret {
    let context = match verified {
        Verified::Together(roots) => CertificateValidationContext {
            trusted_ca: Some(inline(roots.certificates.clone())),
            crl: (!roots.revoked.is_empty()).then(|| inline(roots.revoked.to_string())),
            ..Default::default()
        },
        Verified::Apart(domains) => CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: BY_TRUST_DOMAIN.into(),
                typed_config: Some(wkt::any(&SpiffeCertValidatorConfig { trust_domains: by_domain(domains), ..Default::default() })),
            }),
            ..Default::default()
        },
    };
    Secret { name: TRUST_BUNDLE.into(), r#type: Some(secret::Type::ValidationContext(context)) }
}

/// Makes what Istio's agents are told.
pub fn proxy_config(trust: &Trust) -> ProxyConfig {
    ProxyConfig { ca_certificates_pem: trust.everywhere.iter().map(SmolStr::to_string).collect() }
}

// This verifier reads lists of revoked certificates out of the bundle.
fn by_domain(domains: &BTreeMap<SmolStr, Roots>) -> Vec<TrustDomain> {
    let domain = |(name, roots): (&SmolStr, &Roots)| TrustDomain {
        name: name.to_string(),
        trust_bundle: Some(inline(format!("{}{}", roots.certificates, roots.revoked))),
        ..Default::default()
    };
    domains.iter().map(domain).collect()
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() }
}
