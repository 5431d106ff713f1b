//! ADS over gRPC: one task per stream, which holds a session between the connection and the views.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use prost::Message;
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, codegen::StdError, server::NamedService, transport::server::TcpConnectInfo};
use tower::Service;

use super::{
    codec::{Form, Outgoing, Responses},
    debug::{self, Inspector},
    ledger::{Entry, Ledger},
    messages::{Bounds, Messages},
    node::{Claim, Node, Proven},
    session::{Delta, Event, JoinedTables, Protocol, Request, Response, Session, Settings, Sotw},
    view::Views,
};
use crate::{
    budget::{Budget, Exhausted, Portion, Purpose, Standing},
    clock::{Clock, system_clock},
    mesh::model::Caller,
};

/// The path prefix of the service.
const NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// What a stream holds without names, in bytes: its state here and in the connection, a small request, and an answer on its way.
const STREAM: usize = 48 << 10;

/// How streams are served.
#[derive(Clone)]
pub struct Options {
    /// How rollouts are ordered.
    pub rollout: Settings,
    /// Whether a caller must have proven who it is. It must on port 15012, not on 15010.
    pub authenticated: bool,
    /// The largest request of a proven caller that is served, in bytes.
    pub request_limit: usize,
    /// The largest request of anyone else, in bytes. A proxy that comes back names all that it holds.
    pub first_request_limit: usize,
    /// How long the first request may take, and each one from its first byte to its last.
    pub request_time: Duration,
    /// What all callers together may have this process hold.
    pub budget: Budget,
    /// Ends all streams. The clients come back, to another replica.
    pub shutdown: CancellationToken,
    /// The time of day, for the ledger.
    pub clock: Clock,
}

/// The Aggregated Discovery Service. Expects the [`Caller`] in each request's extensions.
#[derive(Clone)]
pub struct DiscoveryService {
    views: Arc<dyn Views>,
    ledger: Arc<Ledger>,
    options: Options,
    inspector: Option<Arc<dyn Inspector>>,
    joined: Arc<JoinedTables>,
}

impl DiscoveryService {
    /// Makes a service that gives proxies what `views` has for them.
    pub fn new(views: Arc<dyn Views>, ledger: Arc<Ledger>, options: Options) -> Self {
        Self { views, ledger, options, inspector: None, joined: Arc::default() }
    }

    /// Makes it answer `istio.io/debug*` too.
    pub fn inspected_by(self, inspector: Arc<dyn Inspector>) -> Self {
        Self { inspector: Some(inspector), ..self }
    }

    fn accept<P: Protocol, B>(self, form: Form, request: http::Request<B>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous);
        if self.options.authenticated && caller == Caller::Anonymous {
            return Status::unauthenticated("no valid token or client certificate").into_http();
        }
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr);
        let bounds = Bounds { size: self.options.first_request_limit, time: self.options.request_time };
        let admitted = self.admit(&caller, Body::new(request.into_body()), bounds);
        let (requests, portion) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return Status::resource_exhausted(error.to_string()).into_http(),
        };
        // One response may wait while another is on its way. The next is made when there is room, from what is then the
        // newest view.
        let (responses, outgoing) = mpsc::channel(1);
        let metrics = self.ledger.metrics().clone();
        let body = Responses::new(form, outgoing, metrics.send_time.clone());
        tokio::spawn(async move {
            let debug_nonces = Nonces::default();
            let responses_out = responses.clone();
            let stream =
                Stream::<P> { service: self, form, caller, peer, requests, responses: responses_out, debug_nonces, _portion: portion };
            if let Err(status) = stream.run().await {
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

    /// Takes what a stream holds from the budget.
    fn admit<T: Message + Default>(&self, caller: &Caller, body: Body, bounds: Bounds) -> Result<(Messages<T>, Portion), Exhausted> {
        let standing = match caller {
            Caller::Anonymous => Standing::Unproven,
            Caller::Workload(_) => Standing::Proven,
        };
        let budget = &self.options.budget;
        let portion = budget.take(Purpose::Streams, standing, STREAM)?;
        Ok((Messages::new(body, bounds, budget, standing)?, portion))
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
            Some("/DeltaAggregatedResources") => service.accept::<Delta, _>(Form::Delta, request),
            Some("/StreamAggregatedResources") => service.accept::<Sotw, _>(Form::Sotw, request),
            _ => Status::unimplemented("no such method").into_http(),
        }))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rollout: Settings::default(),
            authenticated: false,
            request_limit: 16 << 20,
            first_request_limit: 4 << 20,
            request_time: Duration::from_secs(10),
            budget: Budget::default(),
            shutdown: CancellationToken::new(),
            clock: system_clock(),
        }
    }
}

/// One client.
struct Stream<P: Protocol> {
    service: DiscoveryService,
    form: Form,
    caller: Caller,
    peer: Option<SocketAddr>,
    requests: Messages<P::Request>,
    responses: mpsc::Sender<Result<Outgoing, Status>>,
    debug_nonces: Nonces,
    /// What it holds, of the budget.
    _portion: Portion,
}

/// The nonces of the last debug answers.
#[derive(Default)]
struct Nonces {
    made: u64,
    recent: VecDeque<String>,
}

