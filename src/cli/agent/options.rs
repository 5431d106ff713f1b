//! The flags of `istiod-lite agent`.

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::{agent::settings::InterceptionMode, cli::values};

#[derive(Args)]
pub(super) struct ProxyOptions {
    #[command(flatten)]
    pub(super) workload: WorkloadOptions,
    #[command(flatten)]
    pub(super) discovery: DiscoveryOptions,
    #[command(flatten)]
    pub(super) listen: ListenOptions,
    #[command(flatten)]
    pub(super) envoy: EnvoyArguments,
}

#[derive(Args)]
#[command(next_help_heading = "Workload")]
pub(super) struct WorkloadOptions {
    /// Pod name
    #[arg(long, alias = "pod-name", env = "POD_NAME")]
    pub(super) name: String,
    /// Namespace
    #[arg(long, env = "POD_NAMESPACE")]
    pub(super) namespace: String,
    /// Service account
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    pub(super) service_account: String,
    /// Instance address; repeated or comma-separated, the first is the primary [default: INSTANCE_IP, the listen address]
    #[arg(long, alias = "instance-ip", env = "INSTANCE_IPS", value_delimiter = ',')]
    pub(super) ip: Vec<IpAddr>,
    /// Workload labels
    #[arg(long, alias = "label", value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
    /// File of workload labels as the downward API writes it, one `key="value"` a line [default: /etc/istio/pod/labels if it is there]
    #[arg(long, value_name = "FILE")]
    pub(super) labels_file: Option<PathBuf>,
    /// File of the pod's annotations, likewise [default: /etc/istio/pod/annotations if it is there]
    #[arg(long, value_name = "FILE")]
    pub(super) annotations_file: Option<PathBuf>,
    /// Name of the Deployment or the like [default: the pod name]
    #[arg(long, env = "ISTIO_META_WORKLOAD_NAME")]
    pub(super) workload_name: Option<String>,
    /// How traffic is captured [default: as PROXY_CONFIG says, REDIRECT]
    #[arg(long, alias = "interception-mode", env = "ISTIO_META_INTERCEPTION_MODE", value_enum, ignore_case = true)]
    pub(super) interception: Option<InterceptionMode>,
    /// Cluster that the workload runs in
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes")]
    pub(super) cluster_id: String,
    /// Mesh [default: the trust domain]
    #[arg(long, env = "ISTIO_META_MESH_ID")]
    pub(super) mesh_id: Option<String>,
    /// Node that the workload runs on
    #[arg(long, env = "ISTIO_META_NODE_NAME", default_value = "")]
    pub(super) node_name: String,
    /// Network that the workload is in
    #[arg(long, env = "ISTIO_META_NETWORK", default_value = "")]
    pub(super) network: String,
    /// Trust domain
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub(super) trust_domain: String,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub(super) dns_domain: String,
}

