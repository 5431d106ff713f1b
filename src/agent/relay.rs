//! The ADS relay: one stream to the control plane for each stream from Envoy, delta and state-of-the-world alike.
//!
//! Messages pass as the HTTP/2 frames in which they came: nothing is bounded, and flow control reaches from end to end. Nothing is
//! decoded but the answers that name modules in WebAssembly, which are fetched here ([`answers`]). While the control plane cannot be reached, Envoy's stream stays open and the dial is repeated with growing pauses. When an
//! established stream breaks, Envoy's breaks too, so that Envoy says on a new one what it has. It goes on serving in both cases.

mod answers;
mod messages;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Empty, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http2::SendRequest, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Notify,
};
use tracing::{debug, info, warn};

use self::answers::Answers;
use super::{
    certificate::{CurrentCertificate, WorkloadCertificate},
    modules::Modules,
    settings::ControlPlane,
    telemetry::Telemetry,
    upstream::{self, Token},
};
use crate::backoff::{Backoff, random_unit};

/// HTTP/2 ping after this long without a frame, and how long its answer may take (contract §1.1).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// The longest pause between two dials; Envoy's own backoff would grow to 30 s.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Flow control windows: one large answer must not wait for many round trips.
const WINDOW: u32 = 1 << 20;
/// gRPC's code for a method that does not exist.
const UNIMPLEMENTED: &str = "12";
/// gRPC's code for an upstream that cannot be reached.
const UNAVAILABLE: &str = "14";

const METHODS: [&str; 2] = [
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
];

/// The relay of one agent.
pub(crate) struct Relay {
    /// The control plane to which streams go.
    pub discovery: ControlPlane,
    /// The value of the `clusterid` header.
    pub cluster_id: String,
    /// The workload's certificate, which is the credential if there is no token file.
    pub certificate: CurrentCertificate,
    /// Told when the certificate is to be renewed before its time.
    pub renewal: Arc<Notify>,
    /// Fetches what filters run.
    pub modules: Arc<Modules>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}

type Body = Either<UnsyncBoxBody<Bytes, hyper::Error>, Empty<Bytes>>;

impl Relay {
    /// Serves Envoy on `listener` for ever.
    pub(crate) async fn serve(self: Arc<Self>, listener: UnixListener) -> std::io::Error {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(self.clone().serve_connection(stream));
                }
                Err(error) => return error,
            }
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: UnixStream) {
        let service = service_fn(move |request| {
            let relay = self.clone();
            async move { Ok::<_, Infallible>(relay.answer(request).await) }
        });
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.timer(TokioTimer::new()).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
            debug!("connection of Envoy's ended: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if request.method() != Method::POST || !METHODS.contains(&path) {
            return refusal(UNIMPLEMENTED, "this relay carries aggregated discovery only");
        }
        let delta = path == METHODS[0];
        let (mut sender, token) = self.reach_upstream().await;
        let upstream_request = match self.upstream_request(request, token.as_ref()) {
            Ok(request) => request,
            Err(error) => return refusal(UNAVAILABLE, &format!("request: {error}")),
        };
        self.telemetry.stream_opened();
        info!(upstream = self.discovery.address, delta, "ADS stream opened");
        self.show_what_is_trusted();
        let opened = Instant::now();
        match sender.send_request(upstream_request).await {
            Ok(response) => {
                let (parts, body) = relayed(response, sender, opened).into_parts();
                let answers = Answers::new(body, Arc::clone(&self.modules), delta);
                Response::from_parts(parts, Either::Left(answers.boxed_unsync()))
            }
            Err(error) => {
                warn!("ADS stream failed after {:?}: {error}", opened.elapsed());
                refusal(UNAVAILABLE, "the control plane closed the connection")
            }
        }
    }

    /// Has the certificate renewed during a rotation of the root. What a control plane knows of whom its proxies trust goes with it, and
    /// whoever takes its place learns it from the next request for a certificate only.
    fn show_what_is_trusted(&self) {
        if self.certificate.borrow().as_ref().is_some_and(|certificate| certificate.trusts_several_roots()) {
            self.renewal.notify_one();
        }
    }

    /// Dials until it succeeds. It ends early only when Envoy gives up its stream and this future is dropped.
    async fn reach_upstream(&self) -> (SendRequest<Incoming>, Option<Token>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
        loop {
            match self.connect().await {
                Ok(connected) => return connected,
                Err(error) => {
                    self.telemetry.dial_failed();
                    let pause = backoff.next(random_unit());
                    warn!(again_in = ?pause, "control plane out of reach: {error}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<(SendRequest<Incoming>, Option<Token>), upstream::Error> {
        let credential = upstream::credential(&self.discovery, self.held_certificate().await).await?;
        let stream = upstream::dial(&self.discovery, &self.discovery.address, credential.certificate.as_deref()).await?;
        let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        client
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let failed = |error: hyper::Error| upstream::Error::Connect {
            address: self.discovery.address.clone(),
            source: std::io::Error::other(error),
        };
        let (sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!("connection to the control plane ended: {error}");
            }
        });
        Ok((sender, credential.token))
    }

    /// Returns the certificate; waits for it if it is the only credential.
    async fn held_certificate(&self) -> Option<Arc<WorkloadCertificate>> {
        let mut certificate = self.certificate.clone();
        if self.discovery.token_file.is_none() {
            return certificate.wait_for(Option::is_some).await.ok().and_then(|issued| issued.clone());
        }
        certificate.borrow().clone()
    }

    fn upstream_request(&self, request: Request<Incoming>, token: Option<&Token>) -> Result<Request<Incoming>, http::Error> {
        let uri = format!("https://{}{}", self.discovery.server_name, request.uri().path());
        let mut upstream_request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, concat!("istiod-lite-agent/", env!("CARGO_PKG_VERSION")))
            .header("clusterid", &self.cluster_id);
        if let Some(token) = token {
            upstream_request = upstream_request.header(header::AUTHORIZATION, token.bearer()?);
        }
        upstream_request.body(request.into_body())
    }
}

/// Returns the control plane's answer for Envoy. It holds `sender` as long as the stream lives: dropping it would end the connection.
fn relayed(response: Response<Incoming>, sender: SendRequest<Incoming>, opened: Instant) -> Response<UnsyncBoxBody<Bytes, hyper::Error>> {
    let (parts, body) = response.into_parts();
    log_status(&parts.headers, opened);
    let logged = body.map_frame(move |frame| {
        let _ = &sender;
        if let Some(trailers) = frame.trailers_ref() {
            log_status(trailers, opened);
        }
        frame
    });
    let logged = logged.map_err(move |error| {
        warn!("ADS stream broke after {:?}: {error}", opened.elapsed());
        error
    });
    Response::from_parts(parts, logged.boxed_unsync())
}

fn log_status(headers: &HeaderMap, opened: Instant) {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match text("grpc-status") {
        None => {}
        Some("0") => info!("control plane ended the ADS stream after {:?}", opened.elapsed()),
        Some(code) => warn!(
            code,
            message = text("grpc-message").unwrap_or_default(),
            "control plane refused or ended the ADS stream after {:?}",
            opened.elapsed()
        ),
    }
}

/// Returns an answer of trailers only.
fn refusal(code: &'static str, message: &str) -> Response<Body> {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert("grpc-message", message);
    }
    response
}
