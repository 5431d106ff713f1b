//! What a kubeconfig in a Secret may ask of us. Whoever writes it decides whom we call: it must not make us run a program, read a file
//! of ours and send it there, or talk to somebody who cannot prove that it is the cluster.
//!
//! What is refused is what istiod refuses, and besides what it lets pass although anybody on the way could answer in the cluster's
//! place. Nothing of a kubeconfig's content stands in a message: it may be a key.

use std::collections::BTreeSet;

use http::Uri;
use kube::{
    Config,
    config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use smol_str::SmolStr;

use crate::peer_text::PeerText;

/// The options that may be allowed (`PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS`), without the names of auth providers.
const CLIENT_KEY: &str = "clientKey";
const CLIENT_CERTIFICATE: &str = "clientCertificate";
const TOKEN_FILE: &str = "tokenFile";
const EXEC: &str = "exec";
/// Not one of istiod's, which lets these pass.
const CERTIFICATE_AUTHORITY: &str = "certificateAuthority";
const INSECURE_SKIP_TLS_VERIFY: &str = "insecureSkipTlsVerify";

/// Why a kubeconfig is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KubeconfigRefusal {
    /// There is nothing in it.
    #[error("the kubeconfig is empty")]
    Empty,
    /// It cannot be read.
    #[error("it is no kubeconfig (YAML or JSON); istioctl create-remote-secret writes one")]
    Unreadable,
    /// It asks for something that is not allowed.
    #[error("{what} is not allowed, because {why}; {instead}, or allow {option} by PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS")]
    NotAllowed {
        /// The field.
        what: &'static str,
        /// What could happen.
        why: &'static str,
        /// What to write.
        instead: &'static str,
        /// What would allow it.
        option: SmolStr,
    },
    /// A part of it is missing or wrong.
    #[error("{0}")]
    Incomplete(&'static str),
    /// No client can be made of it.
    #[error("no client can be made of it: the credentials, the certificates or the address of its current context cannot be used")]
    Unusable,
}

/// Returns how the API server of a kubeconfig is called, if it asks for nothing but what is harmless or `allowed`.
pub(super) async fn config_of(text: &[u8], allowed: &BTreeSet<SmolStr>) -> Result<Config, KubeconfigRefusal> {
    if text.is_empty() {
        return Err(KubeconfigRefusal::Empty);
    }
    let text = str::from_utf8(text).map_err(|_| KubeconfigRefusal::Unreadable)?;
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|_| KubeconfigRefusal::Unreadable)?;
    check(&kubeconfig, allowed)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(|error| incomplete(&error))?;
    let proves_itself = config.cluster_url.scheme_str() == Some("https");
    permit(proves_itself, "a server that is not https", ANYBODY, "name it by https", INSECURE_SKIP_TLS_VERIFY, allowed)?;
    Ok(config)
}

const ANYBODY: &str = "anybody on the way could say who is calling";

/// Checks everything that the kubeconfig says, also what its current context does not name.
fn check(kubeconfig: &Kubeconfig, allowed: &BTreeSet<SmolStr>) -> Result<(), KubeconfigRefusal> {
    kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()).try_for_each(|user| check_user(user, allowed))?;
    kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref()).try_for_each(|cluster| check_cluster(cluster, allowed))
}

fn check_user(user: &AuthInfo, allowed: &BTreeSet<SmolStr>) -> Result<(), KubeconfigRefusal> {
    const FILE: &str = "a file of the control plane would be read and sent to the address in the kubeconfig";
    const PROGRAM: &str = "a program would be run in the control plane";
    let none = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    if let Some(provider) = &user.auth_provider {
        if provider.name == "oidc" {
            return Err(KubeconfigRefusal::Incomplete("auth-provider oidc is not supported here; write a token"));
        }
        permit(false, "auth-provider", PROGRAM, "write a token", &provider.name, allowed)?;
    }
    permit(none(&user.client_key), "client-key", FILE, "write client-key-data", CLIENT_KEY, allowed)?;
    permit(none(&user.client_certificate), "client-certificate", FILE, "write client-certificate-data", CLIENT_CERTIFICATE, allowed)?;
    permit(none(&user.token_file), "tokenFile", FILE, "write token", TOKEN_FILE, allowed)?;
    permit(user.exec.is_none(), "exec", PROGRAM, "write a token", EXEC, allowed)
}

