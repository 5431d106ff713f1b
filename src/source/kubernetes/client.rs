//! Finds the API server and makes the client for it.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use http::{HeaderValue, header::USER_AGENT};
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::limit::RateLimitLayer;

use crate::system_error::explain;

/// Where the chart mounts Secret `istio-kubeconfig` (contract §1.1).
const REMOTE: &str = "/var/run/secrets/remote/config";

/// How the API server is found, and how often it may be asked.
#[derive(Clone, Debug)]
pub(crate) struct ClientSettings {
    /// `--kubeconfig`, which takes precedence over everything else.
    pub kubeconfig: Option<PathBuf>,
    /// `--context` of the kubeconfig; `None` for its current one.
    pub context: Option<String>,
    /// `--kubernetesApiQPS`: requests per second, on average over `burst / qps` seconds.
    pub qps: f64,
    /// `--kubernetesApiBurst`: requests that may be sent at once.
    pub burst: u32,
}

/// Makes the client that all parts of the process share, and with it the limit on requests. Sends no request yet.
///
/// The API server is found by the first of these that exists: [`ClientSettings::kubeconfig`], the files in environment
/// variable `KUBECONFIG`, the file where istiod's chart mounts a remote kubeconfig, the cluster that this pod runs in,
/// `~/.kube/config`. The chart sets `KUBECONFIG` to a file that usually does not exist, so missing files are ignored.
///
/// # Errors
/// When none of them exists, or the first that does cannot be used.
pub(crate) async fn client(settings: &ClientSettings) -> anyhow::Result<Client> {
    let mut config = config(settings).await?;
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("istiod-lite/", env!("CARGO_PKG_VERSION")))));
    // Every caller has its own way to wait and try again, and logs that it does.
    config.default_retry = false;
    let burst = settings.burst.max(1);
    let limit = RateLimitLayer::new(u64::from(burst), window(burst, settings.qps));
    let builder = ClientBuilder::try_from(config).context("the settings of the API server cannot be used")?;
    Ok(builder.with_layer(&limit).build())
}

/// Returns the names or addresses at which the API server is called.
///
/// # Errors
/// As [`client`].
pub(crate) async fn server_names(settings: &ClientSettings) -> anyhow::Result<Vec<String>> {
    let configured = config(settings).await?.cluster_url.host().map(str::to_owned);
    Ok(configured.into_iter().chain(env::var("KUBERNETES_SERVICE_HOST").ok()).filter(|name| !name.is_empty()).collect())
}

/// Returns the time in which `burst` requests may be sent. Flags also accept 0, `inf` and `NaN`, and an empty window would
/// panic.
fn window(burst: u32, qps: f64) -> Duration {
    Duration::from_secs_f64(f64::from(burst) / qps.max(0.1)).max(Duration::from_nanos(1))
}

async fn config(settings: &ClientSettings) -> anyhow::Result<Config> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    if let Some(kubeconfig) = kubeconfig(settings)? {
        return Config::from_custom_kubeconfig(kubeconfig, &options).await.context("kubeconfig");
    }
    if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Config::incluster().context("the cluster that this pod runs in");
    }
    let nowhere = "no API server: give --kubeconfig or KUBECONFIG, run in a pod, or read a folder by --config-dir";
    match Config::from_kubeconfig(&options).await {
        // The file that is looked for last.
        Err(KubeconfigError::ReadConfig(..)) => Err(anyhow!(nowhere)),
        found => found.context("~/.kube/config cannot be used; give --kubeconfig, or read a folder by --config-dir"),
    }
}

fn read(path: &Path) -> anyhow::Result<Kubeconfig> {
    match Kubeconfig::read_from(path) {
        Err(KubeconfigError::ReadConfig(error, _)) => Err(anyhow!(explain(&error))),
        read => read.context("is no kubeconfig; name a file that kubectl reads"),
    }
}

fn kubeconfig(settings: &ClientSettings) -> anyhow::Result<Option<Kubeconfig>> {
    if let Some(path) = &settings.kubeconfig {
        return read(path).with_context(|| format!("--kubeconfig {}", path.display())).map(Some);
    }
    let named = env::var_os("KUBECONFIG").unwrap_or_default();
    let mut paths: Vec<PathBuf> = env::split_paths(&named).filter(|path| path.is_file()).collect();
    if paths.is_empty() {
        paths.extend(Some(PathBuf::from(REMOTE)).filter(|path| path.is_file()));
    }
    let mut merged: Option<Kubeconfig> = None;
    for path in paths {
        let next = read(&path).with_context(|| format!("kubeconfig {}", path.display()))?;
        merged = Some(match merged {
            Some(before) => before.merge(next).with_context(|| format!("kubeconfig {}", path.display()))?,
            None => next,
        });
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_requests_makes_a_limit() {
        assert_eq!(window(160, 80.0), Duration::from_secs(2));
        for qps in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 0.0] {
            for burst in [1, u32::MAX] {
                RateLimitLayer::new(u64::from(burst), window(burst, qps));
                assert!(window(burst, qps) > Duration::ZERO, "{burst} {qps}");
            }
        }
    }
}
