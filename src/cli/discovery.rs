//! `istiod-lite discovery`

mod authority;
mod key_sets;
mod kubernetes;
mod limits;
mod signers;
mod state_dir;
mod tls;
mod trust;
mod without_effect;

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use self::{
    authority::AuthorityArguments, key_sets::KeySetArguments, kubernetes::KubernetesArguments, limits::LimitArguments,
    signers::SignerArguments, tls::TlsArguments, trust::TrustArguments, without_effect::WithoutEffect,
};
use crate::{
    cli::{
        features::FeatureArguments,
        inject::InjectionArguments,
        values::{ListenAddress, duration, listen_address, listen_address_or_none},
    },
    serve::{
        discovery,
        settings::{ClusterSettings, IdentitySettings, Instance, ListenSettings, ObjectSource, Settings},
    },
    source::{debounce, kubernetes as kubernetes_source},
    xds::session,
};

/// Where istiod's chart mounts ConfigMap `istio`.
const MOUNTED_MESH_CONFIG: &str = "./etc/istio/config/mesh";

/// The port at which the API server calls the webhooks.
const WEBHOOKS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15017);

/// Runs the control plane: reads objects, serves xDS to proxies and certificates to workloads.
///
/// Objects come from a Kubernetes API server, or with --config-dir from a folder. Flags and environment variables have
/// istiod's names where istiod has them.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Folder of YAML (or JSON) with Kubernetes and Istio objects, watched with all folders below it. Without it objects
    /// come from the API server.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// MeshConfig file; built-in defaults hold for what it does not say. Watched like the folder. With the API server as
    /// source ./etc/istio/config/mesh is taken when it is there, and else ConfigMap `istio` (`istio-<revision>`) of our
    /// namespace.
    #[arg(long = "meshConfig", value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// HTTP: /ready and /debug.
    #[arg(long = "httpAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":8080")]
    http: SocketAddr,

    /// Plaintext gRPC: xDS without identity. Empty (`--grpcAddr ""`) switches it off. What proxies take or refuse here counts neither
    /// for convergence nor for the status of objects, since nobody proves who they are.
    #[arg(long = "grpcAddr", value_name = "ADDRESS", value_parser = listen_address_or_none, default_value = ":15010")]
    grpc: ListenAddress,

    /// TLS gRPC: xDS and certificates.
    #[arg(long = "secureGRPCAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":15012")]
    secure_grpc: SocketAddr,

    /// HTTP: /metrics, /version and /debug.
    #[arg(long = "monitoringAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":15014")]
    monitoring: SocketAddr,

    /// HTTPS: webhooks of the API server [default: :15017; none with --config-dir].
    #[arg(long = "httpsAddr", value_name = "ADDRESS", value_parser = listen_address)]
    https: Option<SocketAddr>,

    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    domain: String,

    /// Id of the cluster that the objects belong to.
    #[arg(long = "clusterID", env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,

    #[command(flatten)]
    features: FeatureArguments,

    /// Names and addresses (besides istiod.<namespace>.svc and localhost) in the TLS port's certificate.
    #[arg(long = "tls-san", value_name = "NAME", env = "ISTIOD_CUSTOM_HOST", value_delimiter = ',')]
    tls_sans: Vec<String>,

    /// Namespace that the control plane says it runs in.
    #[arg(long, short, env = "POD_NAMESPACE", default_value = "istio-system")]
    namespace: String,

    /// Revision of this control plane. Istio objects labelled with another one (`istio.io/rev`) are not read.
    #[arg(long, env = "REVISION", default_value = "default")]
    revision: String,

    /// Name of the pod that the control plane runs in.
    #[arg(long, env = "POD_NAME", default_value = "", hide_default_value = true)]
    pod_name: String,

    /// Service account that the control plane runs as.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "", hide_default_value = true)]
    service_account: String,

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

    /// Sends every change at once instead of making before breaking: for experiments that show what the order is worth.
    #[arg(long, hide = true)]
    unordered_rollout: bool,

    /// Log lines as JSON.
    #[arg(long = "log_as_json")]
    log_as_json: bool,

    /// What is logged, as `info` or `istiod_lite=debug,info`.
    #[arg(long = "log_output_level", env = "RUST_LOG", default_value = "info")]
    log_level: String,

    // Last, because a heading counts for all flags after it.
    #[command(flatten)]
    tls: TlsArguments,

    #[command(flatten)]
    authority: AuthorityArguments,

    #[command(flatten)]
    signers: SignerArguments,

    #[command(flatten)]
    limits: LimitArguments,

    #[command(flatten)]
    trust: TrustArguments,

    #[command(flatten)]
    key_sets: KeySetArguments,

    #[command(flatten)]
    kubernetes: KubernetesArguments,

    #[command(flatten)]
    injection: InjectionArguments,

    #[command(flatten)]
    without_effect: WithoutEffect,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    if let Err(error) = super::log::start(&arguments.log_level, arguments.log_as_json) {
        eprintln!("error: --log_output_level: {error}; write info, or istiod_lite=debug,info");
        return ExitCode::from(2);
    }
    super::conceal();
    super::block_on(async { discovery::run(arguments.settings().await?).await })
}

