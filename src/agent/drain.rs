//! How a proxy ends without failing a request.
//!
//! Clients go on sending requests to a pod that is being deleted: each of them learns of the deletion in its own time, from the API
//! server, the control plane and its own Envoy. So a proxy goes on serving while they learn, and ends when nobody is left:
//!
//! 1. The kubelet runs the hooks of all containers at once. The proxy's hook is `istiod-lite agent drain`, which calls `/drain`
//!    here and waits. The proxy is unready from now on, but it still accepts connections; each answer asks its client to reconnect
//!    (`connection: close`, GOAWAY), and the client goes elsewhere as soon as it knows other endpoints.
//! 2. A container without a hook gets SIGTERM at the same moment, and that includes the application. A native sidecar gets it only
//!    after the application's containers have ended, so that their last answers and requests still pass. (An application that
//!    stops accepting connections at SIGTERM refuses what clients send until they have learned; only a hook of its own,
//!    `preStop: {sleep: {seconds: 5}}`, or an application that waits helps. A sidecar cannot: its hook does not delay other
//!    containers.)
//! 3. The hook returns when no connection is open and the minimum drain duration is over, or when the termination drain duration
//!    is over. Clients whose Envoys dropped this endpoint close their idle connections themselves: no request can meet a connection
//!    that is being closed.
//! 4. Then comes SIGTERM: the application is gone. Envoy delivers what it still has to deliver, within the same duration, and ends.
//!    SIGTERM without a hook before it, as for a process outside of Kubernetes, starts with step 1.
//!
//! For a gateway it is the same, without an application: its hook runs first, then comes SIGTERM.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::{
    admin::Admin,
    settings::{Drain, Role},
};

/// How often to ask Envoy what is open.
const POLL: Duration = Duration::from_millis(100);
/// The gauges that tell what is open.
const GAUGES: &str = "/stats?filter=^(listener\\..*downstream_cx_active|http\\..*downstream_(cx_active|rq_active|cx_tx_bytes_buffered))$";
/// The listener of a sidecar's captured outbound connections, which the application may keep until it ends.
const OUTBOUND_LISTENER: &str = "_15001";

/// The drain of one proxy. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Draining {
    admin: Admin,
    role: Role,
    settings: Drain,
    stage: Arc<Mutex<DrainState>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainState {
    Serving,
    Draining { since: Instant },
    Drained,
}

/// What is open at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Open {
    /// Connections to the proxy's listeners, except for those of admin and of the agent.
    connections: u64,
    /// The connections among them that speak HTTP.
    http_connections: u64,
    /// Requests that are not answered completely.
    requests: u64,
    /// Bytes of answers that clients have not taken yet.
    unsent: u64,
}

impl Draining {
    /// Returns the drain of a proxy that serves.
    pub(crate) fn new(admin: Admin, role: Role, settings: Drain) -> Self {
        Self { admin, role, settings, stage: Arc::new(Mutex::new(DrainState::Serving)) }
    }

