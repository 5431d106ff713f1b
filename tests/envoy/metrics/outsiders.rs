//! Endpoints without a proxy beside those that have one: nobody without mTLS is told who the client is, not even when a request is tried
//! again there after a proxy of the mesh was told.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use harness::{
    mesh::{CLIENT, CONVERGE, Mesh, REVIEWS_V1},
    wait,
    workload::{ATTEMPT, READINESS, VERSION, Workload},
};

use super::{REQUESTS, asked, expected::UNKNOWN, scrape};

const HOST: &str = "outside.example:9090";
/// What the workload without a proxy says of itself.
const OUTSIDER: &str = "outsider";

pub(super) async fn see_no_header(mesh: &Mesh) -> Result<()> {
    let _outsider = Workload::start(OUTSIDER, mesh.network().socket(6, 9099), None).await?;
    let target = mesh.network().socket(CLIENT.host, 9090);
    declare(mesh)?;
    wait::until("an answer from outside", CONVERGE, || async { asked(target, HOST, "/", &[]).await.map(drop) }).await?;
    let before = scrape(mesh).await?;
    let mut answers = BTreeMap::<String, f64>::new();
    for _ in 0..30 {
        let answer = asked(target, HOST, "/", &[]).await?;
        *answers.entry(answer.header(VERSION).to_owned()).or_default() += 1.0;
    }
    ensure!(answers.len() == 2, "both have to be asked: {answers:?}");
    mesh.workload("v1").fail_probes(true);
    let mut retried = 0;
    for _ in 0..20 {
        let answer = asked(target, HOST, READINESS, &[]).await?;
        ensure!(answer.header(VERSION) == OUTSIDER, "{} answered {}", answer.header(VERSION), answer.status);
        retried += u32::from(answer.header(ATTEMPT) != "1");
        *answers.entry(OUTSIDER.to_owned()).or_default() += 1.0;
    }
    mesh.workload("v1").fail_probes(false);
    ensure!(retried > 0, "no request was tried again");
    // Whoever answered is who is counted.
    let after = wait::until("the metrics of the answers", CONVERGE, || async {
        let grown = scrape(mesh).await?[CLIENT.name].growth(&before[CLIENT.name], REQUESTS);
        ensure!(grown.values().sum::<f64>() == answers.values().sum::<f64>(), "{grown:#?}");
        Ok(grown)
    });
    let outside = after.await?.into_iter().filter(|(labels, _)| labels["destination_principal"] == UNKNOWN);
    let (counted, answered) = (outside.map(|(_, by)| by).sum::<f64>(), answers[OUTSIDER]);
    ensure!(counted == answered, "{counted} without mTLS, and {answered} were answered so");
    Ok(())
}

/// Declares a host with two endpoints, and tries requests again that fail.
fn declare(mesh: &Mesh) -> Result<()> {
    let address = |host| mesh.network().address(host);
    let (client, outsider, server) = (address(CLIENT.host), address(6), address(REVIEWS_V1.host));
    mesh.manifests().write(
        "outside.yaml",
        &format!(
            r#"apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside, namespace: shop}}
spec:
  hosts: [outside.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 9090, name: http, protocol: HTTP}}]
  endpoints:
  - {{address: {outsider}, ports: {{http: 9099}}}}
  - {{address: {server}, ports: {{http: 9080}}, serviceAccount: reviews, labels: {{security.istio.io/tlsMode: istio}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: outside, namespace: shop}}
spec:
  hosts: [outside.example]
  http: [{{retries: {{attempts: 3, retryOn: 5xx}}, route: [{{destination: {{host: outside.example}}}}]}}]
"#
        ),
    )?;
    let egress = format!(
        "  egress:\n  - port: {{number: 9090, protocol: HTTP, name: outside}}\n    bind: {client}\n    captureMode: NONE\n    hosts: [./outside.example]\n"
    );
    let sidecars = mesh.manifests().read("sidecars.yaml")?;
    mesh.manifests().write("sidecars.yaml", &sidecars.replacen("  egress:\n", &egress, 1))
}