impl Arguments {
    async fn settings(self) -> anyhow::Result<Settings> {
        self.without_effect.warn();
        let of_cluster = self.config_dir.is_none();
        Ok(Settings {
            source: self.source().await?,
            cluster: self.cluster(),
            listen: self.listen(),
            identity: IdentitySettings {
                registration: self.signers.settings()?,
                remote_clusters: self.kubernetes.remote_clusters()?,
                ..self.authority.settings(&self.kubernetes)
            },
            controllers: self.kubernetes.controllers(),
            connections: self.limits.connections(),
            limits: self.limits.limits(),
            bounds: self.limits.bounds(),
            trust: self.trust.settings(),
            key_sets: self.key_sets.settings(self.api_server().await?),
            debounce: debounce::Settings { after: self.debounce_after, max: self.debounce_max, ..debounce::Settings::default() },
            rollout: session::Settings { ordered: !self.unordered_rollout, gate: self.gate_deadline, drain: self.drain_time },
            tls: self.tls.settings(self.tls_sans, of_cluster)?,
            injection: self.injection.settings(&self.namespace, &self.revision, &self.cluster_id, &self.domain),
            instance: Instance {
                namespace: self.namespace,
                revision: self.revision,
                pod: self.pod_name,
                service_account: self.service_account,
            },
        })
    }

    fn cluster(&self) -> ClusterSettings {
        let mounted = || Some(PathBuf::from(MOUNTED_MESH_CONFIG)).filter(|path| self.config_dir.is_none() && path.is_file());
        ClusterSettings {
            config_file: self.mesh_config.clone().or_else(mounted),
            domain: self.domain.clone(),
            cluster_id: self.cluster_id.clone(),
            features: self.features.features(),
        }
    }

    fn listen(&self) -> ListenSettings {
        ListenSettings {
            http: self.http,
            grpc: self.grpc.0,
            secure_grpc: self.secure_grpc,
            monitoring: self.monitoring,
            https: self.https.or_else(|| self.config_dir.is_none().then_some(WEBHOOKS)),
        }
    }

    /// Returns the names of the API server, if it is the source.
    async fn api_server(&self) -> anyhow::Result<Vec<String>> {
        match self.config_dir {
            Some(_) => Ok(Vec::new()),
            None => kubernetes_source::server_names(&self.kubernetes.client()).await,
        }
    }

    async fn source(&self) -> anyhow::Result<ObjectSource> {
        if let Some(folder) = &self.config_dir {
            return Ok(ObjectSource::Folder(folder.clone()));
        }
        let source = self.kubernetes.source(&self.cluster_id, &self.namespace, &self.revision).await?;
        Ok(ObjectSource::Kubernetes(Box::new(source)))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, String> {
        let parsed = Program::try_parse_from(["discovery"].into_iter().chain(line.split_whitespace()));
        parsed.map(|program| program.arguments).map_err(|error| error.to_string())
    }

    /// Checks the flags of istiod's Deployment, with what users add to it.
    #[test]
    fn the_charts_command_line_is_understood() {
        let chart = "--monitoringAddr=:15014 --log_output_level=default:info --log_as_json --domain cluster.local \
                     --cniNamespace=kube-system --keepaliveMaxServerConnectionAge 30m";
        let added = "--kubernetesApiQPS=80.0 --kubernetesApiBurst 160 -n istio-system --registries Kubernetes --profile=false \
                     --networksConfig ./etc/istio/config/meshNetworks --clusterID Kubernetes --ctrlz_port 9876 --tls-min-version TLSv1_3 \
                     --shutdownDuration 10s --keepaliveInterval 30s --keepaliveTimeout 10s --log_target stderr";
        let arguments = parse(&format!("{chart} {added}")).unwrap();
        assert_eq!((arguments.namespace.as_str(), arguments.limits.connections().max_age), ("istio-system", Duration::from_secs(1800)));
        assert_eq!(arguments.tls.protocol().unwrap().suites().len(), 6);
    }

    #[test]
    fn the_plaintext_port_can_be_switched_off() {
        assert_eq!(parse("--grpcAddr=").unwrap().listen().grpc, None);
        assert_eq!(parse("").unwrap().listen().grpc.map(|address| address.port()), Some(15010));
        assert!(parse("--secureGRPCAddr=").is_err());
    }

    #[test]
    fn only_flags_without_effect_are_listed_as_such() {
        let command = Program::command();
        let listed =
            command.get_arguments().filter(|argument| argument.get_help_heading().is_some_and(|heading| heading.contains("no effect")));
        let listed: Vec<&str> = listed.map(|argument| argument.get_id().as_str()).collect();
        assert!(listed.contains(&"networks_config") && listed.len() == 10, "{listed:?}");
        let heading = |id: &str| command.get_arguments().find(|argument| argument.get_id() == id).unwrap().get_help_heading();
        assert_eq!((heading("mesh_config"), heading("log_level")), (None, None));
    }

    #[test]
    fn mistakes_are_refused() {
        for (line, message) in [
            ("--registries Consul", "[possible values: Kubernetes]"),
            ("--tlsCertFile a.pem --tlsKeyFile b.pem", "--caCertFile"),
            ("--tls-min-version TLSv1_1", "[possible values: TLSv1_2, TLSv1_3]"),
            ("--meshconfig a.yaml", "'--meshConfig'"),
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} is taken"));
            assert!(error.contains(message), "{line}: {error}");
        }
        let unknown = parse("--tls-cipher-suites TLS_RSA_WITH_RC4_128_SHA").unwrap();
        assert!(unknown.tls.protocol().unwrap_err().to_string().contains("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"));
    }
}
