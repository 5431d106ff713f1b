//! The workload's certificate: the key is made here and never leaves but to the Envoy beside it; renewed before it expires.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tokio::sync::watch;
use tonic::{Code, Request, metadata::MetadataValue, transport::Endpoint};
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    settings::{CertificatePolicy, Discovery, Workload},
    telemetry::Telemetry,
    upstream,
};
use crate::{
    backoff::{Backoff, random_unit},
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};

/// How long one request for a certificate may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The first delay after a refusal that time alone may not heal (contract §4.1 lists those that it may).
const REFUSED_DELAY: Duration = Duration::from_secs(1);
/// How long the wall clock goes unlooked at.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How far around the wanted fraction of the lifetime renewals are spread (contract §4.3).
const RENEWAL_JITTER: f64 = 0.01;

/// A key with its certificate. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkloadCertificate {
    chain_pem: String,
    key_pem: String,
    root_pem: String,
    not_after: SystemTime,
}

/// Keeps one workload's certificate fresh.
#[derive(Clone)]
pub struct Issuance {
    /// Whose.
    pub workload: Workload,
    /// Where from.
    pub discovery: Discovery,
    /// How long, and when again.
    pub policy: CertificatePolicy,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key or the request could not be made.
    #[error("key or request: {0}")]
    Request(#[from] rcgen::Error),
    /// The control plane cannot be reached, or a file for that is missing.
    #[error("{0}")]
    Upstream(#[from] upstream::Error),
    /// No gRPC connection.
    #[error("connection: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The CA said no.
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(#[from] tonic::Status),
    /// What must travel in a header holds characters that a header cannot.
    #[error("{0} holds characters that a header cannot")]
    Header(&'static str),
    /// The CA's answer is no certificate for the key that was asked for.
    #[error("unusable answer: {0}")]
    Answer(String),
}

/// When to renew a certificate that was received at `now`: after `fraction` of what is left of its life, moved by up to 1 % of it
/// (`random` from 0 to 1), so that proxies that started together do not renew together.
pub fn renewal_time(now: SystemTime, not_after: SystemTime, fraction: f64, random: f64) -> SystemTime {
    let lifetime = not_after.duration_since(now).unwrap_or_default();
    let share = (fraction + RENEWAL_JITTER * (2.0 * random - 1.0)).clamp(0.0, 1.0);
    now + lifetime.mul_f64(share)
}

// === impl WorkloadCertificate ===

impl WorkloadCertificate {
    /// Leaf and intermediates.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The private key (PKCS#8).
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The root bundle.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The same with another root bundle.
    pub fn trusting(&self, root_pem: String) -> Self {
        Self { root_pem, ..self.clone() }
    }

    /// When the leaf expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Takes the CA's answer for `key`: leaf first, the root bundle last (contract §4.1).
    pub fn from_answer(key: &KeyPair, answer: &[String]) -> Result<Self, Error> {
        let [chain @ .., root] = answer else { return Err(Error::Answer("empty chain".to_owned())) };
        let Some(leaf) = chain.first() else { return Err(Error::Answer("no leaf before the root bundle".to_owned())) };
        let block = pem::parse(leaf).map_err(|error| Error::Answer(format!("leaf: {error}")))?;
        let (_, leaf) = X509Certificate::from_der(block.contents()).map_err(|error| Error::Answer(format!("leaf: {error}")))?;
        if leaf.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Error::Answer("the leaf is for another key".to_owned()));
        }
        let not_after = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        Ok(Self {
            chain_pem: join_pem(chain),
            key_pem: key.serialize_pem(),
            root_pem: join_pem(std::slice::from_ref(root)),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after),
        })
    }
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkloadCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

// === impl Issuance ===

impl Issuance {
    /// Asks for a certificate, hands each new one to `current`, and renews for ever. A certificate that cannot be renewed stays.
    pub async fn run(self, current: watch::Sender<Option<Arc<WorkloadCertificate>>>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            let held = current.borrow().clone();
            let pause = match self.request(held.clone()).await {
                Ok(certificate) => {
                    backoff.reset();
                    let pause = self.pause_before_renewal(&certificate);
                    self.telemetry.certificate_issued(certificate.not_after);
                    info!(id = self.workload.spiffe_id(), renewed = held.is_some(), renew_in = ?pause, "certificate received");
                    current.send_replace(Some(Arc::new(certificate)));
                    pause
                }
                Err(error) => {
                    self.telemetry.certificate_failed();
                    let pause = pause_after(&error, &mut backoff);
                    warn!(id = self.workload.spiffe_id(), held = held.is_some(), again_in = ?pause, "no certificate: {error}");
                    pause
                }
            };
            sleep_until(SystemTime::now() + pause).await;
        }
    }

    fn pause_before_renewal(&self, certificate: &WorkloadCertificate) -> Duration {
        let now = SystemTime::now();
        let at = renewal_time(now, certificate.not_after, self.policy.renew_at_fraction, random_unit());
        // A certificate that is as good as expired must not turn renewal into a busy loop.
        at.duration_since(now).unwrap_or_default().max(Duration::from_secs(1))
    }

    async fn request(&self, held: Option<Arc<WorkloadCertificate>>) -> Result<WorkloadCertificate, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut request = Request::new(IstioCertificateRequest {
            csr: signing_request(&key, &self.workload.spiffe_id())?,
            validity_duration: i64::try_from(self.policy.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        });
        let credential = upstream::credential(&self.discovery, held).await?;
        if let Some(token) = &credential.token {
            let bearer = token.bearer().map_err(|_| Error::Header("the token"))?;
            request
                .metadata_mut()
                .insert("authorization", MetadataValue::try_from(bearer.as_bytes()).map_err(|_| Error::Header("the token"))?);
        }
        let cluster = self.workload.cluster_id.parse().map_err(|_| Error::Header("the cluster id"))?;
        request.metadata_mut().insert("clusterid", cluster);
        request.set_timeout(REQUEST_TIMEOUT);
        let channel = self.connect(credential.certificate.as_deref()).await?;
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        WorkloadCertificate::from_answer(&key, &answer.into_inner().cert_chain)
    }

    async fn connect(&self, certificate: Option<&WorkloadCertificate>) -> Result<tonic::transport::Channel, Error> {
        let stream = upstream::dial(&self.discovery, &self.discovery.ca_address, certificate).await?;
        let mut stream = Some(stream);
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::other("the connection is used up")) }
        });
        // The scheme is http because TLS is already spoken below.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.discovery.server_name))?.timeout(REQUEST_TIMEOUT);
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}

