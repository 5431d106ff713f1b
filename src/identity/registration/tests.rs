//! A signer that does what it is asked, and others that do something else.

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateSigningRequestParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use time::OffsetDateTime;

use super::*;
use crate::{
    api::mesh_config::{CaCertificate, RootsFrom},
    identity::ca::IssueError,
};

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3_600;

/// A signer of its own root, which may change what it signs.
struct SmallSigner {
    root: CertifiedIssuer<'static, KeyPair>,
    change: Box<dyn Fn(&mut CertificateParams) + Send + Sync>,
    key: Option<KeyPair>,
    answers: Mutex<Vec<Result<String, SignerError>>>,
    asked: Mutex<Vec<Submission>>,
}

impl SmallSigner {
    fn new(change: impl Fn(&mut CertificateParams) + Send + Sync + 'static) -> Self {
        Self { root: root("small"), change: Box::new(change), key: None, answers: Mutex::default(), asked: Mutex::default() }
    }

    fn signed(&self, submission: &Submission) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(&submission.request).unwrap();
        (request.params.not_before, request.params.not_after) =
            (at(NOW - 60), at(NOW + i64::try_from(submission.lifetime.as_secs()).unwrap()));
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.extended_key_usages = match submission.usage {
            Usage::Workload => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Serving => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        (self.change)(&mut request.params);
        match &self.key {
            Some(key) => request.params.signed_by(key, &self.root).unwrap().pem(),
            None => request.signed_by(&self.root).unwrap().pem(),
        }
    }
}

impl Signer for SmallSigner {
    fn sign(&self, submission: Submission) -> BoxFuture<'_, Result<String, SignerError>> {
        let answer = self.answers.lock().pop().unwrap_or_else(|| Ok(self.signed(&submission)));
        self.asked.lock().push(submission);
        Box::pin(std::future::ready(answer))
    }
}

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(second).unwrap()
}

fn root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (parameters.not_before, parameters.not_after) = (at(NOW - HOUR), at(NOW + 100_000 * HOUR));
    CertifiedIssuer::self_signed(parameters, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()).unwrap()
}

fn name(text: &str) -> SignerName {
    SignerName::parse(text).unwrap()
}

fn caller() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
}

