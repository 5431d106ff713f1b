use std::{net::SocketAddr, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::api::{Metadata, Object, Spec, mesh_config::CaCertificate, trust_bundle::tests::root};

/// The longest that a test waits for what must come.
const LONG: Duration = Duration::from_secs(60);

/// Whoever publishes a bundle: what is answered, with which status; nothing at all if that is none.
#[derive(Clone)]
struct Publisher {
    address: SocketAddr,
    answer: Arc<Mutex<Option<(u16, String)>>>,
}

impl Publisher {
    async fn start(answer: Option<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let publisher = Self { address: listener.local_addr().unwrap(), answer: Arc::new(Mutex::new(answer)) };
        let answers = Arc::clone(&publisher.answer);
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some((status, text)) = answers.lock().clone() else {
                    silent.push(stream);
                    continue;
                };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(format!("HTTP/1.1 {status} x\r\nconnection: close\r\n\r\n{text}").as_bytes()).await;
            }
        });
        publisher
    }

    fn say(&self, status: u16, text: impl Into<String>) {
        *self.answer.lock() = Some((status, text.into()));
    }

    fn url(&self) -> SmolStr {
        format!("http://{}/bundle", self.address).into()
    }
}

fn document(roots: &[&String]) -> String {
    let key = |root: &&String| json!({"use": "x509-svid", "x5c": [BASE64_STANDARD.encode(pem::parse(root).unwrap().contents())]});
    json!({"keys": roots.iter().map(key).collect::<Vec<_>>()}).to_string()
}

/// A follower between a source and whoever listens.
struct Stage {
    source: mpsc::Sender<SourceEvent>,
    joined: Box<dyn Stream<Item = SourceEvent> + Send + Unpin>,
    own: watch::Sender<TrustBundle>,
}

impl Stage {
    fn start(refresh: Duration, told: bool) -> Self {
        let (source, events) = mpsc::channel(8);
        let (own, receiver) = watch::channel(TrustBundle { roots: Some("own".into()), ..TrustBundle::default() });
        let settings = Settings { own: told.then_some(receiver), refresh, patience: Duration::from_secs(1), web_roots: None };
        Self { source, joined: Box::new(joined(settings, "Kubernetes".into(), ReceiverStream::new(events))), own }
    }

    async fn want(&self, urls: &[SmolStr]) {
        let entry = |url: &SmolStr| CaCertificate {
            roots: RootsFrom::BundleAt(url.clone()),
            trust_domains: vec!["west".into()],
            cert_signers: Vec::new(),
        };
        let mesh = MeshConfig { ca_certificates: urls.iter().map(entry).collect(), ..MeshConfig::default() };
        let key =
            ObjectKey { cluster: "Kubernetes".into(), kind: Kind::MeshConfig, namespace: "istio-system".into(), name: "istio".into() };
        let spec = Spec::MeshConfig(Arc::new(mesh));
        let object = Object { key, version: SmolStr::default(), metadata: Arc::<Metadata>::default(), spec };
        self.source.send(SourceEvent::Changes(vec![Change::Applied(Arc::new(object))])).await.unwrap();
    }

    async fn next(&mut self) -> SourceEvent {
        timeout(LONG, self.joined.next()).await.expect("nothing comes").expect("the end")
    }

    /// Returns the next bundle that is told of, or gone.
    async fn bundle(&mut self) -> (SmolStr, Option<TrustBundle>) {
        loop {
            let SourceEvent::Changes(changes) = self.next().await else { continue };
            for change in changes {
                match change {
                    Change::Applied(object) => {
                        if let Some(bundle) = object.content::<TrustBundle>() {
                            return (object.key.name.clone(), Some(TrustBundle::clone(bundle)));
                        }
                    }
                    Change::Deleted(key) => return (key.name, None),
                }
            }
        }
    }
}

