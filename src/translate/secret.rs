//! Secrets for proxies: certificates with their keys, and what peers are verified with.

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret},
};

use crate::mesh::credential::{Confidential, KeyPair, Roots, SecretName};

/// Makes the secret of a certificate with its key.
pub fn key_pair(name: &SecretName, pair: &KeyPair) -> Secret {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(&pair.certificates)),
        private_key: Some(inline(&pair.key)),
        ocsp_staple: pair.ocsp_staple.iter().flatten().next().map(inline),
        ..Default::default()
    };
    Secret { name: name.to_string(), r#type: Some(secret::Type::TlsCertificate(certificate)) }
}

/// Makes the secret of what peers are verified with.
pub fn roots(name: &SecretName, roots: &Roots) -> Secret {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(&roots.certificates)),
        crl: roots.crl.as_ref().map(inline),
        ..Default::default()
    };
    Secret { name: name.to_string(), r#type: Some(secret::Type::ValidationContext(context)) }
}

fn inline(bytes: &Confidential) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes.reveal().to_vec())), ..Default::default() }
}
