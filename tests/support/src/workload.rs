//! A small HTTP workload that says its version, and a TCP port that echoes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::copy,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Where the workload serves HTTP in a pod.
pub const HTTP_PORT: u16 = 9080;
/// Where the workload echoes TCP in a pod.
pub const ECHO_PORT: u16 = 9000;

/// Where the kubelet asks whether it is ready.
pub const READINESS: &str = "/ready";

/// The version of the workload that answered.
pub const VERSION: &str = "x-version";
/// `bad` when the release misbehaves: an application's fault, told apart from the mesh's.
pub const HEALTH: &str = "x-health";
/// The attempt that this request was for the proxy: above 1 means that it retried.
pub const ATTEMPT: &str = "x-attempt";
/// The certificates that the sidecar saw, as Envoy forwards them.
pub const PEER: &str = "x-peer";
/// The names of all headers of the request, in the order in which they came: for requests that have a header of this name.
pub const HEADERS: &str = "x-headers";

/// A running workload; it ends when dropped.
#[derive(Debug)]
pub struct Workload {
    state: Arc<State>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    version: String,
    bad: AtomicBool,
    failing: AtomicBool,
    unready: AtomicBool,
    /// How long an answer takes, in milliseconds.
    delay: AtomicU64,
    answered: AtomicU64,
    /// Bytes echoed.
    echoed: AtomicU64,
}

impl State {
    fn of(version: &str) -> Arc<Self> {
        Arc::new(Self {
            version: version.to_owned(),
            bad: false.into(),
            failing: false.into(),
            unready: false.into(),
            delay: 0.into(),
            answered: 0.into(),
            echoed: 0.into(),
        })
    }
}

impl Workload {
    /// Serves HTTP on `http` and, if asked for, echoes TCP on `echo`.
    pub async fn start(version: &str, http: SocketAddr, echo: Option<SocketAddr>) -> Result<Self> {
        let state = State::of(version);
        let listener = TcpListener::bind(http).await.with_context(|| format!("workload on {http}"))?;
        let mut tasks = vec![tokio::spawn(serve_http(listener, state.clone()))];
        if let Some(echo) = echo {
            let listener = TcpListener::bind(echo).await.with_context(|| format!("echo on {echo}"))?;
            tasks.push(tokio::spawn(serve_echo(listener, state.clone())));
        }
        Ok(Self { state, tasks })
    }

    /// Serves HTTP/1, HTTP/2 without TLS, and an echo of what is neither, all on one port.
    pub async fn start_any(version: &str, address: SocketAddr) -> Result<Self> {
        let state = State::of(version);
        let listener = TcpListener::bind(address).await.with_context(|| format!("workload on {address}"))?;
        Ok(Self { state: state.clone(), tasks: vec![tokio::spawn(serve_any(listener, state))] })
    }

    /// Makes it answer from now on as a bad release would (or no longer).
    pub fn misbehave(&self, bad: bool) {
        self.state.bad.store(bad, Ordering::Relaxed);
    }

    /// Makes it answer every request but those of probes with 500 from now on, as a bad release (or no longer).
    pub fn fail_requests(&self, fail: bool) {
        self.misbehave(fail);
        self.state.failing.store(fail, Ordering::Relaxed);
    }

    /// Makes it take so long for each answer from now on.
    pub fn slow_down(&self, delay: Duration) {
        self.state.delay.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets its probes fail from now on (or no longer), while it answers all other requests as before.
    pub fn fail_probes(&self, fail: bool) {
        self.state.unready.store(fail, Ordering::Relaxed);
    }

    /// Returns how many requests reached it.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Relaxed)
    }

    /// Returns how many bytes it has echoed.
    pub fn echoed(&self) -> u64 {
        self.state.echoed.load(Ordering::Relaxed)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_http(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| {
                let (answer, delay) = (answer(&state, &request), Duration::from_millis(state.delay.load(Ordering::Relaxed)));
                async move {
                    tokio::time::sleep(delay).await;
                    Ok::<_, Infallible>(answer)
                }
            });
            // A client that goes away is no failure of the workload.
            let _ = patient_http1().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve_any(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let mut first = [0; 4];
            let _ = stream.peek(&mut first).await;
            let service = service_fn(move |request| {
                let answer = answer(&state, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            match &first {
                b"GET " => drop(patient_http1().serve_connection(TokioIo::new(stream), service).await),
                b"PRI " => drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await),
                _ => drop(echo(stream).await),
            }
        });
    }
}

/// Returns an HTTP/1 server that keeps a connection for as long as the client does. By default hyper closes it after 30 s without
/// a request; a proxy that puts its next request on it at that very moment can only answer 503 (connection termination), as it
/// must not send it twice.
fn patient_http1() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1.header_read_timeout(None);
    http1
}

fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    state.answered.fetch_add(1, Ordering::Relaxed);
    let asked = |name: &str| request.headers().get(name).cloned().unwrap_or(HeaderValue::from_static(""));
    let health = if state.bad.load(Ordering::Relaxed) { "bad" } else { "good" };
    let mut response = Response::new(Full::from(format!("reviews {} ({health})\n", state.version)));
    let headers = response.headers_mut();
    if let Ok(version) = HeaderValue::from_str(&state.version) {
        headers.insert(VERSION, version);
    }
    headers.insert(HEALTH, HeaderValue::from_static(health));
    headers.insert(ATTEMPT, asked("x-envoy-attempt-count"));
    headers.insert(PEER, asked("x-forwarded-client-cert"));
    // To gRPC, every answer is a call that went well.
    if let Some(grpc) = request.headers().get(CONTENT_TYPE).filter(|value| value.as_bytes() == b"application/grpc") {
        headers.insert(CONTENT_TYPE, grpc.clone());
        headers.insert("grpc-status", HeaderValue::from_static("0"));
    }
    if request.headers().contains_key(HEADERS) {
        let names = request.headers().keys().map(HeaderName::as_str).collect::<Vec<_>>().join(",");
        headers.extend(HeaderValue::try_from(names).ok().map(|names| (HeaderName::from_static(HEADERS), names)));
    }
    let probe = request.uri().path() == READINESS;
    if probe && state.unready.load(Ordering::Relaxed) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    if !probe && state.failing.load(Ordering::Relaxed) {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

async fn serve_echo(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move { state.echoed.fetch_add(echo(stream).await, Ordering::Relaxed) });
    }
}

/// Returns how many bytes it has sent back, when the client ends.
async fn echo(mut stream: TcpStream) -> u64 {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.split();
    copy(&mut reader, &mut writer).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{self, Poll},
        time::Instant,
    };

    use hyper::rt::{Sleep, Timer};

    use super::*;
    use crate::{
        address::Loopback,
        http_client::{Connection, get},
    };

    /// A clock by which every wait is over at once.
    struct Over;

    impl Timer for Over {
        fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
            Box::pin(Self)
        }

        fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
            Box::pin(Self)
        }
    }

    impl Future for Over {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    impl Sleep for Over {}

    #[tokio::test]
    async fn an_idle_connection_is_kept_however_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())));
            patient_http1().timer(Over).serve_connection(TokioIo::new(stream), answer).await.unwrap();
        });
        let mut connection = Connection::open(address).await.unwrap();
        for _ in 0..2 {
            assert_eq!(connection.get("reviews", "/").await.unwrap().status, http::StatusCode::OK);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(connection.is_open());
    }

    #[tokio::test]
    async fn it_says_its_version_and_its_health() {
        let network = Loopback::free().unwrap();
        let http = network.socket(1, 9080);
        let workload = Workload::start("v7", http, None).await.unwrap();
        let response = get(http, "reviews", "/").await.unwrap();
        assert_eq!((response.header(VERSION), response.header(HEALTH)), ("v7", "good"));
        workload.misbehave(true);
        assert_eq!(get(http, "reviews", "/").await.unwrap().header(HEALTH), "bad");
        assert_eq!(workload.answered(), 2);
    }

    #[tokio::test]
    async fn a_bad_release_fails_and_is_ready_all_the_same() {
        let network = Loopback::free().unwrap();
        let http = network.socket(1, 9080);
        let workload = Workload::start("v7", http, None).await.unwrap();
        workload.slow_down(Duration::from_millis(30));
        workload.fail_requests(true);
        let begun = Instant::now();
        let answer = get(http, "reviews", "/").await.unwrap();
        assert_eq!((answer.status, answer.header(HEALTH)), (StatusCode::INTERNAL_SERVER_ERROR, "bad"));
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(get(http, "reviews", READINESS).await.unwrap().status, StatusCode::OK);
        workload.fail_requests(false);
        assert_eq!(get(http, "reviews", "/").await.unwrap().status, StatusCode::OK);
    }

    #[tokio::test]
    async fn its_probes_fail_while_it_serves() {
        let network = Loopback::free().unwrap();
        let http = network.socket(1, 9080);
        let workload = Workload::start("v7", http, None).await.unwrap();
        assert_eq!(get(http, "reviews", READINESS).await.unwrap().status, StatusCode::OK);
        workload.fail_probes(true);
        assert_eq!(get(http, "reviews", READINESS).await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get(http, "reviews", "/").await.unwrap().status, StatusCode::OK);
    }
}
