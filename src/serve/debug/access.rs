//! Who may read `/debug` over HTTP: callers on this machine everything (a port-forward looks like one), others what
//! their proven identity may see.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts},
    http::{Request, StatusCode},
};

use crate::{identity::authenticate::Authenticator, mesh::model::Caller, xds::debug::Viewer};

/// Decides by the caller's address and its `authorization` header. The ports are open before identities can be proven:
/// until then only callers on this machine are let in.
#[derive(Clone, Debug, Default)]
pub struct Access {
    authenticator: Arc<OnceLock<Arc<Authenticator>>>,
}

impl Access {
    /// Identities are proven by `authenticator` from now on, the same as on the TLS port.
    pub fn authenticate_by(&self, authenticator: Arc<Authenticator>) {
        if self.authenticator.set(authenticator).is_err() {
            tracing::warn!("callers of /debug are authenticated already");
        }
    }

    /// How much the caller may see; the status says why not.
    pub async fn viewer(&self, request: Request<Body>, system_namespace: &str) -> Result<Viewer, StatusCode> {
        let (mut parts, _) = request.into_parts();
        let peer = ConnectInfo::<SocketAddr>::from_request_parts(&mut parts, &()).await;
        if peer.is_ok_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback()) {
            return Ok(Viewer::All);
        }
        let authenticator = self.authenticator.get().ok_or(StatusCode::UNAUTHORIZED)?;
        match authenticator.authenticate(&parts.headers, None).await {
            Ok(Caller::Workload(identity)) => Ok(Viewer::of(&identity.namespace, system_namespace)),
            Ok(Caller::Anonymous) => Err(StatusCode::UNAUTHORIZED),
            Err(error) => {
                tracing::info!(path = parts.uri.path(), %error, "a caller from elsewhere may not read this");
                Err(StatusCode::UNAUTHORIZED)
            }
        }
    }
}