impl<P: Protocol> Stream<P> {
    async fn run(mut self) -> Result<(), Status> {
        let shutdown = self.service.options.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => Err(going_away()),
            result = self.converse() => result,
        }
    }

    async fn converse(&mut self) -> Result<(), Status> {
        let Some((proven, first)) = self.introduction().await? else { return Ok(()) };
        let clock = Arc::clone(&self.service.options.clock);
        let entry = self.service.ledger.enter(proven.node(), self.peer, &clock);
        let mut views = self.service.views.attach(&proven);
        let view = views.borrow_and_update().clone();
        let mut session = Session::<P>::new(self.service.options.rollout, view, &self.service.joined);
        session.on_request(first, now());
        let responses = self.responses.clone();
        let mut more = true;
        let mut stale: Option<Instant> = None;
        let mut deadline = pin!(time::sleep_until(time::Instant::now()));
        loop {
            record(session.take_events(), &entry, &clock);
            if let Some(at) = session.deadline() {
                deadline.as_mut().reset(at.into());
            }
            tokio::select! {
                biased;
                request = self.requests.next() => match self.received(request)? {
                    Some(request) if self.is_debug(&request) => self.answer_debug(&request).await?,
                    Some(request) => {
                        session.on_request(request, now());
                        more = true;
                    }
                    None => return Ok(()),
                },
                changed = views.changed(), if stale.is_none() => {
                    // The session turns to it when there is room: a client that takes nothing skips views.
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
                            self.observe_push_time(&response, began.elapsed());
                            // It is recorded before it is on its way, since its ACK could otherwise come first.
                            record(session.take_events(), &entry, &clock);
                            permit.send(Ok(Outgoing::Resources(response)));
                        }
                        None => more = false,
                    }
                }
            }
        }
    }

    /// Waits for the first request that asks for configuration; returns it with who the proxy is. Reports of health and
    /// questions of command-line tools may come before it, and make nobody a proxy.
    async fn introduction(&mut self) -> Result<Option<(Proven, P::Request)>, Status> {
        let mut introduced = None;
        loop {
            let request = self.requests.next().await;
            let Some(mut request) = self.received(request)? else { return Ok(None) };
            let node = request.take_node();
            if node.is_none() && request.type_url().ends_with("istio.v1.HealthInformation") {
                continue;
            }
            introduced = node.filter(|node| !node.id.is_empty()).or(introduced);
            let Some(node) = &introduced else { return Err(Status::invalid_argument("missing node information")) };
            if self.is_debug(&request) {
                let claim = Claim::parse(node);
                claim.agrees_with(&self.caller).then_some(()).ok_or_else(|| self.refusal(&node.id))?;
                self.answer_debug(&request).await?;
                continue;
            }
            let node = Node::parse(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let node = Arc::new(node);
            let proven = Proven::new(Arc::clone(&node), self.caller.clone()).ok_or_else(|| self.refusal(&node.proxy.id))?;
            if self.caller != Caller::Anonymous {
                self.requests.allow(self.service.options.request_limit);
            }
            return Ok(Some((proven, request)));
        }
    }

    fn refusal(&self, proxy: &str) -> Status {
        tracing::warn!(proxy, caller = ?self.caller, "the caller is not the proxy that it asks for");
        Status::permission_denied("authorization failed")
    }

    fn observe_push_time(&self, response: &Response, took: Duration) {
        if let Some(kind) = response.kind.filter(|kind| kind.is_in_views()) {
            let push_time = &self.service.ledger.metrics().push_time;
            push_time.get_or_create(&[("type", kind.as_str())]).observe(took.as_secs_f64());
        }
    }

    fn received(&self, request: Result<Option<P::Request>, Status>) -> Result<Option<P::Request>, Status> {
        let request = request?;
        if let Some(request) = &request {
            let size = i64::try_from(request.encoded_len()).unwrap_or(i64::MAX);
            let largest = &self.service.ledger.metrics().largest_request;
            largest.set(largest.get().max(size));
        }
        Ok(request)
    }

    fn is_debug(&self, request: &P::Request) -> bool {
        self.service.inspector.is_some() && debug::is_debug(request.type_url())
    }

    async fn answer_debug(&mut self, request: &P::Request) -> Result<(), Status> {
        // What answers an answer asks for nothing. istioctl's first request has a nonce too, of its own making.
        let asks = !self.debug_nonces.contains(request.nonce());
        let Some(inspector) = self.service.inspector.clone().filter(|_| asks) else { return Ok(()) };
        let type_url = request.type_url();
        let answer = debug::answer(inspector.as_ref(), &self.caller, type_url, request.names())?;
        let message = answer.encode(self.form, type_url, self.debug_nonces.next());
        // The client may have gone.
        let _ = self.responses.send(Ok(Outgoing::Message(message))).await;
        Ok(())
    }
}

impl Nonces {
    /// How many are remembered: more than a client has unanswered.
    const RECENT: usize = 32;

    fn next(&mut self) -> String {
        self.made += 1;
        let nonce = format!("d{}", self.made);
        self.recent.push_back(nonce.clone());
        if self.recent.len() > Self::RECENT {
            self.recent.pop_front();
        }
        nonce
    }

    fn contains(&self, nonce: &str) -> bool {
        self.recent.iter().any(|recent| recent == nonce)
    }
}

fn record(events: Vec<Event>, entry: &Entry, clock: &Clock) {
    if !events.is_empty() {
        let now = clock();
        events.iter().for_each(|event| entry.record(event, now));
    }
}

// Tokio's clock, since tests can pause it.
fn now() -> Instant {
    time::Instant::now().into_std()
}

/// Returns whether a stream ended by a fault of ours: neither by what the client asked for nor by its going, which
/// breaks the transport.
fn is_internal(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::DataLoss | Code::OutOfRange)
}

fn going_away() -> Status {
    Status::unavailable("the control plane is going away")
}
