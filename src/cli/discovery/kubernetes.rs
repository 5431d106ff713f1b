//! The API server as the source.

use std::{path::PathBuf, time::Duration};

use clap::builder::TypedValueParser;

use crate::{
    cli::values::duration,
    controllers::{REVOCATION, ROOT_CERTIFICATE, election::Timing},
    serve::settings::ControllerSettings,
    source::kubernetes::{self, ClientSettings},
};

/// Which API server is asked, for what, and how much.
#[derive(clap::Args)]
#[command(next_help_heading = "Kubernetes (without --config-dir)")]
pub(super) struct KubernetesArguments {
    /// Kubeconfig file. Without it: the files of KUBECONFIG, /var/run/secrets/remote/config, the cluster that this pod
    /// runs in, ~/.kube/config; the first that is there.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig, if not its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Requests a second to the API server, on average.
    #[arg(long = "kubernetesApiQPS", value_name = "NUMBER", default_value_t = 80.0)]
    qps: f64,

    /// Requests to the API server that may come at once.
    #[arg(long = "kubernetesApiBurst", value_name = "NUMBER", default_value_t = 160)]
    burst: u32,

    /// Read only these namespaces, and our own: roles in them are then enough, but for Nodes and Namespaces. Without it
    /// all are read.
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', env = "ISTIO_WATCH_NAMESPACE")]
    watch_namespaces: Vec<String>,

    /// ConfigMap of our namespace with MeshConfig that lies below that of ConfigMap `istio` (`istio-<revision>`): what
    /// several revisions share. Not with a MeshConfig file. The role of manifests/base must be given its name.
    #[arg(long, value_name = "NAME", env = "SHARED_MESH_CONFIG")]
    shared_mesh_config: Option<String>,

    /// Audiences, one of which a service-account token must have.
    #[arg(long, value_name = "AUDIENCE", env = "TOKEN_AUDIENCES", value_delimiter = ',', default_value = "istio-ca")]
    pub(super) token_audiences: Vec<String>,

    /// A self-signed root gets an RSA key of this many bits (2048 or 4096), as istiod's. Without it one on P-256, which
    /// signs faster and which istiod reads as well.
    #[arg(
        long, value_name = "BITS", env = "CITADEL_SELF_SIGNED_CA_RSA_KEY_SIZE",
        value_parser = clap::builder::PossibleValuesParser::new(["2048", "4096"]).try_map(|bits| bits.parse::<u32>())
    )]
    pub(super) self_signed_rsa: Option<u32>,

    /// Name of the ConfigMaps with the root certificate, one in each namespace.
    #[arg(long, value_name = "NAME", env = "PILOT_CA_CERT_CONFIGMAP", default_value = ROOT_CERTIFICATE)]
    root_certificate: String,

    /// Name of the ConfigMaps with the lists of revoked certificates, one in each namespace as soon as there is `ca-crl.pem` beside
    /// the CA. Agents are injected to read istio-ca-crl.
    #[arg(long, value_name = "NAME", env = "PILOT_CRL_CONFIGMAP", default_value = REVOCATION)]
    revocation_list: String,

    /// How long a leader that is gone holds back the next one. The Lease is renewed for half of that, and looked at
    /// every quarter.
    #[arg(long, value_parser = duration, default_value = "30s", hide = true)]
    lease: Duration,
}

impl KubernetesArguments {
    /// Returns how the API server is called.
    pub(super) fn client(&self) -> ClientSettings {
        let Self { kubeconfig, context, qps, burst, .. } = self;
        ClientSettings { kubeconfig: kubeconfig.clone(), context: context.clone(), qps: *qps, burst: *burst }
    }

    /// Returns the settings of the source, for a control plane of `namespace` and `revision` in `cluster`.
    ///
    /// # Errors
    /// When there is no kubeconfig, or what it names cannot be used.
    pub(super) async fn source(&self, cluster: &str, namespace: &str, revision: &str) -> anyhow::Result<kubernetes::Settings> {
        Ok(kubernetes::Settings {
            client: kubernetes::client(&self.client()).await?,
            cluster: cluster.into(),
            namespace: namespace.into(),
            revision: revision.into(),
            watch_namespaces: self.watch_namespaces.iter().filter(|name| !name.is_empty()).map(Into::into).collect(),
            shared_mesh_config: self.shared_mesh_config.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            metrics: kubernetes::SourceMetrics::default(),
        })
    }

    /// Returns the settings of what one replica of several does.
    pub(super) fn controllers(&self) -> ControllerSettings {
        ControllerSettings {
            root_certificate: self.root_certificate.clone(),
            revocation: self.revocation_list.clone(),
            leadership: Timing::of_lease(self.lease),
        }
    }
}