#[derive(Args)]
#[command(next_help_heading = "Control plane")]
pub(super) struct DiscoveryOptions {
    /// Where the control plane serves xDS over TLS [default: as PROXY_CONFIG says, istiod.istio-system.svc:15012]
    #[arg(long, env = "DISCOVERY_ADDRESS", value_name = "HOST:PORT")]
    pub(super) discovery_address: Option<String>,
    /// Where certificates are signed [default: the discovery address]
    #[arg(long, env = "CA_ADDR", value_name = "HOST:PORT")]
    pub(super) ca_address: Option<String>,
    /// Name that the control plane's certificate must carry [default: the host of the discovery address, istiod.istio-system.svc when that is an IP address]
    #[arg(long, env = "ISTIOD_SAN", alias = "discovery-sni", value_name = "NAME")]
    pub(super) discovery_san: Option<String>,
    /// Roots that the control plane's certificate must chain to
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub(super) root_cert: PathBuf,
    /// Lists of revoked certificates, of each CA up to the root; Envoy refuses peers that are in them. The file need not be there, and
    /// is read again every 5 seconds
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/istio/crl/ca-crl.pem")]
    pub(super) revocation_list: PathBuf,
    /// Token that says who the workload is; an empty value means none
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/tokens/istio-token")]
    pub(super) token_file: PathBuf,
    /// Lifetime of certificates to ask for
    #[arg(long, env = "SECRET_TTL", default_value = "24h", value_parser = duration)]
    pub(super) cert_ttl: Duration,
    /// Part of a certificate's life after which it is renewed
    #[arg(long, env = "SECRET_GRACE_PERIOD_RATIO", default_value_t = 0.5, value_parser = fraction)]
    pub(super) renew_at_fraction: f64,
    /// Folder into which key, certificate and roots are written as well (key.pem, cert-chain.pem, root-cert.pem), for programs beside
    /// the proxy that speak mutual TLS by themselves
    #[arg(long, env = "OUTPUT_CERTS", value_name = "FOLDER")]
    pub(super) output_certs: Option<PathBuf>,
    /// Delta xDS (the default)
    #[arg(long, overrides_with = "sotw")]
    pub(super) delta: bool,
    /// State-of-the-world xDS (also by ISTIO_DELTA_XDS=false)
    #[arg(long, overrides_with = "delta")]
    pub(super) sotw: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Addresses")]
pub(super) struct ListenOptions {
    /// Address for every port of agent and admin [default: all addresses, admin on loopback]
    #[arg(long, alias = "listen", value_name = "IP")]
    pub(super) listen_address: Option<IpAddr>,
    /// Envoy's admin [default: as PROXY_CONFIG says, 15000]
    #[arg(long)]
    pub(super) admin_port: Option<u16>,
    /// Readiness
    #[arg(long, default_value_t = 15021)]
    pub(super) status_port: u16,
    /// Envoy's metrics
    #[arg(long, default_value_t = 15090)]
    pub(super) prometheus_port: u16,
    /// The agent's own [default: as PROXY_CONFIG says, 15020]
    #[arg(long)]
    pub(super) agent_port: Option<u16>,
}

#[derive(Args)]
#[command(next_help_heading = "Envoy")]
pub(super) struct EnvoyArguments {
    /// Envoy's binary [default: `envoy` in the PATH]
    #[arg(long, env = "ENVOY", value_name = "FILE")]
    pub(super) envoy: Option<PathBuf>,
    /// Worker threads; 0: one for each CPU [default: as PROXY_CONFIG says, ISTIO_CPU_LIMIT, 2]
    #[arg(long)]
    pub(super) concurrency: Option<u32>,
    /// Keep all of Envoy's statistics, not only those that dashboards read
    #[arg(long, env = "ENVOY_ALL_STATISTICS", action = clap::ArgAction::Set, num_args = 0..=1, default_value = "false",
          default_missing_value = "true")]
    pub(super) all_statistics: bool,
    /// Folder for sockets and bootstrap [default: one of its own in the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(super) work_dir: Option<PathBuf>,
    /// How long the connections of a changed or removed listener may stay [default: as PROXY_CONFIG says, 45s]
    #[arg(long, value_parser = duration)]
    pub(super) drain_duration: Option<Duration>,
    /// The longest time that open connections get when the proxy ends [default: as PROXY_CONFIG says, 5s]
    #[arg(long, env = "TERMINATION_DRAIN_DURATION_SECONDS", value_parser = duration)]
    pub(super) termination_drain_duration: Option<Duration>,
    /// The shortest drain, even with no connection open: how long others may still send to this proxy, not knowing that it ends
    #[arg(long, env = "MINIMUM_DRAIN_DURATION", default_value = "5s", value_parser = duration)]
    pub(super) minimum_drain_duration: Duration,
    /// Give open connections as long as they need, not the termination drain duration
    #[arg(long, env = "EXIT_ON_ZERO_ACTIVE_CONNECTIONS", action = clap::ArgAction::Set, num_args = 0..=1, default_value = "false",
          default_missing_value = "true")]
    pub(super) exit_on_zero_active_connections: bool,
    /// Further argument for Envoy; repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(super) envoy_arg: Vec<OsString>,
    /// Envoy's log level
    #[arg(long, default_value = "warning")]
    pub(super) envoy_log_level: String,
    /// The agent's log level, or `target=level,…`
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub(super) log_level: String,
}

impl ValueEnum for InterceptionMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Redirect, Self::Tproxy, Self::None]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a duration as Go writes it; a bare number is seconds, as in `TERMINATION_DRAIN_DURATION_SECONDS`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| values::duration(text))
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("must lie between 0 and 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fractions_and_labels() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("45"), Ok(Duration::from_secs(45)));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert!(fraction("1").is_err() && fraction("0.5").is_ok());
        assert!(label("app").is_err());
    }
}
