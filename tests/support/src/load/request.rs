//! One request of the open loop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{Answer, Connection, Outcome, Path, Record};
use crate::{
    http_client::{self, Response},
    workload::{ATTEMPT, HEALTH, VERSION},
};

/// Connections kept alive between requests, the last used first.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<http_client::Connection>>);

impl Pool {
    fn take(&self) -> Option<http_client::Connection> {
        let mut idle = self.0.lock();
        idle.retain(http_client::Connection::is_open);
        idle.pop()
    }

    fn put(&self, connection: http_client::Connection) {
        self.0.lock().push(connection);
    }
}

pub(super) async fn send(path: Path, pool: Arc<Pool>, fresh: bool, due: Instant, late: Duration, record: Record) {
    let kept = if fresh { None } else { pool.take() };
    let connection = if kept.is_some() { Connection::KeepAlive } else { Connection::Fresh };
    let asked = async {
        let mut connection = match kept {
            Some(connection) => connection,
            None => http_client::Connection::open(path.target).await?,
        };
        let response = connection.get(&path.host, "/").await?;
        if !fresh {
            pool.put(connection);
        }
        Ok(response)
    };
    let result = bounded(asked, due, late).await;
    record.lock().push(Outcome { path: path.name, connection, sent: due, latency: due.elapsed(), result });
}

/// Returns the answer of `asked` when it comes within `late` of `due`.
pub(super) async fn bounded(asked: impl Future<Output = Result<Response>>, due: Instant, late: Duration) -> Result<Answer, String> {
    let left = (due + late).saturating_duration_since(Instant::now());
    let response = timeout(left, asked).await.unwrap_or_else(|_| Err(anyhow!("late: no answer within {late:?}")));
    response.map(|response| read(&response)).map_err(|error| format!("{error:#}"))
}

fn read(response: &Response) -> Answer {
    Answer {
        status: response.status,
        refusal: if response.status == StatusCode::OK { String::new() } else { response.text().chars().take(200).collect() },
        version: response.header(VERSION).to_owned(),
        bad_release: response.header(HEALTH) == "bad",
        attempt: response.header(ATTEMPT).parse().unwrap_or(1),
    }
}
