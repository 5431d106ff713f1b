//! `networking.istio.io ProxyConfig`

use smol_str::SmolStr;

use crate::api::Labels;

/// `spec` of a ProxyConfig. MeshConfig and annotations have a message of that name with many more fields:
/// [`crate::api::proxy_config::ProxyConfig`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `selector.matchLabels`; `None` for the whole namespace.
    pub selector: Option<Labels>,
    /// `concurrency`: the number of Envoy's worker threads; 0 for one per CPU that the container may use.
    pub concurrency: Option<u32>,
    /// `environmentVariables` of the proxy's container.
    pub environment_variables: Labels,
    /// `image.imageType`
    pub image_type: Option<SmolStr>,
}