fn request(uri: &str) -> String {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

/// Returns an authority that knows the roots of `example.com/mesh`, and its signer.
fn authority(signer: SmallSigner) -> (RegistrationAuthority, Arc<SmallSigner>) {
    let (signer, choice) =
        (Arc::new(signer), SignerChoice { default: Some(name("example.com/default")), domain: Some("example.com".into()) });
    let roots = Certificate::all_from_pem(&signer.root.pem()).unwrap();
    let mesh = ["example.com/mesh", "example.com/default"].map(|signer| (name(signer), roots.clone())).into();
    let known = watch::Sender::new(Arc::new(SignerRoots { mesh, ..SignerRoots::default() }));
    let clock: Clock = Arc::new(|| Timestamp::from_second(NOW).unwrap());
    let policy = IssuePolicy { max_ttl: Duration::from_secs(100 * 3_600), ..IssuePolicy::default() };
    let asked = Arc::clone(&signer);
    (RegistrationAuthority::new(signer, choice, known.subscribe(), policy, clock, CaMetrics::default()), asked)
}

async fn issue(signer: SmallSigner) -> Result<Signed, RegistrationError> {
    authority(signer).0.issue(&request(&caller().to_string()), &caller(), HOUR, Some("mesh")).await
}

#[tokio::test]
async fn what_was_asked_for_is_handed_on() {
    let (authority, signer) = authority(SmallSigner::new(|_| {}));
    let text = request(&caller().to_string());
    let signed = authority.issue(&text, &caller(), HOUR, Some("mesh")).await.unwrap();
    assert_eq!(signed.leaf().uris, [caller().to_string()]);
    assert_eq!(signed.leaf().not_after, Timestamp::from_second(NOW + HOUR).unwrap());
    let chain = signed.into_chain();
    assert_eq!((chain.len(), chain[1].lines().collect::<Vec<_>>()), (2, signer.root.pem().lines().collect()));
    // Who names nobody, and wants to live shorter than Kubernetes lets ask for.
    authority.issue(&text, &caller(), 60, None).await.unwrap();
    let asked: Vec<_> = signer.asked.lock().iter().map(|asked| (asked.signer.to_string(), asked.lifetime.as_secs())).collect();
    assert_eq!(asked, [("example.com/mesh".to_owned(), 3_600), ("example.com/default".to_owned(), 600)]);
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_is_refused_and_the_signer_named() {
    let named = |what: &'static str| {
        SmallSigner::new(move |all| {
            all.subject_alt_names = vec![SanType::URI(format!("spiffe://cluster.local/ns/{what}").try_into().unwrap())]
        })
    };
    let other_root = SmallSigner { root: root("other"), ..SmallSigner::new(|_| {}) };
    let cases: [(&str, SmallSigner, &str); 9] = [
        ("another identity", named("shop/sa/admin"), "for URI(spiffe://cluster.local/ns/shop/sa/admin)"),
        ("nobody", SmallSigner::new(|all| all.subject_alt_names.clear()), "for nobody"),
        ("a further name", SmallSigner::new(|all| all.subject_alt_names.push(SanType::DnsName("a.b".try_into().unwrap()))), "DNSName(a.b)"),
        ("another key", SmallSigner { key: Some(KeyPair::generate().unwrap()), ..SmallSigner::new(|_| {}) }, "another key"),
        ("a CA", SmallSigner::new(|all| all.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "of a CA"),
        ("too long", SmallSigner::new(|all| all.not_after = at(NOW + 101 * HOUR)), "longer than"),
        ("expired", SmallSigner::new(|all| all.not_after = at(NOW - 1)), "nobody would accept"),
        ("not valid yet", SmallSigner::new(|all| all.not_before = at(NOW + 10)), "nobody would accept"),
        (
            "for servers alone",
            SmallSigner::new(|all| all.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "nobody would accept",
        ),
    ];
    for (what, signer, says) in cases {
        let refusal = issue(signer).await.expect_err(what);
        let text = refusal.to_string();
        assert!(text.contains("signer example.com/mesh answered") && text.contains(says), "{what}: {text}");
        assert_eq!(refusal.status().code(), tonic::Code::Internal, "{what}");
    }
    // Roots are those that we know, not those that come along.
    let (authority, _) = authority(SmallSigner::new(|_| {}));
    let submission = Submission {
        signer: name("example.com/mesh"),
        request: request(&caller().to_string()),
        lifetime: Duration::from_secs(HOUR as u64),
        usage: Usage::Workload,
    };
    let key = SigningRequest::read(&submission.request).unwrap();
    let known = authority.roots.borrow().of(&submission.signer).to_vec();
    let uri = caller().to_string();
    let wanted = Wanted {
        key: key.key_bits(),
        names: Names::Identity(&uri),
        usage: Usage::Workload,
        latest_end: Timestamp::MAX,
        roots: &known,
        now: Timestamp::from_second(NOW).unwrap(),
    };
    for answer in [other_root.signed(&submission), other_root.signed(&submission) + &other_root.root.pem()] {
        assert!(matches!(answer::check(&answer, &wanted), Err(AnswerError::Chain(_))));
    }
    for answer in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &"x".repeat(1 << 20)] {
        assert!(matches!(answer::check(answer, &wanted), Err(AnswerError::Unreadable(_))), "{answer:.20}");
    }
}

#[tokio::test]
async fn what_a_caller_may_not_have_is_asked_of_nobody() {
    let (authority, signer) = authority(SmallSigner::new(|_| {}));
    let own = request(&caller().to_string());
    let refused = async |request: &str, ttl, named| authority.issue(request, &caller(), ttl, named).await.unwrap_err();
    assert!(matches!(refused(&request("spiffe://cluster.local/ns/shop/sa/admin"), HOUR, None).await, RegistrationError::Policy(_)));
    assert!(matches!(refused(&own, 101 * HOUR, None).await, RegistrationError::Policy(IssueError::Ttl { .. })));
    assert!(matches!(refused(&own, HOUR, Some("unknown")).await, RegistrationError::NoRoots(_)));
    assert!(matches!(refused(&own, HOUR, Some("../mesh")).await, RegistrationError::Name(_)));
    assert!(signer.asked.lock().is_empty());
    let none = SignerChoice::default();
    assert!(matches!(none.of(Some("mesh")), Err(RegistrationError::NoDomain(_))));
    assert!(matches!(none.of(None), Err(RegistrationError::NoDefault)));
}

#[tokio::test]
async fn callers_are_told_what_went_wrong_at_the_signer() {
    for (error, code, says) in [
        (SignerError::Unavailable("connection refused".into()), tonic::Code::Unavailable, "connection refused"),
        (SignerError::Silent(Duration::from_secs(60)), tonic::Code::Unavailable, "no answer within 60 s"),
        (SignerError::Forbidden("cannot approve".into()), tonic::Code::Unavailable, "cannot approve"),
        (SignerError::Denied("Policy: not on Fridays".into()), tonic::Code::PermissionDenied, "denied: Policy: not on Fridays"),
        (SignerError::Failed("IssuerDown: no HSM".into()), tonic::Code::Internal, "failed: IssuerDown: no HSM"),
    ] {
        let signer = SmallSigner { answers: Mutex::new(vec![Err(error)]), ..SmallSigner::new(|_| {}) };
        let status = issue(signer).await.unwrap_err().status();
        assert!(status.code() == code && status.message().contains("example.com/mesh") && status.message().contains(says), "{status}");
    }
}

#[tokio::test]
async fn our_own_certificate_has_the_names_that_were_asked_for() {
    let (key, names) = (KeyPair::generate().unwrap(), ["istiod.istio-system.svc".to_owned(), "localhost".to_owned()]);
    let day = Duration::from_secs(24 * 3_600);
    let (right, _) = authority(SmallSigner::new(|_| {}));
    let signed = right.issue_serving(&name("example.com/mesh"), &key, &names, day).await.unwrap();
    assert_eq!(signed.leaf().dns_names, names);
    let (wrong, _) = authority(SmallSigner::new(|all| {
        all.subject_alt_names.pop();
    }));
    let refusal = wrong.issue_serving(&name("example.com/mesh"), &key, &names, day).await.unwrap_err();
    assert!(refusal.to_string().contains("was asked for istiod.istio-system.svc, localhost"), "{refusal}");
}

#[test]
fn mesh_config_has_roots_for_the_signers_that_it_names() {
    let entry = |roots, signers: &[&str]| CaCertificate {
        roots,
        trust_domains: Vec::new(),
        cert_signers: signers.iter().map(|name| (*name).into()).collect(),
    };
    let (one, other) = (root("one").pem(), root("other").pem());
    let pem = |text: &String| RootsFrom::Pem(text.as_str().into());
    let known = SignerRoots::of_mesh(&[
        entry(pem(&one), &["a.b/c", "a.b/d"]),
        entry(pem(&other), &["a.b/d", "no name"]),
        entry(pem(&other), &[]),
        entry(RootsFrom::BundleAt("https://a.b".into()), &["a.b/e"]),
    ]);
    let counts: Vec<_> = known.iter().map(|(signer, roots)| (signer.as_str(), roots.len())).collect();
    assert_eq!(counts, [("a.b/c", 1), ("a.b/d", 2)]);
}

#[test]
fn a_file_counts_before_mesh_config_and_that_before_the_clusters_ca() {
    let roots = |name: &str| Certificate::all_from_pem(&root(name).pem()).unwrap();
    let (file, mesh, cluster) = (roots("file"), roots("mesh"), roots("cluster"));
    let mut known = SignerRoots { cluster: Arc::new(cluster.clone()), ..SignerRoots::default() };
    assert_eq!(known.of(&name("a.b/c")), cluster);
    known.mesh.insert(name("a.b/c"), mesh.clone());
    assert_eq!((known.of(&name("a.b/c")), known.of(&name("a.b/d"))), (mesh.as_slice(), cluster.as_slice()));
    assert_eq!(known.all(), [mesh, cluster].concat());
    known.file = Arc::new(file.clone());
    assert_eq!((known.of(&name("a.b/c")), known.all()), (file.as_slice(), file.clone()));
    // The file is gone, and what it said stays; another one replaces it.
    assert_eq!(SignerRoots::default().with_files_of(&known).all(), file);
    let next = SignerRoots { file: Arc::new(roots("next")), ..SignerRoots::default() };
    assert_eq!(next.clone().with_files_of(&known).file, next.file);
}
