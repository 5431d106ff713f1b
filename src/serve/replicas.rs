//! What the other control planes of our namespace know of who trusts what: the leader judges the steps of a rotation by all of them.
//!
//! They are asked for the page that `istiod-lite ca rotate` reads, on their port for proven callers, with a certificate of our own
//! CA's: no token leaves this process, and only who has a control plane's certificate can answer.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use rcgen::CertificateParams;
use tokio::{sync::watch, time::timeout};
use tonic::{
    Request,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use super::{debug::DebugState, identity, runtime::Runtime, settings::Settings};
use crate::{
    controllers::ca_rotation::Knowledge,
    identity::{
        Clock,
        ca::{CaHandle, IssuePolicy, Serial},
        key::{KeyType, PrivateKey},
        rotation::Report,
    },
    mesh::model::SpiffeId,
    xds::debug::Inspector,
};

/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer: a few hundred bytes for each proxy.
const LARGEST: usize = 64 << 20;
/// How long the certificate lives that we call with.
const TTL_SECONDS: i64 = 300;
/// The type of debug pages, and the page.
const PAGE: (&str, &str) = ("istio.io/debug", "rotation");

/// This control plane and the others.
pub(super) struct Replicas {
    /// What this one knows.
    debug: Arc<DebugState>,
    /// Our own CA, which signs the certificate that we call with; without it there is nothing to rotate.
    ca: Option<Arc<CaHandle>>,
    /// PEM of the roots by which the others are verified.
    roots: watch::Receiver<Arc<str>>,
    /// The trust domain.
    trust_domain: String,
    /// The service account that we run as.
    service_account: String,
    /// The name in the others' certificates.
    server_name: String,
    /// Their port for proven callers, which is ours.
    port: u16,
    /// What time it is.
    clock: Clock,
}

impl Knowledge for Replicas {
    fn own(&self) -> Option<Report> {
        self.debug.trust_report()
    }

    fn of(&self, address: IpAddr) -> BoxFuture<'_, Result<Report, String>> {
        async move {
            match timeout(PATIENCE, self.ask(SocketAddr::new(address, self.port))).await {
                Ok(answer) => answer.map_err(|error| format!("{error:#}")),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            }
        }
        .boxed()
    }
}

impl Replicas {
    /// Returns this control plane, which knows how to ask the others.
    pub(super) fn of(settings: &Settings, runtime: &Runtime, identity: &identity::Identity) -> Self {
        let account = &settings.instance.service_account;
        Self {
            debug: Arc::clone(&runtime.debug),
            ca: identity.ca.clone(),
            roots: identity.tls.roots(),
            trust_domain: identity.trust_domain.to_string(),
            service_account: if account.is_empty() { "istiod".to_owned() } else { account.clone() },
            server_name: format!("istiod.{}.svc", settings.instance.namespace),
            port: settings.listen.secure_grpc.port(),
            clock: Arc::clone(&runtime.clock),
        }
    }

    async fn ask(&self, address: SocketAddr) -> anyhow::Result<Report> {
        let namespace = self.debug.system_namespace();
        let tls = ClientTlsConfig::new().domain_name(&self.server_name).identity(self.identity(&namespace)?);
        let tls = tls.ca_certificate(Certificate::from_pem(&**self.roots.borrow()));
        let channel = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await?;
        let (type_url, page) = PAGE;
        let request = DiscoveryRequest {
            node: Some(Node { id: format!("debug~{address}~{}.{namespace}~{namespace}.svc", self.debug.instance), ..Node::default() }),
            type_url: type_url.to_owned(),
            resource_names: vec![page.to_owned()],
            ..DiscoveryRequest::default()
        };
        // The stream stays open until the answer is there.
        let requests = Request::new(stream::iter([request]).chain(stream::pending()));
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST);
        let answer = client.stream_aggregated_resources(requests).await?.into_inner().message().await?;
        let shown = answer.and_then(|answer| answer.resources.into_iter().next()).context("it ended without an answer")?;
        serde_json::from_slice(&shown.value).context("the answer is not that of a control plane of this version that is ready")
    }

    /// Returns a certificate of ours, in the name of a namespace whose identities may see everything.
    fn identity(&self, namespace: &str) -> anyhow::Result<Identity> {
        let key = PrivateKey::generate(KeyType::P256)?;
        let request = CertificateParams::default().serialize_request(key.pair())?.pem()?;
        let service_account = self.service_account.as_str().into();
        let name = SpiffeId { trust_domain: self.trust_domain.as_str().into(), namespace: namespace.into(), service_account };
        let ca = self.ca.as_ref().context("external signers sign here")?.current();
        let now = (self.clock)();
        let issued = ca.issue(&request, &name, TTL_SECONDS, &IssuePolicy::default(), now, Serial::random()?)?;
        Ok(Identity::from_pem(issued.into_chain().concat(), key.to_pem()))
    }
}
