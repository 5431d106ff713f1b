//! The serving certificate and the protocol of the TLS ports.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;

use crate::serve::{
    settings::TlsSettings,
    tls::{ServingFiles, TlsParameters},
};

/// What the TLS ports show and speak.
#[derive(clap::Args)]
#[command(next_help_heading = "TLS (ports 15012 and 15017)")]
pub(super) struct TlsArguments {
    /// Certificate (PEM, with what stands between it and the root) that somebody else issued for us. Without these three
    /// flags: /var/run/secrets/istiod/tls/tls.crt and tls.key with /var/run/secrets/istiod/ca/root-cert.pem or
    /// /var/run/secrets/istiod/tls/ca.crt, when they are mounted and the API server is the source; else our own CA issues
    /// one. Read again when a file changes.
    #[arg(long = "tlsCertFile", value_name = "FILE", requires_all = ["key", "roots"])]
    certificate: Option<PathBuf>,

    /// Its key.
    #[arg(long = "tlsKeyFile", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,

    /// The roots by which clients verify it: what is written into caBundles and into the ConfigMaps of the root
    /// certificate.
    #[arg(long = "caCertFile", value_name = "FILE", requires = "certificate")]
    roots: Option<PathBuf>,

    /// Older TLS is refused.
    #[arg(long = "tls-min-version", value_name = "VERSION", default_value = "TLSv1_2", value_parser = PossibleValuesParser::new(["TLSv1_2", "TLSv1_3"]))]
    min_version: String,

    /// Cipher suites of TLS 1.2 by their IANA names; those of TLS 1.3 always stand. Without it all that are safe.
    #[arg(long = "tls-cipher-suites", value_name = "NAME", value_delimiter = ',')]
    cipher_suites: Vec<String>,
}

impl TlsArguments {
    /// Returns the settings, with `names` in the certificate besides istiod's own; `mounted`: files at istiod's places count, too.
    ///
    /// # Errors
    /// When there is no such version or cipher suite.
    pub(super) fn settings(&self, names: Vec<String>, mounted: bool) -> anyhow::Result<TlsSettings> {
        Ok(TlsSettings { names, files: self.files(mounted), protocol: self.protocol()? })
    }

    fn files(&self, mounted: bool) -> Option<ServingFiles> {
        match (&self.certificate, &self.key, &self.roots) {
            (Some(certificate), Some(key), Some(roots)) => {
                Some(ServingFiles { certificate: certificate.clone(), key: key.clone(), roots: roots.clone() })
            }
            _ => mounted.then(ServingFiles::mounted).flatten(),
        }
    }

    /// Returns the versions and cipher suites.
    pub(super) fn protocol(&self) -> anyhow::Result<TlsParameters> {
        let protocol = TlsParameters::default();
        let known = protocol.suites().join(", ");
        let unknown = |names: Vec<String>| anyhow::anyhow!("--tls-cipher-suites: no {}; there are: {known}", names.join(", "));
        let protocol = protocol.with_suites(&self.cipher_suites).map_err(unknown)?;
        protocol.at_least(&self.min_version).ok_or_else(|| anyhow::anyhow!("--tls-min-version: no {}", self.min_version))
    }
}
