//! `istiod-lite agent` with a real Envoy, against a control plane in this process.

mod client;
mod configured;
mod control_plane;
mod draining;
mod files;
mod listener;
mod node;
mod probes;
mod readiness;
mod stage;

use std::{
    fs,
    process::Command,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};

use self::{
    client::{Connection, http},
    control_plane::{Authority, SPIFFE_ID},
    stage::{Stage, envoy, runs},
};

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_sidecar_starts_serves_and_ends_on_request() -> Result<()> {
    let envoy = envoy()?;
    for protocol in ["--delta", "--sotw"] {
        let mut stage = Stage::set(envoy.clone(), LONG)?;
        let _control_plane = stage.start_control_plane()?;
        stage.start_agent(&[protocol])?;
        stage.wait_until_ready().await?;
        let mut connection = stage.connect().await?;
        connection.ask("hello").await?;
        assert_eq!(connection.peer()?.1, SPIFFE_ID);
        for port in [15090, 15020] {
            let (_, statistics) = http("GET", stage.at(port), "/stats/prometheus").await?;
            assert!(statistics.contains("{cluster_name=\"xds-grpc\"}"), "{statistics}");
        }
        assert!(http("GET", stage.at(15020), "/metrics").await?.1.contains("istiod_lite_agent_certificates_total 1"));

        let pid = stage.envoy_pid()?;
        drop(connection);
        let start = Instant::now();
        stage.signal(Signal::SIGTERM)?;
        assert_eq!(stage.agent_ended().await?.code(), Some(0), "{}", stage.log());
        ensure!(start.elapsed() < Duration::from_secs(3), "no connection was open, so the drain ends early: {:?}", start.elapsed());
        assert!(!runs(pid));
        assert_eq!(fs::read_dir(stage.folder.path().join("run"))?.count(), 0, "nothing is left behind");
    }
    Ok(())
}

/// During a rotation of the root a control plane knows by the requests for certificates who trusts both; its successor knows nothing.
#[tokio::test]
async fn a_new_control_plane_is_shown_that_both_roots_are_trusted() -> Result<()> {
    for roots in [1, 2] {
        let mut stage = Stage::set(envoy()?, LONG)?;
        if roots == 2 {
            *stage.shared.other_roots.lock() = Authority::new()?.root_pem();
        }
        let control_plane = stage.start_control_plane()?;
        stage.start_agent(&[])?;
        stage.wait_until_ready().await?;
        let shared = stage.shared.clone();
        stage.wait("known", async || shared.issued.load(Ordering::SeqCst) > 0).await?;
        let streams = shared.streams.load(Ordering::SeqCst);
        drop(control_plane);
        // The first stream has something to show as well, unless it was open before there was a certificate.
        let issued = shared.issued.load(Ordering::SeqCst);
        let _successor = stage.start_control_plane()?;
        stage.wait("back", async || shared.streams.load(Ordering::SeqCst) > streams).await?;
        if roots == 2 {
            stage.wait("asking for a certificate", async || shared.issued.load(Ordering::SeqCst) > issued).await?;
        } else {
            assert_eq!(shared.issued.load(Ordering::SeqCst), issued, "with one root there is nothing to show");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_open_connection_outlives_rotations() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, Duration::from_secs(4))?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    let mut connection = stage.connect().await?;
    let first = connection.peer()?.0;
    let shared = stage.shared.clone();
    stage.wait("rotated three times", async || shared.issued.load(Ordering::SeqCst) > 3).await?;
    let another = async || match stage.connect().await {
        Ok(connection) => connection.peer().is_ok_and(|(serial, _)| serial != first),
        Err(_) => false,
    };
    stage.wait("showing the new certificate", another).await?;
    connection.ask("hello").await?;
    assert_eq!(connection.peer()?.0, first);
    Ok(())
}

#[tokio::test]
async fn envoy_serves_on_while_the_control_plane_is_gone() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    let mut old = stage.connect().await?;
    old.ask("hello").await?;

    drop(control_plane);
    stage.wait("aware of the loss", async || stage.log().contains("control plane out of reach")).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    old.ask("hello").await?;
    stage.connect().await?.ask("hello").await?;
    assert!(stage.is_ready().await);
    let dials = stage.log().matches("control plane out of reach").count();
    assert!(dials <= 8, "{dials} dials in about two seconds");

    stage.answer("hello again");
    let _control_plane = stage.start_control_plane()?;
    let changed = async || match stage.connect().await {
        Ok(mut connection) => connection.ask("hello again").await.is_ok(),
        Err(_) => false,
    };
    let changed = async || tokio::time::timeout(Duration::from_millis(500), changed()).await.unwrap_or(false);
    stage.wait("reconnected", changed).await?;
    assert!(stage.shared.streams.load(Ordering::SeqCst) >= 2);
    Ok(())
}

#[tokio::test]
async fn answers_of_any_size_pass() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    stage.shared.serve_resource("some", listener::cluster(16 << 20));
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await
}

