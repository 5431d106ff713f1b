//! The agent's own port (15020): readiness, metrics, drain and quit, and the application's probes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, RawQuery, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::{
    admin::Admin,
    application::{Application, ProbeAnswer, scrape},
    certificate::CurrentCertificate,
    drain::Draining,
    istio_metrics::{IstioMetrics, Own},
    readiness::Readiness,
    settings::Settings,
    telemetry::Telemetry,
};

/// The content type of metrics as Envoy, and so this port, serves them.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// Where the metrics of Envoy and of the agent are, without the application's.
pub(crate) const PROXY_METRICS: &str = "/stats/proxy";

/// What the agent's port shows and can start.
#[derive(Clone)]
pub(crate) struct Status {
    admin: Admin,
    readiness: Readiness,
    certificate: CurrentCertificate,
    telemetry: Arc<Telemetry>,
    draining: Draining,
    quit: Arc<Notify>,
    application: Arc<Application>,
    istio_metrics: Arc<IstioMetrics>,
    /// The pod's own address, at which the application is probed.
    instance: IpAddr,
    /// The address that the port is bound to.
    own: IpAddr,
}

impl Status {
    /// Returns the state of one agent. Only callers on the loopback interface, or at the address that the port is bound to, may drain
    /// and quit.
    pub(crate) fn new(settings: &Settings, draining: Draining, certificate: CurrentCertificate, telemetry: Arc<Telemetry>) -> Self {
        let own = settings.listen.agent.ip();
        Self {
            admin: Admin::new(settings.listen.admin),
            readiness: Readiness::new(settings),
            certificate,
            telemetry,
            draining,
            quit: Arc::default(),
            application: Arc::new(settings.application.clone()),
            istio_metrics: Arc::new(IstioMetrics::new(Own::of(settings))),
            instance: settings.workload.ips.first().copied().unwrap_or(own),
            own,
        }
    }

    /// Returns the routes (contract §2.3); every other path is a probe or hook of the application.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/healthz/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/stats/prometheus", get(all_metrics))
            .route(PROXY_METRICS, get(proxy_metrics))
            .route("/drain", post(drain))
            .route("/quitquitquit", post(quit))
            .fallback(ask_application)
            .with_state(self)
    }

    /// Returns once somebody asked the agent to quit.
    pub(crate) async fn quit_requested(&self) {
        self.quit.notified().await;
    }

    /// Returns the metrics of Envoy, Istio's among them, and of the agent; or the answer that says why not.
    async fn proxy_metrics(&self) -> Result<Vec<u8>, Response> {
        let away = |error| (StatusCode::BAD_GATEWAY, format!("Envoy's admin interface at {error}\n")).into_response();
        let envoy = self.admin.get("/stats/prometheus").await.map_err(away)?;
        let (envoy, agent) = (self.istio_metrics.renamed(&String::from_utf8_lossy(&envoy)), self.telemetry.text());
        Ok(scrape::joined([envoy.as_bytes(), agent.as_bytes()]))
    }

    fn may_command(&self, caller: SocketAddr) -> bool {
        caller.ip().to_canonical().is_loopback() || caller.ip().to_canonical() == self.own
    }
}

async fn ready(State(status): State<Status>) -> Response {
    let certificate = status.certificate.borrow().is_some();
    match status.readiness.check(certificate, status.draining.has_begun()).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn metrics(State(status): State<Status>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], status.telemetry.text()).into_response()
}

/// Serves the metrics of Envoy, the agent, and the application if it has some. An application that fails must not hide the proxy's
/// metrics.
async fn all_metrics(State(status): State<Status>) -> Response {
    let proxy = match status.proxy_metrics().await {
        Ok(text) => text,
        Err(failure) => return failure,
    };
    let application = match &status.application.scrape {
        None => None,
        Some(scrape) => match scrape.metrics(status.instance).await {
            Ok(text) => Some(text),
            Err(reason) => {
                status.telemetry.scrape_failed();
                debug!("metrics of the application: {reason}");
                None
            }
        },
    };
    text_of_metrics(scrape::joined([proxy.as_slice()].into_iter().chain(application.as_deref())))
}

async fn proxy_metrics(State(status): State<Status>) -> Response {
    status.proxy_metrics().await.map_or_else(|failure| failure, text_of_metrics)
}

fn text_of_metrics(text: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
}

/// Starts the drain; with `?wait` it answers when the proxy is drained.
async fn drain(State(status): State<Status>, ConnectInfo(caller): ConnectInfo<SocketAddr>, RawQuery(query): RawQuery) -> Response {
    if !status.may_command(caller) {
        return StatusCode::FORBIDDEN.into_response();
    }
    match query.as_deref() {
        Some("wait") => status.draining.drained().await,
        _ => status.draining.begin().await,
    }
    StatusCode::OK.into_response()
}

async fn quit(State(status): State<Status>, ConnectInfo(caller): ConnectInfo<SocketAddr>) -> Response {
    if !status.may_command(caller) {
        return StatusCode::FORBIDDEN.into_response();
    }
    status.quit.notify_one();
    StatusCode::OK.into_response()
}

async fn ask_application(State(status): State<Status>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let Some(prober) = status.application.probers.get(uri.path()) else { return StatusCode::NOT_FOUND.into_response() };
    if method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    match prober.run(uri.path(), status.instance, &headers).await {
        Ok(ProbeAnswer { status, content_type, body }) => {
            let mut response = (status, Body::from(body)).into_response();
            response.headers_mut().remove(header::CONTENT_TYPE);
            response.headers_mut().extend(content_type.map(|content_type| (header::CONTENT_TYPE, content_type)));
            response
        }
        Err(reason) => {
            warn!("{}: {reason}", uri.path());
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::agent::settings::tests::settings;

    #[test]
    fn only_this_machine_commands() {
        let (_sender, certificate) = watch::channel(None);
        let own = IpAddr::from([10, 0, 0, 7]);
        let mut settings = settings();
        settings.listen.agent.set_ip(own);
        let draining = Draining::new(Admin::new(settings.listen.admin), settings.role, settings.drain);
        let status = Status::new(&settings, draining, certificate, Arc::default());
        assert!(status.may_command(([127, 0, 1, 9], 4000).into()));
        assert!(status.may_command((own, 4000).into()));
        assert!(!status.may_command(([10, 0, 0, 8], 4000).into()));
    }
}