/// Sleeps by the clock that certificates expire by: after a suspension, or when the clock was set, renewal is not late by that.
async fn sleep_until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

fn signing_request(key: &KeyPair, spiffe_id: &str) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into()?)];
    params.serialize_request(key)?.pem()
}

fn pause_after(error: &Error, backoff: &mut Backoff) -> Duration {
    let pause = backoff.next(random_unit());
    match error {
        Error::Refused(status) if !heals_with_time(status.code()) => pause.max(REFUSED_DELAY),
        _ => pause,
    }
}

fn heals_with_time(code: Code) -> bool {
    matches!(code, Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted | Code::Internal | Code::Unavailable)
}

fn join_pem(blocks: &[String]) -> String {
    blocks.iter().map(|block| format!("{}\n", block.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateSigningRequestParams, CertifiedIssuer, IsCa};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_is_spread_around_the_fraction() {
        assert_eq!(renewal_time(at(1000), at(2000), 0.5, 0.5), at(1500));
        assert_eq!(renewal_time(at(1000), at(2000), 0.5, 0.0), at(1490));
        assert_eq!(renewal_time(at(1000), at(2000), 0.5, 1.0), at(1510));
        assert_eq!(renewal_time(at(1000), at(2000), 1.0, 1.0), at(2000), "never after expiry");
        assert_eq!(renewal_time(at(3000), at(2000), 0.5, 0.5), at(3000), "an expired one at once");
    }

    #[test]
    fn refusals_wait_longer_than_outages() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        assert!(pause_after(&Error::Refused(tonic::Status::unavailable("")), &mut backoff) <= Duration::from_millis(100));
        assert_eq!(pause_after(&Error::Refused(tonic::Status::unauthenticated("")), &mut backoff), REFUSED_DELAY);
    }

    fn issuer() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn answer(key: &KeyPair) -> Vec<String> {
        let issuer = issuer();
        let request = CertificateSigningRequestParams::from_pem(&signing_request(key, "spiffe://td/ns/a/sa/b").unwrap()).unwrap();
        vec![request.signed_by(&issuer).unwrap().pem(), issuer.pem()]
    }

    #[test]
    fn an_answer_for_the_key_is_taken_apart() {
        let key = KeyPair::generate().unwrap();
        let answer = answer(&key);
        let certificate = WorkloadCertificate::from_answer(&key, &answer).unwrap();
        assert_eq!(certificate.chain_pem().matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(certificate.root_pem().trim_end(), answer[1].replace("\r\n", "\n").trim_end());
        assert!(certificate.not_after() > SystemTime::now());
    }

    #[test]
    fn other_answers_are_refused() {
        let key = KeyPair::generate().unwrap();
        let answer = answer(&key);
        let refusal = |answer: &[String]| WorkloadCertificate::from_answer(&key, answer).unwrap_err().to_string();
        assert!(refusal(&[]).contains("empty chain"));
        assert!(refusal(&answer[..1]).contains("no leaf"));
        assert!(refusal(&["x".to_owned(), "y".to_owned()]).contains("leaf"));
        let other = KeyPair::generate().unwrap();
        assert!(WorkloadCertificate::from_answer(&other, &answer).unwrap_err().to_string().contains("another key"));
    }

    #[test]
    fn debug_shows_no_key() {
        let key = KeyPair::generate().unwrap();
        let certificate = WorkloadCertificate::from_answer(&key, &answer(&key)).unwrap();
        let shown = format!("{certificate:?}");
        assert!(shown.contains("not_after") && !shown.contains("BEGIN"), "{shown}");
    }
}
