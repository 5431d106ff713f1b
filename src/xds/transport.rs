//! ADS over gRPC: one task per stream, which holds a session between the connection and the views.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, body::Body, codegen::StdError, server::NamedService};
use tonic_prost::ProstDecoder;
use tower::Service;

use super::{
    codec::{Form, Responses},
    ledger::{Entry, Ledger},
    node::Node,
    rollout::Settings,
    session::{Response, Session, delta::DeltaSession, sotw::SotwSession},
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
}

impl DiscoveryService {
    /// A service that gives proxies what `views` has for them.
    pub fn new(views: Arc<dyn Views>, ledger: Arc<Ledger>, options: Options) -> Self {
        Self { views, ledger, options }
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
        let requests = Streaming::new_request(ProstDecoder::default(), request.into_body(), None, Some(limit));
        // One response may wait while another is on its way: what comes after is computed when they are gone.
        let (responses, outgoing) = mpsc::channel(1);
        tokio::spawn(async move {
            let stream = Stream { service: self, caller, requests, responses: responses.clone() };
            if let Err(status) = stream.run(session).await {
                // The client may have gone.
                let _ = responses.send(Err(status)).await;
            }
        });
        let mut response = http::Response::new(Body::new(Responses::new(form, outgoing)));
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
    caller: Caller,
    requests: Streaming<R>,
    responses: mpsc::Sender<Result<Response, Status>>,
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
        let mut entry = self.service.ledger.enter(&node);
        let mut views = self.service.views.attach(Arc::new(node));
        let view = views.borrow_and_update().clone();
        let mut session = session(self.service.options.rollout, view);
        session.on_request(first, now());
        let mut more = true;
        let mut stale = false;
        let mut deadline = pin!(time::sleep_until(time::Instant::now()));
        loop {
            note(&mut session, &mut entry);
            if let Some(at) = session.deadline() {
                deadline.as_mut().reset(at.into());
            }
            tokio::select! {
                biased;
                request = self.requests.message() => match request? {
                    Some(request) => {
                        session.on_request(request, now());
                        more = true;
                    }
                    None => return Ok(()),
                },
                changed = views.changed(), if !stale => {
                    // Only noted here: a client that takes nothing gets the newest view when it does.
                    changed.map_err(|_| going_away())?;
                    (stale, more) = (true, true);
                }
                () = &mut deadline, if !more && session.deadline().is_some() => more = true,
                permit = self.responses.reserve(), if more => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if stale {
                        session.on_view(views.borrow_and_update().clone());
                        stale = false;
                    }
                    match session.next(now()) {
                        Some(response) => {
                            entry.sent(&response);
                            permit.send(Ok(response));
                        }
                        None => more = false,
                    }
                }
            }
        }
    }

    /// The first request that says who the proxy is.
    async fn introduction<S: Session<Request = R>>(&mut self) -> Result<Option<(Node, R)>, Status> {
        while let Some(mut request) = self.requests.message().await? {
            let node = S::node(&mut request);
            if node.is_none() && S::type_url(&request).ends_with("istio.v1.HealthInformation") {
                continue;
            }
            let node = node.filter(|node| !node.id.is_empty()).ok_or_else(|| Status::invalid_argument("missing node information"))?;
            let node = Node::parse(&node).map_err(|error| Status::invalid_argument(error.to_string()))?;
            if !node.agrees_with(&self.caller) {
                tracing::warn!(proxy = %node.proxy.id, caller = ?self.caller, "the caller is not the proxy that it asks for");
                return Err(Status::permission_denied("authorization failed"));
            }
            return Ok(Some((node, request)));
        }
        Ok(None)
    }
}

fn note(session: &mut impl Session, entry: &mut Entry) {
    session.events().iter().for_each(|event| entry.event(event));
    entry.progress(session.view().generation, session.is_current(), &session.refused());
}

// Tokio's clock, which a simulation can move.
fn now() -> Instant {
    time::Instant::now().into_std()
}

fn going_away() -> Status {
    Status::unavailable("the control plane is going away")
}
