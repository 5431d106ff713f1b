//! TLS handshakes: how long one may take, and what is said of those that fail.
//!
//! Nothing limits how many wait for their peers: a handshake computes only when the peer has said something, on as many threads as
//! there are. What waits is a connection, and goes as connections go.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{connections::Place, sparse_log::SparseLog};

/// Returns what the handshake makes; `None` when it fails, takes too long, or has to make room for another connection.
pub(super) async fn in_time<S>(
    handshake: impl Future<Output = io::Result<S>>,
    peer: SocketAddr,
    place: &Place,
    time: Duration,
    shutdown: &CancellationToken,
) -> Option<S> {
    static FAILED: SparseLog = SparseLog::new();
    let made = tokio::select! {
        made = timeout(time, handshake) => made,
        () = place.evicted() => {
            debug!(%peer, "handshake given up to make room");
            return None;
        }
        () = shutdown.cancelled() => return None,
    };
    match made {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => FAILED.write(|left_out| info!(%peer, %error, left_out, "TLS handshake failed")),
        Err(_) => FAILED.write(|left_out| info!(%peer, left_out, "TLS handshake timed out")),
    }
    None
}
