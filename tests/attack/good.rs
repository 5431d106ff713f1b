//! The client that means well: a proxy with a token, a proxy without, a kubelet and an API server. Each call is made on a
//! connection of its own, so that handshake and first answer are what is measured.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use harness::http_client::get_text;
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use istiod_lite::xds::resource_type::ResourceType;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

/// When a call counts as not answered at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the machine alone may add to a call without its being blamed on an attack: other work on its cores. The faults that
/// these tests are about cost many seconds, or answer nothing.
const FLOOR: Duration = Duration::from_millis(500);
/// What a call may take longer than its like at an instance that is left alone, above twice as long: the machine's own two cores
/// have other work, and a call of a millisecond that waits for a time slice or two takes five more.
const SLICES: Duration = Duration::from_millis(5);
/// The pause before a call that failed is made again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often each call is made to be measured: enough for a median.
const CALLS: usize = 7;

/// The addresses of the ports, and what proves who the client is.
#[derive(Clone)]
pub(crate) struct GoodClient {
    pub(crate) http: SocketAddr,
    pub(crate) plain_grpc: SocketAddr,
    pub(crate) secure_grpc: SocketAddr,
    pub(crate) webhooks: SocketAddr,
    pub(crate) token: String,
    pub(crate) root: String,
}

/// The time of each kind of call: the median, or that of the slowest in a hundred.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// `/ready` on 8080.
    pub(crate) ready: Duration,
    /// The first answer of a plaintext ADS stream.
    pub(crate) plain: Duration,
    /// The first answer of an ADS stream over TLS, with a token.
    pub(crate) secure: Duration,
    /// The review of a pod.
    pub(crate) review: Duration,
}

/// The times of all calls of each kind.
#[derive(Default)]
struct Times {
    ready: Vec<Duration>,
    plain: Vec<Duration>,
    secure: Vec<Duration>,
    review: Vec<Duration>,
}

impl GoodClient {
    /// Makes each call several times, in turn, and returns the medians.
    ///
    /// # Errors
    /// When a call fails or is not answered.
    pub(crate) async fn measure(&self) -> Result<Latencies> {
        let mut times = Times::default();
        for _ in 0..CALLS {
            times.call(self).await?;
        }
        Ok(times.medians())
    }

    /// Makes each call that many times, here and at `quiet` in turn, and returns the medians of both. What else the machine does
    /// falls upon both alike.
    ///
    /// # Errors
    /// When a call fails or is not answered.
    pub(crate) async fn measure_beside(&self, quiet: &Self, calls: usize) -> Result<[Latencies; 2]> {
        Ok(self.times_beside(quiet, calls).await?.map(Times::medians))
    }

    /// Does the same, and returns the times within which 99 of 100 are answered.
    ///
    /// # Errors
    /// When a call fails or is not answered.
    pub(crate) async fn slowest_beside(&self, quiet: &Self, calls: usize) -> Result<[Latencies; 2]> {
        Ok(self.times_beside(quiet, calls).await?.map(|times| times.at(0.99)))
    }

    async fn times_beside(&self, quiet: &Self, calls: usize) -> Result<[Times; 2]> {
        let mut times = [Times::default(), Times::default()];
        for call in 0..calls {
            // Neither is always the first.
            for which in [call % 2, 1 - call % 2] {
                times[which].call([self, quiet][which]).await?;
            }
        }
        Ok(times)
    }

    /// Asks `/ready`.
    pub(crate) async fn ready(&self) -> Result<()> {
        get_text(self.http, "/ready").await.map(|_| ())
    }

    /// Asks for clusters on the plaintext port.
    pub(crate) async fn plain(&self) -> Result<()> {
        clusters(self.plain_channel().await?, tonic::Request::new).await
    }

    /// Asks for clusters on the TLS port.
    pub(crate) async fn secure(&self) -> Result<()> {
        clusters(self.secure_channel().await?, |requests| self.with_token(requests)).await
    }

    /// Connects to the plaintext port.
    pub(crate) async fn plain_channel(&self) -> Result<Channel> {
        Ok(Channel::from_shared(format!("http://{}", self.plain_grpc))?.connect().await?)
    }

    /// Connects to the TLS port.
    pub(crate) async fn secure_channel(&self) -> Result<Channel> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.root)).domain_name("istiod.istio-system.svc");
        Ok(Channel::from_shared(format!("https://{}", self.secure_grpc))?.tls_config(tls)?.connect().await?)
    }

    /// Makes a call of these requests, with the token.
    pub(crate) fn with_token<T>(&self, requests: T) -> tonic::Request<T> {
        let mut call = tonic::Request::new(requests);
        call.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        call
    }

    /// Has a pod injected, as the API server does.
    pub(crate) async fn review(&self) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}});
        let request = json!({"uid": "u", "namespace": "shop", "operation": "CREATE", "object": pod});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, text) = self.post("/inject", review.to_string()).await?;
        ensure!(status == StatusCode::OK && text.contains("JSONPatch"), "{status}: {text}");
        Ok(())
    }

    /// Posts a body of JSON to the port of the webhooks.
    pub(crate) async fn post(&self, path: &str, body: String) -> Result<(StatusCode, String)> {
        let stream = TokioIo::new(tls(self.webhooks, &self.root, "http/1.1").await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        let request = Request::post(path).header("host", "istiod").header(CONTENT_TYPE, "application/json");
        let response = sender.send_request(request.body(Full::new(bytes::Bytes::from(body)))?).await?;
        let status = response.status();
        Ok((status, String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned()))
    }
}