#[tokio::test]
async fn our_own_roots_are_told_first_and_whenever_they_differ() {
    let mut stage = Stage::start(LONG, true);
    let (name, bundle) = stage.bundle().await;
    assert_eq!((name.as_str(), bundle.unwrap().roots.as_deref()), (OWN, Some("own")));
    stage.own.send_replace(TrustBundle { roots: Some("next".into()), ..TrustBundle::default() });
    assert_eq!(stage.bundle().await.1.unwrap().roots.as_deref(), Some("next"));
}

#[tokio::test]
async fn the_last_good_roots_stay_whatever_is_answered() {
    let (first, second) = (root("first"), root("second"));
    let publisher = Publisher::start(Some((200, document(&[&first])))).await;
    let mut stage = Stage::start(Duration::from_millis(20), true);
    stage.bundle().await;
    stage.want(&[publisher.url()]).await;
    let (name, bundle) = stage.bundle().await;
    assert_eq!((name, bundle.unwrap()), (publisher.url(), TrustBundle { roots: Some(first.clone().into()), ..TrustBundle::default() }));
    for (status, text) in
        [(500, document(&[&second])), (200, "nonsense".into()), (200, "{\"keys\": []}".into()), (200, " ".repeat(1 << 20))]
    {
        publisher.say(status, text);
        let bundle = stage.bundle().await.1.unwrap();
        assert!(bundle.roots.as_deref() == Some(first.as_str()) && bundle.trouble.is_some(), "{bundle:?}");
    }
    publisher.say(200, document(&[&first, &second]));
    loop {
        let bundle = stage.bundle().await.1.unwrap();
        if bundle.trouble.is_none() {
            assert_eq!(bundle.roots.as_deref(), Some(format!("{first}{second}").as_str()));
            break;
        }
    }
    stage.want(&[]).await;
    loop {
        let (name, bundle) = stage.bundle().await;
        if bundle.is_none() {
            assert_eq!(name, publisher.url(), "nobody wants it any more");
            break;
        }
    }
}

#[tokio::test]
async fn the_first_world_waits_for_roots_and_not_for_ever() {
    let (good, silent) = (Publisher::start(Some((200, document(&[&root("good")])))).await, Publisher::start(None).await);
    let mut stage = Stage::start(LONG, true);
    stage.want(&[good.url(), silent.url()]).await;
    stage.source.send(SourceEvent::Synced).await.unwrap();
    let mut known = BTreeSet::new();
    loop {
        match stage.next().await {
            SourceEvent::Synced => break,
            SourceEvent::Changes(changes) => known.extend(changes.iter().map(|change| change.key().name.clone())),
            _ => {}
        }
    }
    assert!(known.contains(OWN), "{known:?}");
}

#[tokio::test]
async fn only_so_many_bundles_are_followed() {
    let mut stage = Stage::start(LONG, true);
    stage.bundle().await;
    let urls: Vec<SmolStr> = (0..=MOST_BUNDLES).map(|number| format!("http://127.0.0.1:1/{number:03}").into()).collect();
    stage.want(&urls).await;
    loop {
        let (name, bundle) = stage.bundle().await;
        if bundle.is_some_and(|bundle| bundle.trouble.is_some_and(|trouble| trouble.contains("100 bundles already"))) {
            assert_eq!(name, urls[MOST_BUNDLES]);
            return;
        }
    }
}

#[tokio::test]
async fn without_the_setting_nothing_is_fetched_or_told() {
    let publisher = Publisher::start(Some((200, document(&[&root("good")])))).await;
    let mut stage = Stage::start(LONG, false);
    stage.want(&[publisher.url()]).await;
    stage.source.send(SourceEvent::Synced).await.unwrap();
    let SourceEvent::Changes(changes) = stage.next().await else { panic!() };
    assert_eq!(changes.iter().map(|change| change.key().kind).collect::<Vec<_>>(), [Kind::MeshConfig]);
    assert!(matches!(stage.next().await, SourceEvent::Synced));
}
