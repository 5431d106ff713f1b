//! An issuer of tokens, as whoever checks these sees it: a process that serves its OpenID configuration and its keys.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{process::Process, wait};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(30);

/// Serves a folder. Unlike Python's own server of files it does not ask by which name the machine is known.
const SERVER: &str = "\
import functools, http.server, socketserver, sys
_, address, port, folder = sys.argv
socketserver.ThreadingTCPServer.allow_reuse_address = True
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
socketserver.ThreadingTCPServer((address, int(port)), handler).serve_forever()
";

/// An issuer that can come and go, with what it publishes.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    home: TempDir,
    process: Option<Process>,
}

impl Issuer {
    /// Makes an issuer that is to be at `address`, and is not there yet. It publishes no keys.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let issuer = Self { address, home: tempfile::tempdir()?, process: None };
        fs::create_dir_all(issuer.folder().join(".well-known"))?;
        let url = issuer.url();
        let configuration = json!({"issuer": url, "jwks_uri": format!("{url}/keys"), "response_types_supported": ["id_token"]});
        fs::write(issuer.folder().join(".well-known/openid-configuration"), configuration.to_string())?;
        issuer.publish(&json!({"keys": []}))?;
        Ok(issuer)
    }

    /// Returns the URL that is its name in tokens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts its process, and waits until it listens.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = Command::new("python3");
        command.args(["-u", "-c", SERVER, &self.address.ip().to_string(), &self.address.port().to_string()]).arg(self.folder());
        let process = Process::start("issuer", command, self.home.path())?;
        let said = || process.log();
        wait::until("the issuer", START, || async {
            tokio::net::TcpStream::connect(self.address).await.with_context(said)?;
            Ok(())
        })
        .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills its process.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Publishes this key set from now on.
    pub fn publish(&self, keys: &Value) -> Result<()> {
        // In one step: a document that is half written would be fetched.
        let next = self.home.path().join("next");
        fs::write(&next, keys.to_string())?;
        Ok(fs::rename(next, self.folder().join("keys"))?)
    }

    /// Returns how often its keys were fetched.
    pub fn fetches(&self) -> usize {
        let log = fs::read_to_string(self.home.path().join("issuer.log")).unwrap_or_default();
        log.matches("\"GET /keys ").count()
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("public")
    }
}
