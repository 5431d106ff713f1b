//! Who is given which secrets, and what stays when a Secret turns bad.

use std::sync::atomic::{AtomicI64, Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::future::ready;
use jiff::Timestamp;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::{
    mesh::model::SpiffeId,
    xds::{
        resource::Resource,
        secret_readers::{Account, SecretReaders},
    },
};

const EDGE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: edge-0, namespace: bank, labels: {istio: edge}}
spec: {serviceAccountName: edge}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: bank}
spec:
  selector: {istio: edge}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [till.example.com]
    tls: {mode: MUTUAL, credentialName: till}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: till, namespace: bank}
spec: {hosts: [till.example.com], gateways: [front], http: [{directResponse: {status: 200}}]}
";

/// The time at which certificates of the tests begin to be valid.
const BEGIN: i64 = 1_000_000;

/// Lets the accounts of a list read Secrets.
struct Listed(Mutex<Vec<&'static str>>);

impl SecretReaders for Listed {
    fn may_read<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Option<bool>> {
        Box::pin(ready(Some(self.0.lock().contains(&account.name.as_str()))))
    }
}

struct Bank {
    engine: Engine,
    classes: Classes,
    readers: Arc<Listed>,
    now: Arc<AtomicI64>,
}

impl Bank {
    fn new() -> Self {
        let (readers, now) = (Arc::new(Listed(Mutex::new(vec!["edge"]))), Arc::new(AtomicI64::new(BEGIN + 100)));
        let time = Arc::clone(&now);
        let clock: Clock = Arc::new(move || Timestamp::from_second(time.load(Ordering::Relaxed)).unwrap());
        let asked: Arc<dyn SecretReaders> = Arc::<Listed>::clone(&readers);
        let mut bank =
            Self { engine: Engine::new("cluster.local", MeshConfig::default()), classes: Classes::new(asked, clock), readers, now };
        bank.apply(EDGE);
        bank
    }

    fn apply(&mut self, yaml: &str) {
        let parsed = documents(yaml).into_iter().flat_map(|text| parse(&document(text).unwrap(), &"Kubernetes".into()).objects);
        let applied = self.engine.apply(parsed.map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>());
        self.classes.prepare(applied.world, &applied.touched).send();
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        let key = ObjectKey { cluster: "Kubernetes".into(), kind, namespace: "bank".into(), name: name.into() };
        let applied = self.engine.apply([(key, None)]);
        self.classes.prepare(applied.world, &applied.touched).send();
    }

    /// Looks again as when time has passed or rights have changed.
    fn look_again(&self) {
        self.classes.prepare(Arc::clone(self.engine.world()), &Touched::default()).send();
    }

    async fn connect(&self, id: &str, account: Option<&str>) -> Attachment {
        let (name, namespace) = id.rsplit_once('.').unwrap();
        let proxy = Proxy {
            namespace: namespace.into(),
            labels: Arc::new([("istio".into(), "edge".into())].into()),
            ..Proxy::new(ProxyKind::Gateway, id)
        };
        let caller = account.map_or(Caller::Anonymous, |account| {
            Caller::Workload(SpiffeId { trust_domain: "td".into(), namespace: namespace.into(), service_account: account.into() })
        });
        let proven = Proven::new(Arc::new(Node::from(Arc::new(proxy))), caller).unwrap_or_else(|| panic!("{name}"));
        self.classes.introduce(&proven).await;
        self.classes.attach(&proven)
    }

    fn findings(&self) -> Vec<String> {
        self.classes.findings().borrow().iter().map(ToString::to_string).collect()
    }
}

/// Returns a Secret with a certificate that is valid for so many seconds from `begin` on.
fn secret(name: &str, begin: i64, seconds: i64) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["till.example.com".to_owned()]).unwrap();
    params.not_before = ::time::OffsetDateTime::from_unix_timestamp(begin).unwrap();
    params.not_after = ::time::OffsetDateTime::from_unix_timestamp(begin + seconds).unwrap();
    let certificate = STANDARD.encode(params.self_signed(&key).unwrap().pem());
    let key = STANDARD.encode(key.serialize_pem());
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: bank}}\ntype: kubernetes.io/tls\n\
         data: {{tls.crt: {certificate}, tls.key: {key}, ca.crt: {certificate}}}\n"
    )
}

fn names(attachment: &Attachment) -> Vec<String> {
    attachment.borrow().iter(ResourceType::Secret).map(|secret| secret.name.to_string()).collect()
}

fn pair(attachment: &Attachment) -> Option<Arc<Resource>> {
    attachment.borrow().get(ResourceType::Secret, "kubernetes://till").cloned()
}

