//! A serving certificate that somebody else issued, and the protocol of our TLS ports.

use std::{sync::Arc, time::Duration};

use istiod_lite::{
    identity::{
        ca::{CaHandle, ServingRequest},
        certificate::Certificate,
        key::{KeyType, PrivateKey},
        system_clock,
    },
    serve::tls::{ServingCertificate, ServingFiles, ServingNames, TlsIdentity, TlsParameters},
};
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::fixture::{Authority, serial};

const NAME: &str = "istiod.istio-system.svc";

/// Writes a serving certificate for `NAME` of this authority.
fn write(theirs: &Authority, files: &ServingFiles) {
    let key = PrivateKey::generate(KeyType::P256).unwrap();
    let (names, ca) = ([NAME.to_owned()], theirs.load().unwrap());
    let request = ServingRequest { dns_names: &names, addresses: &[], ttl: Duration::from_secs(3600) };
    let issued = ca.issue_serving(key.pair(), &request, Timestamp::now(), serial()).unwrap();
    let chain: String = ca.path().iter().map(|certificate| certificate.pem()).collect();
    std::fs::write(&files.certificate, Certificate::from_der(issued.leaf_der()).unwrap().pem() + &chain).unwrap();
    std::fs::write(&files.key, key.to_pem()).unwrap();
    std::fs::write(&files.roots, theirs.root.pem()).unwrap();
}

fn files(folder: &tempfile::TempDir) -> ServingFiles {
    let [certificate, key, roots] = ["tls.crt", "tls.key", "ca.crt"].map(|name| folder.path().join(name));
    ServingFiles { certificate, key, roots }
}

/// Returns whether a client that trusts this authority alone, and speaks these versions, comes to terms with us.
async fn shakes_hands(tls: &TlsIdentity, trusted: &Authority, versions: &[&'static SupportedProtocolVersion]) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.root.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let client = builder.with_root_certificates(roots).with_no_client_auth();
    let (near, far) = tokio::io::duplex(1 << 16);
    let (accepted, connected) = tokio::join!(
        TlsAcceptor::from(tls.config()).accept(far),
        TlsConnector::from(Arc::new(client)).connect(NAME.try_into().unwrap(), near)
    );
    accepted.is_ok() && connected.is_ok()
}

#[tokio::test]
async fn a_certificate_in_files_is_served_and_replaced_with_them() {
    let (ours, theirs, next) = (Authority::new(), Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    write(&theirs, &files);
    let ca = CaHandle::new(ours.load().unwrap());
    let tls = TlsIdentity::new(ca, ServingCertificate::Files(files.clone()), TlsParameters::default(), system_clock()).unwrap();
    let mut roots = tls.roots();
    assert_eq!(**roots.borrow_and_update(), *theirs.root.pem(), "what webhooks and namespaces are given");
    assert!(shakes_hands(&tls, &theirs, rustls::ALL_VERSIONS).await);
    assert!(!shakes_hands(&tls, &ours, rustls::ALL_VERSIONS).await);

    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&tls).keep_fresh(stop.clone()));
    // A key that is not the certificate's: what was good goes on.
    std::fs::write(&files.key, PrivateKey::generate(KeyType::P256).unwrap().to_pem()).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(shakes_hands(&tls, &theirs, rustls::ALL_VERSIONS).await);
    write(&next, &files);
    tokio::time::timeout(Duration::from_secs(20), roots.changed()).await.unwrap().unwrap();
    assert_eq!(**roots.borrow(), *next.root.pem());
    assert!(shakes_hands(&tls, &next, rustls::ALL_VERSIONS).await && !shakes_hands(&tls, &theirs, rustls::ALL_VERSIONS).await);
    stop.cancel();
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_at_the_start() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    let start = || {
        let ca = CaHandle::new(ours.load().unwrap());
        TlsIdentity::new(ca, ServingCertificate::Files(files.clone()), TlsParameters::default(), system_clock()).map(drop)
    };
    assert!(start().unwrap_err().to_string().contains("tls.crt: cannot be read"));
    write(&theirs, &files);
    std::fs::write(&files.roots, "nothing").unwrap();
    assert!(start().unwrap_err().to_string().contains("ca.crt: holds no certificate"));
    write(&theirs, &files);
    std::fs::write(&files.key, PrivateKey::generate(KeyType::P256).unwrap().to_pem()).unwrap();
    start().expect_err("the key of another certificate");
}

#[tokio::test]
async fn versions_and_cipher_suites_can_be_narrowed() {
    let ours = Authority::new();
    let identity = |protocol| {
        let ca = CaHandle::new(ours.load().unwrap());
        let names = ServingCertificate::Ours(ServingNames::istiod("istio-system", None));
        TlsIdentity::new(ca, names, protocol, system_clock()).unwrap()
    };
    let (old, new) = ([&rustls::version::TLS12], [&rustls::version::TLS13]);
    let newest = identity(TlsParameters::default().at_least("TLSv1_3").unwrap());
    assert!(shakes_hands(&newest, &ours, &new).await && !shakes_hands(&newest, &ours, &old).await);
    // Our key is an elliptic one, so suites for RSA leave TLS 1.2 without any.
    let rsa = TlsParameters::default().with_suites(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()]).unwrap();
    let narrow = identity(rsa);
    assert!(shakes_hands(&narrow, &ours, &new).await && !shakes_hands(&narrow, &ours, &old).await);
    assert!(shakes_hands(&identity(TlsParameters::default()), &ours, &old).await);
}
