//! The agent's own port (15020): readiness, metrics, drain and quit.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{admin::Admin, readiness, sds::CurrentCertificate, settings::Role, telemetry::Telemetry};

/// What the agent's port shows and sets off.
#[derive(Clone)]
pub struct Status {
    admin: Admin,
    role: Role,
    certificate: CurrentCertificate,
    telemetry: Arc<Telemetry>,
    draining: Arc<AtomicBool>,
    quit: Arc<Notify>,
    own: IpAddr,
}

impl Status {
    /// `own` is the address that the port is bound to: besides loopback the only one that may drain or quit.
    pub fn new(admin: Admin, role: Role, certificate: CurrentCertificate, telemetry: Arc<Telemetry>, own: IpAddr) -> Self {
        Self { admin, role, certificate, telemetry, draining: Arc::default(), quit: Arc::default(), own }
    }

    /// The routes (contract §2.3).
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/stats/prometheus", get(envoy_metrics))
            .route("/drain", post(drain))
            .route("/quitquitquit", post(quit))
            .with_state(self)
    }

    /// Returns once somebody asked the agent to quit.
    pub async fn quit_requested(&self) {
        self.quit.notified().await;
    }

    /// Takes the proxy out of readiness and asks Envoy to finish what it has: a sidecar's inbound side only, so that its
    /// application can still call others, a gateway's everything.
    pub async fn start_drain(&self) {
        if self.draining.swap(true, Ordering::SeqCst) {
            return;
        }
        info!("draining");
        let listeners = match self.role {
            Role::Sidecar => "/drain_listeners?graceful&inboundonly",
            Role::Gateway => "/drain_listeners?graceful",
        };
        for path in ["/healthcheck/fail", listeners] {
            if let Err(error) = self.admin.post(path).await {
                warn!("{error}");
            }
        }
    }

    fn may_command(&self, caller: SocketAddr) -> bool {
        caller.ip().is_loopback() || caller.ip() == self.own
    }
}

async fn ready(State(status): State<Status>) -> Response {
    let certificate = status.certificate.borrow().is_some();
    match readiness::check(&status.admin, certificate, status.draining.load(Ordering::SeqCst)).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn metrics(State(status): State<Status>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], status.telemetry.text()).into_response()
}

async fn envoy_metrics(State(status): State<Status>) -> Response {
    match status.admin.get("/stats/prometheus").await {
        Ok(body) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], body).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
    }
}

async fn drain(State(status): State<Status>, ConnectInfo(caller): ConnectInfo<SocketAddr>) -> Response {
    if !status.may_command(caller) {
        return StatusCode::FORBIDDEN.into_response();
    }
    status.start_drain().await;
    StatusCode::OK.into_response()
}

async fn quit(State(status): State<Status>, ConnectInfo(caller): ConnectInfo<SocketAddr>) -> Response {
    if !status.may_command(caller) {
        return StatusCode::FORBIDDEN.into_response();
    }
    status.quit.notify_one();
    StatusCode::OK.into_response()
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn only_this_machine_commands() {
        let (_sender, certificate) = watch::channel(None);
        let own = IpAddr::from([10, 0, 0, 7]);
        let status = Status::new(Admin::new(([127, 0, 0, 1], 1).into()), Role::Sidecar, certificate, Arc::default(), own);
        assert!(status.may_command(([127, 0, 1, 9], 4000).into()));
        assert!(status.may_command((own, 4000).into()));
        assert!(!status.may_command(([10, 0, 0, 8], 4000).into()));
    }
}
