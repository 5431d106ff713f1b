//! Istio's certificate protocol (contract §4.1).

use std::{net::IpAddr, sync::Arc};

use envoy_types::pb::google::protobuf::value::Kind;
use tonic::{Request, Response, Status, transport::server::TcpConnectInfo};
use tracing::{error, warn};

use super::{
    Clock,
    ca::{CaHandle, CertificateHolder, IssueError, IssuePolicy},
    impersonation::NodeAuthorizer,
    inventory::{Inventory, Issuance},
    metrics::CaMetrics,
    proof::Proven,
    registration::{RegistrationAuthority, RegistrationError},
    rotation::{Holder, Record},
    serial::Serial,
    signing_request::SigningRequestError,
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
    signing: Signing,
    policy: IssuePolicy,
    clock: Clock,
    metrics: CaMetrics,
    inventory: Arc<Inventory>,
    told: Arc<Record>,
    nodes: Option<NodeAuthorizer>,
}

/// Who signs.
#[derive(Clone)]
pub enum Signing {
    /// Our own CA.
    Ours(Arc<CaHandle>),
    /// External signers.
    Others(Arc<RegistrationAuthority>),
}

impl From<Arc<CaHandle>> for Signing {
    fn from(ca: Arc<CaHandle>) -> Self {
        Self::Ours(ca)
    }
}

// === impl CertificateService ===

impl CertificateService {
    /// Returns a service whose certificates `signing` signs: with whatever CA is in use at the moment, or by asking others. `inventory`
    /// is told of each.
    pub fn new(signing: impl Into<Signing>, policy: IssuePolicy, clock: Clock, metrics: CaMetrics, inventory: Arc<Inventory>) -> Self {
        Self { signing: signing.into(), policy, clock, metrics, inventory, told: Arc::default(), nodes: None }
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

    /// Has a certificate of `identity` signed, which `caller` asks for from this address.
    async fn sign(
        &self,
        request: &IstioCertificateRequest,
        identity: SpiffeId,
        caller: Proven,
        address: Option<IpAddr>,
    ) -> Result<Vec<String>, RegistrationError> {
        let (issuance, chain) = match &self.signing {
            Signing::Ours(ca) => self.sign_ourselves(ca, request, identity, caller, address)?,
            Signing::Others(authority) => {
                if let Some(cluster) = caller.remote_cluster {
                    return Err(RegistrationError::RemoteCluster(cluster));
                }
                let signed = authority.issue(&request.csr, &identity, request.validity_duration, cert_signer(request)?).await?;
                let leaf = signed.leaf();
                let issuance = Issuance::new(leaf.serial.as_str().into(), identity, caller, (self.clock)(), leaf.not_after);
                (issuance.signed_by(signed.signer.clone()), signed.into_chain())
            }
        };
        issuance.log();
        self.inventory.record(issuance);
        Ok(chain)
    }

    fn sign_ourselves(
        &self,
        ca: &CaHandle,
        request: &IstioCertificateRequest,
        identity: SpiffeId,
        caller: Proven,
        address: Option<IpAddr>,
    ) -> Result<(Issuance, Vec<String>), IssueError> {
        let (serial, now, ca) = (Serial::random()?, (self.clock)(), ca.current());
        let holder = CertificateHolder { identity: &identity, remote_cluster: caller.remote_cluster.as_deref() };
        let issued = ca.issue(&request.csr, holder, request.validity_duration, &self.policy, now, serial)?;
        if let Some(address) = address {
            self.told.note(Holder::new(&identity, address), &ca, now, issued.not_after);
        }
        Ok((Issuance::new(serial.to_string().into(), identity, caller, now, issued.not_after), issued.into_chain()))
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

    fn refuse(&self, caller: &SpiffeId, refusal: &RegistrationError) -> Status {
        match refusal {
            RegistrationError::Policy(IssueError::Request(SigningRequestError::Malformed(_))) => self.metrics.csr_parsing_errors.inc(),
            RegistrationError::Policy(IssueError::Identity(_)) => self.metrics.id_extraction_errors.inc(),
            _ => {}
        }
        let reason = refusal.reason();
        self.metrics.count_sign_error(reason);
        match reason {
            "cert_gen_error" => error!(%caller, error = %refusal, "no certificate issued"),
            _ => warn!(%caller, error = %refusal, "no certificate issued"),
        }
        refusal.status()
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
        let signed = self.sign(&request, identity, caller.clone(), address).await;
        let cert_chain = signed.map_err(|error| self.refuse(&caller.identity, &error))?;
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
    match metadata(request, "ImpersonatedIdentity") {
        Ok(None) => Impersonated::Nobody,
        Ok(Some(name)) => Impersonated::Identity(name),
        Err(NotText) => Impersonated::Unreadable,
    }
}

/// Reads `CertSigner` of the metadata: the signer that the proxy wants.
fn cert_signer(request: &IstioCertificateRequest) -> Result<Option<&str>, RegistrationError> {
    metadata(request, "CertSigner").map_err(|NotText| RegistrationError::CertSigner)
}

/// What is there is no text.
struct NotText;

/// Reads a text of the metadata; an empty one counts as none.
fn metadata<'a>(request: &'a IstioCertificateRequest, name: &str) -> Result<Option<&'a str>, NotText> {
    let value = request.metadata.as_ref().and_then(|metadata| metadata.fields.get(name));
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Ok(None),
        Some(Kind::StringValue(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(NotText),
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use jiff::Timestamp;
    use tokio::sync::watch;
    use tonic::Code;

    use super::*;
    use crate::identity::{
        proof::Proof,
        registration::{Signer, SignerChoice, SignerError, SignerRoots, Submission},
    };

    /// Signs nothing.
    struct Away;

    impl Signer for Away {
        fn sign(&self, _: Submission) -> BoxFuture<'_, Result<String, SignerError>> {
            Box::pin(async { Err(SignerError::Gone) })
        }
    }

    #[tokio::test]
    async fn an_external_signer_is_not_asked_for_callers_of_remote_clusters() {
        let choice = SignerChoice { default: None, domain: None };
        let (_roots, roots) = watch::channel(Arc::new(SignerRoots::default()));
        let (policy, clock): (_, Clock) = (IssuePolicy::default(), Arc::new(Timestamp::now));
        let authority = RegistrationAuthority::new(Arc::new(Away), choice, roots, policy, Arc::clone(&clock), CaMetrics::default());
        let signing = Signing::Others(Arc::new(authority));
        let service = CertificateService::new(signing, policy, clock, CaMetrics::default(), Arc::default());
        let ask = async |remote_cluster: Option<&str>| {
            let identity = SpiffeId::parse("spiffe://td/ns/shop/sa/cart").unwrap();
            let mut request = Request::new(IstioCertificateRequest::default());
            let remote_cluster = remote_cluster.map(Into::into);
            request.extensions_mut().insert(Proven { remote_cluster, ..Proven::new(identity, Proof::TokenReview) });
            service.create_certificate(request).await.map(drop).unwrap_err()
        };
        let refused = ask(Some("east")).await;
        assert!(refused.code() == Code::PermissionDenied && refused.message().contains("remote cluster east"), "{refused}");
        assert_ne!(ask(None).await.code(), Code::PermissionDenied);
    }
}
