//! TLS handshakes: how long one may take, and what is said of those that fail.
//!
//! Nothing limits how many wait for their peers: what waits is a connection, and goes as connections go. Those that compute take
//! turns, by source address: however many handshakes an address begins, those of others are behind one of them.

use std::{future::Future, io, net::SocketAddr, pin::pin, task::Poll, time::Duration};

use futures::poll;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::connections::Place;
use crate::sparse_log::{FEW, SparseLog};

/// Returns what the handshake makes; `None` when it fails, takes too long, or has to make room for another connection.
pub(super) async fn in_time<S>(
    handshake: impl Future<Output = io::Result<S>>,
    peer: SocketAddr,
    place: &Place,
    time: Duration,
    shutdown: &CancellationToken,
) -> Option<S> {
    static FAILED: SparseLog = SparseLog::new(FEW);
    let made = tokio::select! {
        made = timeout(time, in_turn(handshake, place)) => made,
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

/// Has a handshake answer its ClientHello in its turn. Nearly all that it computes is in that: a key exchange and a signature.
async fn in_turn<S>(handshake: impl Future<Output = io::Result<S>>, place: &Place) -> io::Result<S> {
    let mut handshake = pin!(handshake);
    let turn = place.turn_at_handshake().await;
    let begun = poll!(&mut handshake);
    drop(turn);
    match begun {
        Poll::Ready(made) => made,
        Poll::Pending => handshake.await,
    }
}
