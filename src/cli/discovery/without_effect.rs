//! Settings of istiod that have no effect here: they are accepted, so that its chart starts us, and named in the log.

use std::env;

/// Variables that change what istiod does and have no effect here, each with the values that ask for what we do anyway.
const VARIABLES: [(&str, &[&str]); 20] = [
    ("PILOT_JWT_ENABLE_REMOTE_JWKS", &["false"]),
    ("XDS_AUTH", &["true"]),
    ("PILOT_ENABLE_XDS_IDENTITY_CHECK", &["true"]),
    ("TRUSTED_GATEWAY_CIDR", &[]),
    ("EXTERNAL_ISTIOD", &["false"]),
    ("LOCAL_CLUSTER_SECRET_WATCHER", &["false"]),
    ("PILOT_MULTICLUSTER_KUBECONFIG_PATH", &[]),
    ("PILOT_REMOTE_CLUSTER_TIMEOUT", &["30s"]),
    ("ENABLE_CLUSTER_TRUST_BUNDLE_API", &["false"]),
    ("USE_CACERTS_FOR_SELF_SIGNED_CA", &["false"]),
    ("PILOT_ENABLE_AMBIENT", &["false"]),
    ("PILOT_ENABLE_GATEWAY_API", &["false"]),
    ("PILOT_ENABLE_ANALYSIS", &["false"]),
    ("PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS", &["false"]),
    ("PILOT_ENABLE_K8S_SELECT_WORKLOAD_ENTRIES", &["true"]),
    ("PILOT_SEND_UNHEALTHY_ENDPOINTS", &["false"]),
    ("PILOT_SCOPE_GATEWAY_TO_NAMESPACE", &["false"]),
    ("PILOT_MAX_REQUESTS_PER_SECOND", &["0"]),
    ("PILOT_TRACE_SAMPLING", &["1"]),
    ("ENABLE_DEBUG_ON_HTTP", &["true"]),
];

/// Flags of istiod that are taken and have no effect.
#[derive(clap::Args)]
#[command(next_help_heading = "Flags of istiod that are taken and have no effect; the log names those that are given")]
pub(super) struct WithoutEffect {
    /// Networks of the mesh: endpoints of other networks are sent as they are.
    #[arg(long = "networksConfig", value_name = "FILE")]
    networks_config: Option<String>,

    /// Where Secrets of remote clusters are: they are read from our own namespace.
    #[arg(long = "clusterRegistriesNamespace", value_name = "NAMESPACE")]
    cluster_registries_namespace: Option<String>,

    /// Where Istio's CNI runs: nodes are not untainted.
    #[arg(long = "cniNamespace", value_name = "NAMESPACE")]
    cni_namespace: Option<String>,

    /// There is no Go runtime to profile.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    profile: Option<String>,

    /// There is no ControlZ.
    #[arg(long = "ctrlz_port", value_name = "PORT")]
    ctrlz_port: Option<String>,

    /// There is no ControlZ.
    #[arg(long = "ctrlz_address", value_name = "ADDRESS")]
    ctrlz_address: Option<String>,

    /// The log goes to stderr.
    #[arg(long = "log_target", value_name = "PATH")]
    log_target: Vec<String>,

    /// The log does not say where in the program a line comes from.
    #[arg(long = "log_caller", value_name = "SCOPES")]
    log_caller: Option<String>,

    /// The log has no stack traces.
    #[arg(long = "log_stacktrace_level", value_name = "LEVELS")]
    log_stacktrace_level: Option<String>,

    /// Registries to read: there is no other than Kubernetes.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "Kubernetes", value_parser = ["Kubernetes"])]
    registries: Vec<String>,
}

impl WithoutEffect {
    /// Logs what was given and has no effect.
    pub(super) fn warn(&self) {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        for flag in self.given() {
            tracing::warn!(flag, "this flag of istiod has no effect");
        }
        for (name, value) in ignored(variable) {
            tracing::warn!(name, value, "this variable of istiod has no effect");
        }
    }

    fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--networksConfig", self.networks_config.is_some()),
            ("--clusterRegistriesNamespace", self.cluster_registries_namespace.is_some()),
            ("--cniNamespace", self.cni_namespace.is_some()),
            ("--profile", self.profile.as_deref().is_some_and(|wanted| wanted != "false")),
            ("--ctrlz_port", self.ctrlz_port.is_some()),
            ("--ctrlz_address", self.ctrlz_address.is_some()),
            ("--log_target", self.log_target.iter().any(|target| target != "stderr")),
            ("--log_caller", self.log_caller.is_some()),
            ("--log_stacktrace_level", self.log_stacktrace_level.is_some()),
        ];
        flags.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }
}

fn ignored(variable: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let ignored = VARIABLES.iter().filter_map(|(name, harmless)| {
        let value = variable(name)?;
        (!harmless.contains(&value.as_str())).then_some((*name, value))
    });
    ignored.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_when_they_ask_for_something_else() {
        let variable = |name: &str| match name {
            "EXTERNAL_ISTIOD" => Some("false".to_owned()),
            "PILOT_ENABLE_AMBIENT" => Some("true".to_owned()),
            _ => None,
        };
        assert_eq!(ignored(variable), [("PILOT_ENABLE_AMBIENT", "true".to_owned())]);
    }
}
