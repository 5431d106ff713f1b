//! Reviews, YAML and certificate requests at random: what is broken somewhere never panics, and never takes much memory.
//!
//! `FUZZ_SECONDS` says how long each takes, `FUZZ_SEED` goes through the same texts again. All are read in this process, so what
//! panics fails the test.

use std::{
    env, fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use harness::random::{Random, fresh_seed};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use istiod_lite::{
    api::{self, mesh_config::MeshConfig, yaml},
    identity::ca::{self, IssuePolicy, SelfSigned, Serial},
    mesh::{engine::Engine, model::SpiffeId},
    webhook::{
        admission::{self, AdmissionMetrics},
        inject::{self, InjectionMetrics, Injector, Settings},
    },
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use super::cost::{self, Cost};

/// What the texts of a run may add to the peak of this process.
const MOST: u64 = 200 << 20;

#[tokio::test]
async fn reviews_at_random() {
    let corpus: Vec<Vec<u8>> = pods().into_iter().map(|pod| review(&pod)).chain(objects().iter().map(review)).collect();
    let (webhooks, _worlds) = webhooks();
    let mut texts = Texts::of("reviews", corpus);
    while let Some(text) = texts.next() {
        let path = if texts.below(2) == 0 { "/inject" } else { "/validate" };
        let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(Body::from(text)).unwrap();
        let response = webhooks.clone().oneshot(request).await.unwrap();
        let status = response.status();
        assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST), "{status}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.len() < 8 << 20, "{} bytes", body.len());
    }
    texts.end();
}

#[test]
fn yaml_at_random() {
    let corpus = files("tests/golden").chain(files("tests/oracle/cases")).map(|text| text.into_bytes()).collect();
    let mut texts = Texts::of("YAML", corpus);
    while let Some(text) = texts.next() {
        let text = String::from_utf8_lossy(&text);
        for document in yaml::each_document(&text).map(yaml::document) {
            match document {
                Ok(value) => {
                    let parsed = api::parse(&value, &"Kubernetes".into());
                    assert!(parsed.diagnostics.len() < 10_000);
                    api::parse_mesh_config(&value, &"Kubernetes".into());
                }
                Err(broken) => assert!(broken.to_string().len() < 10_000, "{broken}"),
            }
        }
    }
    texts.end();
}

#[test]
fn certificate_requests_at_random() {
    let now = Timestamp::now();
    let made = SelfSigned::new("cluster.local").generate(now).unwrap();
    let ca = ca::load_self_signed("the test", &made, now).unwrap();
    let requests = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384].map(request);
    let caller = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/client").unwrap();
    let mut texts = Texts::of("certificate requests", requests.to_vec());
    while let Some(der) = texts.next() {
        // The signature ends most; what is before it is read all the same.
        let text = match texts.below(8) {
            0 => String::from_utf8_lossy(&der).into_owned(),
            _ => pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)),
        };
        let issued = ca.issue(&text, &caller, 3600, &IssuePolicy::default(), now, Serial::random().unwrap());
        if let Err(refused) = issued {
            assert!(refused.to_string().len() < 2_000, "{refused}");
        }
    }
    texts.end();
}

/// Texts at random, made of good ones.
struct Texts {
    what: &'static str,
    corpus: Arc<[Vec<u8>]>,
    random: Random,
    until: Instant,
    count: usize,
    idle: u64,
}

