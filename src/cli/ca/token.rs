//! `istiod-lite ca issuer` and `istiod-lite ca token`

use std::{path::PathBuf, process::ExitCode, time::Duration};

use jiff::Timestamp;

use super::files::{self, Output};
use crate::identity::local_issuer::{DEFAULT_AUDIENCE, DEFAULT_ISSUER, KEY_FILE, KEY_SET_FILE, LocalIssuer, TokenRequest};

/// Make a token issuer for a mesh without Kubernetes: issuer-key.pem and jwks.json.
///
/// In Kubernetes the API server issues tokens and is asked about them; this is for `discovery --config-dir`, which is given
/// jwks.json and the issuer's name. Whoever reads issuer-key.pem can be any workload.
#[derive(clap::Args)]
pub(super) struct IssuerArguments {
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
}

/// Print a token for one workload, signed by a local issuer; not for Kubernetes.
#[derive(clap::Args)]
pub(super) struct TokenArguments {
    /// The folder that `ca issuer` made
    #[arg(long, value_name = "DIR")]
    issuer_dir: PathBuf,
    /// Namespace of the workload
    #[arg(long)]
    namespace: String,
    /// Service account of the workload
    #[arg(long)]
    service_account: String,
    /// Seconds until the token expires
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    ttl: u64,
    /// Name of the issuer
    #[arg(long, default_value = DEFAULT_ISSUER)]
    issuer: String,
    /// For whom the token is
    #[arg(long, default_value = DEFAULT_AUDIENCE)]
    audience: String,
}

pub(super) fn make_issuer(arguments: &IssuerArguments) -> anyhow::Result<ExitCode> {
    let issuer = LocalIssuer::generate(DEFAULT_ISSUER)?;
    let outputs = [
        Output { name: KEY_FILE, contents: issuer.key().to_pem(), secret: true },
        Output { name: KEY_SET_FILE, contents: issuer.key_set(), secret: false },
    ];
    files::write(&arguments.out, &outputs, arguments.force)?;
    println!("{}: {KEY_FILE} signs tokens, {KEY_SET_FILE} is for the control plane", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn make_token(arguments: &TokenArguments) -> anyhow::Result<ExitCode> {
    let issuer = LocalIssuer::open(&arguments.issuer_dir, &arguments.issuer)?;
    let request = TokenRequest {
        namespace: &arguments.namespace,
        service_account: &arguments.service_account,
        audience: &arguments.audience,
        ttl: Duration::from_secs(arguments.ttl),
    };
    println!("{}", issuer.token(&request, Timestamp::now())?);
    Ok(ExitCode::SUCCESS)
}
