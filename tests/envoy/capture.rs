//! Transparent capture: client and server in network namespaces of their own, iptables sends their TCP to the
//! sidecars, and what was a plain request for the client is mTLS on the wire.

use std::{
    fs::{self, Permissions},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use anyhow::{Result, ensure};
use harness::{
    launch::{self, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    mesh::{CLIENT, Options, Pod, REVIEWS_V1, wait_until_ready},
    namespace::{Bridge, Namespace, SIDECAR_USER, Sniffer, missing, seen},
    process::{Process, tail},
    said::skip,
    tools::istiod_lite,
    workload::Workload,
};

use crate::mesh::{options, turn};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_is_mtls_on_the_wire() -> Result<()> {
    if let Some(reason) = missing() {
        skip("a_plain_request_is_mtls_on_the_wire", &reason);
        return Ok(());
    }
    let _turn = turn().await?;
    let options = options("1.40", true)?;
    let bridge = Bridge::create()?;
    let client = Namespace::create(&bridge, "client", 3, "127.0.0.1 localhost\n10.96.7.7 reviews\n")?;
    let server = Namespace::create(&bridge, "server", 4, "127.0.0.1 localhost\n")?;
    client.capture(&options.istiod_lite)?;
    server.capture(&options.istiod_lite)?;
    let _workload = server.inhabit(|| Workload::start("v1", SocketAddr::from(([0, 0, 0, 0], 9080)), None))?;

    let home = tempfile::tempdir()?;
    prepare(&options, home.path(), &objects(client.address(), server.address()))?;
    let mut control_plane = launch::control_plane(&options, home.path(), bridge.address(1))?;
    wait_until_ready(&mut control_plane, SocketAddr::new(bridge.address(1), PORT_PLAIN_HTTP), "/ready").await?;
    let discovery = SocketAddr::new(bridge.address(1), PORT_SECURE_GRPC);
    let mut agents = Vec::new();
    for (namespace, pod) in [(&server, REVIEWS_V1), (&client, CLIENT)] {
        let mut agent = start_agent(&options, home.path(), namespace, pod, discovery)?;
        wait_until_ready(&mut agent, SocketAddr::new(namespace.address(), 15021), "/healthz/ready").await?;
        agents.push(agent);
    }
    let proven = prove(&client, &bridge).and_then(|()| calls_to_itself(&server));
    proven.inspect_err(|_| agents.iter().for_each(|agent| eprintln!("{}:\n{}", agent.name(), tail(&agent.log(), 20))))
}

#[test]
fn capturing_twice_equals_once_and_removal_leaves_what_others_set() -> Result<()> {
    if let Some(reason) = missing() {
        skip("capturing_twice_equals_once_and_removal_leaves_what_others_set", &reason);
        return Ok(());
    }
    let bridge = Bridge::create()?;
    let pod = Namespace::create(&bridge, "twice", 9, "127.0.0.1 localhost\n")?;
    for program in ["iptables", "ip6tables"] {
        pod.run(None, program, &["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "7", "-j", "RETURN"])?;
    }
    let before = rules(&pod)?;
    capture(&pod, &["--exclude-outbound-ports", "25,26", "--include-outbound-ranges", "10.0.0.0/8,fd00::/8"])?;
    ensure!(rules(&pod)?.contains("--dport 26 -j RETURN"), "{}", rules(&pod)?);
    capture(&pod, &[])?;
    let once = rules(&pod)?;
    ensure!(!once.contains("--dport 26"), "the first run's rules are still there:\n{once}");
    ensure!(once.matches("--dport 7 -j RETURN").count() == 2, "somebody else's rules are gone:\n{once}");
    ensure!(once.matches("-A OUTPUT -p tcp -j ISTIO_OUTPUT").count() == 2, "not in both families:\n{once}");
    capture(&pod, &[])?;
    ensure!(rules(&pod)? == once, "twice is not once:\n{once}\n{}", rules(&pod)?);
    let loopback = pod.run(None, "ip", &["-6", "addr", "show", "lo"])?;
    ensure!(loopback.contains("inet6 ::6/128 "), "the address that the proxy calls from is missing: {loopback}");
    capture(&pod, &["--remove"])?;
    ensure!(rules(&pod)? == before, "removal leaves:\n{}\nbefore:\n{before}", rules(&pod)?);
    capture(&pod, &["--remove"])
}

#[test]
fn a_pod_without_ipv6_is_captured_with_a_note() -> Result<()> {
    if let Some(reason) = missing() {
        skip("a_pod_without_ipv6_is_captured_with_a_note", &reason);
        return Ok(());
    }
    let bridge = Bridge::create()?;
    let pod = Namespace::create(&bridge, "four", 10, "127.0.0.1 localhost\n")?;
    pod.run(None, "sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"])?;
    let said = pod.run(None, &istiod_lite()?.display().to_string(), &["capture"])?;
    ensure!(said.contains("IPv4: rules set with iptables") && said.contains("IPv6: left alone, it is turned off"), "{said}");
    let unprivileged = pod.run(Some(SIDECAR_USER), &istiod_lite()?.display().to_string(), &["capture"]).unwrap_err().to_string();
    ensure!(unprivileged.contains("NET_ADMIN"), "{unprivileged}");
    Ok(())
}

#[test]
fn rules_lead_to_the_proxys_ports_with_either_family() -> Result<()> {
    if let Some(reason) = missing() {
        skip("rules_lead_to_the_proxys_ports_with_either_family", &reason);
        return Ok(());
    }
    let bridge = Bridge::create()?;
    let client = Namespace::create(&bridge, "outer", 11, "127.0.0.1 localhost\n")?;
    let pod = Namespace::create(&bridge, "inner", 12, "127.0.0.1 localhost\n")?;
    for (namespace, address) in [(&client, "fd00:11::b/64"), (&pod, "fd00:11::c/64")] {
        namespace.run(None, "ip", &["-6", "addr", "add", address, "dev", "eth0", "nodad"])?;
    }
    let _outbound = pod.inhabit(|| Workload::start("out", SocketAddr::from(([0_u16; 8], 15001)), None))?;
    let _inbound = pod.inhabit(|| Workload::start("in", SocketAddr::from(([0_u16; 8], 15006)), None))?;
    let _direct = pod.inhabit(|| Workload::start("direct", SocketAddr::from(([0_u16; 8], 7000)), None))?;
    capture(&pod, &["--exclude-inbound-ports", "7000", "--exclude-outbound-ports", "25"])?;

    for (outer, inner) in [(client.address().to_string(), pod.address().to_string()), ("[fd00:11::b]".into(), "[fd00:11::c]".into())] {
        let at = |host: &str, port: u16| format!("http://{host}:{port}/");
        for (from, user, url, expected) in [
            (&client, None, at(&inner, 9080), Some("in")),
            (&client, None, at(&inner, 7000), Some("direct")),
            (&pod, None, at(&outer, 80), Some("out")),
            (&pod, None, at(&outer, 25), None),
            (&pod, None, at(&inner, 7000), Some("direct")),
            (&pod, Some(SIDECAR_USER), at(&outer, 80), None),
            (&pod, Some(SIDECAR_USER), at(&inner, 9080), Some("in")),
        ] {
            let answer = from.run(user, "curl", &["-gsS", "--max-time", "5", &url]);
            let said = answer.as_deref().ok().and_then(|text| text.split_whitespace().nth(1));
            ensure!(said == expected, "{url} as {user:?}: {answer:?}, expected {expected:?}");
        }
    }
    Ok(())
}

fn capture(pod: &Namespace, flags: &[&str]) -> Result<()> {
    pod.run(None, &istiod_lite()?.display().to_string(), &[&["capture"], flags].concat()).map(|_| ())
}

/// Returns both families' rules without the comments, which hold the time, and without counters.
fn rules(pod: &Namespace) -> Result<String> {
    let mut rules = String::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let saved = pod.run(None, program, &[])?;
        rules.extend(
            saved.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{}\n", line.split(" [").next().unwrap_or(line))),
        );
    }
    Ok(rules)
}

/// Proves mTLS by one plain request: the server's sidecar saw the client's certificate, and no word of the request is on the wire.
fn prove(client: &Namespace, bridge: &Bridge) -> Result<()> {
    let control = format!("http://{}:{PORT_PLAIN_HTTP}/ready", bridge.address(1));
    let sniffer = Sniffer::start(bridge)?;
    // The sidecar's own user is not captured: proof that the recorder sees what is sent in the clear.
    client.run(Some(SIDECAR_USER), "curl", &["-sS", "--max-time", "5", &control])?;
    let answer =
        client.run(None, "curl", &["-sS", "-i", "--max-time", "5", "--retry", "5", "--retry-all-errors", "http://reviews:9080/"])?;
    let frames = sniffer.stop()?;

    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    ensure!(answer.contains("reviews v1"), "not the workload's answer: {answer}");
    let peer = answer.lines().find_map(|line| line.strip_prefix("x-peer: ")).unwrap_or_default();
    ensure!(peer.contains("URI=spiffe://cluster.local/ns/shop/sa/client"), "the client's certificate was not seen: {answer}");
    ensure!(peer.contains("By=spiffe://cluster.local/ns/shop/sa/reviews"), "the server's own identity is missing: {answer}");

    ensure!(seen(&frames, b"GET /ready"), "the recorder does not see plaintext: it proves nothing");
    for plaintext in [b"GET / HTTP".as_slice(), b"reviews v1", b"Host: reviews", b"host: reviews", b"x-version"] {
        ensure!(!seen(&frames, plaintext), "on the wire in the clear: {:?}", String::from_utf8_lossy(plaintext));
    }
    Ok(())
}

/// Checks that a workload reaches itself through its proxy, inbound policy included, by its Service, and directly by its own address.
fn calls_to_itself(server: &Namespace) -> Result<()> {
    let by_service = server.run(None, "curl", &["-sS", "-i", "--max-time", "5", "http://10.96.7.7:9080/"])?;
    let peer = by_service.lines().find_map(|line| line.strip_prefix("x-peer: ")).unwrap_or_default();
    ensure!(peer.contains("URI=spiffe://cluster.local/ns/shop/sa/reviews"), "not by mutual TLS: {by_service}");
    for address in [server.address().to_string(), "127.0.0.1".to_owned()] {
        let direct = server.run(None, "curl", &["-sS", "-i", "--max-time", "5", &format!("http://{address}:9080/")])?;
        ensure!(direct.contains("reviews v1") && !direct.contains("x-peer: By="), "{address}: {direct}");
    }
    Ok(())
}

/// Writes CA, tokens and objects, readable for the user of the sidecars.
pub(crate) fn prepare(options: &Options, home: &Path, objects: &str) -> Result<()> {
    fs::create_dir(home.join("logs"))?;
    fs::create_dir(home.join("config"))?;
    launch::ceremony(&options.istiod_lite, home)?;
    fs::write(home.join("config/shop.yaml"), objects)?;
    fs::set_permissions(home, Permissions::from_mode(0o755))?;
    fs::set_permissions(home.join("ca"), Permissions::from_mode(0o755))?;
    Ok(())
}

pub(crate) fn start_agent(options: &Options, home: &Path, namespace: &Namespace, pod: Pod, discovery: SocketAddr) -> Result<Process> {
    launch::issue_token(&options.istiod_lite, home, pod)?;
    let token = home.join(format!("{}.token", pod.name));
    chown(&token, Some(SIDECAR_USER), Some(SIDECAR_USER))?;
    // As the kubelet makes a volume: it belongs to root, and everybody may write.
    let volume = home.join(pod.name);
    fs::create_dir(&volume)?;
    fs::set_permissions(&volume, Permissions::from_mode(0o777))?;
    let mut command = namespace.command(Some(SIDECAR_USER), &options.istiod_lite.display().to_string());
    launch::agent(&mut command, options, home, pod, namespace.address(), discovery, "REDIRECT");
    Process::start(pod.name, command, &home.join("logs"))
}

fn objects(client: IpAddr, server: IpAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: shop}}
spec: {{clusterIP: 10.96.7.7, selector: {{app: reviews}}, ports: [{{name: http, port: 9080, targetPort: 9080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client-1, namespace: shop, labels: {{app: client, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: client}}
status: {{podIP: {client}, podIPs: [{{ip: {client}}}], phase: Running, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: reviews-v1-1, namespace: shop, labels: {{app: reviews, version: v1, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: reviews}}
status: {{podIP: {server}, podIPs: [{{ip: {server}}}], phase: Running, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: reviews-a, namespace: shop, labels: {{kubernetes.io/service-name: reviews}}}}
addressType: IPv4
ports: [{{name: http, port: 9080, protocol: TCP}}]
endpoints:
- {{addresses: [{server}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: reviews-v1-1, namespace: shop}}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: shop}}
spec: {{mtls: {{mode: STRICT}}}}
"#
    )
}
