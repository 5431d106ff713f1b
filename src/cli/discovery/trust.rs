//! Whom proxies trust besides who has a certificate of our own CA.

use std::time::Duration;

use crate::{cli::values::duration, serve::settings::TrustSettings};

/// Roots of other meshes.
#[derive(clap::Args)]
#[command(next_help_heading = "Roots of other meshes (MeshConfig caCertificates)")]
pub(super) struct TrustArguments {
    /// Whether proxies are given the roots of MeshConfig's `caCertificates`, each for its `trustDomains`, so that they trust workloads of
    /// other meshes. Off by default, as with istiod: then only the trust domains of these entries count, for certificates of our own CA.
    #[arg(
        long, env = "ISTIO_MULTIROOT_MESH", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new(),
        action = clap::ArgAction::Set, default_value = "false"
    )]
    multi_root_mesh: bool,

    /// How often roots that another mesh publishes (`spiffeBundleUrl`) are fetched again: a root that is new must be published for as
    /// long as that before it signs. The default is istiod's.
    #[arg(long, value_parser = duration, default_value = "30m")]
    spiffe_bundle_refresh_interval: Duration,
}

impl TrustArguments {
    pub(super) fn settings(&self) -> TrustSettings {
        // Sooner than once a second would be an attack on who publishes.
        TrustSettings { multi_root: self.multi_root_mesh, refresh: self.spiffe_bundle_refresh_interval.max(Duration::from_secs(1)) }
    }
}
