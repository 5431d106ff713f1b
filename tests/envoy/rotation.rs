//! The mesh's authority is replaced under load, root and all, by the commands that an operator uses.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    admin::Admin,
    http_client::{get, get_text},
    mesh::{GATEWAY, Mesh, Options, PODS, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    process::run,
    tools::istiod_lite,
    wait,
};
use istiod_lite::identity::{certificate::Certificate, rotation::Report};
use serde_json::Value;

use crate::{
    credentials::{put, rotate},
    guest::{Guest, hand_over},
    mesh::{Measured, few_requests, options, turn},
    users_ca::Ca,
};

/// How long a step may wait for the proxies: several lifetimes of their certificates.
const PATIENCE: Duration = Duration::from_secs(40);
const INTERMEDIATES: [&str; 4] = ["first", "second", "third", "fourth"];
/// How many leaves each proxy and certificates the gateway have, unless the environment says otherwise.
const ROTATIONS: u64 = 10;

/// A whole rotation of the root by the four commands, then three intermediates, a gateway's certificate replaced again and again, as many
/// renewals of every leaf, and a workload that is revoked, all in one run: nobody but the revoked workload notices. Certificates live for
/// seconds, so that they expire, and connections for few requests, so that there are handshakes at every moment.
///
/// `ROTATIONS` says how many leaves each proxy and certificates the gateway are to have (`make rotations`: 20).
/// With `UNAWAITED_ROTATION` in the environment steps are forced without waiting until everybody trusts both roots: it must fail.
#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_replaced_under_load() -> Result<()> {
    let _turn = turn().await?;
    let options = Options { certificate_ttl: Some("8s"), ..options("1.40", true)? };
    let mut mesh = Mesh::start(options, Loopback::free()?).await?;
    few_requests(&mesh)?;
    let both = mesh.manifests().read(VIRTUAL_SERVICE_FILE)?.replace("weight: 100", "weight: 50").replace("weight: 0", "weight: 50");
    mesh.apply(VIRTUAL_SERVICE_FILE, &both, VIRTUAL_SERVICE).await?;
    let (rotation, offline, edge) = (Rotation::of(&mesh), Offline::make(mesh.home())?, Edge::of(&mesh)?);
    let mut guest = Guest::join(&mesh).await?;
    let measured = Measured::start(&mesh, 100).await?;

    let [first, others @ ..] = INTERMEDIATES;
    let next = offline.intermediate(first)?;
    rotation.run(&["--plan", &next.display().to_string()])?;
    ensure!(rotation.run(&["--status"])?.contains("planned"));
    // One step back and forth again.
    rotation.run(&["--abort"])?;
    rotation.run(&["--plan", &next.display().to_string()])?;
    rotation.run(&["--next"])?;
    rotation.handed_out(2).await?;
    rotation.next_when_trusted().await?;
    rotation.signs(&next).await?;
    rotation.next_when_trusted().await?;
    rotation.handed_out(1).await?;
    ensure!(rotation.run(&["--status"])?.contains("settled"));
    let root = serial(&next.join("root-cert.pem"))?;
    only_root(&mut mesh, &root).await?;

    for name in others {
        let next = offline.intermediate(name)?;
        rotation.run(&["--plan", &next.display().to_string()])?;
        let before = leaves(&mut mesh).await?;
        rotation.run(&["--next"])?;
        rotation.signs(&next).await?;
        all_renewed(&mut mesh, &before).await?;
    }
    only_root(&mut mesh, &root).await?;
    let rotations = env::var("ROTATIONS").map_or(Ok(ROTATIONS), |text| text.parse())?;
    edge.rotate(rotations).await?;
    leaves_renewed(&mut mesh, rotations).await?;
    guest.is_revoked(&mesh, |serial| offline.revoke(&mesh.home().join("ca"), serial)).await?;
    let window = measured.expect_no_failures(&mut mesh).await?;
    println!("{} requests to others, none failed", window.outcomes().len());
    Ok(())
}

