//! What one team writes of redirects: each host of a server that redirects is redirected, and a redirect that Envoy cannot
//! express hurts nobody.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use harness::{
    http_client::{get, get_text},
    mesh::CONVERGE,
    wait,
};

use crate::mesh::{start, turn};

fn objects(bind: IpAddr) -> String {
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: later, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 80, name: http-later, protocol: HTTP}}
    bind: {bind}
    hosts: [later.example.com]
    tls: {{httpsRedirect: true}}
  - port: {{number: 80, name: http-more, protocol: HTTP}}
    bind: {bind}
    hosts: [new.example.com, odd.example.com]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: odd, namespace: other}}
spec: {{hosts: [odd.example.com], gateways: [shop/later, mesh], http: [{{redirect: {{redirectCode: 304, uri: /new}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: new, namespace: shop}}
spec: {{hosts: [new.example.com], gateways: [later], http: [{{directResponse: {{status: 418}}}}]}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_without_routes_are_redirected_and_a_wrong_code_hurts_nobody() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let gateway = mesh.paths()[0].target;
    mesh.manifests().write("redirects.yaml", &objects(gateway.ip()))?;
    wait::until("a redirect of a host without routes", CONVERGE, || async {
        let answer = get(gateway, "later.example.com", "/cart").await?;
        ensure!(answer.status == 301, "{}", answer.status);
        ensure!(answer.header("location") == "https://later.example.com/cart", "{}", answer.header("location"));
        Ok(())
    })
    .await?;
    // The table that it is in takes what others change.
    wait::until("the route of another team", CONVERGE, || async {
        let answer = get(gateway, "new.example.com", "/").await?;
        ensure!(answer.status == 418, "{}", answer.status);
        Ok(())
    })
    .await?;
    let told = get_text(mesh.monitoring(), "/debug/diagnostics").await?;
    ensure!(told.contains("spec.http[0].redirect.redirectCode: must be 301, 302, 303, 307 or 308, is 304"), "{told}");
    mesh.check_running()
}
