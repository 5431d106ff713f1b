//! The client of a remote cluster's API server: bounded, whoever answers at its address.

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderValue, header::USER_AGENT};
use http_body_util::Limited;
use kube::{Client, client::ClientBuilder};
use smol_str::SmolStr;
use tokio::{task::spawn_blocking, time::timeout};
use tower::{limit::RateLimitLayer, util::MapResponseLayer};

use super::kubeconfig::{KubeconfigRefusal, config_of, shown};

/// How long connecting may take, each step of a request, and making the credentials.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer. Keys and reviews have a few kilobytes.
const LARGEST: usize = 1 << 20;
/// As many requests as our own API server gets by default: 80 a second, 160 at once.
const BURST: u64 = 160;
const WINDOW: Duration = Duration::from_secs(2);

/// Returns a client for a kubeconfig, and the address that it calls. Sends no request yet.
pub(super) async fn client_of(kubeconfig: &[u8], allowed: &BTreeSet<SmolStr>) -> Result<(Client, String), KubeconfigRefusal> {
    let mut config = config_of(kubeconfig, allowed).await?;
    let address = shown(&config.cluster_url);
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("istiod-lite/", env!("CARGO_PKG_VERSION")))));
    (config.connect_timeout, config.read_timeout, config.write_timeout) = (Some(PATIENCE), Some(PATIENCE), Some(PATIENCE));
    config.default_retry = false;
    let handle = tokio::runtime::Handle::current();
    // A program that gives credentials, if one is allowed, is waited for on the spot.
    let made = spawn_blocking(move || {
        let _runtime = handle.enter();
        let bounded = MapResponseLayer::new(|response: http::Response<_>| response.map(|body| Limited::new(body, LARGEST)));
        let builder = ClientBuilder::try_from(config).map_err(|_| KubeconfigRefusal::Unusable)?;
        Ok(builder.with_layer(&bounded).with_layer(&RateLimitLayer::new(BURST, WINDOW)).build())
    });
    match timeout(PATIENCE, made).await {
        Ok(Ok(client)) => Ok((client?, address)),
        Ok(Err(_)) | Err(_) => Err(KubeconfigRefusal::Unusable),
    }
}
