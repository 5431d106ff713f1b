//! Connections that are held open across changes: idle HTTP ones and long-lived TCP ones.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Answer, Connection, Outcome, Path, Record, request::bounded};
use crate::http_client;

/// How long an HTTP connection stays idle between two requests (plus a little by its number).
const IDLE: Duration = Duration::from_millis(1500);
/// How often a TCP connection echoes.
const ECHO_EVERY: Duration = Duration::from_millis(100);

/// Uses one connection once in a while. A connection that was closed in peace while nothing was asked on it is
/// opened again: HTTP allows that. One that fails a request is a failure.
pub(super) async fn keep_http(path: Path, number: u32, late: Duration, record: Record) {
    let mut kept: Option<http_client::Connection> = None;
    loop {
        let due = Instant::now();
        let mut open = kept.take().filter(http_client::Connection::is_open);
        let connection = if open.is_some() { Connection::Idle } else { Connection::Fresh };
        let asked = async {
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => http_client::Connection::open(path.target).await?,
            };
            let response = connection.get(&path.host, "/").await?;
            kept = Some(connection);
            Ok(response)
        };
        let result = bounded(asked, due, late).await;
        record.lock().push(Outcome { path: path.name, connection, sent: due, latency: due.elapsed(), result });
        tokio::time::sleep(IDLE + Duration::from_millis(137) * number).await;
    }
}

/// Echoes on one connection for ever; its break is a failure, and another is opened.
pub(super) async fn keep_tcp(target: SocketAddr, number: u32, late: Duration, record: Record) {
    let mut kept: Option<TcpStream> = None;
    for round in 0_u64.. {
        let due = Instant::now();
        let echoed = timeout(late, echo(&mut kept, target, &format!("{number}:{round:<12}"))).await;
        let result = echoed.unwrap_or_else(|_| Err(anyhow!("late: no echo within {late:?}")));
        if result.is_err() {
            kept = None;
        }
        let result = result.map(|()| Answer { status: StatusCode::OK, version: String::new(), bad_release: false, attempt: 1 });
        let result = result.map_err(|error| format!("{error:#}"));
        record.lock().push(Outcome { path: "tcp", connection: Connection::Tcp, sent: due, latency: due.elapsed(), result });
        tokio::time::sleep(ECHO_EVERY).await;
    }
}

async fn echo(kept: &mut Option<TcpStream>, target: SocketAddr, text: &str) -> Result<()> {
    if kept.is_none() {
        *kept = Some(TcpStream::connect(target).await.with_context(|| format!("connect to {target}"))?);
    }
    let stream = kept.as_mut().context("no connection")?;
    stream.write_all(text.as_bytes()).await.context("the held connection broke")?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await.context("the held connection broke")?;
    ensure!(answer == text.as_bytes(), "the echo is not what was said");
    Ok(())
}