/// A server of the gateway with a certificate from a Secret.
struct Edge {
    servers: Ca,
    config: PathBuf,
    address: std::net::SocketAddr,
}

impl Edge {
    fn of(mesh: &Mesh) -> Result<Self> {
        let (servers, config, address) = (Ca::new()?, mesh.home().join("config"), mesh.network().socket(GATEWAY.host, 8443));
        let (certificate, key) = servers.issue("till.example.com", 1)?;
        put(&config, "till", &[("tls.crt", &certificate), ("tls.key", &key)])?;
        mesh.manifests().write("till-gateway.yaml", &till(address.ip()))?;
        Ok(Self { servers, config, address })
    }

    async fn rotate(&self, rotations: u64) -> Result<()> {
        rotate(&self.config, &self.servers, self.address, rotations).await
    }
}

fn till(address: std::net::IpAddr) -> String {
    format!(
        r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: till, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8443, name: https, protocol: HTTPS}}
    bind: {address}
    hosts: [till.example.com]
    tls: {{mode: SIMPLE, credentialName: till}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: till, namespace: istio-system}}
spec:
  hosts: [till.example.com]
  gateways: [till]
  http: [{{directResponse: {{status: 200, body: {{string: from the till}}}}}}]
"#
    )
}

/// The commands of an operator.
struct Rotation {
    folder: PathBuf,
    monitoring: std::net::SocketAddr,
    forces: bool,
}

impl Rotation {
    fn of(mesh: &Mesh) -> Self {
        let forces = env::var_os("UNAWAITED_ROTATION").is_some();
        Self { folder: mesh.home().join("ca"), monitoring: mesh.monitoring(), forces }
    }

    /// Runs the command, and returns what it printed.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(istiod_lite()?);
        command.args(["ca", "rotate", "--address", &self.monitoring.to_string()]).arg("--ca-dir").arg(&self.folder).args(arguments);
        let output = tokio::task::block_in_place(|| command.output())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {text}");
        Ok(text)
    }

    async fn next_when_trusted(&self) -> Result<()> {
        let wait = PATIENCE.as_secs().to_string();
        let arguments = if self.forces { vec!["--next", "--force"] } else { vec!["--next", "--wait", &wait] };
        self.run(&arguments).map(drop)
    }

    async fn report(&self) -> Result<Report> {
        let response = get(self.monitoring, &self.monitoring.to_string(), "/debug/rotation").await?;
        serde_json::from_str(&response.text()).with_context(|| response.text())
    }

    /// Waits until the control plane hands out so many roots.
    async fn handed_out(&self, roots: usize) -> Result<()> {
        wait::until(&format!("{roots} roots"), PATIENCE, || async {
            let report = self.report().await?;
            ensure!(report.roots.len() == roots, "{:?}", report.roots);
            Ok(())
        })
        .await
    }

    /// Waits until the control plane signs with the CA of a folder.
    async fn signs(&self, folder: &Path) -> Result<()> {
        let file = fs::read_to_string(folder.join("ca-cert.pem"))?;
        let wanted = Certificate::all_from_pem(&file)?.remove(0).serial;
        wait::until("the next CA to sign", PATIENCE, || async {
            let report = self.report().await?;
            ensure!(report.signing == wanted, "{} signs, not {wanted}", report.signing);
            Ok(())
        })
        .await
    }
}

/// A root that no control plane ever sees the key of.
struct Offline {
    home: PathBuf,
}

impl Offline {
    fn make(home: &Path) -> Result<Self> {
        let offline = Self { home: home.join("next") };
        fs::create_dir(&offline.home)?;
        offline.ca(&["root", "--out", &offline.path("root"), "--common-name", "Next root"])?;
        Ok(offline)
    }

    /// Makes an intermediate, and returns its folder.
    fn intermediate(&self, name: &str) -> Result<PathBuf> {
        self.ca(&["intermediate", "--root", &self.path("root"), "--out", &self.path(name), "--common-name", name])?;
        Ok(self.home.join(name))
    }

