//! What proxies refuse is told of the user's object.

use anyhow::{Context, Result, ensure};
use envoy_types::pb::{
    envoy::{
        config::{cluster::v3::Cluster, core::v3::Node},
        service::discovery::v3::{
            DiscoveryRequest, DiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status,
};
use harness::{kubernetes::Object, launch::PORT_SECURE_GRPC, mesh::CLIENT, wait};
use istiod_lite::xds::resource_type::ResourceType;
use prost::Message;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::shop::{PATIENCE, Shop, VIRTUAL_SERVICE};

/// Made of Service and DestinationRule `reviews`.
const REFUSED: &str = "outbound|9080|v2|reviews.shop.svc.cluster.local";
const RULE: Object<'_> = Object { kind: "DestinationRule", ..VIRTUAL_SERVICE };

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses_shows_at_its_objects_while_it_is_connected() -> Result<()> {
    let mut shop = Shop::start().await?;
    let traffic = shop.traffic().await?;
    let proxy = refusing_proxy(&shop, "no v2 for me").await?;
    shop.rule_has_condition("False", "RefusedByProxies", "proxies refuse what is made of it (cds): no v2 for me").await?;
    let told = "error: DestinationRule/shop/reviews: proxies refuse what is made of it (cds) and keep what they had: no v2 for me";
    ensure!(shop.diagnostics().await?.contains(told), "{}", shop.diagnostics().await?);
    let events = ["get", "events", "--namespace", "shop", "--field-selector", "involvedObject.kind=Service,reason=RefusedByProxies"];
    wait::until("an Event for the Service", PATIENCE, || async {
        let shown = harness::kubernetes::succeeded(&shop.api.kubectl(&events, "").await?)?;
        ensure!(shown.contains("service/reviews") && shown.contains("no v2 for me"), "{shown}");
        Ok(())
    })
    .await?;
    // Whoever took everything is not to be told by others.
    shop.wait_for_config(shop.client(), REFUSED, true).await?;
    proxy.abort();
    shop.rule_has_condition("True", "Accepted", "").await?;
    ensure!(!shop.diagnostics().await?.contains("proxies refuse"), "{}", shop.diagnostics().await?);
    traffic.judge(&mut shop).await?;
    Ok(())
}

impl Shop {
    async fn rule_has_condition(&self, status: &str, reason: &str, message: &str) -> Result<()> {
        wait::until(&format!("{reason} at the rule"), PATIENCE, || async {
            let rule = self.api.get(RULE).await?;
            let condition = &rule["status"]["conditions"][0];
            let said = (&condition["status"], &condition["reason"], &condition["message"]);
            ensure!(said == (&status.into(), &reason.into(), &message.into()), "{condition}");
            Ok(())
        })
        .await
    }
}

/// Connects a sidecar that takes all clusters but one, which it refuses in these words, until it is aborted.
pub(crate) async fn refusing_proxy(shop: &Shop, words: &str) -> Result<JoinHandle<Result<()>>> {
    // Who has not proven who it is blames no object.
    let address = shop.network.socket(1, PORT_SECURE_GRPC);
    let token = shop.api.token(CLIENT.namespace, CLIENT.service_account, Some("istio-ca"), None).await?;
    let root = Certificate::from_pem(shop.root().await?);
    let tls = ClientTlsConfig::new().ca_certificate(root).domain_name("istiod.istio-system.svc");
    let channel = Channel::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let (requests, stream) = mpsc::channel(16);
    let node = Node { id: "sidecar~192.0.2.77~other-1.shop~shop.svc.cluster.local".into(), ..Node::default() };
    requests.send(DiscoveryRequest { node: Some(node), ..answer(None) }).await?;
    let mut asked = Request::new(ReceiverStream::new(stream));
    asked.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let responses = client.stream_aggregated_resources(asked).await?.into_inner();
    Ok(tokio::spawn(refuse(responses, requests, words.to_owned())))
}

async fn refuse(mut responses: Streaming<DiscoveryResponse>, requests: mpsc::Sender<DiscoveryRequest>, message: String) -> Result<()> {
    let mut taken = String::new();
    loop {
        let response = responses.message().await?.context("the stream ended")?;
        let names: Vec<String> = response.resources.iter().filter_map(|any| Cluster::decode(&*any.value).ok()).map(|it| it.name).collect();
        let mut request = answer(Some(&response));
        if names.iter().any(|name| name == REFUSED) {
            // Without a name: who is to blame must be found out.
            request.error_detail = Some(Status { code: 3, message: message.clone(), ..Status::default() });
        } else {
            taken.clone_from(&response.version_info);
        }
        request.version_info.clone_from(&taken);
        requests.send(request).await?;
    }
}

fn answer(response: Option<&DiscoveryResponse>) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ResourceType::Cluster.type_url().into(),
        response_nonce: response.map(|response| response.nonce.clone()).unwrap_or_default(),
        ..DiscoveryRequest::default()
    }
}
