//! The files of a ceremony: they are never overwritten without `--force`, and keys are readable by their owner only.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};

use crate::system_error::explain;

/// Where the root key's passphrase comes from. It is never an argument, because every user of the machine can see those.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(super) struct PassphraseSource {
    /// Read the root key's passphrase from the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Read the root key's passphrase from this environment variable
    #[arg(long, value_name = "VARIABLE")]
    passphrase_env: Option<String>,
    /// Read the root key's passphrase from the first line of standard input
    #[arg(long)]
    passphrase_stdin: bool,
}

/// A file to write.
pub(super) struct Output {
    /// Its name in the folder.
    pub(super) name: &'static str,
    /// Its contents.
    pub(super) contents: String,
    /// Whether its mode is 0600 instead of 0644.
    pub(super) secret: bool,
}

// === impl PassphraseSource ===

impl PassphraseSource {
    /// Returns whether it was said.
    pub(super) fn is_given(&self) -> bool {
        self.passphrase_file.is_some() || self.passphrase_env.is_some() || self.passphrase_stdin
    }

    /// Reads the passphrase, without its line end.
    pub(super) fn read(&self) -> anyhow::Result<Vec<u8>> {
        let text = if let Some(path) = &self.passphrase_file {
            fs::read_to_string(path).map_err(|error| anyhow!("--passphrase-file {}: {}", path.display(), explain(&error)))?
        } else if let Some(name) = &self.passphrase_env {
            std::env::var(name).map_err(|error| anyhow!("--passphrase-env {name}: {error}; set it to the passphrase"))?
        } else if !self.passphrase_stdin {
            bail!("where is the root key's passphrase? Give --passphrase-file, --passphrase-env or --passphrase-stdin")
        } else {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("passphrase from standard input")?;
            text
        };
        match text.lines().next().unwrap_or_default() {
            "" => bail!("the passphrase is empty; write it into the first line"),
            line => Ok(line.as_bytes().to_vec()),
        }
    }
}

/// Writes all files, or none if one exists and `force` is not given.
pub(super) fn write(folder: &Path, outputs: &[Output], force: bool) -> anyhow::Result<()> {
    let existing: Vec<_> = outputs.iter().filter(|output| folder.join(output.name).exists()).map(|output| output.name).collect();
    if !existing.is_empty() && !force {
        bail!("{}: {} exists already; --force overwrites", folder.display(), existing.join(", "));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    outputs.iter().try_for_each(|Output { name, contents, secret }| {
        write_one(folder, name, contents.as_bytes(), *secret).map_err(failed(&folder.join(name)))
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> anyhow::Error + use<> {
    let path = path.to_owned();
    move |error| anyhow!("{}: {}", path.display(), explain(&error))
}

/// Writes a new file and renames it, so that nobody reads half a file, and the mode of an old file is not kept.
pub(super) fn write_one(folder: &Path, name: &str, contents: &[u8], secret: bool) -> io::Result<()> {
    let new = folder.join(format!(".{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(name))
}