#[tokio::test]
async fn keys_are_for_proven_accounts_of_the_namespace_that_may_read_them() {
    let mut bank = Bank::new();
    bank.apply(&secret("till", BEGIN, 1000));
    bank.apply(&secret("other", BEGIN, 1000));
    let both = ["kubernetes://till-cacert", "kubernetes://till"];
    assert_eq!(names(&bank.connect("edge-0.bank", Some("edge")).await), both, "and not the Secret that nobody names");
    assert_eq!(names(&bank.connect("edge-1.bank", Some("teller")).await), both[..1], "what peers are verified with is public");
    assert_eq!(names(&bank.connect("edge-0.shop", Some("edge")).await), [""; 0], "the same account elsewhere");
    assert_eq!(names(&bank.connect("edge-0.bank", None).await), [""; 0], "in plaintext nothing is proven");
    let denied = "service account teller may not list Secrets of namespace bank";
    let teller = bank.connect("edge-1.bank", Some("teller")).await;
    let found = bank.findings();
    assert!(found.iter().any(|finding| finding.contains("spec.servers[0].tls.credentialName") && finding.contains(denied)), "{found:?}");
    drop(teller);
}

#[tokio::test]
async fn a_right_that_is_given_or_taken_away_shows_without_a_new_connection() {
    let mut bank = Bank::new();
    let teller = bank.connect("edge-1.bank", Some("teller")).await;
    bank.apply(&secret("till", BEGIN, 1000));
    assert_eq!(pair(&teller), None);
    bank.readers.0.lock().push("teller");
    let account = Account { namespace: "bank".into(), name: "teller".into() };
    bank.classes.0.ask(account.clone()).await;
    bank.classes.secrets_due().await;
    bank.look_again();
    assert!(pair(&teller).is_some());
    bank.readers.0.lock().clear();
    bank.classes.0.ask(account).await;
    bank.look_again();
    assert_eq!(pair(&teller), None);
}

#[tokio::test]
async fn the_last_good_one_stays_when_its_secret_turns_bad() {
    let mut bank = Bank::new();
    let edge = bank.connect("edge-0.bank", Some("edge")).await;
    let told = |bank: &Bank, what: &str| bank.findings().iter().any(|finding| finding.contains("front") && finding.contains(what));
    assert!(told(&bank, "Secret bank/till does not exist: connections that need it are closed"), "{:?}", bank.findings());
    bank.apply(&secret("till", BEGIN, 1000));
    bank.classes.introduce(&Proven::new(proven_node(), caller()).unwrap()).await;
    bank.look_again();
    let first = pair(&edge).unwrap();
    assert_eq!(bank.findings(), [""; 0]);
    bank.apply(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: till, namespace: bank}\ndata: {tls.crt: LS0t, tls.key: LS0t, ca.crt: LS0t}\n",
    );
    assert!(Arc::ptr_eq(&pair(&edge).unwrap(), &first) && told(&bank, "holds no certificate in PEM"), "{:?}", bank.findings());
    bank.delete(Kind::Secret, "till");
    assert!(
        Arc::ptr_eq(&pair(&edge).unwrap(), &first) && told(&bank, "does not exist: the last good one is given"),
        "{:?}",
        bank.findings()
    );
    bank.apply(&secret("till", BEGIN - 1000, 500));
    assert!(Arc::ptr_eq(&pair(&edge).unwrap(), &first) && told(&bank, "has expired: the last good one is given"), "{:?}", bank.findings());
    bank.apply(&secret("till", BEGIN + 500, 1000));
    assert!(
        Arc::ptr_eq(&pair(&edge).unwrap(), &first) && told(&bank, "is not valid yet: the last good one is given"),
        "{:?}",
        bank.findings()
    );
    bank.now.store(BEGIN + 501, Ordering::Relaxed);
    bank.classes.secrets_due().await;
    bank.look_again();
    assert!(!Arc::ptr_eq(&pair(&edge).unwrap(), &first), "it is valid by now");
    assert_eq!(bank.findings(), [""; 0]);
    bank.delete(Kind::Gateway, "front");
    assert_eq!(names(&edge), [""; 0], "nobody names it any more");
}

#[tokio::test]
async fn a_staple_that_is_of_no_use_is_told_and_left_out() {
    let mut bank = Bank::new();
    let stapled = secret("till", BEGIN, 1000).replace("data: {", "data: {tls.ocsp-staple: eA==, ");
    bank.apply(&stapled);
    let edge = bank.connect("edge-0.bank", Some("edge")).await;
    assert!(pair(&edge).is_some());
    let told = "Secret bank/till tls.ocsp-staple: is no OCSP response in DER: it is given without";
    assert!(bank.findings().iter().any(|finding| finding.contains(told)), "{:?}", bank.findings());
    bank.apply(&stapled.replace("tls.ocsp-staple: eA==, ", ""));
    assert_eq!(bank.findings(), [""; 0]);
}

