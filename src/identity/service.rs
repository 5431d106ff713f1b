//! Istio's certificate protocol (contract §4.1).

use std::{net::IpAddr, sync::Arc};

use envoy_types::pb::google::protobuf::value::Kind;
use tonic::{Request, Response, Status, transport::server::TcpConnectInfo};
use tracing::{error, warn};

use super::{
    Clock,
    ca::{CaHandle, IssueError, IssuePolicy},
    impersonation::NodeAuthorizer,
    inventory::{Inventory, Issuance},
    metrics::CaMetrics,
    proof::Proven,
    rotation::{Holder, Record},
    serial::Serial,
};
use crate::{
    mesh::model::SpiffeId,
    proto::auth::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
};

/// The largest request, in bytes: one CSR, and a little metadata.
pub const LARGEST_MESSAGE: usize = 64 << 10;

/// Signs for callers that [`crate::serve::secure_grpc`] has authenticated.
pub struct CertificateService {
    ca: Arc<CaHandle>,
    policy: IssuePolicy,
    clock: Clock,
    metrics: CaMetrics,
    inventory: Arc<Inventory>,
    told: Arc<Record>,
    nodes: Option<NodeAuthorizer>,
}

// === impl CertificateService ===

impl CertificateService {
    /// Returns a service that signs with whatever CA `ca` holds at the moment, and tells `inventory` of it.
    pub fn new(ca: Arc<CaHandle>, policy: IssuePolicy, clock: Clock, metrics: CaMetrics, inventory: Arc<Inventory>) -> Self {
        Self { ca, policy, clock, metrics, inventory, told: Arc::default(), nodes: None }
    }

    /// Remembers in `told` who trusts what.
    pub fn telling(self, told: Arc<Record>) -> Self {
        Self { told, ..self }
    }

    /// Lets nodes' proxies ask for certificates of their pods, as `nodes` decides.
    pub fn for_nodes(self, nodes: NodeAuthorizer) -> Self {
        Self { nodes: Some(nodes), ..self }
    }

    /// Returns the service for a gRPC router.
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// Signs a certificate of `identity`, which `caller` asks for from this address.
    fn sign(
        &self,
        request: &IstioCertificateRequest,
        identity: SpiffeId,
        caller: Proven,
        address: Option<IpAddr>,
    ) -> Result<Vec<String>, IssueError> {
        let (serial, now) = (Serial::random()?, (self.clock)());
        let ca = self.ca.current();
        let issued = ca.issue(&request.csr, &identity, request.validity_duration, &self.policy, now, serial)?;
        if let Some(address) = address {
            self.told.note(Holder::new(&identity, address), &ca, now, issued.not_after);
        }
        let issuance = Issuance::new(serial, identity, caller, now, issued.not_after);
        issuance.log();
        self.inventory.record(issuance);
        Ok(issued.into_chain())
    }

    /// Returns whose certificate it is to be: the caller's, or another's that the caller may ask for; `None` if it may not.
    fn identity_for(&self, request: &IstioCertificateRequest, caller: &Proven) -> Option<SpiffeId> {
        let wanted = match impersonated(request) {
            Impersonated::Nobody => return Some(caller.identity.clone()),
            Impersonated::Identity(wanted) => wanted,
            Impersonated::Unreadable => {
                warn!(caller = %caller.identity, "asks for another's identity, but ImpersonatedIdentity is no text");
                return None;
            }
        };
        let Some(nodes) = &self.nodes else {
            warn!(caller = %caller.identity, wanted, "asks for another's identity, which nobody is trusted to (--trusted-node-accounts)");
            return None;
        };
        let authorized = nodes.authorize(caller, wanted);
        authorized.inspect_err(|error| warn!(caller = %caller.identity, wanted, %error, "asks for another's identity")).ok()
    }

    fn refuse(&self, caller: &SpiffeId, refusal: IssueError) -> Status {
        let (reason, status) = match &refusal {
            IssueError::Request(_) => ("csr_error", Status::invalid_argument(refusal.to_string())),
            IssueError::KeyType(_) => ("csr_error", Status::invalid_argument(refusal.to_string())),
            IssueError::Ttl { .. } => ("ttl_error", Status::invalid_argument(refusal.to_string())),
            IssueError::Identity(_) => ("cert_gen_error", Status::unauthenticated("request authenticate failure")),
            IssueError::CaExpired(_) | IssueError::Signing(_) | IssueError::Randomness(_) => {
                ("cert_gen_error", Status::internal(refusal.to_string()))
            }
        };
        match &refusal {
            IssueError::Request(_) => self.metrics.csr_parsing_errors.inc(),
            IssueError::Identity(_) => self.metrics.id_extraction_errors.inc(),
            _ => {}
        }
        self.metrics.count_sign_error(reason);
        match reason {
            "cert_gen_error" => error!(%caller, error = %refusal, "no certificate issued"),
            _ => warn!(%caller, error = %refusal, "no certificate issued"),
        }
        status
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.requests.inc();
        let Some(caller) = request.extensions().get::<Proven>().cloned() else {
            self.metrics.authentication_failures.inc();
            return Err(Status::unauthenticated("request authenticate failure"));
        };
        let address = request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr).map(|peer| peer.ip());
        let request = request.into_inner();
        let Some(identity) = self.identity_for(&request, &caller) else {
            self.metrics.authentication_failures.inc();
            return Err(Status::unauthenticated("request impersonation authentication failure"));
        };
        let signed = self.sign(&request, identity, caller.clone(), address);
        let cert_chain = signed.map_err(|error| self.refuse(&caller.identity, error))?;
        self.metrics.issued.inc();
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// Whose identity a request asks for.
enum Impersonated<'a> {
    Nobody,
    Identity(&'a str),
    Unreadable,
}

/// Reads `ImpersonatedIdentity` of the metadata (ztunnel's). A certificate for the caller's own identity would be the wrong answer.
fn impersonated(request: &IstioCertificateRequest) -> Impersonated<'_> {
    let value = request.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Impersonated::Nobody,
        Some(Kind::StringValue(name)) if name.is_empty() => Impersonated::Nobody,
        Some(Kind::StringValue(name)) => Impersonated::Identity(name),
        Some(_) => Impersonated::Unreadable,
    }
}
