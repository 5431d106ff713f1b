//! Who may read `/debug` over HTTP: callers on this machine may read everything (a port-forward looks like one), others what
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

/// Decides by the caller's address and its `authorization` header. The ports open before identities can be proven: until then
/// only callers on this machine are let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    authenticator: Arc<OnceLock<Arc<Authenticator>>>,
}

impl Access {
    /// Proves identities by `authenticator` from now on, as on the TLS port.
    pub(crate) fn authenticate_by(&self, authenticator: Arc<Authenticator>) {
        if self.authenticator.set(authenticator).is_err() {
            tracing::warn!("callers of /debug are authenticated already");
        }
    }

    /// Returns how much the caller may see, or the status that says why it may see nothing.
    pub(crate) async fn viewer(&self, request: Request<Body>, system_namespace: &str) -> Result<Viewer, StatusCode> {
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

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use jiff::Timestamp;

    use super::*;
    use crate::{
        identity::{authenticate::TokenVerifier, token::TokenError},
        mesh::model::SpiffeId,
    };

    /// Takes each token for the name of a namespace.
    struct Naive;

    impl TokenVerifier for Naive {
        fn verify<'a>(&'a self, token: &'a str, _: Timestamp) -> BoxFuture<'a, Result<SpiffeId, TokenError>> {
            let (namespace, service_account) = (token.into(), "default".into());
            Box::pin(async move { Ok(SpiffeId { trust_domain: "td".into(), namespace, service_account }) })
        }
    }

    async fn viewer(access: &Access, peer: &str, token: Option<&str>) -> Result<Viewer, StatusCode> {
        let peer: SocketAddr = peer.parse().unwrap();
        let mut request = Request::builder().uri("/debug/syncz").extension(ConnectInfo(peer));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        access.viewer(request.body(Body::empty()).unwrap(), "istio-system").await
    }

    #[tokio::test]
    async fn callers_from_elsewhere_prove_who_they_are() {
        let access = Access::default();
        for here in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(viewer(&access, here, None).await, Ok(Viewer::All), "{here}");
        }
        assert_eq!(viewer(&access, "10.0.0.1:1", Some("istio-system")).await, Err(StatusCode::UNAUTHORIZED), "nobody can be proven yet");
        access.authenticate_by(Arc::new(Authenticator::new("td", vec![Arc::new(Naive)], Arc::new(Timestamp::now))));
        assert_eq!(viewer(&access, "10.0.0.1:1", None).await, Err(StatusCode::UNAUTHORIZED));
        assert_eq!(viewer(&access, "10.0.0.1:1", Some("istio-system")).await, Ok(Viewer::All));
        assert_eq!(viewer(&access, "10.0.0.1:1", Some("shop")).await, Ok(Viewer::Namespace("shop".into())));
    }
}
