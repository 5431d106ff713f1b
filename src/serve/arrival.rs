//! Connections as they arrive: accepted, admitted, and waited for until what their peers begin with is whole.
//!
//! Until then one costs a socket, a small task and what was said, whatever it may become: neither a handshake nor the buffers of
//! HTTP are begun for silence, or for what never goes on.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    beginning::Beginning,
    connections::{Connections, Grown, Place},
    read_ahead::ReadAhead,
};
use crate::sparse_log::{FEW, SparseLog};

/// What a connection holds in memory while its peer has said nothing, in bytes: its task, and its place in our tables and the
/// runtime's.
const SILENT: usize = 4 << 10;
/// What one holds then without TLS: its task and buffers, and what may come unread.
pub(super) const PLAIN: usize = 24 << 10;
/// What one holds with TLS.
pub(super) const ENCRYPTED: usize = 48 << 10;
/// The bytes by which grows what a peer's beginning is read to: most are shorter.
const PIECE: usize = 2 << 10;
/// How soon a connection for which there was no memory asks for it again.
const AGAIN: Duration = Duration::from_secs(1);
/// How much of a beginning is waited for. What is longer is left to who answers it.
const MOST_OF_BEGINNING: usize = 16 << 10;

/// A connection whose peer has not said yet what it begins with, or not all of it.
#[derive(Debug)]
pub(super) struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
}

/// A connection whose peer has said what it begins with.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) stream: ReadAhead,
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
}

/// Waits for the next connection that is admitted; `None` on shutdown.
pub(super) async fn accept(listener: &TcpListener, connections: &Connections, shutdown: &CancellationToken) -> Option<Arrival> {
    static UNABLE: SparseLog = SparseLog::new(FEW);
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
    /// Waits until the peer has said all that it begins with, and takes `bytes` in all for the connection; `None` when that takes
    /// too long, or the connection has to go before.
    pub(super) async fn begun(self, beginning: Beginning, bytes: usize, time: Duration, shutdown: &CancellationToken) -> Option<Begun> {
        let (peer, mut said) = (self.peer, Vec::new());
        let why = tokio::select! {
            heard = timeout(time, self.hear(beginning, bytes, &mut said)) => match heard {
                Ok(Ok(())) => return Some(self.begin(said)),
                Ok(Err(why)) => why,
                Err(_) => "silence",
            },
            () = self.place.evicted() => "room for others",
            () = shutdown.cancelled() => "shutdown",
        };
        debug!(%peer, why, said = said.len(), "connection closed that has not begun");
        None
    }

    /// Reads until the beginning is whole, and waits until there is memory for what follows. What is read to is paid for before.
    async fn hear(&self, beginning: Beginning, bytes: usize, said: &mut Vec<u8>) -> Result<(), &'static str> {
        loop {
            self.stream.readable().await.map_err(|_| "it broke")?;
            if said.len() == said.capacity() {
                self.room(|place| place.grow(SILENT + said.len() + PIECE)).await?;
                said.reserve_exact(PIECE);
            }
            match self.stream.try_read_buf(said) {
                Ok(0) => return Err("the peer left"),
                Ok(new) if beginning.is_whole(said, new) || said.len() >= MOST_OF_BEGINNING => {
                    return self.room(|place| place.be_served(bytes)).await;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err("it broke"),
            }
        }
    }

    /// Takes memory as soon as there is some: meanwhile the connection costs no more than it does.
    async fn room(&self, take: impl Fn(&Place) -> Grown) -> Result<(), &'static str> {
        loop {
            match take(&self.place) {
                Grown::Yes => return Ok(()),
                Grown::NotNow => sleep(AGAIN).await,
                Grown::Gone => return Err("room for others"),
            }
        }
    }

    fn begin(self, said: Vec<u8>) -> Begun {
        let Self { stream, peer, place } = self;
        // Without TCP_NODELAY every small answer waits 40 ms for the peer's delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "TCP_NODELAY");
        }
        Begun { stream: ReadAhead::new(said, stream), peer, place }
    }
}
