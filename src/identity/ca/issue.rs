//! Issuing certificates: the caller's identity and our policy decide what a certificate says, never the request (contract §4.3).

use std::{net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tonic::Status;

use super::SigningCa;
use crate::{
    identity::{
        certificate::pem_block,
        cluster_mark, is_plain_name,
        serial::{NoRandomness, Serial},
        signing_request::{SigningRequest, SigningRequestError},
    },
    mesh::model::SpiffeId,
};

const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];
/// The longest common name (RFC 5280, ub-common-name).
const LONGEST_COMMON_NAME: usize = 64;

/// How long certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuePolicy {
    /// The lifetime if the request does not say (`DEFAULT_WORKLOAD_CERT_TTL`).
    pub default_ttl: Duration,
    /// The longest lifetime (`MAX_WORKLOAD_CERT_TTL`); more is refused.
    pub max_ttl: Duration,
    /// How far the start of validity lies in the past, for clocks that are behind.
    pub clock_skew: Duration,
}

/// Whose a certificate is.
#[derive(Clone, Copy, Debug)]
pub struct CertificateHolder<'a> {
    /// What it proves.
    pub identity: &'a SpiffeId,
    /// The remote cluster that the holder is in, if it is not in ours.
    pub remote_cluster: Option<&'a str>,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    leaf: CertificateDer<'static>,
    above: Vec<String>,
    /// When it expires.
    pub not_after: Timestamp,
}

/// A request for a certificate of one of our own listeners.
#[derive(Clone, Debug)]
pub struct ServingRequest<'a> {
    /// DNS names, at least one.
    pub dns_names: &'a [String],
    /// Addresses, for clients that connect without a name.
    pub addresses: &'a [IpAddr],
    /// How long it lives; never longer than the CA.
    pub ttl: Duration,
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IssueError {
    /// The request cannot be signed, whoever signs.
    #[error(transparent)]
    Request(#[from] SigningRequestError),
    /// A longer lifetime than the policy allows.
    #[error("requested TTL {requested}s is greater than the max allowed TTL {maximum}s")]
    Ttl {
        /// Seconds asked for.
        requested: i64,
        /// Seconds allowed.
        maximum: u64,
    },
    /// The caller's identity cannot stand in a URI.
    #[error("identity {0} is not a SPIFFE id")]
    Identity(String),
    /// The CA has expired: nothing can be signed any more.
    #[error("the CA's certificate chain expired at {0}")]
    CaExpired(Timestamp),
    /// The crypto library refused.
    #[error("signing failed: {0}")]
    Signing(String),
    /// There is no serial number.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl<'a> From<&'a SpiffeId> for CertificateHolder<'a> {
    /// Describes a holder in our own cluster.
    fn from(identity: &'a SpiffeId) -> Self {
        Self { identity, remote_cluster: None }
    }
}

// === impl IssueError ===

impl IssueError {
    /// Returns the caller's answer.
    pub(in crate::identity) fn status(&self) -> Status {
        match self {
            Self::Request(_) | Self::Ttl { .. } => Status::invalid_argument(self.to_string()),
            Self::Identity(_) => Status::unauthenticated("request authenticate failure"),
            Self::CaExpired(_) | Self::Signing(_) | Self::Randomness(_) => Status::internal(self.to_string()),
        }
    }

    /// Returns istiod's label of `citadel_server_csr_sign_err_count`.
    pub(in crate::identity) fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "csr_error",
            Self::Ttl { .. } => "ttl_error",
            _ => "cert_gen_error",
        }
    }
}

// === impl SigningCa ===

impl SigningCa {
    /// Signs a workload's certificate: the key from the PEM request, everything else from `holder` and `policy`.
    ///
    /// `ttl_seconds` of zero or less means the policy's default.
    pub fn issue<'a>(
        &self,
        request_pem: &str,
        holder: impl Into<CertificateHolder<'a>>,
        ttl_seconds: i64,
        policy: &IssuePolicy,
        now: Timestamp,
        serial: Serial,
    ) -> Result<Issued, IssueError> {
        let CertificateHolder { identity, remote_cluster } = holder.into();
        let ttl = policy.ttl(ttl_seconds)?;
        let uri = identity_uri(identity)?;
        let request = SigningRequest::read(request_pem)?;
        let common_name = request.has_common_name.then_some(uri.as_str()).filter(|uri| uri.len() <= LONGEST_COMMON_NAME);
        let mut parameters = parameters(common_name, serial);
        parameters.key_usages = usages(&request.key);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.custom_extensions = vec![critical_uri_name(&uri)];
        if let Some(cluster) = remote_cluster {
            let mark = cluster_mark::extension(cluster).ok_or_else(|| IssueError::Signing(format!("cluster {cluster} has no name")))?;
            parameters.custom_extensions.push(mark);
        }
        self.sign(parameters, &request.key, ttl, policy.clock_skew, now)
    }

    /// Signs a certificate for a listener of ours (contract §4.6).
    pub fn issue_serving(
        &self,
        key: &impl PublicKeyData,
        request: &ServingRequest<'_>,
        now: Timestamp,
        serial: Serial,
    ) -> Result<Issued, IssueError> {
        let common_name = request.dns_names.first().map(String::as_str).filter(|name| name.len() <= LONGEST_COMMON_NAME);
        let mut parameters = parameters(common_name, serial);
        parameters.key_usages = usages(key);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in request.dns_names {
            let name = name.as_str().try_into().map_err(|_| IssueError::Identity(name.clone()))?;
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        parameters.subject_alt_names.extend(request.addresses.iter().copied().map(SanType::IpAddress));
        self.sign(parameters, key, request.ttl, IssuePolicy::default().clock_skew, now)
    }

    fn sign(
        &self,
        mut parameters: CertificateParams,
        key: &impl PublicKeyData,
        ttl: Duration,
        skew: Duration,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        let end = self.not_after();
        if now >= end {
            return Err(IssueError::CaExpired(end));
        }
        let failed = |error: &dyn std::fmt::Display| IssueError::Signing(error.to_string());
        let shift = |duration: Duration| SignedDuration::try_from(duration).map_err(|error| failed(&error));
        let not_after = now.checked_add(shift(ttl)?).map_err(|error| failed(&error))?.min(end);
        let not_before = now.checked_sub(shift(skew)?).map_err(|error| failed(&error))?;
        parameters.not_before = offset_date_time(not_before)?;
        parameters.not_after = offset_date_time(not_after)?;
        let certificate = parameters.signed_by(key, &self.issuer).map_err(|error| failed(&error))?;
        Ok(Issued { leaf: certificate.der().clone(), above: self.above_leaf.clone(), not_after })
    }
}

