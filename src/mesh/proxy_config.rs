//! ProxyConfig objects: how proxies are started that are injected from now on (contract §6.8).

use super::model::Labels;
use crate::api::{istio, proxy_config};

/// What a ProxyConfig says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The labels of the pods that it is for; `None`: the whole namespace.
    pub selector: Option<Labels>,
    /// What it says of their proxies.
    pub config: proxy_config::ProxyConfig,
}

/// Converts a ProxyConfig.
pub(in crate::mesh) fn proxy_config(written: &istio::ProxyConfig) -> ProxyConfig {
    let config = proxy_config::ProxyConfig {
        concurrency: written.concurrency,
        proxy_metadata: written.environment_variables.clone(),
        image_type: written.image_type.clone(),
        ..proxy_config::ProxyConfig::default()
    };
    ProxyConfig { selector: written.selector.clone(), config }
}
