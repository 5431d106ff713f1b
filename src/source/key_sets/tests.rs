use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::*;
use crate::api::{Object, Spec, istio::JwtRule};

/// The longest that a test waits for what must come.
const LONG: Duration = Duration::from_secs(60);

const KEYS: &str = r#"{"keys":[{"crv":"Ed25519","kid":"a","kty":"OKP","x":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#;

/// What a server answers under each path.
#[derive(Clone)]
enum Page {
    Text(String),
    Redirect(String),
    Status(u16),
    /// A body without end.
    Endless,
    /// A byte now and then, and never the last one.
    Slow,
}

/// An issuer on this host.
struct Issuer {
    address: SocketAddr,
    pages: Arc<Mutex<BTreeMap<&'static str, Page>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self { address: listener.local_addr().unwrap(), pages: Arc::default(), asked: Arc::default() };
        let (pages, asked) = (Arc::clone(&issuer.pages), Arc::clone(&issuer.asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(stream, Arc::clone(&pages)));
            }
        });
        issuer
    }

    fn put(&self, path: &'static str, page: Page) {
        self.pages.lock().insert(path, page);
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn answer(mut stream: TcpStream, pages: Arc<Mutex<BTreeMap<&'static str, Page>>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        request.push(byte);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let page = pages.lock().get(path).cloned().unwrap_or(Page::Status(404));
    let head = |status: u16, more: &str| format!("HTTP/1.1 {status} x\r\nconnection: close\r\n{more}\r\n");
    let _ = match page {
        Page::Text(text) => stream.write_all(format!("{}{text}", head(200, "")).as_bytes()).await,
        Page::Redirect(to) => stream.write_all(head(302, &format!("location: {to}\r\ncontent-length: 0\r\n")).as_bytes()).await,
        Page::Status(status) => stream.write_all(head(status, "content-length: 0\r\n").as_bytes()).await,
        Page::Endless => {
            let _ = stream.write_all(head(200, "").as_bytes()).await;
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
            Ok(())
        }
        Page::Slow => {
            let _ = stream.write_all(head(200, "").as_bytes()).await;
            while stream.write_all(b" ").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
    };
}

fn settings(allowed: &[&str]) -> Settings {
    Settings {
        refresh: Duration::from_millis(20),
        networks: Networks { allowed: allowed.iter().map(|network| network.parse().unwrap()).collect(), blocked: Vec::new() },
        api_server: Vec::new(),
        roots: None,
        metrics: KeySetMetrics::default(),
    }
}

async fn fetched(allowed: &[&str], url: &str) -> Result<String, String> {
    let Settings { networks, .. } = settings(allowed);
    let client = Client::new(Some(networks), Vec::new(), None);
    client.key_set(url, Duration::from_millis(500)).await.map(|keys| keys.to_string())
}

#[tokio::test]
async fn keys_are_found_by_url_configuration_and_redirect() {
    let issuer = Issuer::start().await;
    issuer.put("/keys", Page::Text(KEYS.into()));
    issuer.put("/.well-known/openid-configuration", Page::Text(format!(r#"{{"jwks_uri": "{}"}}"#, issuer.url("/keys"))));
    issuer.put("/old", Page::Redirect("/older".into()));
    issuer.put("/older", Page::Redirect(issuer.url("/keys")));
    for path in ["/keys", "/.well-known/openid-configuration", "/old"] {
        assert_eq!(fetched(&["127.0.0.1/32"], &issuer.url(path)).await.as_deref(), Ok(KEYS), "{path}");
    }
}

#[tokio::test]
async fn no_answer_of_an_issuer_leads_where_we_may_not_call() {
    let (issuer, other) = (Issuer::start().await, TcpListener::bind("127.0.0.2:0").await.unwrap());
    let forbidden = format!("http://{}/keys", other.local_addr().unwrap());
    let by_name = format!("http://localhost:{}/keys", other.local_addr().unwrap().port());
    issuer.put("/redirect", Page::Redirect(forbidden.clone()));
    issuer.put("/configuration", Page::Text(format!(r#"{{"jwks_uri": "{forbidden}"}}"#)));
    issuer.put("/file", Page::Redirect("file:///etc/passwd".into()));
    issuer.put("/metadata", Page::Redirect("http://169.254.169.254/latest/meta-data".into()));
    issuer.put("/chain", Page::Text(format!(r#"{{"jwks_uri": "{}"}}"#, issuer.url("/redirect"))));
    for path in ["/redirect", "/configuration", "/metadata", "/chain"] {
        let why = fetched(&["127.0.0.1/32"], &issuer.url(path)).await.unwrap_err();
        assert!(why.contains("allow this one address"), "{path}: {why}");
    }
    assert!(fetched(&["127.0.0.1/32"], &issuer.url("/file")).await.unwrap_err().contains("is no URL"));
    for direct in [&forbidden, &by_name, &issuer.url("/keys")] {
        assert!(fetched(&[], direct).await.unwrap_err().contains("allow this one address"), "{direct}");
    }
    assert!(timeout(Duration::from_millis(1), other.accept()).await.is_err(), "somebody called");
}

#[tokio::test]
async fn what_an_issuer_sends_is_bounded() {
    let issuer = Issuer::start().await;
    issuer.put("/endless", Page::Endless);
    issuer.put("/slow", Page::Slow);
    issuer.put("/circle", Page::Redirect("/circle".into()));
    issuer.put("/text", Page::Text("<html>".into()));
    issuer.put("/none", Page::Text(r#"{"keys": []}"#.into()));
    issuer.put("/deep", Page::Text("[".repeat(100_000)));
    issuer.put("/busy", Page::Status(503));
    let table = [
        ("/endless", "has more than 262144 bytes"),
        ("/slow", "no answer within 500 ms"),
        ("/circle", "is redirected more than 5 times"),
        ("/text", "is no key set"),
        ("/none", "has no public key"),
        ("/deep", "is no key set: recursion limit"),
        ("/busy", "answers with status 503"),
        ("/gone", "answers with status 404"),
    ];
    for (path, expected) in table {
        let why = fetched(&["127.0.0.1/32"], &issuer.url(path)).await.unwrap_err();
        assert!(why.contains(expected), "{path}: {why}");
    }
}

fn authentication(name: &str, urls: &[String]) -> Change {
    in_namespace("shop", name, urls)
}

fn in_namespace(namespace: &str, name: &str, urls: &[String]) -> Change {
    let timeout = Some(Duration::from_millis(500));
    let rule = |url: &String| JwtRule { jwks_uri: url.as_str().into(), timeout, ..JwtRule::default() };
    authenticated(namespace, name, urls.iter().map(rule).collect())
}

fn authenticated(namespace: &str, name: &str, rules: Vec<JwtRule>) -> Change {
    let spec = RequestAuthentication { rules, ..RequestAuthentication::default() };
    let key = ObjectKey { cluster: "c".into(), kind: Kind::RequestAuthentication, namespace: namespace.into(), name: name.into() };
    let (version, metadata, spec) = (SmolStr::default(), Arc::default(), Spec::RequestAuthentication(Arc::new(spec)));
    Change::Applied(Arc::new(Object { key, version, metadata, spec }))
}

/// Says an event in few words.
fn said(event: SourceEvent) -> String {
    match event {
        SourceEvent::Synced => "synced".into(),
        SourceEvent::Changes(changes) => changes.iter().map(said_of_change).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

fn said_of_change(change: &Change) -> String {
    match change {
        Change::Deleted(key) => format!("-{}", key.kind),
        Change::Applied(object) => match object.content::<KeySet>() {
            None => format!("+{}", object.key.kind),
            Some(set) => format!("+KeySet(keys: {}, trouble: {})", set.keys.is_some(), set.trouble.is_some()),
        },
    }
}

/// Runs the source after a source that says what it is told to.
fn follow() -> (mpsc::Sender<SourceEvent>, impl AsyncFnMut() -> String) {
    let (sender, events) = mpsc::channel(8);
    let mut joined = Box::pin(joined(settings(&["127.0.0.1/32"]), "c".into(), ReceiverStream::new(events)));
    (sender, async move || said(timeout(LONG, joined.next()).await.expect("an event").expect("an event")))
}

#[tokio::test]
async fn the_first_world_waits_for_the_first_keys_and_the_last_ones_stay() {
    let issuer = Issuer::start().await;
    issuer.put("/keys", Page::Text(KEYS.into()));
    let (sender, mut next) = follow();
    sender.send(SourceEvent::Changes(vec![authentication("a", &[issuer.url("/keys")])])).await.unwrap();
    sender.send(SourceEvent::Synced).await.unwrap();
    assert_eq!([next().await, next().await, next().await], ["+RequestAuthentication", "+KeySet(keys: true, trouble: false)", "synced"]);
    issuer.put("/keys", Page::Status(500));
    assert_eq!(next().await, "+KeySet(keys: true, trouble: true)");
    issuer.put("/keys", Page::Text(KEYS.into()));
    assert_eq!(next().await, "+KeySet(keys: true, trouble: false)");
    // The same keys in other words are no change: what comes next is what is asked for.
    let asked = issuer.asked();
    issuer.put("/keys", Page::Text(format!(" {KEYS} ")));
    while issuer.asked() < asked + 3 {
        sleep(Duration::from_millis(1)).await;
    }
    sender.send(SourceEvent::Changes(vec![authentication("a", &[])])).await.unwrap();
    assert_eq!([next().await, next().await], ["+RequestAuthentication", "-KeySet"]);
}

#[tokio::test]
async fn an_issuer_that_is_away_holds_nobody_back() {
    let gone = format!("http://{}/keys", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
    let (sender, mut next) = follow();
    sender.send(SourceEvent::Changes(vec![authentication("a", &[gone])])).await.unwrap();
    sender.send(SourceEvent::Synced).await.unwrap();
    assert_eq!([next().await, next().await, next().await], ["+RequestAuthentication", "+KeySet(keys: false, trouble: true)", "synced"]);
}

#[tokio::test]
async fn an_issuer_that_says_nothing_holds_nobody_back_for_long() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sender, mut next) = follow();
    let url = format!("http://{}/keys", silent.local_addr().unwrap());
    sender.send(SourceEvent::Changes(vec![authentication("a", &[url])])).await.unwrap();
    sender.send(SourceEvent::Synced).await.unwrap();
    assert_eq!(next().await, "+RequestAuthentication");
    let told = [next().await, next().await];
    assert!(told.contains(&"synced".to_owned()), "{told:?}");
}

#[tokio::test]
async fn a_mesh_follows_no_more_sets_than_it_may_and_of_everybody_some() {
    let many: Vec<String> = (0..MOST_SETS + 2).map(|at| format!("http://10.0.0.1/{at}")).collect();
    let mut follower = Follower::new(settings(&[]), "c".into());
    let followed = |follower: &Follower| follower.sets.values().filter(|set| set.task.is_some()).count();
    let refused = follower.follow(&[authentication("a", &many)]);
    assert_eq!((refused.len(), followed(&follower)), (2, MOST_SETS));
    // Who wants few is not refused since another wants many, who loses no key that it has.
    let first = SmolStr::from(&*many[0]);
    follower.take(&first, Ok(KEYS.into()));
    let own = SmolStr::from("http://10.0.0.2/keys");
    let changes = follower.follow(&[in_namespace("bank", "b", &[own.to_string(), many[1].clone()])]);
    assert_eq!((changes.len(), followed(&follower)), (1, MOST_SETS), "{changes:?}");
    assert!(follower.sets[&own].task.is_some() && follower.sets[&SmolStr::from(&*many[1])].task.is_some());
    let kept: Vec<&KeySet> = follower.sets.values().filter_map(|set| set.known.as_ref()).filter(|known| known.keys.is_some()).collect();
    assert_eq!(kept.len(), 1);
    // Whoever lets go makes room.
    follower.follow(&[authentication("a", &many[..3])]);
    assert_eq!(followed(&follower), 4);
}

#[tokio::test]
async fn who_has_many_that_never_answer_holds_back_nobody_else() {
    let silent = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let issuer = Issuer::start().await;
    issuer.put("/keys", Page::Text(KEYS.into()));
    // Addresses of their own, so that it is not one server that has no more turns.
    let addresses: Vec<String> = (0..MOST_SETS).map(|at| format!("127.1.{}.{}", at / 250, at % 250 + 1)).collect();
    let allowed: Vec<&str> = addresses.iter().map(String::as_str).chain(["127.0.0.1"]).collect();
    let networks: Vec<String> = allowed.iter().map(|address| format!("{address}/32")).collect();
    let mut follower = Follower::new(settings(&networks.iter().map(String::as_str).collect::<Vec<_>>()), "c".into());
    let many: Vec<String> = addresses.iter().map(|address| format!("http://{address}:{port}/")).collect();
    let patient = |url: &String| JwtRule { jwks_uri: url.as_str().into(), timeout: Some(LONG), ..JwtRule::default() };
    follower.follow(&[authenticated("crowd", "a", many.iter().map(patient).collect())]);
    follower.follow(&[in_namespace("bank", "b", &[issuer.url("/keys")])]);
    let (url, fetched) = timeout(LONG, follower.fetched.recv()).await.expect("fetched").unwrap();
    assert_eq!((url.as_str(), fetched.is_ok()), (&*issuer.url("/keys"), true));
}
