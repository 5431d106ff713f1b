//! The root and its intermediate end while everything runs.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    http_client::get_text,
    load::{Load, Plan},
    mesh::{CONVERGE, Mesh},
    tools::istiod_lite,
    wait,
};
use istiod_lite::identity::{
    ca::Serial,
    ceremony::{self, CaRequest, CaSubject},
    certificate::Certificate,
    key::{KeyType, PrivateKey},
};
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpStream;

use crate::{
    guest::echoed,
    mesh::{few_requests, options, turn},
};

/// How long the authority lives: the mesh must be up before that.
const LIFE: SignedDuration = SignedDuration::from_secs(40);
/// How near the end a request may fail that was due before it: its handshake comes later.
const LATENESS: Duration = Duration::from_secs(1);
/// How long agents may take to ask again: they ask less and less often.
const PATIENCE: Duration = Duration::from_secs(90);

/// Envoys prove who they are until the authority ends, and not after; the control plane says so, and goes on with the next one.
#[tokio::test(flavor = "multi_thread")]
async fn mtls_ends_with_the_authority_and_goes_on_with_the_next_one() -> Result<()> {
    let _turn = turn().await?;
    // Certificates know whole seconds.
    let since = Timestamp::from_second((Timestamp::now() + LIFE - SignedDuration::from_hours(24)).as_second())?;
    let authority = Authority::since(since)?;
    let prepare = |home: &Path| authority.write(&home.join("ca"));
    let mut mesh = Mesh::start_prepared(options("1.40", true)?, Loopback::free()?, Vec::new(), prepare).await?;
    let ca = mesh.home().join("ca");
    let end = Certificate::all_from_pem(&fs::read_to_string(ca.join("ca-cert.pem"))?)?.remove(0).not_after;
    let left = Duration::try_from(end.duration_since(Timestamp::now())).context("the mesh was not up before its authority ended")?;
    let end = Instant::now() + left;
    few_requests(&mesh)?;
    let mut established = TcpStream::connect(mesh.tcp()).await?;
    echoed(&mut established).await?;
    let load = Load::start(&Plan::new(mesh.paths(), 50));

    tokio::time::sleep_until((end + LATENESS).into()).await;
    let window = load.so_far();
    let early = window.failures().into_iter().find(|failure| failure.sent + LATENESS < end);
    ensure!(early.is_none(), "failed before the end: {early:?}");
    for path in ["gateway", "mesh"] {
        wait::until(&format!("refusals on {path}"), CONVERGE, || lately(&load, path, |failed, all| failed == all)).await?;
    }
    echoed(&mut established).await.context("Envoy looks at certificates in handshakes alone")?;

    let metrics = get_text(mesh.monitoring(), "/metrics").await?;
    for name in ["citadel_server_root_cert_expiry_seconds", "citadel_server_cert_chain_expiry_seconds"] {
        let seconds: i64 = metrics.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name)?.trim().parse()?;
        ensure!(seconds <= 0, "{name} {seconds}");
    }
    let log = mesh.control_plane().log();
    for what in ["the root O=test, CN=root expired at", "the intermediate O=test, CN=intermediate expired at"] {
        ensure!(log.contains(what), "{what:?} is not in {log}");
    }
    let inspected = Command::new(istiod_lite()?).args(["ca", "inspect"]).arg(&ca).output()?;
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    ensure!(inspected.status.code() == Some(1) && said.contains("expired"), "{said}");

    // The same root, for another year.
    authority.renewed()?.write(&ca)?;
    for path in ["gateway", "mesh"] {
        wait::until(&format!("answers on {path}"), PATIENCE, || lately(&load, path, |failed, _| failed == 0)).await?;
    }
    mesh.check_running()
}

/// Fails unless what was sent in the last half second is as is wanted: how much failed, and how much was sent.
async fn lately(load: &Load, path: &str, wanted: impl Fn(usize, usize) -> bool) -> Result<()> {
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let window = load.since(since);
    let sent = window.outcomes().iter().filter(|outcome| outcome.path == path).count();
    let failed = window.failures().iter().filter(|failure| failure.path == path).count();
    ensure!(sent > 0 && wanted(failed, sent), "{failed} of {sent} failed");
    Ok(())
}

/// A root with its key.
struct Authority {
    /// Since when it and its intermediate are valid.
    since: Timestamp,
    root: Certificate,
    key: PrivateKey,
}

impl Authority {
    /// Makes one for a day.
    fn since(since: Timestamp) -> Result<Self> {
        let key = PrivateKey::generate(KeyType::P256)?;
        let (subject, serial) = (subject("root"), Serial::random()?);
        let root = ceremony::root_certificate(&CaRequest { key: &key, subject: &subject, days: 1, now: since, serial })?;
        Ok(Self { since, root, key })
    }

    fn renewed(&self) -> Result<Self> {
        let since = Timestamp::now();
        let root = ceremony::renewed_root(&self.root, &self.key, 365, since, Serial::random()?)?;
        Ok(Self { since, root, key: self.key()? })
    }

    /// Makes an intermediate for a day, and puts it into a folder.
    fn write(&self, folder: &Path) -> Result<()> {
        let key = PrivateKey::generate(KeyType::P256)?;
        let subject = subject("intermediate");
        let request = CaRequest { key: &key, subject: &subject, days: 1, now: self.since, serial: Serial::random()? };
        let intermediate = ceremony::intermediate_certificate(&request, 0, &self.root, self.key()?)?.pem();
        for (name, text) in [
            ("root-cert.pem", self.root.pem()),
            ("cert-chain.pem", intermediate.clone()),
            ("ca-key.pem", key.to_pem()),
            ("ca-cert.pem", intermediate),
        ] {
            fs::write(folder.join("new"), text)?;
            fs::rename(folder.join("new"), folder.join(name))?;
        }
        Ok(())
    }

    fn key(&self) -> Result<PrivateKey> {
        Ok(PrivateKey::from_pem(&self.key.to_pem())?)
    }
}

fn subject(name: &str) -> CaSubject {
    CaSubject { organization: "test".into(), common_name: name.into() }
}
