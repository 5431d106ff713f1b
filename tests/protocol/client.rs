//! Clients that say exactly what they are told to.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc,
};
use istiod_lite::xds::resource_type::ResourceType;
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

/// Long enough for anything that does come on this machine.
const COMES: Duration = Duration::from_secs(10);
/// How long nothing has to come to be believed.
const SILENCE: Duration = Duration::from_millis(150);

pub(crate) struct Client<Q, A> {
    requests: mpsc::UnboundedSender<Q>,
    responses: Streaming<A>,
}

pub(crate) type DeltaClient = Client<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub(crate) type SotwClient = Client<DiscoveryRequest, DiscoveryResponse>;

pub(crate) fn node() -> Node {
    Node { id: "sidecar~127.0.0.1~web-1.shop~shop.svc.cluster.local".into(), ..Node::default() }
}

impl<Q, A> Client<Q, A> {
    pub(crate) fn send(&self, request: Q) {
        self.requests.send(request).unwrap();
    }

    pub(crate) async fn receive(&mut self) -> Result<Option<A>, Status> {
        time::timeout(COMES, self.responses.message()).await.expect("an answer")
    }

    pub(crate) async fn next(&mut self) -> A {
        self.receive().await.unwrap().expect("the stream goes on")
    }

    pub(crate) async fn silent(&mut self)
    where
        A: std::fmt::Debug,
    {
        if let Ok(response) = time::timeout(SILENCE, self.responses.message()).await {
            panic!("nothing was to be sent, but there is {response:?}");
        }
    }
}

impl DeltaClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
        let (requests, stream) = mpsc::unbounded_channel();
        let responses = client.delta_aggregated_resources(UnboundedReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    /// Returns why the server does not even open the stream.
    pub(crate) async fn refusal(address: SocketAddr) -> Status {
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
        client.delta_aggregated_resources(tokio_stream::pending()).await.unwrap_err()
    }

    /// Sends the first request for a type; `held` are versions from before.
    pub(crate) fn open(&self, kind: ResourceType, names: &[&str], held: &[(&str, &str)]) {
        self.send(DeltaDiscoveryRequest {
            node: Some(node()),
            initial_resource_versions: held
                .iter()
                .map(|(name, version)| (name.to_string(), version.to_string()))
                .collect::<HashMap<_, _>>(),
            ..delta(kind, names, &[])
        });
    }

    pub(crate) fn change(&self, kind: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) {
        self.send(delta(kind, subscribe, unsubscribe));
    }

    pub(crate) fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        });
    }

    pub(crate) fn nack(&self, response: &DeltaDiscoveryResponse, error: &str) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(rpc::Status { code: 13, message: error.into(), details: Vec::new() }),
            ..DeltaDiscoveryRequest::default()
        });
    }

    /// Takes the next response, which is ACKed: its type, the names in it, the names removed.
    pub(crate) async fn take(&mut self) -> (ResourceType, Vec<String>, Vec<String>) {
        let response = self.next().await;
        self.ack(&response);
        said(&response)
    }
}

impl SotwClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
        let (requests, stream) = mpsc::unbounded_channel();
        let responses = client.stream_aggregated_resources(UnboundedReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    /// Sends the first request for a type on this stream; `version` is from an earlier one.
    pub(crate) fn open(&self, kind: ResourceType, names: &[&str], version: &str) {
        let version_info = version.into();
        self.send(DiscoveryRequest { node: Some(node()), version_info, ..sotw(kind.type_url(), names) });
    }

    pub(crate) fn ack(&self, response: &DiscoveryResponse, names: &[&str]) {
        self.send(DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..sotw(&response.type_url, names)
        });
    }

    pub(crate) fn nack(&self, response: &DiscoveryResponse, names: &[&str], error: &str) {
        self.send(DiscoveryRequest {
            response_nonce: response.nonce.clone(),
            error_detail: Some(rpc::Status { code: 13, message: error.into(), details: Vec::new() }),
            ..sotw(&response.type_url, names)
        });
    }
}

fn sotw(type_url: &str, names: &[&str]) -> DiscoveryRequest {
    let resource_names = names.iter().map(ToString::to_string).collect();
    DiscoveryRequest { type_url: type_url.into(), resource_names, ..DiscoveryRequest::default() }
}

pub(crate) fn said(response: &DeltaDiscoveryResponse) -> (ResourceType, Vec<String>, Vec<String>) {
    let kind = ResourceType::from_type_url(&response.type_url).unwrap();
    (kind, response.resources.iter().map(|resource| resource.name.clone()).collect(), response.removed_resources.clone())
}

fn delta(kind: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: names(subscribe),
        resource_names_unsubscribe: names(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}
