//! `istiod-lite ca crl`

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
        ca::{self, REVOCATION_FILE},
        ceremony,
        certificate::Certificate,
        key::PrivateKey,
    },
    system_error::explain,
};

/// Add certificates to the list of those that a CA has revoked, in ca-crl.pem; or make the list anew before it ends.
///
/// Proxies want a list of each CA up to the root, even an empty one, and refuse every peer after the end of one: run it once with the
/// folder of the intermediate and once with that of the root. Serial numbers are those of `istiod-lite ca issued`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The folder of the CA: that of `ca intermediate`, or that of `ca root` with a passphrase
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseSource,
    /// Serial number of a certificate that the CA has signed, as 4a:1b:…; may be given several times
    #[arg(long, value_name = "SERIAL", value_parser = serial)]
    revoke: Vec<Serial>,
    /// How long the list is valid; a newer one must be there before
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    /// The folder with ca-crl.pem, which keeps what is in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A serial number, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Serial(Vec<u8>);

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (certificate, key) = read_ca(&arguments.ca, &arguments.passphrase)?;
    let path = arguments.out.join(REVOCATION_FILE);
    let before = match path.exists() {
        true => fs::read_to_string(&path).map_err(|error| anyhow!("{}: {}", path.display(), explain(&error)))?,
        false => String::new(),
    };
    let (others, mut serials) = ca::split_lists(&before, &certificate).with_context(|| path.display().to_string())?;
    serials.extend(arguments.revoke.into_iter().map(|Serial(serial)| serial));
    let list = ceremony::revocation_list(&certificate, key, &serials, arguments.days, Timestamp::now())?;
    files::write(&arguments.out, &[Output { name: REVOCATION_FILE, contents: list + &others, secret: false }], true)?;
    println!("{}: {} revoked by {}, for {} days", path.display(), serials.len(), certificate.subject, arguments.days);
    Ok(ExitCode::SUCCESS)
}

fn read_ca(folder: &Path, passphrase: &PassphraseSource) -> anyhow::Result<(Certificate, PrivateKey)> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| anyhow!("{}: {}", path.display(), explain(&error)))
    };
    let (certificate, key) = match passphrase.is_given() {
        true => {
            let key = PrivateKey::from_encrypted_pem(&read("root-key.pem")?, &passphrase.read()?).context("root-key.pem")?;
            ("root-cert.pem", key)
        }
        false => ("ca-cert.pem", PrivateKey::from_pem(&read("ca-key.pem")?).context("ca-key.pem")?),
    };
    let certificates = Certificate::all_from_pem(&read(certificate)?).context(certificate)?;
    match certificates.into_iter().find(|certificate| certificate.public_key == key.public_key()) {
        Some(certificate) => Ok((certificate, key)),
        None => bail!("{certificate} is not that of the key"),
    }
}

fn serial(text: &str) -> Result<Serial, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let byte = |at: usize| digits.get(at..at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    bytes.filter(|bytes| (1..=20).contains(&bytes.len())).map(Serial).ok_or_else(|| "is no serial number; write it as 4a:1b:…".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_read_as_they_are_shown() {
        assert_eq!(serial("4a:01:ff"), Ok(Serial(vec![0x4a, 1, 0xff])));
        assert_eq!(serial("4A01FF"), serial("4a:01:ff"));
        for wrong in ["", "4", "4a:0", "xy", "\u{e9}\u{e9}", &"00".repeat(21)] {
            assert!(serial(wrong).is_err(), "{wrong:?}");
        }
    }
}
