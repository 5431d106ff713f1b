//! `istiod-lite ca root` and `istiod-lite ca intermediate`

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;

use super::files::{self, Output, PassphraseSource};
use crate::{
    identity::{
        ca::{self, Serial},
        ceremony::{self, CaRequest, CaSubject},
        certificate::Certificate,
        key::{KeyType, PrivateKey},
    },
    system_error::explain,
};

const ROOT_KEY: &str = "root-key.pem";
const ROOT_CERTIFICATE: &str = "root-cert.pem";

/// Make an offline root: root-key.pem (encrypted) and root-cert.pem, in a folder of their own.
#[derive(clap::Args)]
pub(super) struct RootArguments {
    /// The folder to write; keep it away from the control plane
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseSource,
    /// Kind of key
    #[arg(long, value_enum, default_value_t = KeyType::P256)]
    key_type: KeyType,
    /// How long the root is valid
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    /// Organization in the subject
    #[arg(long, default_value = "istiod-lite")]
    org: String,
    /// Common name in the subject
    #[arg(long, default_value = "Root CA")]
    common_name: String,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
}

/// Make an intermediate under a root: the four files of Istio's `cacerts` secret.
#[derive(clap::Args)]
pub(super) struct IntermediateArguments {
    /// The folder that `ca root` made
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The folder to write; the control plane gets this one
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseSource,
    /// Kind of key
    #[arg(long, value_enum, default_value_t = KeyType::P256)]
    key_type: KeyType,
    /// How long the intermediate is valid
    #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    /// How many CA certificates may follow below the intermediate
    #[arg(long, default_value_t = 0)]
    path_len: u8,
    /// Organization in the subject
    #[arg(long, default_value = "istiod-lite")]
    org: String,
    /// Common name in the subject
    #[arg(long, default_value = "Intermediate CA")]
    common_name: String,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
}

pub(super) fn make_root(arguments: RootArguments) -> anyhow::Result<ExitCode> {
    if arguments.out.join("ca-key.pem").exists() || arguments.out.join("tls.key").exists() {
        bail!("{} is a folder that a control plane signs from; a root key must lie elsewhere", arguments.out.display());
    }
    let passphrase = arguments.passphrase.read()?;
    let key = PrivateKey::generate(arguments.key_type)?;
    let subject = CaSubject { organization: arguments.org, common_name: arguments.common_name };
    let request = CaRequest { key: &key, subject: &subject, days: arguments.days, now: Timestamp::now(), serial: Serial::random()? };
    let certificate = ceremony::root_certificate(&request)?;
    let outputs = [
        Output { name: ROOT_KEY, contents: key.to_encrypted_pem(&passphrase)?, secret: true },
        Output { name: ROOT_CERTIFICATE, contents: certificate.pem(), secret: false },
    ];
    files::write(&arguments.out, &outputs, arguments.force)?;
    println!("{}: root {}, valid until {}", arguments.out.display(), certificate.subject, certificate.not_after);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn make_intermediate(arguments: IntermediateArguments) -> anyhow::Result<ExitCode> {
    if same_folder(&arguments.root, &arguments.out) || arguments.out.join(ROOT_KEY).exists() {
        bail!("{}: the intermediate must not lie beside the root key", arguments.out.display());
    }
    let (root, root_key) = read_root(&arguments.root, &arguments.passphrase)?;
    let key = PrivateKey::generate(arguments.key_type)?;
    let subject = CaSubject { organization: arguments.org, common_name: arguments.common_name };
    let now = Timestamp::now();
    let request = CaRequest { key: &key, subject: &subject, days: arguments.days, now, serial: Serial::random()? };
    let certificate = ceremony::intermediate_certificate(&request, arguments.path_len, &root, root_key)?;
    let outputs = [
        Output { name: "root-cert.pem", contents: root.pem(), secret: false },
        Output { name: "cert-chain.pem", contents: certificate.pem() + &root.pem(), secret: false },
        Output { name: "ca-cert.pem", contents: certificate.pem(), secret: false },
        Output { name: "ca-key.pem", contents: key.to_pem(), secret: true },
    ];
    files::write(&arguments.out, &outputs, arguments.force)?;
    ca::load(&arguments.out, now).context("the new intermediate does not pass the control plane's checks")?;
    println!("{}: intermediate {}, valid until {}", arguments.out.display(), certificate.subject, certificate.not_after);
    Ok(ExitCode::SUCCESS)
}

fn read_root(folder: &Path, passphrase: &PassphraseSource) -> anyhow::Result<(Certificate, PrivateKey)> {
    let read = |name: &str| {
        let path = folder.join(name);
        let hint = "--root names the folder that `istiod-lite ca root` made";
        fs::read_to_string(&path).map_err(|error| anyhow!("{}: {}; {hint}", path.display(), explain(&error)))
    };
    let certificates = Certificate::all_from_pem(&read(ROOT_CERTIFICATE)?).context(ROOT_CERTIFICATE)?;
    let [certificate] = certificates.as_slice() else { bail!("{ROOT_CERTIFICATE} holds more than one certificate; leave the root's") };
    let key = PrivateKey::from_encrypted_pem(&read(ROOT_KEY)?, &passphrase.read()?).context(ROOT_KEY)?;
    Ok((certificate.clone(), key))
}

fn same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