fn check_cluster(cluster: &Cluster, allowed: &BTreeSet<SmolStr>) -> Result<(), KubeconfigRefusal> {
    const FILE: &str = "a file of the control plane would be read";
    let no_file = cluster.certificate_authority.as_ref().is_none_or(String::is_empty);
    permit(no_file, "certificate-authority", FILE, "write certificate-authority-data", CERTIFICATE_AUTHORITY, allowed)?;
    let verified = cluster.insecure_skip_tls_verify != Some(true);
    permit(verified, "insecure-skip-tls-verify", ANYBODY, "write certificate-authority-data", INSECURE_SKIP_TLS_VERIFY, allowed)
}

fn permit(
    harmless: bool,
    what: &'static str,
    why: &'static str,
    instead: &'static str,
    option: &str,
    allowed: &BTreeSet<SmolStr>,
) -> Result<(), KubeconfigRefusal> {
    match harmless || allowed.contains(option) {
        true => Ok(()),
        false => Err(KubeconfigRefusal::NotAllowed { what, why, instead, option: PeerText::new(option).to_string().into() }),
    }
}

/// Says what is wrong in words of our own: kube's may hold what the kubeconfig holds.
fn incomplete(error: &KubeconfigError) -> KubeconfigRefusal {
    KubeconfigRefusal::Incomplete(match error {
        KubeconfigError::CurrentContextNotSet => "it has no current-context; write one",
        KubeconfigError::LoadContext(_) => "its current-context names no context of it; write the context, or name one",
        KubeconfigError::LoadClusterOfContext(_) => "its current context names no cluster of it; write the cluster",
        KubeconfigError::MissingClusterUrl => "its cluster has no server; write the address of the API server",
        KubeconfigError::ParseClusterUrl(_) => "its cluster's server is no URL; write https://<host>:<port>",
        KubeconfigError::ParseProxyUrl(_) => "its cluster's proxy-url is no URL",
        KubeconfigError::LoadCertificateAuthority(_) => "its certificate-authority-data cannot be read; write PEM in base64",
        KubeconfigError::LoadClientCertificate(_) => "its client-certificate-data cannot be read; write PEM in base64",
        KubeconfigError::LoadClientKey(_) => "its client-key-data cannot be read; write PEM in base64",
        KubeconfigError::ParseCertificates(_) => "its certificate-authority-data holds no certificates; write PEM in base64",
        _ => return KubeconfigRefusal::Unusable,
    })
}