impl Texts {
    fn of(what: &'static str, corpus: Vec<Vec<u8>>) -> Self {
        assert!(corpus.len() > 1);
        let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let seed = number("FUZZ_SEED").unwrap_or_else(fresh_seed);
        let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(3));
        println!("{what}: FUZZ_SEED={seed} for {time:?}");
        cost::forget_peak(std::process::id());
        let idle = Cost::of(std::process::id()).resident;
        Self { what, corpus: corpus.into(), random: Random::seeded(seed), until: Instant::now() + time, count: 0, idle }
    }

    /// Returns the next text, or `None` when the time is over.
    fn next(&mut self) -> Option<Vec<u8>> {
        // Those that are good come first.
        self.count += 1;
        if self.count <= self.corpus.len() {
            return Some(self.corpus[self.count - 1].clone());
        }
        (Instant::now() < self.until).then(|| self.changed())
    }

    fn changed(&mut self) -> Vec<u8> {
        let corpus = Arc::clone(&self.corpus);
        let mut text = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let (start, end) = self.range(text.len(), 64);
            match self.below(7) {
                0 => drop(text.drain(start..end)),
                1 => text[start..end].iter_mut().for_each(|byte| *byte ^= 1 << (start % 8)),
                2 => _ = text.splice(start..end, WORDS[self.below(WORDS.len())].bytes()),
                3 => {
                    let times = 1 << self.below(14);
                    let piece = text[start..end].repeat(times);
                    text.splice(start..start, piece);
                }
                4 => {
                    let times = 1 << self.below(14);
                    text.splice(start..start, WORDS[self.below(WORDS.len())].repeat(times).into_bytes());
                }
                5 => {
                    let other = &corpus[self.below(corpus.len())];
                    let (from, to) = self.range(other.len(), 2_000);
                    text.splice(start..end, other[from..to].iter().copied());
                }
                _ => text.truncate(end.max(1)),
            }
            if text.is_empty() {
                text.push(b'a');
            }
        }
        text.truncate(3 << 20);
        text
    }

    fn range(&mut self, length: usize, most: usize) -> (usize, usize) {
        let start = self.below(length);
        (start, (start + self.below(most)).min(length))
    }

    fn below(&mut self, most: usize) -> usize {
        self.random.within(0..most as u64) as usize
    }

    fn end(self) {
        let peak = Cost::of(std::process::id()).peak.saturating_sub(self.idle);
        println!("{}: {} texts, {} MB at the peak", self.what, self.count, peak >> 20);
        assert!(peak < MOST, "{} MB", peak >> 20);
    }
}

const WORDS: [&str; 28] = [
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[[]],",
    "{\"a\":0},",
    "\"",
    "\\u0000",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "? ",
    "- ",
    "a: ",
    "&a ",
    "*a ",
    "<<: *a\n",
    "!x ",
    "---\n",
    "\n",
    "|\n",
    "\t",
    "\u{feff}",
    "%",
    "é",
];

fn review(object: &Value) -> Vec<u8> {
    let request = json!({"uid": "u", "namespace": "shop", "name": "a", "operation": "UPDATE", "object": object, "oldObject": object});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

fn webhooks() -> (Router, watch::Sender<Arc<istiod_lite::mesh::world::World>>) {
    let (worlds, seen) = watch::channel(Arc::default());
    let injector = Injector { settings: Settings::default(), worlds: seen, metrics: InjectionMetrics::default() };
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let all = objects();
    let parsed = all.iter().flat_map(|object| api::parse(object, &"Kubernetes".into()).objects);
    engine.apply(parsed.map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>());
    let admission = admission::routes(watch::channel(engine).1, "Kubernetes".into(), AdmissionMetrics::default());
    (inject::routes(Arc::new(injector)).merge(admission), worlds)
}

fn request(kind: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(kind).unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

/// Returns the pods of the injection's fixtures: those that stand in a template, too.
fn pods() -> Vec<Value> {
    let documents = files("tests/inject").flat_map(|text| documents(&text)).collect::<Vec<_>>();
    documents.into_iter().map(|object| object.pointer("/spec/template").cloned().unwrap_or(object)).collect()
}

fn objects() -> Vec<Value> {
    files("tests/golden").flat_map(|text| documents(&text)).collect()
}

fn documents(text: &str) -> Vec<Value> {
    yaml::each_document(text).filter_map(|document| yaml::document(document).ok()).filter(Value::is_object).collect()
}

/// Returns the files `in.yaml` in the folders of a folder.
fn files(folder: &str) -> impl Iterator<Item = String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("in.yaml")).collect();
    all.sort();
    all.into_iter().filter_map(|path| fs::read_to_string(path).ok())
}
