//! Modules in WebAssembly that the proxy runs: fetched by the agent, and handed to Envoy as files.
//!
//! The control plane fetches nothing. It says where a module is and what to tell a registry; [`rewrite`] makes of that what Envoy takes.
//! A module is kept under the digest that it is known by, so that it is fetched once, also across restarts of the agent.

mod client;
mod image;
pub(crate) mod rewrite;
mod unpack;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use tokio::{task, time};
use tracing::info;

use self::client::Client;
use crate::{
    backoff::{Backoff, random_unit},
    system_error::explain,
};

/// How long a module is kept that nobody asks for.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long to wait before modules are tried again that could not be fetched: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));
/// What every module begins with.
const MAGIC: &[u8] = b"\0asm";

/// The modules of one proxy.
#[derive(Debug)]
pub(crate) struct Modules {
    folder: PathBuf,
    client: Client,
    known: Mutex<HashMap<String, Known>>,
    /// How long to wait before a module is tried again that could not be fetched.
    again: Mutex<Backoff>,
}

/// What is known of a URL that says not by itself which module it means.
#[derive(Debug)]
struct Known {
    /// The digest of what was there.
    digest: String,
    /// By filter: the version of the object for which that was fetched.
    versions: HashMap<String, String>,
}

/// A module that is to be run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The filter that runs it.
    pub(crate) filter: String,
    /// Where it is: `http://`, `https://` or `oci://`.
    pub(crate) url: String,
    /// The digest that it must have, in hexadecimal digits; empty: any.
    pub(crate) digest: String,
    /// When it is fetched again.
    pub(crate) pull: PullPolicy,
    /// The version of the object that wants it.
    pub(crate) version: String,
    /// What its registry asks for.
    pub(crate) secret: Secret,
    /// How long it may take.
    pub(crate) patience: Duration,
}

/// When a module is fetched that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// Images with the tag `latest` as for `Always`, others as for `IfNotPresent`.
    #[default]
    Unspecified,
    /// Never.
    IfNotPresent,
    /// Whenever the object that wants it is another version.
    Always,
}

/// What a registry asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Secret {
    /// Nothing.
    #[default]
    Nothing,
    /// Something that is not to be had.
    Missing,
    /// One of the `auths` of a Docker configuration.
    Is(Credentials),
}

/// A Docker configuration; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials(pub(crate) Arc<str>);