/// Returns where the API server is, without what may be secret in a URL.
pub(super) fn shown(url: &Uri) -> String {
    format!("{}://{}:{}", url.scheme_str().unwrap_or("https"), url.host().unwrap_or_default(), url.port_u16().unwrap_or(443))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOKEN: &str = "a-very-secret-token";

    fn kubeconfig(cluster: &Value, user: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "c", "user": user}],
        })
    }

    async fn read(kubeconfig: &Value, allowed: &[&str]) -> Result<Config, KubeconfigRefusal> {
        let allowed = allowed.iter().map(SmolStr::new).collect();
        config_of(kubeconfig.to_string().as_bytes(), &allowed).await
    }

    async fn refusal(kubeconfig: &Value, allowed: &[&str]) -> String {
        let refused = read(kubeconfig, allowed).await.unwrap_err().to_string();
        assert!(!refused.contains(TOKEN), "{refused}");
        refused
    }

    #[tokio::test]
    async fn what_istioctl_writes_is_taken() {
        let config = read(&kubeconfig(&json!({"server": "https://east:6443"}), &json!({"token": TOKEN})), &[]).await.unwrap();
        assert_eq!(shown(&config.cluster_url), "https://east:6443");
        let with_password: Uri = "https://someone:secret@east/path?token=secret".parse().unwrap();
        assert_eq!(shown(&with_password), "https://east:443");
    }

    #[tokio::test]
    async fn what_reads_files_or_runs_programs_is_refused_until_it_is_allowed() {
        let server = json!({"server": "https://east:6443"});
        for (user, option, allowed) in [
            (json!({"token": TOKEN, "exec": {"command": "/bin/true", "apiVersion": "client.authentication.k8s.io/v1"}}), "exec", true),
            (json!({"token": TOKEN, "tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token"}), "tokenFile", true),
            (json!({"token": TOKEN, "client-key": "/etc/key"}), "clientKey", true),
            (json!({"token": TOKEN, "client-certificate": "/etc/certificate"}), "clientCertificate", true),
            (json!({"token": TOKEN, "auth-provider": {"name": "gcp", "config": {"cmd-path": "/bin/true"}}}), "gcp", true),
            (json!({"token": TOKEN, "auth-provider": {"name": "oidc"}}), "oidc", false),
        ] {
            let kubeconfig = kubeconfig(&server, &user);
            let refused = refusal(&kubeconfig, &["somethingElse"]).await;
            assert!(refused.contains(option), "{refused}");
            assert_eq!(read(&kubeconfig, &[option]).await.is_ok(), allowed, "{option}");
        }
        // A user that no context names is refused, too.
        let mut two = kubeconfig(&server, &json!({"token": TOKEN}));
        two["users"].as_array_mut().unwrap().push(json!({"name": "other", "user": {"exec": {"command": "/bin/true"}}}));
        assert!(refusal(&two, &[]).await.starts_with("exec is not allowed"));
    }

    #[tokio::test]
    async fn a_server_that_cannot_prove_itself_is_refused() {
        let user = json!({"token": TOKEN});
        for (cluster, what, option) in [
            (json!({"server": "https://east", "insecure-skip-tls-verify": true}), "insecure-skip-tls-verify", INSECURE_SKIP_TLS_VERIFY),
            (json!({"server": "http://east"}), "a server that is not https", INSECURE_SKIP_TLS_VERIFY),
            (json!({"server": "https://east", "certificate-authority": "/dev/zero"}), "certificate-authority", CERTIFICATE_AUTHORITY),
        ] {
            let refused = refusal(&kubeconfig(&cluster, &user), &[]).await;
            assert!(refused.starts_with(what) && refused.contains(option), "{refused}");
        }
        assert!(read(&kubeconfig(&json!({"server": "http://east"}), &user), &[INSECURE_SKIP_TLS_VERIFY]).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_no_kubeconfig_is_named_without_its_content() {
        let none = BTreeSet::new();
        assert_eq!(config_of(b"", &none).await.unwrap_err(), KubeconfigRefusal::Empty);
        for text in [&b"\xff"[..], b"a: [", b"users: a-very-secret-token", b"[]", b"token: &a a-very-secret-token\nx: *b"] {
            let refused = config_of(text, &none).await.unwrap_err();
            assert!(!refused.to_string().contains(TOKEN), "{refused}");
        }
        let user = json!({"token": TOKEN});
        for (cluster, says) in [
            (json!({}), "no server"),
            (json!({"server": format!("https://{TOKEN}: 1")}), "no URL"),
            (json!({"server": "https://east", "certificate-authority-data": TOKEN}), "certificate-authority-data"),
        ] {
            let refused = refusal(&kubeconfig(&cluster, &user), &[]).await;
            assert!(refused.contains(says), "{refused}");
        }
        let mut without = kubeconfig(&json!({"server": "https://east"}), &user);
        without["current-context"] = "other".into();
        assert!(refusal(&without, &[]).await.contains("names no context"));
    }
}
