//! From where, and how often, the keys of token issuers are fetched.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::{
    cli::values::{duration, network},
    source::key_sets::{self, KeySetMetrics, Networks},
};

/// How key sets of RequestAuthentications are fetched.
#[derive(clap::Args)]
#[command(next_help_heading = "Keys of token issuers (RequestAuthentication)")]
pub(super) struct KeySetArguments {
    /// How often the keys of token issuers (RequestAuthentication) are fetched again: a key that is new must verify tokens for as long
    /// as that before it signs any.
    #[arg(long, env = "PILOT_JWT_PUB_KEY_REFRESH_INTERVAL", value_parser = duration, default_value = "20m")]
    jwks_refresh_interval: Duration,

    /// Networks, besides public ones, from which such keys may be fetched (10.96.0.0/12), because whoever writes a
    /// RequestAuthentication chooses what we call. Addresses of this host, of a link, of a cloud's metadata and of the API server are
    /// meant only if named one by one (127.0.0.1/32).
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    jwks_allowed_networks: Vec<IpNet>,

    /// Networks from which such keys are never fetched, whatever else is said.
    #[arg(long, value_name = "NETWORK", env = "BLOCKED_CIDRS_IN_JWKS_URIS", value_delimiter = ',', value_parser = network)]
    jwks_blocked_networks: Vec<IpNet>,

    /// File of root certificates, besides the system's, for issuers of tokens and for who publishes a mesh's roots (`spiffeBundleUrl`);
    /// it need not be there.
    #[arg(long, value_name = "FILE", default_value = "/cacerts/extra.pem")]
    jwks_ca: PathBuf,
}

impl KeySetArguments {
    /// Returns the settings; `api_server`: its names, which are not called unless allowed.
    pub(super) fn settings(&self, api_server: Vec<String>) -> key_sets::Settings {
        key_sets::Settings {
            // Sooner than once a second would be an attack on the issuer.
            refresh: self.jwks_refresh_interval.max(Duration::from_secs(1)),
            networks: Networks { allowed: self.jwks_allowed_networks.clone(), blocked: self.jwks_blocked_networks.clone() },
            api_server,
            roots: Some(self.jwks_ca.clone()),
            metrics: KeySetMetrics::default(),
        }
    }
}
