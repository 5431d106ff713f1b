//! Certificates and keys in PEM at random, as Secrets hold them: `cacerts`, and those that users' objects name. What is taken fits
//! together, a root's key is never taken, and no refusal tells anything of a key.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use istiod_lite::{
    api::{self, mesh_config::MeshConfig},
    identity::{
        ca::{self, IssuePolicy, Serial},
        ceremony::{self, CaRequest, CaSubject},
        certificate::Certificate,
        key::{KeyType, PrivateKey},
    },
    mesh::{engine::Engine, model::SpiffeId},
};
use jiff::Timestamp;
use serde_json::json;

use super::random_texts::Texts;

/// How much of a key's text gives it away: a line of PEM.
const LINE: usize = 32;

/// A root and an intermediate.
struct Authority {
    root: Certificate,
    root_key: PrivateKey,
    certificate: Certificate,
    key: PrivateKey,
}

impl Authority {
    fn new(name: &str) -> Self {
        let subject = CaSubject { organization: name.into(), common_name: name.into() };
        let make = || PrivateKey::generate(KeyType::P256).unwrap();
        let (root_key, key, now) = (make(), make(), Timestamp::now());
        let request = |key, days| CaRequest { key, subject: &subject, days, now, serial: Serial::random().unwrap() };
        let root = ceremony::root_certificate(&request(&root_key, 30)).unwrap();
        let certificate =
            ceremony::intermediate_certificate(&request(&key, 20), 0, &root, PrivateKey::from_pem(&root_key.to_pem()).unwrap()).unwrap();
        Self { root, root_key, certificate, key }
    }

    fn chain(&self) -> String {
        self.certificate.pem() + &self.root.pem()
    }

    /// Returns the entries of a Secret, in one of the forms that there are.
    fn entries(&self, form: usize) -> BTreeMap<String, Vec<u8>> {
        let key = self.key.to_pem();
        let entries = match form {
            0 => vec![
                ("ca-cert.pem", self.certificate.pem()),
                ("ca-key.pem", key),
                ("root-cert.pem", self.root.pem()),
                ("cert-chain.pem", self.chain()),
            ],
            _ => vec![("tls.crt", self.chain()), ("tls.key", key), ("ca.crt", self.root.pem())],
        };
        entries.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect()
    }

    fn texts(&self) -> Vec<Vec<u8>> {
        [self.certificate.pem(), self.root.pem(), self.chain(), self.key.to_pem(), self.root_key.to_pem()].map(String::into_bytes).into()
    }
}

#[test]
fn authorities_in_pem_at_random() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let caller = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/client").unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(ours.key.pair()).unwrap().pem().unwrap();
    let mut texts = Texts::of("cacerts", [ours.texts(), other.texts()].concat());
    let mut taken = 0;
    while let Some(text) = texts.next() {
        let now = Timestamp::now();
        let mut entries = ours.entries(texts.below(2));
        let replaced = entries.keys().nth(texts.below(entries.len())).unwrap().clone();
        entries.insert(replaced, text);
        // A key is a root's by a root that is there: nobody can tell it of another mesh's.
        let root_files = ["root-cert.pem", "ca.crt"].into_iter().filter_map(|name| entries.get(name));
        let roots: Vec<_> = root_files.flat_map(|text| Certificate::each_from_pem(&String::from_utf8_lossy(text)).0).collect();
        let holds_root_key = entries.values().any(|text| {
            let key = PrivateKey::from_pem(&String::from_utf8_lossy(text));
            key.is_ok_and(|key| roots.iter().any(|root| root.public_key == key.public_key()))
        });
        match ca::load_entries("Secret cacerts", &entries, now) {
            Ok(ca) => {
                assert!(!holds_root_key, "a root's key was taken");
                let issued = ca.issue(&request, &caller, 0, &IssuePolicy::default(), now, Serial::random().unwrap()).unwrap();
                let leaf = Certificate::from_der(issued.leaf_der()).unwrap();
                let signer = ca.certificate();
                assert!(leaf.spiffe_id().as_ref() == Some(&caller) && signer.is_ca && leaf.issuer_der == signer.subject_der, "{leaf:?}");
                assert!([&ours, &other].iter().any(|authority| authority.certificate.public_key == signer.public_key));
                taken += 1;
            }
            Err(refused) => tells_nothing(&refused.to_string(), &[&ours, &other]),
        }
    }
    println!("{taken} taken");
    assert!(taken > 0);
    texts.end();
}

#[test]
fn credentials_of_users_at_random() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let tls = json!({"mode": "MUTUAL", "credentialName": "web"});
    let servers = json!([{"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["a.example.com"], "tls": tls}]);
    let gateway = json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "shop"},
                         "spec": {"selector": {"istio": "edge"}, "servers": servers}});
    apply(&mut engine, &gateway);
    let mut texts = Texts::of("credentials", [ours.texts(), other.texts()].concat());
    let [mut pairs, mut roots] = [0, 0];
    while let Some(text) = texts.next() {
        let mut entries = BTreeMap::from([
            ("tls.crt", ours.chain().into_bytes()),
            ("tls.key", ours.key.to_pem().into_bytes()),
            ("ca.crt", ours.root.pem().into_bytes()),
        ]);
        let names = ["tls.crt", "tls.key", "tls.ocsp-staple", "ca.crt", "ca.crl", "cert", "key", "cacert"];
        entries.insert(names[texts.below(names.len())], text);
        let data: BTreeMap<&str, String> = entries.iter().map(|(name, text)| (*name, BASE64_STANDARD.encode(text))).collect();
        apply(&mut engine, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web", "namespace": "shop"}, "data": data}));
        let world = engine.world();
        let credential = world.credentials.values().next().expect("the Gateway names it");
        match &credential.key_pair {
            Ok(pair) => {
                pairs += 1;
                let (key, certificates) = (String::from_utf8_lossy(pair.key.reveal()), String::from_utf8_lossy(pair.certificates.reveal()));
                if let (Ok(key), Ok(chain)) = (PrivateKey::from_pem(&key), Certificate::all_from_pem(&certificates)) {
                    assert_eq!(chain[0].public_key, key.public_key(), "the key of another certificate");
                }
                assert!(pair.validity.not_before <= pair.validity.not_after, "{:?}", pair.validity);
            }
            Err(why) => tells_nothing(why, &[&ours, &other]),
        }
        match &credential.roots {
            Ok(trusted) => {
                roots += 1;
                assert!(trusted.certificates.reveal().windows(11).any(|text| text == b"-----BEGIN "));
            }
            Err(why) => tells_nothing(why, &[&ours, &other]),
        }
    }
    println!("{pairs} pairs and {roots} roots taken");
    assert!(pairs > 0 && roots > 0);
    texts.end();
}

fn apply(engine: &mut Engine, object: &serde_json::Value) {
    let parsed = api::parse(object, &"Kubernetes".into());
    assert!(!parsed.objects.is_empty(), "{:?}", parsed.diagnostics);
    engine.apply(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>());
}

/// Asserts that a refusal is short, and has no part of any key.
#[track_caller]
fn tells_nothing(refusal: &str, authorities: &[&Authority]) {
    assert!(refusal.len() < 2_000, "{} bytes: {refusal:.300}", refusal.len());
    for key in authorities.iter().flat_map(|authority| [authority.key.to_pem(), authority.root_key.to_pem()]) {
        let mut lines = key.lines().filter(|line| line.len() >= LINE && !line.starts_with('-'));
        assert!(lines.all(|line| !refusal.contains(&line[line.len() - LINE..])), "a key is told: {refusal}");
    }
}
