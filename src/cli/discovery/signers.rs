//! Others who sign certificates, and by which roots they are known.

use std::{path::PathBuf, time::Duration};

use anyhow::{bail, ensure};

use crate::{
    cli::values::duration,
    identity::registration::{SignerChoice, SignerName},
    serve::settings::RegistrationSettings,
};

/// What `PILOT_CERT_PROVIDER` puts before the name of a signer.
const SIGNER_PREFIX: &str = "k8s.io/";

/// Who signs instead of our own CA.
#[derive(clap::Args)]
#[command(next_help_heading = "Certificates that others sign (the CSR API of Kubernetes; docs/certificates.md)")]
pub(super) struct SignerArguments {
    /// Has certificates of workloads signed by signers of the Kubernetes API, cert-manager for example, instead of our own CA. We say
    /// who is who, and check what they answer; they hold the keys. ISTIOD_RA_KUBERNETES_API is the only way there is.
    #[arg(
        long, value_name = "WAY", env = "EXTERNAL_CA", default_value = "", hide_default_value = true,
        value_parser = ["", "ISTIOD_RA_KUBERNETES_API"]
    )]
    external_ca: String,

    /// The signer for proxies that name none: example.com/mesh, clusterissuers.cert-manager.io/mesh.
    #[arg(long, value_name = "SIGNER", env = "K8S_SIGNER", default_value = "", hide_default_value = true)]
    k8s_signer: String,

    /// Domain of the signers that proxies may name (ISTIO_META_CERT_SIGNER): with example.com a proxy that names mesh has its
    /// certificate of example.com/mesh. Without it proxies that name one get no certificate.
    #[arg(long, value_name = "DOMAIN", env = "CERT_SIGNER_DOMAIN", default_value = "", hide_default_value = true)]
    cert_signer_domain: String,

    /// Who signs the certificate of our own ports: istiod is our own CA; k8s.io/example.com/mesh that signer, and then there is no CA
    /// of our own, and its roots are in the ConfigMaps of the root certificate.
    #[arg(long, value_name = "PROVIDER", env = "PILOT_CERT_PROVIDER", default_value = "istiod")]
    cert_provider: String,

    /// File with the roots of the signers (PEM), read again when it changes; it need not be there. Without it those that MeshConfig's
    /// caCertificates has for a signer, or without --cert-signer-domain the cluster's own CA. Who answers under no such root is refused.
    #[arg(long, value_name = "FILE", default_value = "./etc/external-ca-cert/root-cert.pem")]
    external_ca_cert: PathBuf,

    /// How long a signer may take; then the proxy keeps the certificate that it has, and asks again.
    #[arg(long, value_parser = duration, default_value = "60s")]
    signer_timeout: Duration,
}

impl SignerArguments {
    /// Returns the settings; `None`: our own CA signs.
    ///
    /// # Errors
    /// When they would not work, or mean that our own CA should not sign although nobody else is to.
    pub(super) fn settings(&self) -> anyhow::Result<Option<RegistrationSettings>> {
        let serving = self.cert_provider.strip_prefix(SIGNER_PREFIX).map(SignerName::parse).transpose()?;
        if self.external_ca.is_empty() {
            if serving.is_some() {
                bail!("--cert-provider {}: works only with --external-ca ISTIOD_RA_KUBERNETES_API", self.cert_provider);
            }
            self.warn();
            return Ok(None);
        }
        if serving.is_none() && self.cert_provider != "istiod" {
            tracing::warn!(provider = self.cert_provider, "this certificate provider of istiod has no effect");
        }
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let choice = SignerChoice {
            default: given(&self.k8s_signer).as_deref().map(SignerName::parse).transpose()?,
            domain: given(&self.cert_signer_domain),
        };
        if let Some(domain) = &choice.domain {
            ensure!(SignerName::parse(&format!("{domain}/x")).is_ok(), "--cert-signer-domain {domain:?}: is no domain; write example.com");
        }
        ensure!(choice != SignerChoice::default(), "--external-ca: nobody signs; name a signer with --k8s-signer or --cert-signer-domain");
        Ok(Some(RegistrationSettings { choice, serving, roots: self.external_ca_cert.clone(), patience: self.signer_timeout }))
    }

    /// Logs what has no effect while our own CA signs.
    fn warn(&self) {
        let given = [
            ("--k8s-signer", !self.k8s_signer.is_empty()),
            ("--cert-signer-domain", !self.cert_signer_domain.is_empty()),
            ("--cert-provider", self.cert_provider != "istiod"),
        ];
        for (flag, _) in given.into_iter().filter(|(_, given)| *given) {
            tracing::warn!(flag, "has no effect without --external-ca");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        signers: SignerArguments,
    }

    fn settings(line: &str) -> Result<Option<RegistrationSettings>, String> {
        let parsed = Program::try_parse_from(["discovery"].into_iter().chain(line.split_whitespace()));
        parsed.map_err(|error| error.to_string())?.signers.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn others_sign_when_it_is_said_who() {
        assert!(settings("").unwrap().is_none());
        assert!(settings("--k8s-signer a.b/c --cert-provider custom").unwrap().is_none());
        let external = "--external-ca ISTIOD_RA_KUBERNETES_API";
        let one = settings(&format!("{external} --k8s-signer a.b/c")).unwrap().unwrap();
        assert_eq!((one.choice.of(None).unwrap().as_str(), &one.choice.domain, one.serving), ("a.b/c", &None, None));
        let named = settings(&format!("{external} --cert-signer-domain a.b --cert-provider k8s.io/a.b/d")).unwrap().unwrap();
        assert_eq!((named.choice.of(Some("c")).unwrap().as_str(), named.serving.unwrap().as_str()), ("a.b/c", "a.b/d"));
    }

    #[test]
    fn what_would_leave_nobody_or_somebody_else_signing_is_refused() {
        for (line, says) in [
            ("--external-ca ISTIOD_RA_KUBERNETES_API", "name a signer"),
            ("--external-ca VAULT --k8s-signer a.b/c", "invalid value"),
            ("--cert-provider k8s.io/a.b/c", "works only with"),
            ("--external-ca ISTIOD_RA_KUBERNETES_API --k8s-signer nobody", "not the name of a signer"),
            ("--external-ca ISTIOD_RA_KUBERNETES_API --cert-signer-domain a", "is no domain"),
            ("--external-ca ISTIOD_RA_KUBERNETES_API --k8s-signer a.b/c --cert-provider k8s.io/c", "not the name of a signer"),
        ] {
            let refusal = settings(line).map(|_| ()).unwrap_err();
            assert!(refusal.contains(says), "{line}: {refusal}");
        }
    }
}