#[tokio::test]
async fn a_refused_token_is_read_again() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let token = stage.folder.path().join("token");
    fs::write(&token, "forged")?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait("refused", async || stage.log().contains("Unauthenticated: request authenticate failure")).await?;
    stage.wait("listening", async || http("GET", stage.at(15020), "/healthz/ready").await.is_ok()).await?;
    let (status, reason) = http("GET", stage.at(15020), "/healthz/ready").await?;
    assert_eq!(status, 503, "{reason}");
    assert!(!stage.log().contains("forged"), "a token is a secret");
    fs::write(&token, control_plane::TOKEN)?;
    stage.wait_until_ready().await?;
    assert!(!stage.log().contains(control_plane::TOKEN), "a token is a secret");
    Ok(())
}

#[tokio::test]
async fn the_certificate_speaks_when_the_token_is_gone() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, Duration::from_secs(4))?;
    let control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    fs::remove_file(stage.folder.path().join("token"))?;
    let (issued, streams) = (stage.shared.issued.load(Ordering::SeqCst), stage.shared.streams.load(Ordering::SeqCst));
    drop(control_plane);
    let _control_plane = stage.start_control_plane()?;
    let shared = stage.shared.clone();
    stage.wait("renewed twice", async || shared.issued.load(Ordering::SeqCst) >= issued + 2).await?;
    stage.wait("reconnected", async || shared.streams.load(Ordering::SeqCst) > streams).await?;
    stage.connect().await?.ask("hello").await.map(|_| ())
}

#[tokio::test]
async fn a_control_plane_of_another_root_is_not_trusted() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    fs::write(stage.folder.path().join("root-cert.pem"), Authority::new()?.root_pem())?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait("refusing", async || stage.log().contains("invalid peer certificate")).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((stage.shared.issued.load(Ordering::SeqCst), stage.shared.streams.load(Ordering::SeqCst)), (0, 0));
    Ok(())
}

#[tokio::test]
async fn agent_and_envoy_end_together() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy.clone(), LONG)?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    let pid = stage.envoy_pid()?;
    kill(pid, Signal::SIGKILL)?;
    let status = stage.agent_ended().await?;
    assert!(!status.success(), "{status}");
    assert!(stage.log().contains("Envoy ended on its own"), "{}", stage.log());

    let mut stage = Stage::set(envoy, LONG)?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    let pid = stage.envoy_pid()?;
    stage.signal(Signal::SIGKILL)?;
    stage.agent_ended().await?;
    stage.wait("ended with its agent", async || !runs(pid)).await?;
    Ok(())
}

#[tokio::test]
async fn a_drain_waits_for_open_connections_and_tells_the_others() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    let mut connection = stage.connect().await?;
    connection.ask("hello").await?;
    let start = Instant::now();
    stage.signal(Signal::SIGTERM)?;
    stage.wait("unready", async || matches!(http("GET", stage.at(15020), "/healthz/ready").await, Ok((503, _)))).await?;
    connection.ask("hello").await?;
    assert_eq!(stage.agent_ended().await?.code(), Some(0));
    ensure!(start.elapsed() < Duration::from_secs(6), "the drain is bounded: {:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_new_root_in_the_file_is_trusted_before_the_next_certificate() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    let next = Authority::new()?;
    let trusted = async || match Connection::open(&next, stage.at(8080)).await {
        Ok(mut connection) => connection.ask("hello").await.is_ok(),
        Err(_) => false,
    };
    ensure!(!trusted().await, "a client of a root that nobody named was let in");
    let (old, new) = (stage.shared.authority.root_pem(), next.root_pem());
    fs::write(stage.folder.path().join("root-cert.pem"), format!("{old}{new}"))?;
    stage.wait("trusting the new root", trusted).await?;
    stage.connect().await?.ask("hello").await?;
    // What it asks for then tells the control plane that it knows the new root.
    stage.wait("asking for a certificate of now", async || stage.shared.issued.load(Ordering::SeqCst) == 2).await?;
    // Whoever answered was behind whoever wrote the file.
    *stage.shared.other_roots.lock() = new;
    stage.wait("asking once more", async || stage.shared.issued.load(Ordering::SeqCst) == 3).await?;
    stage.connect().await?.ask("hello").await?;
    ensure!(trusted().await, "the file counts beside whatever the certificate came with");
    Ok(())
}

#[tokio::test]
async fn quitquitquit_ends_the_proxy() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&[])?;
    stage.wait_until_ready().await?;
    assert_eq!(http("GET", stage.at(15020), "/quitquitquit").await?.0, 405);
    assert_eq!(http("POST", stage.at(15020), "/drain").await?.0, 200);
    assert!(!stage.is_ready().await);
    assert_eq!(http("POST", stage.at(15020), "/quitquitquit").await?.0, 200);
    assert_eq!(stage.agent_ended().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn envoy_accepts_the_bootstrap() -> Result<()> {
    let envoy = envoy()?;
    for role in ["sidecar", "gateway"] {
        let mut stage = Stage::set(envoy.clone(), LONG)?;
        stage.start_agent_as(role, &[])?;
        stage.wait("started", async || stage.log().contains("Envoy started")).await?;
        let validation =
            Command::new(&envoy).args(["--mode", "validate", "-c"]).arg(stage.folder.path().join("run/bootstrap.json")).output()?;
        assert!(validation.status.success(), "{}", String::from_utf8_lossy(&validation.stderr));
    }
    Ok(())
}