    /// Makes lists of revoked certificates of all its CAs, and puts them beside the one that signs. Which of them signed `serial` does not
    /// matter.
    fn revoke(&self, ca: &Path, serial: Option<&str>) -> Result<String> {
        let out = self.path("lists");
        self.ca(&["crl", "--ca", &self.path("root"), "--out", &out])?;
        for name in INTERMEDIATES {
            let folder = self.path(name);
            let mut arguments = vec!["ca", "crl", "--ca", &folder, "--out", &out];
            arguments.extend(serial.iter().flat_map(|serial| ["--revoke", serial]));
            run(&istiod_lite()?, &arguments)?;
        }
        hand_over(Path::new(&out), ca)
    }

    fn ca(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(istiod_lite()?);
        command.arg("ca").args(arguments).args(["--passphrase-env", "PASSPHRASE"]).env("PASSPHRASE", "a test's");
        let output = command.output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.home.join(name).display().to_string()
    }
}

/// Waits until no Envoy trusts any root but one.
async fn only_root(mesh: &mut Mesh, serial: &str) -> Result<()> {
    for proxy in mesh.proxies() {
        let (name, admin) = (proxy.pod().name, proxy.admin());
        wait::until(&format!("{name} to trust the new root alone"), PATIENCE, || async {
            let certificates = certificates(&admin).await?;
            let trusted = serials(&certificates, "ca_cert");
            ensure!(!trusted.is_empty() && trusted.iter().all(|trusted| trusted == serial), "{trusted:?}, not {serial}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Waits until no Envoy uses the certificate that it had.
async fn all_renewed(mesh: &mut Mesh, before: &[Vec<String>]) -> Result<()> {
    for (proxy, before) in mesh.proxies().iter().zip(before) {
        let (name, admin) = (proxy.pod().name, proxy.admin());
        wait::until(&format!("a new certificate for {name}"), PATIENCE, || async {
            let now = serials(&certificates(&admin).await?, "cert_chain");
            ensure!(!now.is_empty() && now.iter().all(|serial| !before.contains(serial)), "{now:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Waits until every agent has been given so many certificates.
async fn leaves_renewed(mesh: &mut Mesh, leaves: u64) -> Result<()> {
    for pod in PODS {
        let agent = mesh.network().socket(pod.host, 15020);
        wait::until(&format!("{leaves} certificates of {}", pod.name), PATIENCE * 3, || async {
            let metrics = get_text(agent, "/metrics").await?;
            let line = metrics.lines().find_map(|line| line.strip_prefix("istiod_lite_agent_certificates_total "));
            let count: u64 = line.context("no counter")?.parse()?;
            ensure!(count > leaves, "{count} were issued");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn leaves(mesh: &mut Mesh) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for proxy in mesh.proxies() {
        all.push(serials(&certificates(&proxy.admin()).await?, "cert_chain"));
    }
    Ok(all)
}

async fn certificates(admin: &Admin) -> Result<Value> {
    Ok(serde_json::from_str(&get_text(admin.address(), "/certs").await?)?)
}

/// Returns the serial numbers of what an Envoy has of a sort, without the gateway's certificates for browsers.
fn serials(certificates: &Value, sort: &str) -> Vec<String> {
    let all = certificates["certificates"].as_array().into_iter().flatten();
    let listed = all.flat_map(|entry| entry[sort].as_array().into_iter().flatten());
    let is_of_mesh = |certificate: &&Value| {
        let names = certificate["subject_alt_names"].as_array();
        sort == "ca_cert" || names.is_some_and(|names| names.iter().any(|name| name.get("uri").is_some()))
    };
    listed.filter(is_of_mesh).filter_map(|certificate| certificate["serial_number"].as_str()).map(digits).collect()
}

fn serial(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file)?;
    Ok(digits(&Certificate::all_from_pem(&text)?.remove(0).serial))
}

/// Returns a serial number as everybody would write it.
fn digits(serial: &str) -> String {
    serial.to_lowercase().replace(':', "").trim_start_matches('0').to_owned()
}