fn proven_node() -> Arc<Node> {
    let proxy = Proxy { namespace: "bank".into(), ..Proxy::new(ProxyKind::Gateway, "edge-9.bank") };
    Arc::new(Node::from(Arc::new(proxy)))
}

fn caller() -> Caller {
    Caller::Workload(SpiffeId { trust_domain: "td".into(), namespace: "bank".into(), service_account: "edge".into() })
}

const VAULT: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: vault, namespace: bank}
spec:
  selector: {istio: edge}
  servers:
  - port: {number: 444, name: https-vault, protocol: HTTPS}
    hosts: [vault.example.com]
    tls: {mode: MUTUAL, credentialName: till, caCertCredentialName: 'configmap://staff/tellers'}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vault, namespace: bank}
spec: {hosts: [vault.example.com], gateways: [vault], http: [{directResponse: {status: 200}}]}
";

/// Returns a ConfigMap of namespace `staff` with these roots.
fn config_map(name: &str, roots: &str) -> String {
    let data = serde_json::json!({"ca.crt": roots, "other": "not read"});
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: staff}}\ndata: {data}\n")
}

fn root() -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["teller".to_owned()]).unwrap();
    params.not_before = ::time::OffsetDateTime::from_unix_timestamp(BEGIN).unwrap();
    params.not_after = ::time::OffsetDateTime::from_unix_timestamp(BEGIN + 1000).unwrap();
    params.self_signed(&key).unwrap().pem()
}

#[tokio::test]
async fn what_a_config_map_holds_is_for_every_proven_proxy_if_an_object_names_it() {
    let mut bank = Bank::new();
    bank.apply(VAULT);
    bank.apply(&config_map("tellers", &root()));
    bank.apply(&config_map("others", &root()));
    let expected = ["configmap://staff/tellers-cacert"];
    assert_eq!(names(&bank.connect("edge-0.bank", Some("edge")).await), expected, "and not the one that nobody names");
    assert_eq!(names(&bank.connect("edge-1.bank", Some("teller")).await), expected, "who may not read Secrets");
    assert_eq!(names(&bank.connect("edge-0.shop", Some("edge")).await), expected, "of another namespace");
    assert_eq!(names(&bank.connect("edge-0.bank", None).await), [""; 0], "in plaintext nothing is proven");
    let edge = bank.connect("edge-0.bank", Some("edge")).await;
    let key = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::Gateway, namespace: "bank".into(), name: "vault".into() };
    let applied = bank.engine.apply([(key, None)]);
    bank.classes.prepare(applied.world, &applied.touched).send();
    assert_eq!(names(&edge), [""; 0], "nobody names it any more");
}

#[tokio::test]
async fn the_last_good_roots_stay_when_their_config_map_turns_bad() {
    let mut bank = Bank::new();
    bank.apply(VAULT);
    bank.apply(&secret("till", BEGIN, 1000));
    let edge = bank.connect("edge-0.bank", Some("edge")).await;
    let given = || edge.borrow().get(ResourceType::Secret, "configmap://staff/tellers-cacert").cloned();
    let told = |bank: &Bank, what: &str| {
        let field = "spec.servers[0].tls.caCertCredentialName: ConfigMap staff/tellers ";
        let found = bank.findings();
        assert!(found.iter().any(|finding| finding.contains(&format!("bank/vault {field}{what}"))), "not {what}: {found:?}");
    };
    told(&bank, "does not exist: connections that need it are closed");
    bank.apply(&config_map("tellers", &root()));
    let first = given().unwrap();
    assert_eq!(bank.findings(), [""; 0]);
    bank.apply(&config_map("tellers", "nonsense"));
    told(&bank, "ca.crt: holds no certificate in PEM (-----BEGIN CERTIFICATE-----): the last good one is given");
    assert!(Arc::ptr_eq(&given().unwrap(), &first));
    bank.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tellers, namespace: staff}\n");
    told(&bank, "has neither ca.crt nor cacert: the last good one is given");
    assert!(Arc::ptr_eq(&given().unwrap(), &first));
    bank.apply(&config_map("tellers", &root()));
    assert!(!Arc::ptr_eq(&given().unwrap(), &first) && bank.findings().is_empty(), "{:?}", bank.findings());
}
