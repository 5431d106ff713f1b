//! ADS over gRPC: one task per stream, which holds a session between the connection and the views.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, body::Body, codegen::StdError, server::NamedService, transport::server::TcpConnectInfo};
use tonic_prost::ProstDecoder;
use tower::Service;

use super::{
    codec::{Form, Outgoing, Responses},
    debug::{self, Inspector},
    ledger::{Entry, Ledger},
    node::{Claim, Node},
    rollout::Settings,
    session::{Session, delta::DeltaSession, sotw::SotwSession},
    view::{View, Views},
};
use crate::mesh::model::Caller;

/// The path prefix of the service.
const NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// How streams are served.
#[derive(Clone, Debug)]
pub struct Options {
    /// The order of rollouts.
    pub rollout: Settings,
    /// Whether a caller must have proven who it is: so on 15012, not on 15010.
    pub authenticated: bool,
    /// Bytes that one request of a proven caller may have. A proxy that comes back names all it holds.
    pub request_limit: usize,
    /// Bytes that one request of anyone else may have.
    pub anonymous_request_limit: usize,
    /// Ends all streams: the clients come back, to another replica.
    pub shutdown: CancellationToken,
}

/// The Aggregated Discovery Service. Expects the [`Caller`] in each request's extensions.
#[derive(Clone)]
pub struct DiscoveryService {
    views: Arc<dyn Views>,
    ledger: Arc<Ledger>,
    options: Options,
    inspector: Option<Arc<dyn Inspector>>,
}

impl DiscoveryService {
    /// A service that gives proxies what `views` has for them.
    pub fn new(views: Arc<dyn Views>, ledger: Arc<Ledger>, options: Options) -> Self {
        Self { views, ledger, options, inspector: None }
    }

    /// The same, answering `istio.io/debug*` too.
    pub fn inspected_by(self, inspector: Arc<dyn Inspector>) -> Self {
        Self { inspector: Some(inspector), ..self }
    }

    fn accept<S: Session + 'static, B>(
        self,
        form: Form,
        request: http::Request<B>,
        session: fn(Settings, View) -> S,
    ) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous);
        if self.options.authenticated && caller == Caller::Anonymous {
            return Status::unauthenticated("no valid token or client certificate").into_http();
        }
        let limit = match caller {
            Caller::Anonymous => self.options.anonymous_request_limit,
            Caller::Workload(_) => self.options.request_limit,
        };
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr);
        let requests = Streaming::new_request(ProstDecoder::default(), request.into_body(), None, Some(limit));
        // One response may wait while another is on its way: what comes after is computed when they are gone.
        let (responses, outgoing) = mpsc::channel(1);
        let metrics = self.ledger.metrics().clone();
        let body = Responses::new(form, outgoing, metrics.send_time.clone());
        tokio::spawn(async move {
            let stream = Stream { service: self, form, caller, peer, requests, responses: responses.clone(), debug_answers: 0 };
            if let Err(status) = stream.run(session).await {
                if is_internal(&status) {
                    metrics.internal_errors.inc();
                }
                // The client may have gone.
                let _ = responses.send(Err(status)).await;
            }
        });
        let mut response = http::Response::new(Body::new(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

impl NamedService for DiscoveryService {
    const NAME: &'static str = NAME;
}

impl<B> Service<http::Request<B>> for DiscoveryService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(NAME));
        ready(Ok(match method {
            Some("/DeltaAggregatedResources") => service.accept(Form::Delta, request, DeltaSession::new),
            Some("/StreamAggregatedResources") => service.accept(Form::Sotw, request, SotwSession::new),
            _ => Status::unimplemented("no such method").into_http(),
        }))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rollout: Settings::default(),
            authenticated: false,
            request_limit: 128 << 20,
            anonymous_request_limit: 16 << 20,
            shutdown: CancellationToken::new(),
        }
    }
}

/// One client.
struct Stream<R> {
    service: DiscoveryService,
    form: Form,
    caller: Caller,
    peer: Option<SocketAddr>,
    requests: Streaming<R>,
    responses: mpsc::Sender<Result<Outgoing, Status>>,
    debug_answers: u64,
}