/// A module that was fetched, and the digest that it is known by: of an image that of its manifest.
struct Fetched {
    module: Vec<u8>,
    digest: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Modules {
    /// Keeps modules in a folder, which it makes. `plain` are registries that are spoken to without TLS.
    pub(crate) fn new(folder: PathBuf, plain: Vec<String>) -> Self {
        Self { folder, client: Client::new(plain), known: Mutex::default(), again: Mutex::new(Backoff::new(AGAIN.0, AGAIN.1)) }
    }

    /// Lets a test wait less before modules are tried again.
    #[cfg(test)]
    pub(crate) fn impatient(self, again: Duration) -> Self {
        Self { again: Mutex::new(Backoff::new(again, again)), ..self }
    }

    /// Returns the file of a module, which is fetched if it has to be.
    ///
    /// # Errors
    /// When there is none to be had: why.
    pub(crate) async fn file(&self, wanted: &Wanted) -> Result<PathBuf, String> {
        let name = image::without_tag(&wanted.url);
        let digest = self.digest_at_hand(wanted);
        if let Some(file) = digest.map(|digest| self.path(&name, &digest)).filter(|path| path.is_file()) {
            touch(&file);
            return Ok(file);
        }
        let fetched = time::timeout(wanted.patience, self.fetch(wanted)).await;
        let Fetched { module, digest } = fetched.unwrap_or_else(|_| Err(format!("not there within {:?}", wanted.patience)))?;
        if !module.starts_with(MAGIC) {
            return Err("is no WebAssembly module".to_owned());
        }
        let file = self.path(&name, &digest);
        info!(filter = wanted.filter, url = wanted.url, digest, bytes = module.len(), "module fetched");
        let (folder, path) = (self.folder.clone(), file.clone());
        let written = task::spawn_blocking(move || {
            tidy(&folder);
            write(&folder, &path, &module)
        });
        let failed = |error: &io::Error| format!("cannot be kept in {}: {}", self.folder.display(), explain(error));
        written.await.map_err(|error| error.to_string())?.map_err(|error| failed(&error))?;
        let mut known = self.known.lock();
        let known = known.entry(wanted.url.clone()).or_insert_with(|| Known { digest: String::new(), versions: HashMap::new() });
        known.digest = digest;
        known.versions.insert(wanted.filter.clone(), wanted.version.clone());
        Ok(file)
    }

    /// Returns when to try again; it is longer each time.
    pub(crate) fn pause(&self) -> Duration {
        self.again.lock().next(random_unit())
    }

    /// Notes that all modules that are wanted are there.
    pub(crate) fn all_are_there(&self) {
        self.again.lock().reset();
    }

    /// Returns the digest of what is there and need not be fetched again; `None`: it is to be fetched.
    fn digest_at_hand(&self, wanted: &Wanted) -> Option<String> {
        if !wanted.digest.is_empty() {
            return Some(wanted.digest.clone());
        }
        if let Some(digest) = image::digest_in(&wanted.url) {
            return Some(digest.to_owned());
        }
        let by_version = match wanted.pull {
            PullPolicy::Always => true,
            PullPolicy::IfNotPresent => false,
            PullPolicy::Unspecified => image::is_latest(&wanted.url),
        };
        let mut known = self.known.lock();
        let known = known.get_mut(&wanted.url)?;
        let is_same = known.versions.get(&wanted.filter) == Some(&wanted.version);
        // What one filter had fetched need not be fetched for another, unless it is to be as new as the object.
        (is_same || !by_version).then(|| known.digest.clone())
    }

    async fn fetch(&self, wanted: &Wanted) -> Result<Fetched, String> {
        if wanted.secret == Secret::Missing {
            return Err("its pull secret is missing".to_owned());
        }
        if wanted.url.starts_with("oci://") {
            return image::fetch(&self.client, wanted).await;
        }
        let body = self.client.module(&wanted.url).await?;
        let module = task::spawn_blocking(move || unpack::unboxed(body)).await.map_err(|error| error.to_string())?;
        let digest = hex(&module);
        match wanted.digest.as_str() {
            "" => Ok(Fetched { module, digest }),
            expected if expected == digest => Ok(Fetched { module, digest }),
            expected => Err(format!("has digest {digest}, and must have {expected}")),
        }
    }

    fn path(&self, name: &str, digest: &str) -> PathBuf {
        // Both are digests, so that no URL chooses a path.
        let digest = if digest.bytes().all(|byte| byte.is_ascii_hexdigit()) { digest.to_owned() } else { hex(digest.as_bytes()) };
        self.folder.join(format!("{}-{digest}.wasm", &hex(name.as_bytes())[..16]))
    }
}

/// Returns the SHA-256 digest in hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that is whole whenever somebody reads it.
fn write(folder: &Path, path: &Path, module: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // Two that fetch the same write the same.
    let partial = path.with_extension(format!("{:?}.partial", std::thread::current().id()).replace(['(', ')'], "-"));
    fs::write(&partial, module)?;
    fs::rename(&partial, path)
}

fn touch(path: &Path) {
    let touched = fs::File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!("{}: {}", path.display(), explain(&error));
    }
}

/// Removes what nobody asked for in a long time. Envoy has read what it runs.
fn tidy(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let unused = entry.metadata().and_then(|found| found.modified()).is_ok_and(|since| since.elapsed().is_ok_and(|time| time > KEPT));
        if unused && let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!("{}: {}", entry.path().display(), explain(&error));
        }
    }
}

#[cfg(test)]
mod tests;
