//! A control plane whose views are set by the test.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use istiod_lite::{
    mesh::model::{Caller, SpiffeId},
    xds::{
        encode,
        ledger::{Ledger, ProxyStatus},
        metrics::DeliveryMetrics,
        node::Proven,
        per_type::PerType,
        resource::Resource,
        resource_type::ResourceType,
        session::Settings,
        transport::{DiscoveryService, Options},
        view::{Attachment, View, Views},
    },
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tower::ServiceBuilder;

pub(crate) struct Server<V = OneView> {
    pub(crate) address: SocketAddr,
    pub(crate) ledger: Arc<Ledger>,
    views: Arc<V>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) struct OneView(watch::Sender<View>);

impl Views for OneView {
    fn attach(&self, _: &Proven) -> Attachment {
        self.0.subscribe().into()
    }
}

pub(crate) const SETTINGS: Settings = Settings { ordered: true, gate: Duration::from_millis(400), drain: Duration::from_millis(600) };

impl Server {
    pub(crate) async fn start(settings: Settings, resources: Vec<Resource>) -> Self {
        let options = Options { rollout: settings, ..Options::default() };
        let identity = SpiffeId::parse("spiffe://td/ns/shop/sa/web").unwrap();
        Self::start_with(options, Caller::Workload(identity), resources).await
    }

    pub(crate) async fn start_with(options: Options, caller: Caller, resources: Vec<Resource>) -> Self {
        let view = OneView(watch::Sender::new(view(1, resources)));
        Self::of_views(Arc::new(view), options, caller).await
    }
}

impl<V: Views + 'static> Server<V> {
    pub(crate) async fn of_views(views: Arc<V>, options: Options, caller: Caller) -> Self {
        let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
        let service = DiscoveryService::new(views.clone(), ledger.clone(), options);
        let service = ServiceBuilder::new()
            .map_request(move |mut request: http::Request<axum::body::Body>| {
                request.extensions_mut().insert(caller.clone());
                request
            })
            .service(service);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = axum::Router::new().fallback_service(service);
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_routes(router.into());
            server.serve_with_incoming(TcpListenerStream::new(socket)).await.unwrap();
        });
        Self { address, ledger, views, task }
    }
}

impl Server {
    pub(crate) fn set(&self, resources: Vec<Resource>) {
        self.views.0.send_modify(|old| *old = view(old.generation + 1, resources));
    }

    pub(crate) fn resources_sent(&self, kind: ResourceType, reason: &'static str) -> u64 {
        self.ledger.metrics().resources.get_or_create(&[("type", kind.as_str()), ("reason", reason)]).get()
    }

    pub(crate) fn status(&self) -> Vec<ProxyStatus> {
        self.ledger.proxies()
    }
}

impl<V> Drop for Server<V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn view(generation: u64, resources: Vec<Resource>) -> View {
    let mut layers = PerType::<BTreeMap<_, _>>::default();
    for resource in resources {
        layers[resource.kind].insert(resource.name.clone(), Arc::new(resource));
    }
    View::new(generation, PerType::from_fn(|kind| vec![Arc::new(std::mem::take(&mut layers[kind]).into_iter().collect())]))
}

fn resource(kind: ResourceType, name: &str, content: u64) -> Resource {
    use envoy_types::pb::{
        envoy::config::{
            cluster::v3::{Cluster, cluster::ClusterDiscoveryType},
            core::v3::TypedExtensionConfig,
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener,
            route::v3::RouteConfiguration,
        },
        google::protobuf::Any,
    };
    use istiod_lite::translate::input::Built;
    let text = content.to_string();
    match kind {
        ResourceType::Cluster => encode::cluster(Built::new(
            Cluster {
                name: name.into(),
                alt_stat_name: text,
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(3)),
                ..Cluster::default()
            },
            [],
        )),
        ResourceType::Endpoint => Resource {
            // Told apart by their bytes; the clients here do not read them.
            body: Bytes::from(text.clone()).into(),
            version: istiod_lite::xds::resource::ContentHash(content),
            ..encode::load_assignment(Built::new(ClusterLoadAssignment { cluster_name: name.into(), ..Default::default() }, []))
        },
        ResourceType::Listener => {
            encode::listener(Built::new(Listener { name: name.into(), stat_prefix: text, ..Listener::default() }, []))
        }
        ResourceType::Route => {
            let header = RouteConfiguration { name: name.into(), internal_only_headers: vec![text], ..RouteConfiguration::default() };
            encode::route_configuration(&header, [])
        }
        ResourceType::ExtensionConfig => {
            let config = Any { type_url: text, value: Vec::new() };
            encode::extension_config(Built::new(TypedExtensionConfig { name: name.into(), typed_config: Some(config) }, []))
        }
        ResourceType::Secret | ResourceType::NameTable | ResourceType::ProxyConfig => panic!("these views have none"),
    }
}

pub(crate) fn cluster(name: &str, content: u64) -> Resource {
    resource(ResourceType::Cluster, name, content)
}

pub(crate) fn endpoint(name: &str, content: u64) -> Resource {
    resource(ResourceType::Endpoint, name, content)
}

pub(crate) fn listener(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { references: clusters_named(clusters), ..resource(ResourceType::Listener, name, content) }
}

pub(crate) fn route(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { references: clusters_named(clusters), ..resource(ResourceType::Route, name, content) }
}

/// Returns an extension configuration whose filter calls these clusters.
pub(crate) fn extension(name: &str, content: u64, clusters: &[&str]) -> Resource {
    Resource { references: clusters_named(clusters), ..resource(ResourceType::ExtensionConfig, name, content) }
}

fn clusters_named(names: &[&str]) -> Arc<[(ResourceType, smol_str::SmolStr)]> {
    let mut references: Vec<_> = names.iter().map(|name| (ResourceType::Cluster, smol_str::SmolStr::new(name))).collect();
    references.sort_unstable();
    references.into()
}
