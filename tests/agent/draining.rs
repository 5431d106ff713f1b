//! How a proxy ends: nobody who learns of it late may notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::sleep,
};

use crate::{
    LONG,
    client::{Connection, http},
    listener,
    stage::{Stage, envoy},
};

/// How long after the end began clients go on, because nobody has told them yet.
const LEARNING: Duration = Duration::from_millis(1500);
const MINIMUM: Duration = Duration::from_secs(3);

/// Clients of one stage, until they are told to go.
struct Clients {
    gone: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    sent_away: Arc<AtomicU64>,
    tasks: JoinSet<Result<()>>,
}

impl Clients {
    /// Starts two clients that keep their connections, and two that open one for each request.
    fn start(stage: &Stage) -> Self {
        let mut clients = Self { gone: Arc::default(), answered: Arc::default(), sent_away: Arc::default(), tasks: JoinSet::new() };
        for keeps in [true, true, false, false] {
            let (gone, answered, sent_away) = (clients.gone.clone(), clients.answered.clone(), clients.sent_away.clone());
            let (shared, address) = (stage.shared.clone(), stage.at(8080));
            clients.tasks.spawn(async move {
                let mut kept: Option<Connection> = None;
                while !gone.load(Ordering::SeqCst) {
                    let mut connection = match kept.take() {
                        Some(connection) => connection,
                        None => Connection::open(&shared.authority, address).await.context("connection")?,
                    };
                    let again = connection.ask("hello").await.context("request")?;
                    answered.fetch_add(1, Ordering::SeqCst);
                    sent_away.fetch_add(u64::from(!again), Ordering::SeqCst);
                    kept = Some(connection).filter(|_| keeps && again);
                    sleep(Duration::from_millis(10)).await;
                }
                Ok(())
            });
        }
        clients
    }

    /// Ends the clients, since they know now; returns how many requests were sent, and how many failed, which none may.
    async fn leave(mut self) -> Result<(u64, u64)> {
        self.gone.store(true, Ordering::SeqCst);
        while let Some(finished) = self.tasks.join_next().await {
            finished??;
        }
        Ok((self.answered.load(Ordering::SeqCst), self.sent_away.load(Ordering::SeqCst)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_learn_late_meet_no_failure() -> Result<()> {
    let envoy = envoy()?;
    for hook_first in [true, false] {
        let mut stage = Stage::set(envoy.clone(), LONG)?;
        let _control_plane = stage.start_control_plane()?;
        stage.start_agent(&["--minimum-drain-duration", "3s", "--termination-drain-duration", "15s", "--drain-duration", "1s"])?;
        stage.wait_until_ready().await?;
        let clients = Clients::start(&stage);
        stage.wait("under load", async || clients.answered.load(Ordering::SeqCst) > 20).await?;

        let began = Instant::now();
        let mut hook = if hook_first { Some(stage.start_hook()?) } else { None };
        if hook.is_none() {
            stage.signal(Signal::SIGTERM)?;
        }
        stage.wait("unready", async || !stage.is_ready().await).await?;
        let before = clients.answered.load(Ordering::SeqCst);
        sleep(LEARNING).await;
        let (answered, sent_away) = clients.leave().await?;
        ensure!(answered > before + 20, "{answered} answers, {before} of them before the end began: that is no load");
        ensure!(sent_away > 10, "only {sent_away} answers asked to connect anew");

        if let Some(hook) = &mut hook {
            let status = tokio::task::block_in_place(|| hook.wait())?;
            ensure!(status.success(), "{status}");
            ensure!(began.elapsed() >= MINIMUM, "the hook returned after {:?}", began.elapsed());
            // The application may have a last answer.
            stage.connect().await?.ask("hello").await?;
            stage.signal(Signal::SIGTERM)?;
        }
        let signalled = Instant::now();
        ensure!(stage.agent_ended().await?.success(), "{}", stage.log());
        ensure!(began.elapsed() >= MINIMUM, "ended after {:?}", began.elapsed());
        ensure!(signalled.elapsed() < Duration::from_secs(10), "nobody was connected, but the end took {:?}", signalled.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_after_the_drain_is_delivered() -> Result<()> {
    let envoy = envoy()?;
    let mut stage = Stage::set(envoy, LONG)?;
    let application = TcpListener::bind(stage.at(9080)).await?;
    stage.shared.serve_resource("some", listener::upstream(stage.at(9080), None));
    stage.shared.serve_resource("inbound", listener::forwarding(stage.at(8080)));
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&["--minimum-drain-duration", "0s", "--termination-drain-duration", "10s"])?;
    stage.wait_until_ready().await?;
    let mut hook = stage.start_hook()?;
    let status = tokio::task::block_in_place(|| hook.wait())?;
    ensure!(status.success(), "{status}");

    let address = stage.at(8080);
    let request = tokio::spawn(async move { http("GET", address, "/slow").await });
    let (mut stream, _) = application.accept().await?;
    ensure!(stream.read(&mut [0; 4096]).await? > 0);
    stage.signal(Signal::SIGTERM)?;
    stage.wait("asked to end", async || stage.log().contains("asked to end")).await?;
    sleep(Duration::from_millis(500)).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast").await?;
    let (status, body) = request.await??;
    ensure!((status, body.as_str()) == (200, "last"), "{status} {body}");
    ensure!(stage.agent_ended().await?.success());
    Ok(())
}
