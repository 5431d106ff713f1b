//! `istiod-lite discovery`

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use crate::{
    cli::values::{duration, listen_address},
    serve::discovery::{self, Settings},
};

/// Runs the control plane: reads objects, serves xDS to proxies and certificates to workloads.
///
/// Flags have istiod's names where istiod has them.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Folder of YAML (or JSON) with Kubernetes and Istio objects, watched with all folders below it.
    #[arg(long, value_name = "DIR")]
    config_dir: PathBuf,

    /// Folder with the signing CA: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem (what `istiod-lite ca
    /// intermediate` makes and Istio's `cacerts` secret holds). A folder that holds a root's key is refused.
    #[arg(long, value_name = "DIR", env = "ROOT_CA_DIR", default_value = "./etc/cacerts")]
    ca_dir: PathBuf,

    /// Folder of the local token issuer (see `istiod-lite ca issuer`): callers on the TLS port prove who they are by
    /// its tokens. Without it, only by a workload certificate.
    #[arg(long, value_name = "DIR")]
    token_issuer_dir: Option<PathBuf>,

    /// MeshConfig file; built-in defaults hold for what it does not say. Watched like the folder.
    #[arg(long = "meshConfig", value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// HTTP: /ready and /debug.
    #[arg(long = "httpAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":8080")]
    http: SocketAddr,

    /// Plaintext gRPC: xDS without identity.
    #[arg(long = "grpcAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":15010")]
    grpc: SocketAddr,

    /// TLS gRPC: xDS and certificates.
    #[arg(long = "secureGRPCAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":15012")]
    secure_grpc: SocketAddr,

    /// HTTP: /metrics, /version and /debug.
    #[arg(long = "monitoringAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":15014")]
    monitoring: SocketAddr,

    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    domain: String,

    /// Id of the cluster that the objects belong to.
    #[arg(long = "clusterID", env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,

    /// Names and addresses (besides istiod.<namespace>.svc and localhost) in the TLS port's certificate.
    #[arg(long = "tls-san", value_name = "NAME", env = "ISTIOD_CUSTOM_HOST", value_delimiter = ',')]
    tls_sans: Vec<String>,

    /// Namespace that the control plane says it runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    namespace: String,

    /// Name of this process among its replicas, as clients are told it.
    #[arg(long = "instance", value_name = "NAME", env = "POD_NAME", default_value = "istiod-lite")]
    instance: String,

    /// How long streams under way may go on after SIGTERM.
    #[arg(long = "shutdownDuration", value_parser = duration, default_value = "10s")]
    shutdown: Duration,

    /// A gRPC connection older than this is asked to reconnect.
    #[arg(long = "keepaliveMaxServerConnectionAge", value_parser = duration, default_value = "30m")]
    max_connection_age: Duration,

    /// Quiet that ends a batch of configuration changes.
    #[arg(long, env = "PILOT_DEBOUNCE_AFTER", value_parser = duration, default_value = "100ms")]
    debounce_after: Duration,

    /// The longest that a configuration change waits for quiet.
    #[arg(long, env = "PILOT_DEBOUNCE_MAX", value_parser = duration, default_value = "10s")]
    debounce_max: Duration,

    /// How long a rollout waits for a proxy's ACK before it goes on without.
    #[arg(long, value_parser = duration, default_value = "5s")]
    gate_deadline: Duration,

    /// How long connections of a removed TCP listener may still use its clusters; as the proxies' drain time.
    #[arg(long, value_parser = duration, default_value = "45s")]
    drain_time: Duration,

    /// Speaks of every change at once instead of make before break: for experiments that show what the order is worth.
    #[arg(long, hide = true)]
    unordered_rollout: bool,

    /// Log lines as JSON.
    #[arg(long = "log_as_json")]
    log_as_json: bool,

    /// What is logged, as `info` or `istiod_lite=debug,info`.
    #[arg(long = "log_output_level", env = "RUST_LOG", default_value = "info")]
    log_level: String,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    if let Err(error) = super::log::start(&arguments.log_level, arguments.log_as_json) {
        eprintln!("error: --log_output_level: {error}");
        return ExitCode::from(2);
    }
    super::block_on(discovery::run(arguments.settings()))
}

impl Arguments {
    fn settings(self) -> Settings {
        Settings {
            config_dir: self.config_dir,
            ca_dir: self.ca_dir,
            token_issuer_dir: self.token_issuer_dir,
            mesh_config: self.mesh_config,
            http: self.http,
            grpc: self.grpc,
            secure_grpc: self.secure_grpc,
            monitoring: self.monitoring,
            domain: self.domain,
            cluster_id: self.cluster_id,
            tls_sans: self.tls_sans,
            namespace: self.namespace,
            instance: self.instance,
            shutdown: self.shutdown,
            max_connection_age: self.max_connection_age,
            debounce: crate::source::debounce::Settings {
                after: self.debounce_after,
                max: self.debounce_max,
                ..crate::source::debounce::Settings::default()
            },
            gate_deadline: self.gate_deadline,
            unordered: self.unordered_rollout,
            drain_time: self.drain_time,
        }
    }
}
