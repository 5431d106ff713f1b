//! The HTTP ports: 8080 (`/ready`) and 15014 (`/metrics`, `/version`), and `/debug` on both (contract §1.2).

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State},
    http::{Request, StatusCode, Uri, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use futures::FutureExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    activity::Activity,
    arrival::{Begun, PLAIN, accept},
    beginning::Beginning,
    connections::{Connections, Shown},
    debug::{Access, DebugState},
    lifetime::{Lifetime, live},
    paid_body::Unread,
    readiness::Readiness,
};
use crate::{
    budget::{Budget, Portion, Purpose, Standing},
    polls::{Task, measured},
    version,
    xds::debug::Inspector,
};

/// What the pages of the HTTP ports are made from.
#[derive(Clone)]
pub(super) struct HttpState {
    /// For `/ready`.
    pub(super) readiness: Readiness,
    /// For `/metrics`.
    pub(super) registry: Arc<Registry>,
    /// For `/debug`.
    pub(super) debug: Arc<DebugState>,
    /// Who may read `/debug`.
    pub(super) debug_access: Access,
    /// The pages that may be made at a time.
    pub(super) pages: Pages,
}

/// Makes pages on threads on which nothing else waits, and has them paid for until they are read. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    debug: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
    budget: Budget,
    unread: Unread,
}

/// A page that was made.
struct Page {
    status: StatusCode,
    kind: &'static str,
    text: String,
}

impl Pages {
    /// Returns pages that are taken from `budget`.
    pub(super) fn new(budget: Budget) -> Self {
        let turns = |most| Arc::new(Semaphore::new(most));
        Self { debug: turns(DEBUG_PAGES_AT_A_TIME), metrics: turns(METRICS_AT_A_TIME), budget, unread: Unread::default() }
    }

