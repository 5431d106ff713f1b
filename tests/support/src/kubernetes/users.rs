//! Who asks the API server, and the kubeconfig that says so.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pki::{Authority, CA};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// A member of `system:masters`: everything is allowed.
    Admin,
    /// A user by client certificate: known to every state of the storage, an empty one included. Allowed is what RBAC
    /// says.
    User {
        /// Name.
        name: &'a str,
        /// Group.
        group: Option<&'a str>,
    },
    /// The bearer of a token, as [`super::ApiServer::token`] gives it.
    Bearer {
        /// The token.
        token: &'a str,
    },
}

/// Returns the kubeconfig of `who` for the API server at `address`.
pub(super) fn kubeconfig(authority: &Authority, who: Who<'_>, address: SocketAddr) -> Result<Value> {
    let user = match who {
        Who::Admin => by_certificate(authority, "admin", Some("system:masters"))?,
        Who::User { name, group } => by_certificate(authority, name, group)?,
        Who::Bearer { token } => json!({ "token": token }),
    };
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "clusters": [{
            "name": "test",
            "cluster": { "server": format!("https://{address}"), "certificate-authority": authority.path(CA) },
        }],
        "users": [{ "name": "test", "user": user }],
    }))
}

/// Replaces the file in one step: whoever watches it sees the old or the new one.
pub(super) fn write(path: &Path, kubeconfig: &Value) -> Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(path.parent().context("a kubeconfig has a folder")?)?;
    draft.write_all(&serde_json::to_vec_pretty(kubeconfig)?)?;
    draft.persist(path)?;
    Ok(())
}

/// Makes another certificate each time: several tests may ask at once.
fn by_certificate(authority: &Authority, user: &str, group: Option<&str>) -> Result<Value> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let file = format!("user-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
    authority.client(&file, user, group)?;
    let (certificate, key) = (authority.path(&format!("{file}.crt")), authority.path(&format!("{file}.key")));
    Ok(json!({ "client-certificate": certificate, "client-key": key }))
}
