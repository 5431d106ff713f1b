//! A wire to the API server that can be cut or go silent while the server itself stays up for everybody else.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch::{self, Receiver, Sender},
    task::JoinHandle,
};

/// What the wire does with what comes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    /// New connections are closed at once.
    Cut,
    /// Connections stay, and nothing gets through.
    Silent,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// How often every connection was closed.
    cuts: u64,
}

/// A relay of TCP connections; it ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Sender<State>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Relays connections to `listen` (port 0: a free one) on to `target`.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (state, states) = watch::channel(State { mode: Mode::Open, cuts: 0 });
        let accepting = tokio::spawn(accept(listener, target, states));
        Ok(Self { address, state, accepting })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, and each new one at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Cut, cuts: state.cuts + 1 });
    }

    /// Closes every connection; new ones get through.
    pub fn drop_connections(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Keeps the connections but lets nothing through, as a lost host does.
    pub fn silence(&self) {
        self.state.send_modify(|state| state.mode = Mode::Silent);
    }

    /// Lets all through again.
    pub fn mend(&self) {
        self.state.send_modify(|state| state.mode = Mode::Open);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: Receiver<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connect(stream, target, state.clone()));
    }
}

async fn connect(near: TcpStream, target: SocketAddr, mut state: Receiver<State>) {
    let State { mode, cuts } = *state.borrow();
    if mode == Mode::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pass(near_in, far_out, state.clone()) => {}
        () = pass(far_in, near_out, state.clone()) => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

/// Copies until either side ends.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: Receiver<State>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        if state.wait_for(|state| state.mode == Mode::Open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{address::Loopback, http_client::get, wait, workload::Workload};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_wire_answers_nobody_until_it_is_mended() {
        let network = Loopback::free().unwrap();
        let target = network.socket(1, 9080);
        let _workload = Workload::start("v1", target, None).await.unwrap();
        let relay = Relay::start(network.socket(2, 0), target).await.unwrap();
        let ask = || get(relay.address(), "reviews", "/");
        assert!(ask().await.is_ok());
        relay.cut();
        assert!(ask().await.is_err());
        relay.mend();
        wait::until("an answer", Duration::from_secs(5), ask).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_silent_wire_keeps_its_connections() {
        let network = Loopback::free().unwrap();
        let target = network.socket(1, 9080);
        let _workload = Workload::start("v1", target, None).await.unwrap();
        let relay = Relay::start(network.socket(2, 0), target).await.unwrap();
        let mut connection = crate::http_client::Connection::open(relay.address()).await.unwrap();
        assert!(connection.get("reviews", "/").await.is_ok());
        relay.silence();
        let unanswered = tokio::time::timeout(Duration::from_millis(300), connection.get("reviews", "/")).await;
        assert!(unanswered.is_err(), "{unanswered:?}");
    }
}
