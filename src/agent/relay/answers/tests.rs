//! A stream of answers whose modules come when the test says so.

use std::{
    convert::Infallible,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::Cluster,
        core::v3::{AsyncDataSource, HttpUri, RemoteDataSource, async_data_source, http_uri::HttpUpstreamType},
    },
    extensions::{
        filters::http::wasm::v3::Wasm,
        wasm::v3::{FailurePolicy, PluginConfig, VmConfig, plugin_config::Vm},
    },
    service::discovery::v3::Resource,
};
use http_body_util::BodyExt;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    time::timeout,
};

use super::*;

/// A body that the test writes to.
struct Upstream(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Body for Upstream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

struct Server {
    url: String,
    released: Notify,
    is_broken: AtomicBool,
}

/// Serves a module once it is released.
async fn serve() -> Arc<Server> {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let url = format!("http://{}/m.wasm", listener.local_addr().unwrap());
    let server = Arc::new(Server { url, released: Notify::new(), is_broken: AtomicBool::new(false) });
    let answer = async |State(server): State<Arc<Server>>| {
        server.released.notified().await;
        match server.is_broken.load(Ordering::SeqCst) {
            true => StatusCode::NOT_FOUND.into_response(),
            false => b"\0asm\x01\0\0\0".into_response(),
        }
    };
    let router = Router::new().route("/m.wasm", get(answer)).with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, router).await });
    server
}

struct Stage {
    server: Arc<Server>,
    upstream: mpsc::UnboundedSender<Frame<Bytes>>,
    answers: Answers<Upstream>,
    delta: bool,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn new(delta: bool) -> Self {
        let (upstream, receiver) = mpsc::unbounded_channel();
        let folder = tempfile::tempdir().unwrap();
        let modules = Arc::new(Modules::new(folder.path().to_owned(), Vec::new()).impatient(Duration::from_secs(5)));
        Self { server: serve().await, upstream, answers: Answers::new(Upstream(receiver), modules, delta), delta, _folder: folder }
    }

    fn filter(&self, policy: FailurePolicy) -> Any {
        let uri =
            HttpUri { uri: self.server.url.clone(), http_upstream_type: Some(HttpUpstreamType::Cluster("_".into())), ..Default::default() };
        let remote = async_data_source::Specifier::Remote(RemoteDataSource { http_uri: Some(uri), ..Default::default() });
        let vm = VmConfig { code: Some(AsyncDataSource { specifier: Some(remote) }), ..Default::default() };
        let config = PluginConfig { failure_policy: policy.into(), vm: Some(Vm::VmConfig(vm)), ..Default::default() };
        let typed = Any { type_url: Wasm::type_url(), value: Wasm { config: Some(config) }.encode_to_vec() };
        any(&TypedExtensionConfig { name: "f".into(), typed_config: Some(typed) })
    }

    /// Sends an answer with one resource, in two frames that end anywhere.
    fn send(&self, nonce: &str, resource: Any) {
        let type_url = resource.type_url.clone();
        let message = match self.delta {
            true => {
                let resource = Resource { name: "f".into(), version: "7".into(), resource: Some(resource), ..Default::default() };
                DeltaDiscoveryResponse { nonce: nonce.into(), type_url, resources: vec![resource], ..Default::default() }.encode_to_vec()
            }
            false => {
                let (version_info, resources) = ("7".into(), vec![resource]);
                DiscoveryResponse { nonce: nonce.into(), type_url, version_info, resources, ..Default::default() }.encode_to_vec()
            }
        };
        let bytes = framed(&message);
        for part in [bytes.slice(..9), bytes.slice(9..)] {
            self.upstream.send(Frame::data(part)).unwrap();
        }
    }

