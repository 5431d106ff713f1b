//! How a proxy ends without failing a request.
//!
//! A pod that is deleted is still being sent requests: each client learns of it in its own time, by way of the API server, the
//! control plane and its own Envoy. So the order is to serve on while they learn, and to end when nobody is left:
//!
//! 1. The kubelet runs the hooks of all containers at once. That of the proxy is `istiod-lite agent drain`, which calls `/drain`
//!    here and waits. The proxy is unready from now on; it goes on accepting connections; each answer asks its client to connect
//!    anew (`connection: close`, GOAWAY), which leads it elsewhere as soon as it knows of other endpoints.
//! 2. A container without a hook gets SIGTERM at the same moment, the application too. A native sidecar does not: its turn comes
//!    after the application's containers have ended, so what they still answer goes out, and what they still ask, too. (An
//!    application that stops accepting at once on SIGTERM refuses what clients send until they have learnt; only a hook of its own,
//!    `preStop: {sleep: {seconds: 5}}`, or patience on SIGTERM helps against that. No sidecar can: its own hook does not hold up
//!    other containers.)
//! 3. The hook returns when no connection is open and the minimum drain duration is over, or when the termination drain duration
//!    is. Clients whose Envoys dropped this endpoint close their idle connections themselves: no request can cross with a close.
//! 4. SIGTERM after that: the application is gone. What Envoy has still to deliver, it delivers, bounded by the same duration; then
//!    it ends. SIGTERM without a hook before it, as for a process outside of Kubernetes, begins with step 1.
//!
//! A gateway is the same without an application: its hook runs first, then comes SIGTERM.

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

/// How often Envoy is asked what is open.
const POLL: Duration = Duration::from_millis(100);
/// The gauges that tell.
const GAUGES: &str = "/stats?filter=^(listener\\..*downstream_cx_active|http\\..*downstream_(cx_active|rq_active|cx_tx_bytes_buffered))$";
/// Where a sidecar's captured outbound connections arrive: the application may keep them to its own end.
const OUTBOUND_LISTENER: &str = "_15001";

/// One proxy's way to its end.
#[derive(Clone, Debug)]
pub struct Draining {
    admin: Admin,
    role: Role,
    settings: Drain,
    stage: Arc<Mutex<Stage>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    Draining { since: Instant },
    Drained,
}

/// What is open at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Open {
    /// Connections to the proxy's listeners, without admin's and the agent's own.
    connections: u64,
    /// Those of them that speak HTTP.
    http_connections: u64,
    /// Requests without a complete answer.
    requests: u64,
    /// Bytes of answers that no client has taken yet.
    unsent: u64,
}

impl Draining {
    /// Of a proxy that serves.
    pub fn new(admin: Admin, role: Role, settings: Drain) -> Self {
        Self { admin, role, settings, stage: Arc::new(Mutex::new(Stage::Serving)) }
    }

    /// Whether the end has begun.
    pub fn has_begun(&self) -> bool {
        *self.stage.lock() != Stage::Serving
    }

    /// Asks clients to go elsewhere while connections are still taken: a sidecar's on the inbound side only, so that its
    /// application can still call others, a gateway's all. Once is enough.
    pub async fn begin(&self) {
        let now = Instant::now();
        {
            let mut stage = self.stage.lock();
            if *stage != Stage::Serving {
                return;
            }
            *stage = Stage::Draining { since: now };
        }
        info!("draining");
        // Without `skip_exit` listeners would close after the drain time, whether or not all clients know.
        let path = match self.role {
            Role::Sidecar => "/drain_listeners?graceful&skip_exit&inboundonly",
            Role::Gateway => "/drain_listeners?graceful&skip_exit",
        };
        if let Err(error) = self.admin.post(path).await {
            warn!("{error}");
        }
    }

    /// Begins, and waits until no connection is open (but not shorter than the minimum) or the drain's time is over.
    pub async fn drained(&self) {
        self.begin().await;
        let stage = *self.stage.lock();
        let Stage::Draining { since } = stage else { return };
        let deadline = self.settings.duration.map(|duration| since + duration);
        let minimum = self.settings.duration.map_or(self.settings.minimum, |duration| self.settings.minimum.min(duration));
        self.wait(deadline, |open| since.elapsed() >= minimum && open.connections == 0).await;
        *self.stage.lock() = Stage::Drained;
    }

    /// For the end that was asked for: drains, or, where that is done, waits until everything is delivered.
    pub async fn finished(&self) {
        if *self.stage.lock() != Stage::Drained {
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
    /// Reads `/stats`; gauges of single workers are in the sums already.
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

    /// Connections that say nothing more may be closed; of one that does not speak HTTP nobody knows.
    fn is_delivered(self) -> bool {
        self.requests == 0 && self.unsent == 0 && self.connections <= self.http_connections
    }
}

fn counts(listener: &str, role: Role) -> bool {
    let own = listener.starts_with("admin") || listener.starts_with("agent.") || listener.contains(".worker_");
    !own && (role == Role::Gateway || !listener.ends_with(OUTBOUND_LISTENER))
}

/// Whether requests under that prefix are clients' of this proxy.
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