impl<R: prost::Message + Default + 'static> Stream<R> {
    async fn run<S: Session<Request = R>>(mut self, session: fn(Settings, View) -> S) -> Result<(), Status> {
        let shutdown = self.service.options.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => Err(going_away()),
            result = self.converse(session) => result,
        }
    }

    async fn converse<S: Session<Request = R>>(&mut self, session: fn(Settings, View) -> S) -> Result<(), Status> {
        let Some((node, first)) = self.introduction::<S>().await? else { return Ok(()) };
        let node = Arc::new(node);
        let mut entry = self.service.ledger.enter(&node, self.peer);
        let mut views = self.service.views.attach(node);
        let view = views.borrow_and_update().clone();
        let mut session = session(self.service.options.rollout, view);
        session.on_request(first, now());
        let responses = self.responses.clone();
        let mut more = true;
        let mut stale: Option<Instant> = None;
        let mut deadline = pin!(time::sleep_until(time::Instant::now()));
        loop {
            note(&mut session, &mut entry);
            if let Some(at) = session.deadline() {
                deadline.as_mut().reset(at.into());
            }
            tokio::select! {
                biased;
                request = self.requests.message() => match self.received(request)? {
                    Some(request) if self.is_debug::<S>(&request) => self.answer_debug::<S>(&request).await?,
                    Some(request) => {
                        session.on_request(request, now());
                        more = true;
                    }
                    None => return Ok(()),
                },
                changed = views.changed(), if stale.is_none() => {
                    // Only noted here: a client that takes nothing gets the newest view when it does.
                    changed.map_err(|_| going_away())?;
                    (stale, more) = (Some(now()), true);
                }
                () = &mut deadline, if !more && session.deadline().is_some() => more = true,
                permit = responses.reserve(), if more => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(since) = stale.take() {
                        self.service.ledger.metrics().queue_time.observe(since.elapsed().as_secs_f64());
                        session.on_view(views.borrow_and_update().clone());
                    }
                    let began = Instant::now();
                    match session.next(now()) {
                        Some(response) => {
                            entry.sent(&response, began.elapsed());
                            permit.send(Ok(Outgoing::Resources(response)));
                        }
                        None => more = false,
                    }
                }
            }
        }
    }

    /// The first request that asks for configuration, with who the proxy is. What comes before it, reports of health
    /// and questions of command lines, makes nobody a proxy.
    async fn introduction<S: Session<Request = R>>(&mut self) -> Result<Option<(Node, R)>, Status> {
        let mut introduced = None;
        loop {
            let request = self.requests.message().await;
            let Some(mut request) = self.received(request)? else { return Ok(None) };
            let node = S::node(&mut request);
            if node.is_none() && S::type_url(&request).ends_with("istio.v1.HealthInformation") {
                continue;
            }
            introduced = node.filter(|node| !node.id.is_empty()).or(introduced);
            let Some(node) = &introduced else { return Err(Status::invalid_argument("missing node information")) };
            if self.is_debug::<S>(&request) {
                self.permit(Claim::parse(node).agrees_with(&self.caller), &node.id)?;
                self.answer_debug::<S>(&request).await?;
                continue;
            }
            let node = Node::parse(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
            self.permit(node.agrees_with(&self.caller), &node.proxy.id)?;
            return Ok(Some((node, request)));
        }
    }

    fn permit(&self, agrees: bool, proxy: &str) -> Result<(), Status> {
        if !agrees {
            tracing::warn!(proxy, caller = ?self.caller, "the caller is not the proxy that it asks for");
            return Err(Status::permission_denied("authorization failed"));
        }
        Ok(())
    }

    fn received(&self, request: Result<Option<R>, Status>) -> Result<Option<R>, Status> {
        let request = request?;
        if let Some(request) = &request {
            let size = i64::try_from(request.encoded_len()).unwrap_or(i64::MAX);
            let largest = &self.service.ledger.metrics().largest_request;
            largest.set(largest.get().max(size));
        }
        Ok(request)
    }

    fn is_debug<S: Session<Request = R>>(&self, request: &R) -> bool {
        self.service.inspector.is_some() && debug::is_debug(S::type_url(request))
    }

    /// Whether a nonce is that of a debug answer. istioctl's first request has one too, of its own making.
    fn is_taken(&self, nonce: &str) -> bool {
        nonce.strip_prefix('d').and_then(|number| number.parse().ok()).is_some_and(|number: u64| number <= self.debug_answers)
    }

    async fn answer_debug<S: Session<Request = R>>(&mut self, request: &R) -> Result<(), Status> {
        let Some(inspector) = self.service.inspector.clone().filter(|_| !self.is_taken(S::nonce(request))) else { return Ok(()) };
        let type_url = S::type_url(request);
        let answer = debug::answer(inspector.as_ref(), &self.caller, type_url, S::names(request))?;
        self.debug_answers += 1;
        let message = answer.encode(self.form, type_url, format!("d{}", self.debug_answers));
        // The client may have gone.
        let _ = self.responses.send(Ok(Outgoing::Message(message))).await;
        Ok(())
    }
}

fn note(session: &mut impl Session, entry: &mut Entry) {
    session.events().iter().for_each(|event| entry.event(event));
    entry.answered(session.states());
    entry.progress(session.view().generation, session.is_current(), &session.refused());
}

// Tokio's clock, which a simulation can move.
fn now() -> Instant {
    time::Instant::now().into_std()
}

/// Whether a stream should not have ended so: not by what the client asked for, and not by its going (which breaks the
/// transport).
fn is_internal(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::DataLoss | Code::OutOfRange)
}

fn going_away() -> Status {
    Status::unavailable("the control plane is going away")
}
