//! Getting and renewing the workload's certificate. The key is made here and leaves only for the Envoy beside this agent.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use http::Uri;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tokio::sync::{Notify, watch};
use tonic::{Code, Request, metadata::MetadataValue, transport::Endpoint};
use tracing::{info, warn};

use super::{
    certificate::{AnswerError, WorkloadCertificate},
    settings::{CertificatePolicy, ControlPlane, Workload},
    telemetry::Telemetry,
    upstream,
};
use crate::{
    backoff::{Backoff, random_unit},
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};

/// How long one request for a certificate may take: the control plane may have to ask an external signer, and gives that a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(70);
/// How often the control plane is asked meanwhile whether it is still there: as rarely as istiod demands, which takes more for an attack.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest delay after a refusal that does not go away by itself (contract §4.1 lists those that do).
const REFUSED_DELAY: Duration = Duration::from_secs(1);
/// The longest time without a look at the wall clock.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The time over which renewals before their time are spread: many proxies are told at once.
const EARLY_SPREAD: Duration = Duration::from_secs(5);
/// How far renewals are spread around the configured fraction of the lifetime (contract §4.3).
const RENEWAL_JITTER: f64 = 0.01;

/// Keeps one workload's certificate fresh.
#[derive(Clone)]
pub(crate) struct Issuance {
    /// Whose certificate it is.
    pub workload: Workload,
    /// The control plane that issues it.
    pub discovery: ControlPlane,
    /// How long it lives, and when it is renewed.
    pub policy: CertificatePolicy,
    /// Told when it is to be renewed before its time.
    pub renewal: Arc<Notify>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The key or the request could not be made.
    #[error("key or request: {0}")]
    Request(#[from] rcgen::Error),
    /// The control plane cannot be reached, or a file for that is missing.
    #[error("{0}")]
    Upstream(#[from] upstream::Error),
    /// There is no gRPC connection.
    #[error("connection: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The CA refused.
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(#[from] tonic::Status),
    /// A value for a header holds characters that a header cannot.
    #[error("{0} holds characters that a header cannot")]
    Header(&'static str),
    /// The CA's answer is not a certificate for the key that was asked for.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// Returns when to renew a certificate that was received at `now`: after `fraction` of what is left of its life, shifted by up to
/// 1 % of that (`random` is from 0 to 1), so that proxies that started together do not renew together.
pub(crate) fn renewal_time(now: SystemTime, not_after: SystemTime, fraction: f64, random: f64) -> SystemTime {
    let lifetime = not_after.duration_since(now).unwrap_or_default();
    let share = (fraction + RENEWAL_JITTER * (2.0 * random - 1.0)).clamp(0.0, 1.0);
    now + lifetime.mul_f64(share)
}

// === impl Issuance ===

impl Issuance {
    /// Requests a certificate, hands each new one to `current`, and renews it for ever. A certificate that cannot be renewed stays.
    pub(crate) async fn run(self, current: watch::Sender<Option<Arc<WorkloadCertificate>>>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            let held = current.borrow().clone();
            let pause = match self.request(held.clone()).await {
                Ok(certificate) => {
                    backoff.reset();
                    let pause = self.pause_before_renewal(&certificate);
                    self.telemetry.certificate_issued(certificate.not_after());
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
            tokio::select! {
                () = sleep_until(SystemTime::now() + pause) => {}
                () = self.renewal.notified() => tokio::time::sleep(EARLY_SPREAD.mul_f64(random_unit())).await,
            }
        }
    }

    fn pause_before_renewal(&self, certificate: &WorkloadCertificate) -> Duration {
        let now = SystemTime::now();
        let at = renewal_time(now, certificate.not_after(), self.policy.renew_at_fraction, random_unit());
        // A certificate that has all but expired must not turn renewal into a busy loop.
        at.duration_since(now).unwrap_or_default().max(Duration::from_secs(1))
    }

    async fn request(&self, held: Option<Arc<WorkloadCertificate>>) -> Result<WorkloadCertificate, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut request = Request::new(IstioCertificateRequest {
            csr: signing_request(&key, &self.workload.spiffe_id())?,
            validity_duration: i64::try_from(self.policy.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: self.workload.cert_signer().map(named_signer),
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
        Ok(WorkloadCertificate::from_answer(&key, &answer.into_inner().cert_chain)?)
    }

    async fn connect(&self, certificate: Option<&WorkloadCertificate>) -> Result<tonic::transport::Channel, Error> {
        let stream = upstream::dial(&self.discovery, &self.discovery.ca_address, certificate).await?;
        let mut stream = Some(stream);
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::other("the connection is used up")) }
        });
        // The scheme is http because TLS is already spoken below.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.discovery.server_name))?
            .timeout(REQUEST_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}

/// Sleeps by the wall clock, by which certificates expire, so that a suspended machine or a clock that was set delays no renewal.
async fn sleep_until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// Says by whom the certificate is to be signed, as Istio's agents do.
fn named_signer(signer: &str) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(signer.to_owned())) };
    Struct { fields: [("CertSigner".to_owned(), value)].into() }
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
        Error::Refused(status) if !goes_away_by_itself(status.code()) => pause.max(REFUSED_DELAY),
        _ => pause,
    }
}

fn goes_away_by_itself(code: Code) -> bool {
    matches!(code, Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted | Code::Internal | Code::Unavailable)
}

#[cfg(test)]
mod tests {
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
}