impl Times {
    /// Makes each call once.
    async fn call(&mut self, good: &GoodClient) -> Result<()> {
        self.ready.push(timed("/ready", async || good.ready().await).await?);
        self.plain.push(timed("plaintext ADS", async || good.plain().await).await?);
        self.secure.push(timed("ADS over TLS", async || good.secure().await).await?);
        self.review.push(timed("a review", async || good.review().await).await?);
        Ok(())
    }

    fn medians(self) -> Latencies {
        self.at(0.5)
    }

    /// Returns the times within which this share of each kind of call is answered.
    fn at(self, share: f64) -> Latencies {
        let of = |times| percentile(times, share);
        Latencies { ready: of(self.ready), plain: of(self.plain), secure: of(self.secure), review: of(self.review) }
    }
}

impl Latencies {
    /// Asserts that each kind of call takes at most twice as long as at the same time at an instance that is left alone, and a
    /// little that the machine may add.
    #[track_caller]
    pub(crate) fn assert_as_quick_as(&self, quiet: &Self, attack: &str) {
        println!("{attack}:\n  quiet:  {quiet}\n  beside: {self}");
        for ((call, now), (_, alone)) in self.each().into_iter().zip(quiet.each()) {
            assert!(now <= 2 * alone + SLICES, "{attack}: {call} took {now:?}, and {alone:?} at an instance that is left alone");
        }
    }

    /// Asserts that no kind of call takes more than `ratio` times as long as it did quietly, above what the machine alone may
    /// add.
    #[track_caller]
    pub(crate) fn assert_within(&self, ratio: f64, quiet: &Self, attack: &str) {
        for ((call, now), (_, before)) in self.each().into_iter().zip(quiet.each()) {
            let most = before.mul_f64(ratio).max(FLOOR);
            assert!(now <= most, "{attack}: {call} took {now:?}, quietly {before:?}\nbeside: {self}\nquiet:  {quiet}");
        }
        println!("{attack}:\n  quiet:  {quiet}\n  beside: {self}");
    }

    fn each(&self) -> [(&'static str, Duration); 4] {
        [("/ready", self.ready), ("plaintext ADS", self.plain), ("ADS over TLS", self.secure), ("a review", self.review)]
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.each().iter().try_for_each(|(call, took)| write!(f, "{call} {:.1} ms; ", took.as_secs_f64() * 1e3))
    }
}

/// Returns the id of the good client's proxy.
pub(crate) const NODE: &str = "sidecar~10.0.0.1~client-1.shop~shop.svc.cluster.local";

/// Opens a TLS connection to a port of the control plane, with this protocol (ALPN).
pub(crate) async fn tls(address: SocketAddr, root: &str, protocol: &str) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    // As clients do. Without it a request waits 40 ms for the ACK of the handshake's last message.
    stream.set_nodelay(true)?;
    Ok(TlsConnector::from(Arc::new(config)).connect("istiod.istio-system.svc".try_into()?, stream).await?)
}

type Requests = ReceiverStream<DiscoveryRequest>;

async fn clusters(channel: Channel, call: impl FnOnce(Requests) -> tonic::Request<Requests>) -> Result<()> {
    let request = DiscoveryRequest {
        node: Some(Node { id: NODE.into(), ..Node::default() }),
        type_url: ResourceType::Cluster.type_url().into(),
        ..DiscoveryRequest::default()
    };
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    requests.send(request).await?;
    let call = call(ReceiverStream::new(stream));
    let mut responses = AggregatedDiscoveryServiceClient::new(channel).stream_aggregated_resources(call).await?.into_inner();
    let response = responses.message().await?.context("the stream ended")?;
    ensure!(!response.resources.is_empty(), "no clusters");
    Ok(())
}

/// Returns how long the call took until it was answered. It is made again when it fails, as any client does; what that costs counts.
async fn timed(call: &str, make: impl AsyncFn() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(began.elapsed());
        match timeout(left, make()).await.with_context(|| format!("{call}: no answer within {PATIENCE:?}"))? {
            Ok(()) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() >= PATIENCE => return Err(error.context(call.to_owned())),
            Err(error) => println!("{call} is made again: {error:#}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn percentile(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share).round() as usize]
}
