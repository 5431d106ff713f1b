//! How a connection of any port ends: by itself, by silence, by age, by the end of the process, or to make room for others.

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    time::Duration,
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    activity::Activity,
    connections::{Place, Shown},
};

/// How long a peer may take nothing of an answer of which there is more. What is held for it would be held for nobody.
const STALL: Duration = Duration::from_secs(60);

/// How long requests that are open may go on when their connection has to make room.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a connection may be what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    /// How long the first request may take to come.
    pub(super) first_request: Duration,
    /// How long a connection may be open without a request.
    pub(super) idle: Duration,
    /// When a connection is asked to come again.
    pub(super) age: Duration,
    /// How long open requests may go on after that, and on shutdown.
    pub(super) grace: Duration,
}

/// Runs a connection to its end.
pub(super) async fn live<C>(
    connection: C,
    peer: SocketAddr,
    place: &Place,
    activity: &Activity,
    lifetime: Lifetime,
    shutdown: &CancellationToken,
) where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let why = tokio::select! {
        ended = connection.as_mut() => return log_end(peer, ended),
        () = activity.quiet(lifetime.first_request, lifetime.idle) => "silence",
        () = activity.stalled(STALL) => return debug!(%peer, "connection closed: its peer takes nothing of an answer"),
        () = place.evicted() => "room for others",
        () = shutdown.cancelled() => "shutdown",
        () = sleep(lifetime.age) => "maximum age",
    };
    if place.shown() == Shown::Nothing {
        return debug!(%peer, why, "connection closed that has asked nothing");
    }
    debug!(%peer, why, "draining connection");
    let grace = if why == "room for others" { lifetime.grace.min(LAST_WORDS) } else { lifetime.grace };
    drain(connection, peer, grace).await;
}

async fn drain<C>(mut connection: Pin<&mut C>, peer: SocketAddr, grace: Duration)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    connection.as_mut().graceful_shutdown();
    match timeout(grace, connection).await {
        Ok(ended) => log_end(peer, ended),
        Err(_) => debug!(%peer, "connection closed with requests open"),
    }
}

fn log_end<E: std::fmt::Display>(peer: SocketAddr, ended: Result<(), E>) {
    match ended {
        Ok(()) => debug!(%peer, "connection ended"),
        Err(error) => debug!(%peer, %error, "connection broke"),
    }
}
