//! Port 15012: gRPC over TLS, for callers that prove who they are.

use std::{convert::Infallible, io, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, service::Routes, transport::server::TcpConnectInfo};
use tracing::{debug, info};

use super::{
    arrival::{Begun, ENCRYPTED, accept},
    beginning::Beginning,
    connection::{ConnectionOptions, call, serve_connection},
    connections::{Connections, Place, Shown},
    handshake::in_time,
    read_ahead::ReadAhead,
    tls::TlsIdentity,
};
use crate::{
    identity::{
        authenticate::{AuthenticationError, Authenticator, PeerCertificate},
        metrics::CaMetrics,
    },
    peer_text::PeerText,
    polls::{Task, measured},
    proto::auth::istio_certificate_service_server::SERVICE_NAME as CERTIFICATE_SERVICE,
    sparse_log::{FEW, SparseLog},
};

/// The port, and what stands behind it.
pub struct SecureGrpc {
    /// Our side of the handshake.
    pub tls: Arc<TlsIdentity>,
    /// The services. Each request reaches them with the extensions [`Caller`](crate::mesh::model::Caller) (never an anonymous one),
    /// [`Proven`](crate::identity::proof::Proven) and `TcpConnectInfo`.
    pub routes: Routes,
    /// Proves who calls; who cannot be authenticated gets `Unauthenticated` and reaches no service.
    pub authenticator: Arc<Authenticator>,
    /// Counts the requests for certificates that were refused here.
    pub metrics: CaMetrics,
    /// How connections are kept.
    pub options: ConnectionOptions,
    /// The connections of all ports.
    pub connections: Connections,
}

impl SecureGrpc {
    /// Serves until `shutdown`, and returns when all connections have ended or their grace is over.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let Self { tls, routes, authenticator, metrics, options, connections } = self;
        let tracker = TaskTracker::new();
        let gate = Arc::new(Gate { routes: routes.prepare(), authenticator, metrics });
        while let Some(arrival) = accept(&listener, &connections, &shutdown).await {
            let (tls, gate, shutdown) = (tls.clone(), gate.clone(), shutdown.clone());
            tracker.spawn(async move {
                let begun = arrival.begun(Beginning::ClientHello, ENCRYPTED, options.handshake_timeout, &shutdown).await;
                let Some(begun) = begun else { return };
                // Apart, so that the task of a silent connection is small.
                measured(Task::Connection, encrypted(begun, tls, gate, options, shutdown)).await;
            });
        }
        drop(listener);
        tracker.close();
        tracker.wait().await;
    }
}

async fn encrypted(begun: Begun, tls: Arc<TlsIdentity>, gate: Arc<Gate>, options: ConnectionOptions, shutdown: CancellationToken) {
    let Begun { stream, peer, place } = begun;
    let info = TcpConnectInfo { local_addr: stream.local_addr(), remote_addr: Some(peer) };
    let handshake = handshake(stream, &tls);
    let Some(stream) = in_time(handshake, peer, &place, options.handshake_timeout, &shutdown).await else { return };
    let certificate = peer_certificate(&stream);
    let handler = move |request, place| gate.clone().admit(request, certificate.clone(), info.clone(), place);
    serve_connection(stream, peer, handler, options, place, shutdown).await;
}

async fn handshake(stream: ReadAhead, tls: &TlsIdentity) -> io::Result<TlsStream<ReadAhead>> {
    TlsAcceptor::from(tls.config()).accept(stream).await
}

fn peer_certificate(stream: &TlsStream<ReadAhead>) -> Option<PeerCertificate> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    PeerCertificate::from_verified_der(leaf)
}

/// Stands between a connection and the services, and lets proven callers through only.
struct Gate {
    routes: Routes,
    authenticator: Arc<Authenticator>,
    metrics: CaMetrics,
}

impl Gate {
    async fn admit(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        certificate: Option<PeerCertificate>,
        info: TcpConnectInfo,
        place: Arc<Place>,
    ) -> Result<Response<Body>, Infallible> {
        static UNKNOWN: SparseLog = SparseLog::new(FEW);
        let proven = match self.authenticator.authenticate(request.headers(), certificate.as_ref()).await {
            Ok(proven) => proven,
            Err(error) => {
                let path = request.uri().path();
                UNKNOWN.write(|left_out| {
                    let path = PeerText::new(path);
                    info!(peer = ?info.remote_addr, %path, %error, left_out, "caller not authenticated");
                });
                place.show(Shown::Request);
                return Ok(self.refuse(path, &error));
            }
        };
        place.show(Shown::Identity);
        debug!(?proven, path = %PeerText::new(request.uri().path()), "request");
        let extensions = request.extensions_mut();
        extensions.insert(proven.caller());
        extensions.insert(proven);
        extensions.insert(info);
        call(self.routes.clone(), request).await
    }

    fn refuse(&self, path: &str, why: &AuthenticationError) -> Response<Body> {
        let certificate = path.trim_start_matches('/').starts_with(CERTIFICATE_SERVICE);
        if certificate {
            self.metrics.requests.inc();
            self.metrics.authentication_failures.inc();
        }
        // Agents retry soon after this status, and much later after the others.
        if why.is_temporary() {
            return Status::unavailable("the caller's token cannot be checked now").into_http();
        }
        if certificate {
            return Status::unauthenticated("request authenticate failure").into_http();
        }
        Status::unauthenticated("authentication failure").into_http()
    }
}