    /// Returns the next answer: its nonce, the version of its resource, and the resource.
    async fn next(&mut self) -> Option<(String, String, Any)> {
        let mut bytes = Vec::new();
        loop {
            if let Some(length) = bytes.get(1..5).map(|length: &[u8]| u32::from_be_bytes(length.try_into().unwrap()) as usize)
                && bytes.len() == 5 + length
            {
                break;
            }
            let frame = timeout(Duration::from_millis(500), self.answers.frame()).await.ok()?.unwrap().unwrap();
            bytes.extend_from_slice(&frame.into_data().unwrap());
        }
        if self.delta {
            let response = DeltaDiscoveryResponse::decode(&bytes[5..]).unwrap();
            let resource = response.resources[0].clone();
            return Some((response.nonce, resource.version, resource.resource.unwrap()));
        }
        let response = DiscoveryResponse::decode(&bytes[5..]).unwrap();
        Some((response.nonce, response.version_info, response.resources[0].clone()))
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn typed(resource: &Any) -> Any {
    TypedExtensionConfig::decode(&resource.value[..]).unwrap().typed_config.unwrap()
}

#[tokio::test]
async fn an_answer_waits_for_its_module_and_others_go_on() {
    for delta in [true, false] {
        let mut stage = Stage::new(delta).await;
        let cluster = any(&Cluster { name: "c".into(), ..Default::default() });
        stage.send("1", stage.filter(FailurePolicy::FailClosed));
        stage.send("2", cluster.clone());
        stage.send("3", stage.filter(FailurePolicy::FailOpen));
        assert_eq!(stage.next().await, Some(("2".into(), "7".into(), cluster)));
        assert_eq!(stage.next().await, None, "the module is not there");
        stage.server.released.notify_one();
        stage.server.released.notify_one();
        for nonce in ["1", "3"] {
            let answer = loop {
                stage.server.released.notify_one();
                if let Some(answer) = stage.next().await {
                    break answer;
                }
            };
            assert_eq!((answer.0.as_str(), answer.1.as_str()), (nonce, "7"));
            let wasm = Wasm::decode(&typed(&answer.2).value[..]).unwrap();
            let Some(Vm::VmConfig(vm)) = wasm.config.unwrap().vm else { panic!("no module") };
            assert!(matches!(vm.code.unwrap().specifier, Some(async_data_source::Specifier::Local(_))));
        }
    }
}

#[tokio::test]
async fn without_a_module_its_strategy_stands_in_and_it_is_tried_again() {
    for delta in [true, false] {
        let mut stage = Stage::new(delta).await;
        stage.server.is_broken.store(true, Ordering::SeqCst);
        for (policy, prefix) in [(FailurePolicy::FailOpen, "wasm-default-allow"), (FailurePolicy::FailClosed, "wasm-default-deny")] {
            stage.send("1", stage.filter(policy));
            let answer = loop {
                stage.server.released.notify_one();
                if let Some(answer) = stage.next().await {
                    break answer;
                }
            };
            // A control plane to which Envoy says so sends it anew.
            assert_eq!(answer.1, "stands-in:7");
            let typed = typed(&answer.2);
            assert!(typed.type_url.ends_with("rbac.v3.RBAC") && String::from_utf8_lossy(&typed.value).contains(prefix), "{typed:?}");
        }
        let frame = stage.answers.frame().await.unwrap().unwrap();
        assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], UNAVAILABLE);
        assert!(stage.answers.frame().await.is_none());
    }
}

#[tokio::test]
async fn the_end_of_a_stream_is_its_end() {
    let Stage { upstream, answers, .. } = Stage::new(true).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    upstream.send(Frame::trailers(trailers)).unwrap();
    drop(upstream);
    let mut answers = pin!(answers);
    assert!(answers.frame().await.unwrap().unwrap().is_trailers());
    assert!(answers.frame().await.is_none());
}

#[test]
fn what_an_answer_is_about_is_known_from_its_first_bytes() {
    let extension = any(&TypedExtensionConfig { name: "f".into(), ..Default::default() });
    let cluster = any(&Cluster { name: "x".repeat(1 << 20), ..Default::default() });
    for (resource, expected) in [(extension, true), (cluster, false)] {
        let all = DiscoveryResponse { version_info: "1".into(), resources: vec![resource.clone()], ..Default::default() }.encode_to_vec();
        let resource = Resource { name: "f".into(), version: "1".into(), resource: Some(resource), ..Default::default() };
        let delta = DeltaDiscoveryResponse { resources: vec![resource], ..Default::default() }.encode_to_vec();
        assert_eq!(is_extensions(&all[..all.len().min(100)], false), Some(expected));
        assert_eq!(is_extensions_of_delta(&delta[..delta.len().min(100)], false), Some(expected));
        for most in 0..20 {
            assert_ne!(is_extensions(&all[..most], false), Some(!expected), "{most}");
            assert_ne!(is_extensions_of_delta(&delta[..most], false), Some(!expected), "{most}");
        }
    }
    let empty = DiscoveryResponse { type_url: TypedExtensionConfig::type_url(), ..Default::default() }.encode_to_vec();
    assert_eq!(
        (is_extensions(&empty, true), is_extensions(&[], true), is_extensions(&[0xff; 20], true)),
        (Some(true), Some(false), Some(false))
    );
}
