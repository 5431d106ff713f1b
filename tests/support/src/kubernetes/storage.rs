//! The state that an API server stores: exchanged for an empty one, put back, copied, compacted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{ApiServer, processes, processes::Processes};

impl ApiServer {
    /// Kills etcd and kube-apiserver and starts them on the storage of this name, an empty one if there is none yet:
    /// another cluster behind the same address. The first is called `first`.
    pub async fn switch_storage(&mut self, name: &str) -> Result<()> {
        self.stop()?;
        name.clone_into(&mut self.storage);
        self.resume().await
    }

    /// Copies the storage in use as a backup would, and goes on with the one in use. Restarts both.
    pub async fn back_up_storage(&mut self, name: &str) -> Result<()> {
        self.stop()?;
        copy(&self.storage_folder(&self.storage), &self.storage_folder(name))?;
        self.resume().await
    }

    /// Has etcd forget all history up to now: who watches from before it is told that it expired.
    pub async fn compact(&self) -> Result<()> {
        let status = self.ask_etcd("/v3/maintenance/status", &json!({})).await?;
        let revision = status.pointer("/header/revision").context("etcd tells no revision")?;
        self.ask_etcd("/v3/kv/compaction", &json!({ "revision": revision, "physical": true })).await?;
        Ok(())
    }

    pub(super) fn storage_folder(&self, name: &str) -> PathBuf {
        self.home().join(format!("etcd-{name}"))
    }

    fn stop(&mut self) -> Result<()> {
        self.kill()?;
        Processes::kill(&mut self.processes.etcd)
    }

    async fn ask_etcd(&self, path: &str, question: &Value) -> Result<Value> {
        let address = processes::etcd_address(self);
        let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::post(path).header(HOST, address.to_string()).body(Full::<Bytes>::from(question.to_string()))?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let answer = body.collect().await?.to_bytes();
        connection.abort();
        ensure!(parts.status.is_success(), "etcd {path}: {} {}", parts.status, String::from_utf8_lossy(&answer));
        Ok(serde_json::from_slice(&answer)?)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