    /// Returns whether the drain has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.stage.lock() != DrainState::Serving
    }

    /// Begins the drain: asks clients to go elsewhere while connections are still accepted. A sidecar asks on the inbound side
    /// only, so that its application can still call others; a gateway asks all. Calling it again does nothing.
    pub(crate) async fn begin(&self) {
        let now = Instant::now();
        {
            let mut stage = self.stage.lock();
            if *stage != DrainState::Serving {
                return;
            }
            *stage = DrainState::Draining { since: now };
        }
        info!("draining");
        // Without `skip_exit` listeners would close after the drain time, even if some clients do not know yet.
        let path = match self.role {
            Role::Sidecar => "/drain_listeners?graceful&skip_exit&inboundonly",
            Role::Gateway => "/drain_listeners?graceful&skip_exit",
        };
        if let Err(error) = self.admin.post(path).await {
            warn!("{error}");
        }
    }

    /// Begins the drain, and waits until no connection is open, but for the minimum at least, or until the drain's time is over.
    pub(crate) async fn drained(&self) {
        self.begin().await;
        let stage = *self.stage.lock();
        let DrainState::Draining { since } = stage else { return };
        let deadline = self.settings.duration.map(|duration| since + duration);
        let minimum = self.settings.duration.map_or(self.settings.minimum, |duration| self.settings.minimum.min(duration));
        self.wait(deadline, |open| since.elapsed() >= minimum && open.connections == 0).await;
        *self.stage.lock() = DrainState::Drained;
    }

    /// Drains the proxy; if that is done already, waits until everything is delivered.
    pub(crate) async fn finished(&self) {
        if *self.stage.lock() != DrainState::Drained {
            return self.drained().await;
        }
        let deadline = self.settings.duration.map(|duration| Instant::now() + duration);
        self.wait(deadline, |open| open.is_delivered()).await;
    }

    async fn wait(&self, deadline: Option<Instant>, enough: impl Fn(Open) -> bool) {
        loop {
            let open = match self.admin.get(GAUGES).await {
                Ok(gauges) => Some(Open::read(&String::from_utf8_lossy(&gauges), self.role)),
                Err(_) => None,
            };
            if open.is_some_and(&enough) {
                return info!("nothing is open any more");
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return info!(?open, "drain time is over");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

// === impl Open ===

impl Open {
    /// Reads `/stats`; the sums already contain the gauges of single workers.
    fn read(gauges: &str, role: Role) -> Self {
        let mut open = Self::default();
        for (name, value) in gauges.lines().filter_map(|line| line.split_once(": ")) {
            let value: u64 = value.trim().parse().unwrap_or(0);
            if let Some(listener) = name.strip_prefix("listener.").and_then(|name| name.strip_suffix(".downstream_cx_active")) {
                if counts(listener, role) {
                    open.connections += value;
                }
            } else if let Some((prefix, gauge)) = name.strip_prefix("http.").and_then(|name| name.rsplit_once(".downstream_"))
                && serves(prefix, role)
            {
                match gauge {
                    "cx_active" => open.http_connections += value,
                    "rq_active" => open.requests += value,
                    _ => open.unsent += value,
                }
            }
        }
        open
    }

    /// Returns whether everything is delivered: idle connections may be closed, but of one that does not speak HTTP nobody knows.
    fn is_delivered(self) -> bool {
        self.requests == 0 && self.unsent == 0 && self.connections <= self.http_connections
    }
}

/// Returns whether the drain waits for connections to that listener.
fn counts(listener: &str, role: Role) -> bool {
    let own = listener.starts_with("admin") || listener.starts_with("agent.") || listener.contains(".worker_");
    !own && (role == Role::Gateway || !listener.ends_with(OUTBOUND_LISTENER))
}

/// Returns whether requests under that prefix come from clients of this proxy.
fn serves(prefix: &str, role: Role) -> bool {
    match role {
        Role::Sidecar => prefix.starts_with("inbound_") || prefix.starts_with("InboundPassthrough"),
        Role::Gateway => prefix != "admin" && !prefix.starts_with("agent_"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUGES: &str = "listener.0.0.0.0_15006.downstream_cx_active: 3\n\
                          listener.0.0.0.0_15006.worker_0.downstream_cx_active: 3\n\
                          listener.0.0.0.0_15001.downstream_cx_active: 7\n\
                          listener.admin.downstream_cx_active: 1\n\
                          listener.agent.status.downstream_cx_active: 4\n\
                          http.inbound_0.0.0.0_9080;.downstream_cx_active: 2\n\
                          http.inbound_0.0.0.0_9080;.downstream_rq_active: 1\n\
                          http.inbound_0.0.0.0_9080;.downstream_cx_tx_bytes_buffered: 512\n\
                          http.outbound_0.0.0.0_80;.downstream_rq_active: 5\n\
                          http.agent_status.downstream_rq_active: 1\n\
                          http.admin.downstream_rq_active: 1\n";

    #[test]
    fn what_counts_for_a_sidecar_and_for_a_gateway() {
        let sidecar = Open::read(GAUGES, Role::Sidecar);
        assert_eq!(sidecar, Open { connections: 3, http_connections: 2, requests: 1, unsent: 512 });
        let gateway = Open::read(GAUGES, Role::Gateway);
        assert_eq!((gateway.connections, gateway.requests), (10, 6));
        assert_eq!(Open::read("garbage\nx: y", Role::Sidecar), Open::default());
    }

    #[test]
    fn delivered_is_when_nothing_is_under_way() {
        let idle = Open { connections: 2, http_connections: 2, ..Open::default() };
        assert!(idle.is_delivered() && Open::default().is_delivered());
        assert!(!Open { requests: 1, ..idle }.is_delivered());
        assert!(!Open { unsent: 1, ..idle }.is_delivered());
        assert!(!Open { connections: 3, ..idle }.is_delivered(), "a connection that does not speak HTTP");
    }
}
