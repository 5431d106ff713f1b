//! A Prometheus that has certificates of the mesh scrapes agents through the sidecars' own listeners, as `docs/observability.md` says.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use harness::{
    address::Loopback,
    launch,
    mesh::{CLIENT, Mesh, REVIEWS_V1, REVIEWS_V2, START},
    prometheus::{Job, Prometheus},
    said::skip,
    tools, wait,
};
use serde_json::{Value, json};

use crate::mesh::{options, turn};

/// Where sidecars take scrapes.
const PORT: u16 = 15443;
const EVERY: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_with_certificates_of_the_mesh_scrapes_through_sidecars() -> Result<()> {
    if tools::prometheus("prometheus").is_err() {
        skip("a_prometheus_with_certificates_of_the_mesh_scrapes_through_sidecars", "no Prometheus: run `scripts/setup-prometheus`");
        return Ok(());
    }
    let _turn = turn().await?;
    let options = options("1.40", true)?;
    let istiod_lite = options.istiod_lite.clone();
    let folder = |home: &Path| Ok(fs::create_dir(launch::certificates(home, CLIENT))?);
    let mesh = Mesh::start_prepared(options, Loopback::free()?, Mesh::reporting(), folder).await?;
    open(&mesh)?;
    let certificates = launch::certificates(mesh.home(), CLIENT);
    let with = job("with", &mesh, tls(Some(certificates)));
    let without = job("without", &mesh, tls(None));
    let prometheus = Prometheus::start(&istiod_lite, mesh.home(), mesh.network().socket(9, 9090), &[with, without]).await?;
    wait::until("scrapes through both sidecars", START, || async {
        let up = prometheus.query("up{job=\"with\"} == 1").await?;
        ensure!(up.len() == 2, "{up:?}: {}", prometheus.errors().await?);
        let requests = prometheus.number("count(istio_requests_total{job=\"with\",reporter=\"destination\"})").await?;
        ensure!(requests.is_some_and(|count| count >= 2.0), "{requests:?} series of requests");
        Ok(())
    })
    .await?;
    wait::until("attempts without a certificate", START, || async {
        let tried = prometheus.query("up{job=\"without\"}").await?;
        ensure!(tried.len() == 2, "{tried:?}");
        Ok(())
    })
    .await?;
    let refused = prometheus.query("max_over_time(up{job=\"without\"}[1m])").await?;
    ensure!(refused.len() == 2 && refused.iter().all(|sample| sample.value == 0.0), "scraped without a certificate: {refused:?}");
    Ok(())
}

/// Opens a listener for scrapes in the sidecars of `reviews`.
fn open(mesh: &Mesh) -> Result<()> {
    const FILE: &str = "sidecars.yaml";
    const BEFORE: &str = "  egress:\n  - hosts: [\"~/*\"]";
    let listener = format!(
        "  - port: {{number: {PORT}, protocol: HTTP, name: http-metrics}}\n    captureMode: NONE\n    defaultEndpoint: 0.0.0.0:15020\n"
    );
    let text = mesh.manifests().read(FILE)?;
    ensure!(text.contains(BEFORE), "{FILE} is not what it was");
    mesh.manifests().write(FILE, &text.replacen(BEFORE, &format!("{listener}{BEFORE}"), 1))
}

fn job<'j>(name: &'j str, mesh: &Mesh, further: Value) -> Job<'j> {
    let targets = [REVIEWS_V1, REVIEWS_V2].map(|pod| (mesh.network().socket(pod.host, PORT), pod.name)).to_vec();
    Job { name, every: EVERY, path: "/stats/prometheus", targets, further }
}

fn tls(certificates: Option<PathBuf>) -> Value {
    let mut config = json!({"insecure_skip_verify": true});
    if let Some(folder) = certificates {
        config["ca_file"] = json!(folder.join("root-cert.pem"));
        config["cert_file"] = json!(folder.join("cert-chain.pem"));
        config["key_file"] = json!(folder.join("key.pem"));
    }
    json!({"scheme": "https", "tls_config": config})
}