    /// Makes a page of `/debug`, unless too many are being made.
    async fn debug(&self, page: impl FnOnce() -> Page + Send + 'static) -> Response {
        match Arc::clone(&self.debug).try_acquire_owned() {
            Ok(turn) => self.make(turn, page).await,
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "too many pages are being made: ask again later\n").into_response(),
        }
    }

    /// Makes `/metrics`, in turn. Nobody who asks for other pages keeps the operators from seeing what happens.
    async fn metrics(&self, page: impl FnOnce() -> Page + Send + 'static) -> Response {
        match Arc::clone(&self.metrics).acquire_owned().await {
            Ok(turn) => self.make(turn, page).await,
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    async fn make(&self, turn: OwnedSemaphorePermit, page: impl FnOnce() -> Page + Send + 'static) -> Response {
        let made = tokio::task::spawn_blocking(move || {
            let page = page();
            drop(turn);
            page
        });
        let Ok(Page { status, kind, text }) = made.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
        let Some(portion) = self.pay(text.len()) else {
            return (StatusCode::SERVICE_UNAVAILABLE, "there is no memory left for this page: ask again later\n").into_response();
        };
        (status, [(CONTENT_TYPE, kind)], Body::new(self.unread.body(text, portion))).into_response()
    }

    /// Takes the memory for a page. The oldest that are not read make room: nobody locks `/metrics` by not reading it. A page that is
    /// larger than all that there is for pages is answered when no other lies unread.
    fn pay(&self, bytes: usize) -> Option<Portion> {
        let (purpose, standing) = (Purpose::Pages, Standing::Unproven);
        loop {
            if let Some(portion) = self.budget.wait_for(purpose, standing, bytes).now_or_never() {
                return Some(portion);
            }
            self.budget.count_refusal(purpose, standing);
            self.unread.give_up_oldest().then_some(())?;
        }
    }
}

/// How connections are kept. One may be quiet for longer than Go's client keeps one, so that it never sends a request on a
/// connection that is being closed.
pub(super) const LIFETIME: Lifetime = Lifetime {
    first_request: Duration::from_secs(10),
    idle: Duration::from_secs(120),
    age: Duration::from_secs(24 * 3600),
    grace: Duration::from_secs(10),
};

/// How many pages of `/debug` may be made at a time; whoever asks for more is told to come again.
const DEBUG_PAGES_AT_A_TIME: usize = 8;
/// How often `/metrics` may be made at a time; whoever asks for more waits.
const METRICS_AT_A_TIME: usize = 2;

/// The type of texts for people.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// How large the head of a request may be, in bytes.
const HEAD: usize = 32 << 10;

/// Serves one HTTP port until `shutdown`, and returns when requests under way are finished.
pub(super) async fn serve(
    listener: TcpListener,
    state: HttpState,
    lifetime: Lifetime,
    connections: Connections,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let routes = router(state);
    while let Some(arrival) = accept(&listener, &connections, &shutdown).await {
        let (routes, shutdown) = (routes.clone(), shutdown.clone());
        tracker.spawn(async move {
            let begun = arrival.begun(Beginning::Head, PLAIN, lifetime.first_request, &shutdown).await;
            let Some(begun) = begun else { return };
            // Apart, so that the task of a silent connection is small.
            measured(Task::Connection, connection(begun, routes, lifetime, shutdown)).await;
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn connection(begun: Begun, routes: Router, lifetime: Lifetime, shutdown: CancellationToken) {
    let Begun { stream, peer, place } = begun;
    let (activity, place) = (Activity::new(), Arc::new(place));
    let (requests, of_request) = (activity.clone(), Arc::clone(&place));
    let service = service_fn(move |mut request: Request<Incoming>| {
        of_request.show(Shown::Request);
        request.extensions_mut().insert(ConnectInfo(peer));
        let (open, answer) = (requests.begin(), routes.clone().oneshot(request.map(Body::new)));
        async move { answer.await.map(|response| response.map(|body| open.cover(body))) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(lifetime.idle).max_buf_size(HEAD);
    live(builder.serve_connection(TokioIo::new(stream), service), peer, &place, &activity, lifetime, &shutdown).await;
}

/// Returns the routes; both ports serve the same ones, as with istiod.
fn router(state: HttpState) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(|| async { version::line() }))
        .route("/debug", get(index))
        .route("/debug/{page}", get(debug))
        .fallback(redirect_or_not_found)
        .with_state(state)
}

// istiod's server sends `//version` to `/version`; istioctl asks that way.
async fn redirect_or_not_found(uri: Uri) -> Response {
    match tidy(&uri) {
        Some(tidy) => Redirect::permanent(&tidy).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Returns path and query without empty segments; `None` if the path has none.
fn tidy(uri: &Uri) -> Option<String> {
    // Browsers read a backslash as a slash: behind one, a name would be a host.
    (uri.path().contains("//") && !uri.path().contains('\\')).then(|| {
        let path: String = uri.path().split('/').filter(|segment| !segment.is_empty()).flat_map(|segment| ["/", segment]).collect();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", if path.is_empty() { "/" } else { &path })
    })
}

async fn ready(State(state): State<HttpState>) -> Response {
    let pending = state.readiness.pending();
    if pending.is_empty() {
        return StatusCode::OK.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))).into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    state.pages.clone().metrics(move || exposition(&state.registry)).await
}

fn exposition(registry: &Registry) -> Page {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => Page { status: StatusCode::OK, kind: "text/plain; version=0.0.4; charset=utf-8", text },
        Err(error) => Page { status: StatusCode::INTERNAL_SERVER_ERROR, kind: PLAIN_TEXT, text: error.to_string() },
    }
}

// It shows names of pages only: nothing that a caller must be authenticated for.
async fn index(State(state): State<HttpState>) -> Response {
    Html(state.debug.index()).into_response()
}

async fn debug(State(state): State<HttpState>, request: Request<Body>) -> Response {
    let path = request.uri().path_and_query().map(|path| path.as_str()).unwrap_or_default();
    let path = path.strip_prefix("/debug/").unwrap_or_default().to_owned();
    match state.debug_access.viewer(request, &state.debug.system_namespace()).await {
        Ok(viewer) => {
            let debug = Arc::clone(&state.debug);
            let page = move || {
                let (status, text) = debug.open(&path, &viewer);
                let kind = if status == StatusCode::OK { "application/json" } else { PLAIN_TEXT };
                Page { status, kind, text }
            };
            state.pages.debug(page).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        sync::Barrier,
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        runtime::Builder,
        sync::watch,
        time::{sleep, timeout},
    };

    use super::*;
    use crate::{
        serve::threads::{Threads, hand_over},
        xds::{ledger::Ledger, metrics::DeliveryMetrics},
    };

    #[test]
    fn empty_segments_lead_to_the_path_without_them() {
        for (asked, expected) in [
            ("//version", Some("/version")),
            ("/debug//syncz?namespace=a", Some("/debug/syncz?namespace=a")),
            ("//", Some("/")),
            ("//other.example.com//x", Some("/other.example.com/x")),
            ("/nowhere", None),
            ("/\\evil.example.com//x", None),
        ] {
            let uri = Uri::builder().path_and_query(asked).build().unwrap();
            assert_eq!(tidy(&uri).as_deref(), expected, "{asked}");
        }
    }

    fn state() -> HttpState {
        let readiness = Readiness::default();
        let debug = DebugState {
            instance: "test".into(),
            cluster: "test".into(),
            ledger: Arc::new(Ledger::new(DeliveryMetrics::default())),
            classes: Arc::default(),
            worlds: watch::channel(Arc::default()).1,
            readiness: readiness.clone(),
            convergence: Arc::default(),
            findings: Arc::default(),
            inventory: Arc::default(),
            told: Arc::default(),
            ca: std::sync::OnceLock::new(),
            clock: crate::clock::system_clock(),
        };
        let (registry, debug_access, pages) = (Arc::default(), Access::default(), Pages::new(Budget::default()));
        HttpState { readiness, registry, debug: Arc::new(debug), debug_access, pages }
    }

    #[tokio::test]
    async fn connections_that_are_quiet_for_long_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lifetime = Lifetime { first_request: Duration::from_secs(600), idle: Duration::from_secs(1), ..LIFETIME };
        tokio::spawn(serve(listener, state(), lifetime, Connections::default(), CancellationToken::new()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answered = async |stream: &mut TcpStream| {
            stream.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", answer[..length].escape_ascii());
        };
        for _ in 0..15 {
            answered(&mut stream).await;
            sleep(Duration::from_millis(100)).await;
        }
        answered(&mut stream).await;
        let ended = timeout(Duration::from_secs(60), stream.read(&mut [0])).await.expect("closed when it is quiet");
        assert_eq!(ended.unwrap(), 0);
    }

    #[test]
    fn pages_are_answered_while_the_threads_that_serve_proxies_compute() {
        let threads = Threads::start().unwrap();
        let serving = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let address = serving.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let listener = hand_over(listener, threads.pages()).unwrap();
            threads.pages().spawn(serve(listener, state(), LIFETIME, Connections::default(), CancellationToken::new()));
            address
        });
        let (began, end) = (Arc::new(Barrier::new(3)), Arc::new(Barrier::new(3)));
        for _ in 0..2 {
            let (began, end) = (Arc::clone(&began), Arc::clone(&end));
            serving.spawn(async move { (began.wait(), end.wait()) });
        }
        began.wait();
        for page in ["/ready", "/metrics", "/version"] {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(format!("GET {page} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{page}: {answer}");
        }
        end.wait();
    }
}
