//! A gateway in a pod: an ordinary user on the ports that everybody knows.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use harness::{
    launch::{self, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    mesh::{CONVERGE, GATEWAY, wait_until_ready},
    namespace::{Bridge, Namespace, missing},
    process::tail,
    said::skip,
    wait,
};

use crate::{
    capture::{prepare, start_agent},
    mesh::{options, turn},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_port_80_as_an_ordinary_user() -> Result<()> {
    if let Some(reason) = missing() {
        skip("a_gateway_serves_port_80_as_an_ordinary_user", &reason);
        return Ok(());
    }
    let _turn = turn().await?;
    let options = options("1.40", true)?;
    let bridge = Bridge::create()?;
    let pod = Namespace::create(&bridge, "edge", 13, "127.0.0.1 localhost\n")?;
    // As the injector asks for it in the pod's security context.
    pod.run(None, "sysctl", &["-qw", "net.ipv4.ip_unprivileged_port_start=0"])?;
    let home = tempfile::tempdir()?;
    prepare(&options, home.path(), &objects(pod.address()))?;
    let mut control_plane = launch::control_plane(&options, home.path(), bridge.address(1))?;
    wait_until_ready(&mut control_plane, SocketAddr::new(bridge.address(1), PORT_PLAIN_HTTP), "/ready").await?;
    let discovery = SocketAddr::new(bridge.address(1), PORT_SECURE_GRPC);
    let mut agent = start_agent(&options, home.path(), &pod, GATEWAY, discovery)?;
    wait_until_ready(&mut agent, SocketAddr::new(pod.address(), 15021), "/healthz/ready").await?;
    let edge = format!("http://{}/", pod.address());
    wait::until("an answer on port 80", CONVERGE, || async {
        let answer = pod.run(None, "curl", &["-sS", "-i", "--max-time", "5", "-H", "host: shop.example.com", &edge])?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("from the edge"), "{answer}\n{}", tail(&agent.log(), 20));
        Ok(())
    })
    .await?;
    // The server beside it asks for a Secret that does not exist: its listener waits for that no longer than for the answer.
    let listeners = pod.run(None, "curl", &["-sS", "http://127.0.0.1:15000/config_dump?resource=dynamic_listeners"])?;
    ensure!(listeners.contains("0.0.0.0_80") && listeners.contains("0.0.0.0_443"), "{listeners}");
    ensure!(!listeners.contains("warming_state"), "{listeners}");
    Ok(())
}

fn objects(gateway: IpAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: istio-system}}
---
apiVersion: v1
kind: Service
metadata: {{name: istio-ingressgateway, namespace: istio-system}}
spec: {{clusterIP: 10.96.7.1, selector: {{istio: ingressgateway}}, ports: [{{name: http2, port: 80, targetPort: 80}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: gateway-1, namespace: istio-system, labels: {{app: istio-ingressgateway, istio: ingressgateway}}}}
spec: {{serviceAccountName: istio-ingressgateway}}
status: {{podIP: {gateway}, podIPs: [{{ip: {gateway}}}], phase: Running, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: public, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ["*"]}}
  - {{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ["*"], tls: {{mode: SIMPLE, credentialName: missing}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge, namespace: istio-system}}
spec:
  hosts: [shop.example.com]
  gateways: [public]
  http: [{{directResponse: {{status: 200, body: {{string: from the edge}}}}}}]
"#
    )
}
