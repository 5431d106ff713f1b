//! How `istiod-lite` is called: the ceremony, the control plane, the agents.

use std::{
    env,
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    mesh::{Options, Pod},
    process::{Process, run},
    random::fresh_seed,
};

/// `/ready`
pub const PORT_PLAIN_HTTP: u16 = 8080;
/// Plaintext xDS.
pub const PORT_PLAIN_GRPC: u16 = 15010;
/// xDS and CA over TLS.
pub const PORT_SECURE_GRPC: u16 = 15012;
/// `/metrics`, `/debug`.
pub const PORT_MONITORING: u16 = 15014;
/// Webhooks over TLS.
pub const PORT_WEBHOOKS: u16 = 15017;

/// Where the token issuer's key is, below a mesh's folder.
const ISSUER: &str = "offline/issuer";

/// Makes `<home>/ca`, all that the control plane has of the CA, and `<home>/jwks`, all that it has of the token
/// issuer. What stays with whoever holds the ceremony is `<home>/offline`: the issuer's key, and the root's list of revoked
/// certificates, which is empty. The root's key is gone when this returns.
pub fn ceremony(istiod_lite: &Path, home: &Path) -> Result<()> {
    let folder = |name: &str| home.join(name).display().to_string();
    let (root, passphrase, issuer) = (folder("offline/root"), folder("offline/passphrase"), folder(ISSUER));
    fs::create_dir(home.join("offline"))?;
    fs::write(&passphrase, format!("{:016x}{:016x}\n", fresh_seed(), fresh_seed()))?;
    run(istiod_lite, &["ca", "root", "--out", &root, "--passphrase-file", &passphrase])?;
    run(istiod_lite, &["ca", "intermediate", "--root", &root, "--out", &folder("ca"), "--passphrase-file", &passphrase])?;
    run(istiod_lite, &["ca", "issuer", "--out", &issuer])?;
    fs::create_dir(home.join("jwks"))?;
    fs::copy(home.join(ISSUER).join("jwks.json"), home.join("jwks/jwks.json"))?;
    run(istiod_lite, &["ca", "crl", "--ca", &root, "--out", &folder("offline"), "--passphrase-file", &passphrase])?;
    // Nobody needs the root's key from here on: its certificate is in `ca`.
    fs::remove_dir_all(root)?;
    fs::remove_file(passphrase)?;
    Ok(())
}

/// Puts a token for the pod's service account into `<home>/<pod>.token`.
pub fn issue_token(istiod_lite: &Path, home: &Path, pod: Pod) -> Result<()> {
    let issuer = home.join(ISSUER).display().to_string();
    let token = run(
        istiod_lite,
        &["ca", "token", "--issuer-dir", &issuer, "--namespace", pod.namespace, "--service-account", pod.service_account],
    )?;
    fs::write(home.join(format!("{}.token", pod.name)), token)?;
    Ok(())
}

/// Starts the control plane on `<home>/config`, with every port on `address`.
pub fn control_plane(options: &Options, home: &Path, address: IpAddr) -> Result<Process> {
    discovery(options, home, address, &["--config-dir".into(), home.join("config").into()])
}

/// Starts the control plane with the CA and token issuer of [`ceremony`], and with every port on `address`. `source`
/// says where its objects come from.
pub fn discovery(options: &Options, home: &Path, address: IpAddr, source: &[OsString]) -> Result<Process> {
    let identity = ["--ca-dir".into(), home.join("ca").into(), "--token-issuer-dir".into(), home.join("jwks").into()];
    replica("control-plane", options, home, address, &[source, &identity].concat())
}

/// Starts a control plane of a name of its own with just these arguments, and with every port on `address`.
pub fn replica(name: &str, options: &Options, home: &Path, address: IpAddr, arguments: &[OsString]) -> Result<Process> {
    let mut command = Command::new(&options.istiod_lite);
    end_with_this_process(&mut command, options);
    command.arg("discovery").args(arguments);
    // The person's own cluster is none of its business.
    command.env_remove("KUBECONFIG");
    for (flag, port) in [
        ("--httpAddr", PORT_PLAIN_HTTP),
        ("--grpcAddr", PORT_PLAIN_GRPC),
        ("--secureGRPCAddr", PORT_SECURE_GRPC),
        ("--monitoringAddr", PORT_MONITORING),
        ("--httpsAddr", PORT_WEBHOOKS),
    ] {
        command.arg(flag).arg(SocketAddr::new(address, port).to_string());
    }
    if let Some(debounce) = options.debounce {
        command.env("PILOT_DEBOUNCE_AFTER", debounce);
    }
    // Shows what the order is worth: with it, the random walk must fail.
    if env::var_os("UNORDERED_ROLLOUT").is_some() {
        command.arg("--unordered-rollout");
    }
    Process::start(name, command, &home.join("logs"))
}

/// Adds the arguments of a pod's agent. `command` is `istiod-lite`, or something that runs it.
pub fn agent(command: &mut Command, options: &Options, home: &Path, pod: Pod, address: IpAddr, discovery: SocketAddr, interception: &str) {
    end_with_this_process(command, options);
    command.arg("agent").arg(pod.role);
    command.args(["--pod-name", pod.name, "--namespace", pod.namespace, "--service-account", pod.service_account]);
    for (name, value) in pod.labels {
        command.arg("--label").arg(format!("{name}={value}"));
    }
    command.arg("--instance-ip").arg(address.to_string());
    // Where traffic is captured, the pod has its network to itself, and what the proxy sends to the pod's address is inbound traffic.
    if interception == "NONE" {
        command.arg("--listen").arg(address.to_string());
    }
    command.args(["--interception-mode", interception, "--concurrency", "1"]);
    // Tests hold what clients see against what Envoy counts.
    command.arg("--all-statistics");
    // Nobody calls a mesh that is taken down.
    command.args(["--minimum-drain-duration", "0s"]);
    command.arg("--discovery-address").arg(discovery.to_string());
    command.args(["--discovery-san", "istiod.istio-system.svc"]);
    command.arg("--root-cert").arg(home.join("ca/root-cert.pem"));
    command.arg("--revocation-list").arg(home.join("ca/ca-crl.pem"));
    command.arg("--token-file").arg(home.join(format!("{}.token", pod.name)));
    command.arg("--work-dir").arg(home.join(pod.name));
    command.args(options.listener_drain.iter().flat_map(|drain| ["--drain-duration", drain]));
    let certificates = certificates(home, pod);
    if certificates.is_dir() {
        command.arg("--output-certs").arg(certificates);
    }
    command.args(options.certificate_ttl.iter().flat_map(|ttl| ["--cert-ttl", ttl]));
    command.arg("--envoy").arg(&options.envoy).arg(if options.delta { "--delta" } else { "--sotw" });
}

/// Returns the folder into which a pod's agent writes key, certificate and roots, if it is there when the agent starts.
pub fn certificates(home: &Path, pod: Pod) -> PathBuf {
    home.join(format!("{}.certificates", pod.name))
}

/// Has the kernel end the process with this one. A runner that is killed cannot tidy up: the kernel ends its children
/// instead, as agents have it end their Envoys.
fn end_with_this_process(command: &mut Command, options: &Options) {
    command.args(["agent", "launch", &std::process::id().to_string()]).arg(&options.istiod_lite);
}
