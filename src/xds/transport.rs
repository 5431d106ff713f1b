//! ADS over gRPC: one task per stream, which holds a session between the connection and the views.

mod conversation;
mod nonces;
mod offload;
mod stream;
mod turns;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, codegen::StdError, server::NamedService, transport::server::TcpConnectInfo};
use tower::Service;

use self::{
    offload::Offload,
    stream::{Call, Stream},
    turns::Turns,
};
use super::{
    bounds::Bounds,
    codec::{Form, Responses},
    debug::Inspector,
    ledger::Ledger,
    messages::{Limits, Messages},
    session::{Delta, JoinedTables, Protocol, Settings, Sotw},
    view::Views,
};
use crate::{
    budget::{Budget, Exhausted, Portion, Purpose, Standing},
    clock::{Clock, system_clock},
    mesh::model::Caller,
    polls::{Task, measured},
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
    /// How much requests may hold.
    pub bounds: Bounds,
    /// How long the first request may take, and each one from its first byte to its last.
    pub request_time: Duration,
    /// How long a client may take nothing of what is there while there is something newer: what it was to have is kept for it alone.
    pub take_time: Duration,
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
    /// Where proxies are attached: one after the other, since they take the same lock, for which whoever makes the next views may
    /// let them wait.
    attaching: Offload,
    /// Where other long work is done.
    computing: Offload,
}

impl DiscoveryService {
    /// Makes a service that gives proxies what `views` has for them.
    pub fn new(views: Arc<dyn Views>, ledger: Arc<Ledger>, options: Options) -> Self {
        let (attaching, computing) = (Offload::of(1), Offload::by_processors());
        Self { views, ledger, options, inspector: None, joined: Arc::default(), attaching, computing }
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
        let limits = Limits { size: self.options.bounds.first_request, time: self.options.request_time };
        let (requests, portion) = match self.admit(&caller, Body::new(request.into_body()), limits) {
            Ok(admitted) => admitted,
            Err(error) => return Status::resource_exhausted(error.to_string()).into_http(),
        };
        // One response may wait while another is on its way. The next is made when there is room, from what is then the
        // newest view.
        let (responses, outgoing) = mpsc::channel(1);
        let metrics = self.ledger.metrics().clone();
        let body = Responses::new(form, outgoing, metrics.send_time.clone());
        tokio::spawn(measured(Task::Stream, async move {
            let call = Call { form, caller, peer, requests, responses: responses.clone(), portion };
            let stream = Stream::<P>::new(self, call);
            if let Err(status) = Turns::new(stream.run(), metrics.largest_turn.clone()).await {
                if is_internal(&status) {
                    metrics.internal_errors.inc();
                }
                // The client may have gone.
                let _ = responses.send(Err(status)).await;
            }
        }));
        let mut response = http::Response::new(Body::new(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    /// Takes what a stream holds from the budget.
    fn admit(&self, caller: &Caller, body: Body, limits: Limits) -> Result<(Messages, Portion), Exhausted> {
        let standing = match caller {
            Caller::Anonymous => Standing::Unproven,
            Caller::Workload(_) | Caller::Remote { .. } => Standing::Proven,
        };
        let budget = &self.options.budget;
        let portion = budget.take(Purpose::Streams, standing, STREAM)?;
        Ok((Messages::new(body, limits, budget, standing)?, portion))
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
            bounds: Bounds::default(),
            request_time: Duration::from_secs(10),
            take_time: Duration::from_secs(120),
            budget: Budget::default(),
            shutdown: CancellationToken::new(),
            clock: system_clock(),
        }
    }
}

/// Returns whether a stream ended by a fault of ours: neither by what the client asked for nor by its going, which
/// breaks the transport.
fn is_internal(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::DataLoss)
}