// === impl Issued ===

impl Issued {
    /// Returns the chain in the order of Istio's protocol (contract §4.1): the leaf, each intermediate, then the whole root bundle.
    pub fn into_chain(self) -> Vec<String> {
        let mut chain = Vec::with_capacity(1 + self.above.len());
        chain.push(pem_block("CERTIFICATE", &self.leaf));
        chain.extend(self.above);
        chain
    }

    /// Returns the certificate itself.
    pub fn leaf_der(&self) -> &CertificateDer<'static> {
        &self.leaf
    }
}

// === impl IssuePolicy ===

impl Default for IssuePolicy {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self { default_ttl: hours(24), max_ttl: hours(2160), clock_skew: Duration::from_secs(120) }
    }
}

impl IssuePolicy {
    /// Returns how long a certificate lives, of which a request says so many seconds; zero or less: nothing.
    pub(in crate::identity) fn ttl(&self, requested: i64) -> Result<Duration, IssueError> {
        match u64::try_from(requested) {
            Err(_) | Ok(0) => Ok(self.default_ttl),
            Ok(seconds) if seconds > self.max_ttl.as_secs() => Err(IssueError::Ttl { requested, maximum: self.max_ttl.as_secs() }),
            Ok(seconds) => Ok(Duration::from_secs(seconds)),
        }
    }
}

/// Returns the SPIFFE id as it stands in certificates.
pub(in crate::identity) fn identity_uri(caller: &SpiffeId) -> Result<String, IssueError> {
    // A trust domain that is an e-mail address (a Google service account) is written with a dot, as Istio writes it.
    let trust_domain = caller.trust_domain.replace('@', ".");
    if ![trust_domain.as_str(), &caller.namespace, &caller.service_account].into_iter().all(is_plain_name) {
        return Err(IssueError::Identity(caller.to_string()));
    }
    Ok(format!("spiffe://{trust_domain}/ns/{}/sa/{}", caller.namespace, caller.service_account))
}

/// Returns what a key is for. One on a curve encrypts no keys (RFC 8813 §3), which istiod says of it all the same.
fn usages(key: &impl PublicKeyData) -> Vec<KeyUsagePurpose> {
    let encrypts = key.algorithm() == &rcgen::PKCS_RSA_SHA256;
    [KeyUsagePurpose::DigitalSignature].into_iter().chain(encrypts.then_some(KeyUsagePurpose::KeyEncipherment)).collect()
}

fn parameters(common_name: Option<&str>, serial: Serial) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    if let Some(name) = common_name {
        parameters.distinguished_name.push(DnType::CommonName, name);
    }
    parameters.serial_number = Some(serial.number());
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.use_authority_key_identifier_extension = true;
    parameters
}

/// Returns the URI as a critical extension: rcgen marks names critical only beside an empty subject, Istio always does.
fn critical_uri_name(uri: &str) -> CustomExtension {
    let mut name = vec![0x86];
    write_length(&mut name, uri.len());
    name.extend_from_slice(uri.as_bytes());
    let mut names = vec![0x30];
    write_length(&mut names, name.len());
    names.extend_from_slice(&name);
    let mut extension = CustomExtension::from_oid_content(SUBJECT_ALTERNATIVE_NAME, names);
    extension.set_criticality(true);
    extension
}

/// Writes a DER length below 64 KiB; three names of 253 characters are far below.
fn write_length(out: &mut Vec<u8>, length: usize) {
    let [.., high, low] = length.to_be_bytes();
    match length {
        0..=0x7f => out.push(low),
        0x80..=0xff => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
}

fn offset_date_time(moment: Timestamp) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(moment.as_second()).map_err(|error| IssueError::Signing(error.to_string()))
}
