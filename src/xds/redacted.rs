//! Resources as they may be shown: a secret without its key, as in Envoy's own dumps, and a module without what a registry asks for.

use std::borrow::Cow;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
        extensions::{
            filters::{http::wasm::v3::Wasm as HttpWasm, network::wasm::v3::Wasm as NetworkWasm},
            transport_sockets::tls::v3::{Secret, secret},
            wasm::v3::{PluginConfig, plugin_config::Vm},
        },
    },
    google::protobuf::Any,
};
use prost::{DecodeError, Message, Name};

use super::{resource::Resource, resource_type::ResourceType};
use crate::translate::extension::PULL_SECRET;

/// What stands in the place of a key.
const REDACTED: &[u8] = b"[redacted]";
/// What stands in the place of what a registry asks for, as with istiod.
const REDACTED_CREDENTIALS: &str = "<Redacted>";

/// Returns the bytes of a resource as they may be shown.
pub(super) fn redacted(resource: &Resource) -> Cow<'_, [u8]> {
    let shown = match resource.kind {
        ResourceType::Secret => without_key(&resource.body),
        ResourceType::ExtensionConfig if names_credentials(&resource.body) => without_credentials(&resource.body),
        _ => return Cow::Borrowed(&resource.body),
    };
    Cow::Owned(shown.unwrap_or_default())
}

fn without_key(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut secret = Secret::decode(body)?;
    match &mut secret.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => {
            certificate.private_key = Some(DataSource { specifier: Some(Specifier::InlineBytes(REDACTED.to_vec())), ..Default::default() });
        }
        Some(secret::Type::ValidationContext(_)) => {}
        // No other is made, and whatever it is may be a key.
        Some(secret::Type::SessionTicketKeys(_) | secret::Type::GenericSecret(_)) | None => secret.r#type = None,
    }
    Ok(secret.encode_to_vec())
}

fn names_credentials(body: &[u8]) -> bool {
    body.windows(PULL_SECRET.len()).any(|window| window == PULL_SECRET.as_bytes())
}

fn without_credentials(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut config = TypedExtensionConfig::decode(body)?;
    if let Some(filter) = &mut config.typed_config {
        *filter = match filter.type_url {
            _ if filter.type_url == HttpWasm::type_url() => {
                let mut wasm = HttpWasm::decode(&filter.value[..])?;
                wasm.config.iter_mut().for_each(hide_credentials);
                Any { value: wasm.encode_to_vec(), type_url: HttpWasm::type_url() }
            }
            _ if filter.type_url == NetworkWasm::type_url() => {
                let mut wasm = NetworkWasm::decode(&filter.value[..])?;
                wasm.config.iter_mut().for_each(hide_credentials);
                Any { value: wasm.encode_to_vec(), type_url: NetworkWasm::type_url() }
            }
            // What names them in any other message is not known.
            _ => Any::default(),
        };
    }
    Ok(config.encode_to_vec())
}

fn hide_credentials(plugin: &mut PluginConfig) {
    let Some(Vm::VmConfig(vm)) = &mut plugin.vm else { return };
    let variables = vm.environment_variables.as_mut();
    let credentials = variables.and_then(|variables| variables.key_values.get_mut(PULL_SECRET));
    // An empty text says that there are none.
    if let Some(credentials) = credentials.filter(|credentials| !credentials.is_empty()) {
        *credentials = REDACTED_CREDENTIALS.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::extensions::{
        transport_sockets::tls::v3::TlsCertificate,
        wasm::v3::{EnvironmentVariables, VmConfig},
    };

    use super::*;
    use crate::{
        translate::{input::Built, wkt},
        xds::{encode, render::resource_to_json},
    };

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

    #[test]
    fn what_a_registry_asks_for_is_not_shown() {
        let key_values = HashMap::from([(PULL_SECRET.into(), "hunter2".into()), ("REALM".into(), "bank".into())]);
        let environment_variables = Some(EnvironmentVariables { key_values, ..Default::default() });
        let vm = Some(Vm::VmConfig(VmConfig { environment_variables, ..Default::default() }));
        let config = Some(PluginConfig { vm, ..Default::default() });
        for typed in [wkt::any(&HttpWasm { config: config.clone() }), wkt::any(&NetworkWasm { config })] {
            let message = TypedExtensionConfig { name: "f".into(), typed_config: Some(typed) };
            let resource = encode::extension_config(Built::new(message, []));
            assert!(String::from_utf8_lossy(&resource.body).contains("hunter2"));
            let shown = resource_to_json(&resource).to_string();
            assert!(shown.contains("<Redacted>") && shown.contains("bank") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn that_there_are_no_credentials_is_shown() {
        let key_values = HashMap::from([(PULL_SECRET.into(), String::new())]);
        let environment_variables = Some(EnvironmentVariables { key_values, ..Default::default() });
        let mut plugin =
            PluginConfig { vm: Some(Vm::VmConfig(VmConfig { environment_variables, ..Default::default() })), ..Default::default() };
        let before = plugin.clone();
        hide_credentials(&mut plugin);
        assert_eq!(plugin, before);
    }
}
