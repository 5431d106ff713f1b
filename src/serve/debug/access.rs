//! Who may read `/debug` over HTTP: callers on this machine may read everything (a port-forward looks like one), others what
//! their proven identity may see.
//!
//! A page in the browser of somebody who forwards a port is a caller on this machine too, once its name resolves to it. It cannot
//! choose the `Host` header, which holds that name.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, Request, StatusCode, header::HOST, uri::Authority},
};

use crate::{
    identity::authenticate::Authenticator,
    peer_text::PeerText,
    sparse_log::{FEW, SparseLog},
    xds::debug::Viewer,
};

/// The refusal of a caller on this machine that asks for another.
const MISDIRECTED: (StatusCode, &str) = (
    StatusCode::MISDIRECTED_REQUEST,
    "callers on this machine ask localhost, 127.0.0.1 or [::1]: with another Host a page in a browser could read this\n",
);

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

    /// Returns how much the caller may see, or the status and text that say why it may see nothing.
    pub(crate) async fn viewer(&self, request: Request<Body>, system_namespace: &str) -> Result<Viewer, (StatusCode, &'static str)> {
        static REFUSED: SparseLog = SparseLog::new(FEW);
        const UNKNOWN: (StatusCode, &str) = (StatusCode::UNAUTHORIZED, "");
        let (mut parts, _) = request.into_parts();
        let peer = ConnectInfo::<SocketAddr>::from_request_parts(&mut parts, &()).await;
        if peer.is_ok_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback()) {
            return if names_this_machine(&parts.headers) { Ok(Viewer::All) } else { Err(MISDIRECTED) };
        }
        let authenticator = self.authenticator.get().ok_or(UNKNOWN)?;
        match authenticator.authenticate(&parts.headers, None).await {
            // Who runs another cluster decides who is in its namespace of our name.
            Ok(proven) if proven.remote_cluster.is_some() => {
                Err((StatusCode::FORBIDDEN, "callers of remote clusters see nothing of this one\n"))
            }
            Ok(proven) => Ok(Viewer::of(&proven.identity.namespace, system_namespace)),
            Err(error) => {
                REFUSED.write(|left_out| {
                    let path = PeerText::new(parts.uri.path());
                    tracing::info!(%path, %error, left_out, "a caller from elsewhere may not read this");
                });
                Err(UNKNOWN)
            }
        }
    }
}

/// Returns whether the request is for this machine by its name or address. Browsers always say for what it is.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let names = headers.get_all(HOST).iter().map(|host| host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()));
    names.into_iter().all(|name| {
        name.is_some_and(|name| {
            let host = name.host().trim_start_matches('[').trim_end_matches(']');
            host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
        })
    })
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use jiff::Timestamp;

    use super::*;
    use crate::{
        identity::{
            authenticate::TokenVerifier,
            proof::{Proof, Proven},
            token::TokenError,
        },
        mesh::model::SpiffeId,
    };

    /// Takes each token for the name of a namespace, perhaps `@` a remote cluster.
    struct Naive;

    impl TokenVerifier for Naive {
        fn verify<'a>(&'a self, token: &'a str, _: Timestamp) -> BoxFuture<'a, Result<Proven, TokenError>> {
            let (namespace, remote_cluster) = token.split_once('@').map_or((token, None), |(name, cluster)| (name, Some(cluster.into())));
            let (namespace, service_account) = (namespace.into(), "default".into());
            let identity = SpiffeId { trust_domain: "td".into(), namespace, service_account };
            Box::pin(async move { Ok(Proven { remote_cluster, ..Proven::new(identity, Proof::TokenReview) }) })
        }
    }

    async fn viewer(access: &Access, peer: &str, token: Option<&str>) -> Result<Viewer, StatusCode> {
        asked(access, peer, token, "istiod.istio-system:15014").await
    }

    async fn asked(access: &Access, peer: &str, token: Option<&str>, host: &str) -> Result<Viewer, StatusCode> {
        let peer: SocketAddr = peer.parse().unwrap();
        let mut request = Request::builder().uri("/debug/syncz").header(HOST, host).extension(ConnectInfo(peer));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        access.viewer(request.body(Body::empty()).unwrap(), "istio-system").await.map_err(|(status, _)| status)
    }

    #[tokio::test]
    async fn callers_from_elsewhere_prove_who_they_are() {
        let access = Access::default();
        for here in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(asked(&access, here, None, "localhost").await, Ok(Viewer::All), "{here}");
        }
        assert_eq!(viewer(&access, "10.0.0.1:1", Some("istio-system")).await, Err(StatusCode::UNAUTHORIZED), "nobody can be proven yet");
        access.authenticate_by(Arc::new(Authenticator::new("td", vec![Arc::new(Naive)], Arc::new(Timestamp::now))));
        assert_eq!(viewer(&access, "10.0.0.1:1", None).await, Err(StatusCode::UNAUTHORIZED));
        assert_eq!(viewer(&access, "10.0.0.1:1", Some("istio-system")).await, Ok(Viewer::All));
        assert_eq!(viewer(&access, "10.0.0.1:1", Some("shop")).await, Ok(Viewer::Namespace("shop".into())));
        for there in ["istio-system@east", "shop@east"] {
            assert_eq!(viewer(&access, "10.0.0.1:1", Some(there)).await, Err(StatusCode::FORBIDDEN), "{there}");
        }
    }

    #[tokio::test]
    async fn a_page_in_a_browser_is_not_this_machine() {
        let access = Access::default();
        for host in ["localhost:15014", "LOCALHOST", "127.0.0.1:8080", "127.8.9.1", "[::1]:15014"] {
            assert_eq!(asked(&access, "127.0.0.1:1", None, host).await, Ok(Viewer::All), "{host}");
        }
        for host in ["evil.example.com:15014", "localhost.evil.example.com", "127.0.0.1.evil.example.com", "10.0.0.1", "[", ""] {
            assert_eq!(asked(&access, "127.0.0.1:1", None, host).await, Err(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
    }
}
