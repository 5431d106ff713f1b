//! The CA, and how long what it issues lives.

use std::{env, path::PathBuf, time::Duration};

use super::{kubernetes::KubernetesArguments, state_dir};
use crate::{
    cli::values::{Accounts, OptionalRule, accounts, duration, jwt_rule},
    identity::{ca::IssuePolicy, key::KeyType},
    serve::settings::{IdentitySettings, RemoteClusterSettings},
};

/// Who signs certificates, for whom and for how long.
#[derive(clap::Args)]
#[command(next_help_heading = "Certificates of workloads")]
pub(super) struct AuthorityArguments {
    /// Folder with the signing CA: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem (what `istiod-lite ca
    /// intermediate` makes and Istio's `cacerts` secret holds), and ca-crl.pem if certificates were revoked.
    /// A folder that holds a root's key is refused. With the API server as source and no CA in the folder, Secret `cacerts` of our namespace is taken, else `istio-ca-secret`: a
    /// self-signed root, made when there is none. With --config-dir and no CA there, a self-signed root is made and kept in
    /// --state-dir [default: ./etc/cacerts]
    #[arg(long, value_name = "DIR", env = "ROOT_CA_DIR")]
    ca_dir: Option<PathBuf>,

    /// Folder in which a self-signed root is kept, readable by its owner alone; only with --config-dir and without a CA
    /// [default: $STATE_DIRECTORY, else istiod-lite in $XDG_STATE_HOME, else ~/.local/state/istiod-lite].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Folder of the local token issuer (see `istiod-lite ca issuer`): callers on the TLS port prove who they are by
    /// its tokens. Without it, only by a workload certificate.
    #[arg(long, value_name = "DIR")]
    token_issuer_dir: Option<PathBuf>,

    /// Another issuer whose tokens prove who calls, for machines and clusters that have one, as JSON: `{"issuer":
    /// "https://issuer.example.com", "jwks_uri": "https://…", "audiences": ["istio-ca"]}`. Without jwks_uri its OpenID configuration
    /// says where its keys are. Subjects are as Kubernetes writes them, system:serviceaccount:NAMESPACE:NAME: who signs for it can be
    /// any workload.
    #[arg(long, value_name = "JSON", env = "JWT_RULE", value_parser = jwt_rule, default_value = "", hide_default_value = true)]
    jwt_rule: OptionalRule,

    /// Service accounts (istio-system/ztunnel) of proxies that serve a whole node, separated by commas: they may ask for certificates
    /// of the pods on their own node.
    #[arg(
        long, value_name = "NAMESPACE/NAME", env = "CA_TRUSTED_NODE_ACCOUNTS", value_parser = accounts, default_value = "",
        hide_default_value = true
    )]
    trusted_node_accounts: Accounts,

    /// How long a workload's certificate lives when its request does not say.
    #[arg(long, env = "DEFAULT_WORKLOAD_CERT_TTL", value_parser = duration, default_value = "24h")]
    default_certificate_ttl: Duration,

    /// The longest that a workload's certificate may live; a request for more is refused.
    #[arg(long, env = "MAX_WORKLOAD_CERT_TTL", value_parser = duration, default_value = "2160h")]
    max_certificate_ttl: Duration,
}

impl AuthorityArguments {
    /// Returns the settings; with the API server as source, callers and a self-signed root are as `cluster` says.
    pub(super) fn settings(&self, cluster: &KubernetesArguments) -> IdentitySettings {
        IdentitySettings {
            ca_dir: self.ca_dir.clone(),
            state_dir: self.state_dir.clone().unwrap_or_else(|| state_dir::default_for(|name| env::var_os(name))),
            self_signed_key: cluster
                .self_signed_rsa
                .map_or(KeyType::P256, |bits| if bits > 2048 { KeyType::Rsa4096 } else { KeyType::Rsa2048 }),
            issue: IssuePolicy { default_ttl: self.default_certificate_ttl, max_ttl: self.max_certificate_ttl, ..IssuePolicy::default() },
            token_issuer_dir: self.token_issuer_dir.clone(),
            token_audiences: cluster.token_audiences.clone(),
            jwt_rule: self.jwt_rule.0.clone(),
            trusted_node_accounts: self.trusted_node_accounts.0.clone(),
            registration: None,
            remote_clusters: RemoteClusterSettings::default(),
        }
    }
}
