//! The API server as the source.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::ensure;
use clap::builder::TypedValueParser;
use smol_str::SmolStr;

use crate::{
    cli::values::duration,
    controllers::{REVOCATION, ROOT_CERTIFICATE, election::Timing},
    serve::settings::{ControllerSettings, RemoteClusterSettings},
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

    /// Other names of clusters, separated by commas: a caller that names one is in the cluster that it stands for. One for each cluster.
    #[arg(long = "clusterAliases", value_name = "ALIAS=CLUSTER", value_delimiter = ',', value_parser = alias)]
    cluster_aliases: Vec<(SmolStr, SmolStr)>,

    /// What kubeconfigs of remote clusters (Secrets with label istio/multiCluster) may ask for, separated by commas: exec, tokenFile,
    /// clientKey, clientCertificate, certificateAuthority, insecureSkipTlsVerify, or the name of an auth provider. Without it nothing of
    /// that, since it runs programs here, reads our files, or trusts whoever answers.
    #[arg(long, value_name = "OPTION", value_delimiter = ',', env = "PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS")]
    insecure_kubeconfig_options: Vec<SmolStr>,

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

    /// Returns how callers of other clusters are known.
    ///
    /// # Errors
    /// When a cluster has two aliases, or an alias stands for two clusters.
    pub(super) fn remote_clusters(&self) -> anyhow::Result<RemoteClusterSettings> {
        let (mut aliases, mut named) = (BTreeMap::new(), BTreeSet::new());
        for (alias, cluster) in &self.cluster_aliases {
            ensure!(named.insert(cluster), "--clusterAliases: cluster {cluster} has more than one alias; leave one");
            let other = aliases.insert(alias.clone(), cluster.clone());
            ensure!(other.is_none(), "--clusterAliases: {alias} stands for more than one cluster; leave one");
        }
        let insecure_options = self.insecure_kubeconfig_options.iter().filter(|option| !option.is_empty()).cloned().collect();
        Ok(RemoteClusterSettings { aliases, insecure_options })
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

fn alias(text: &str) -> Result<(SmolStr, SmolStr), String> {
    let pair = text.split_once('=').filter(|(alias, cluster)| !alias.is_empty() && !cluster.is_empty());
    let (alias, cluster) = pair.ok_or("write alias=cluster")?;
    Ok((alias.into(), cluster.into()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: KubernetesArguments,
    }

    fn remote_clusters(aliases: &str) -> anyhow::Result<RemoteClusterSettings> {
        let options = "--insecure-kubeconfig-options=exec,,gcp";
        Program::try_parse_from(["istiod-lite", &format!("--clusterAliases={aliases}"), options])?.arguments.remote_clusters()
    }

    #[test]
    fn a_cluster_has_one_alias() {
        let read = remote_clusters("home=here,orient=east").unwrap();
        assert_eq!((read.aliases.len(), read.aliases["orient"].as_str()), (2, "east"));
        assert_eq!(read.insecure_options, ["exec".into(), "gcp".into()].into());
        for (wrong, says) in [("a=east,b=east", "more than one alias"), ("a=east,a=west", "more than one cluster"), ("a", "alias=cluster")]
        {
            let refused = remote_clusters(wrong).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
