//! Connections as they arrive: accepted, admitted, and waited for until their peers say something.
//!
//! Until then one costs a socket and a small task, whatever it may become: neither a handshake nor the buffers of HTTP are begun
//! for silence.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    connections::{Connections, Place},
    sparse_log::SparseLog,
};

/// What a connection holds in memory while its peer has said nothing, in bytes: its task, and its place in our tables and the
/// runtime's.
const SILENT: usize = 4 << 10;
/// What one holds then without TLS: its task and buffers, and what may come unread.
pub(super) const PLAIN: usize = 24 << 10;
/// What one holds with TLS.
pub(super) const ENCRYPTED: usize = 48 << 10;

/// A connection whose peer has said nothing yet.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
}

/// Waits for the next connection that is admitted; `None` on shutdown.
pub(super) async fn accept(listener: &TcpListener, connections: &Connections, shutdown: &CancellationToken) -> Option<Arrival> {
    static UNABLE: SparseLog = SparseLog::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match connections.admit(peer.ip(), SILENT) {
                Some(place) => return Some(Arrival { stream, peer, place }),
                None => debug!(%peer, "no room for a connection"),
            },
            Err(error) if is_peers_fault(&error) => debug!(%error, "a connection went before it was accepted"),
            Err(error) => {
                UNABLE.write(|left_out| tracing::warn!(%error, left_out, "cannot accept connections"));
                // Mostly there are no file descriptors left. Connections that have to go need a moment to end, and trying again at
                // once would spin.
                sleep(if connections.evict_some() { Duration::from_millis(10) } else { Duration::from_millis(100) }).await;
            }
        }
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Arrival {
    /// Waits until the peer says something, and takes `bytes` in all for the connection; `None` when it says nothing for so long,
    /// or has to go before.
    pub(super) async fn spoken(self, bytes: usize, time: Duration, shutdown: &CancellationToken) -> Option<Self> {
        let (peer, mut first) = (self.peer, [0]);
        let why = tokio::select! {
            said = timeout(time, self.stream.peek(&mut first)) => match said {
                Ok(Ok(0)) => "the peer left",
                Ok(Ok(_)) => return self.begin(bytes),
                Ok(Err(_)) => "it broke",
                Err(_) => "silence",
            },
            () = self.place.evicted() => "room for others",
            () = shutdown.cancelled() => "shutdown",
        };
        debug!(%peer, why, "connection closed that has said nothing");
        None
    }

    fn begin(self, bytes: usize) -> Option<Self> {
        let peer = self.peer;
        if !self.place.grow(bytes) {
            debug!(%peer, "no room for what a connection says");
            return None;
        }
        // Without TCP_NODELAY every small answer waits 40 ms for the peer's delayed ACK.
        if let Err(error) = self.stream.set_nodelay(true) {
            debug!(%peer, %error, "TCP_NODELAY");
        }
        Some(self)
    }
}
