//! Resources as they may be shown: a secret without its key, as in Envoy's own dumps.

use std::borrow::Cow;

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, secret},
};
use prost::Message;

use super::{resource::Resource, resource_type::ResourceType};

/// What stands in the place of a key.
const REDACTED: &[u8] = b"[redacted]";

/// Returns the bytes of a resource as they may be shown.
pub(super) fn redacted(resource: &Resource) -> Cow<'_, [u8]> {
    if resource.kind != ResourceType::Secret {
        return Cow::Borrowed(&resource.body);
    }
    let Ok(mut secret) = Secret::decode(&resource.body[..]) else { return Cow::Borrowed(&[]) };
    match &mut secret.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => {
            certificate.private_key = Some(DataSource { specifier: Some(Specifier::InlineBytes(REDACTED.to_vec())), ..Default::default() });
        }
        Some(secret::Type::ValidationContext(_)) => {}
        // No other is made, and whatever it is may be a key.
        Some(secret::Type::SessionTicketKeys(_) | secret::Type::GenericSecret(_)) | None => secret.r#type = None,
    }
    Cow::Owned(secret.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;

    use super::*;
    use crate::xds::{encode, render::resource_to_json};

    #[test]
    fn a_key_is_not_shown() {
        let inline = |text: &str| Some(DataSource { specifier: Some(Specifier::InlineString(text.into())), ..Default::default() });
        let certificate = TlsCertificate { certificate_chain: inline("chain"), private_key: inline("hunter2"), ..Default::default() };
        let secret = Secret { name: "kubernetes://till".into(), r#type: Some(secret::Type::TlsCertificate(certificate)) };
        let resource = encode::secret(&secret, Vec::new());
        assert!(String::from_utf8_lossy(&resource.body).contains("hunter2"));
        let shown = resource_to_json(&resource);
        assert_eq!(shown["tls_certificate"]["certificate_chain"]["inline_string"], "chain");
        assert!(!shown.to_string().contains("hunter2") && !format!("{resource:?}").contains("hunter2"), "{shown}");
    }
}
