//! Issuing certificates: the caller's identity and our policy decide what a certificate says, never the request (contract §4.3).

use std::{net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer, public_key::PublicKey, x509::X509Name};

use super::SigningCa;
use crate::{
    identity::{
        certificate::pem_block,
        is_plain_name,
        serial::{NoRandomness, Serial},
    },
    mesh::model::SpiffeId,
    peer_text::PeerText,
};

/// The largest request that is read: RSA-8192 with attributes is 3 kB.
const LARGEST_REQUEST: usize = 16 << 10;
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
    /// Not a PKCS#10 request in PEM, or one whose signature does not verify.
    #[error("certificate request: {0}")]
    Request(String),
    /// A kind of key that we do not sign.
    #[error("certificate request: key {0}; supported: RSA of 2048 bits or more, P-256, P-384")]
    KeyType(PeerText),
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

// === impl SigningCa ===

impl SigningCa {
    /// Signs a workload's certificate: the key from the PEM request, everything else from `caller` and `policy`.
    ///
    /// `ttl_seconds` of zero or less means the policy's default.
    pub fn issue(
        &self,
        request_pem: &str,
        caller: &SpiffeId,
        ttl_seconds: i64,
        policy: &IssuePolicy,
        now: Timestamp,
        serial: Serial,
    ) -> Result<Issued, IssueError> {
        let ttl = policy.ttl(ttl_seconds)?;
        let uri = identity_uri(caller)?;
        let request = read_request(request_pem)?;
        let common_name = request.has_common_name.then_some(uri.as_str()).filter(|uri| uri.len() <= LONGEST_COMMON_NAME);
        let mut parameters = parameters(common_name, serial);
        parameters.key_usages = usages(&request.key);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.custom_extensions = vec![critical_uri_name(&uri)];
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
    fn ttl(&self, requested: i64) -> Result<Duration, IssueError> {
        match u64::try_from(requested) {
            Err(_) | Ok(0) => Ok(self.default_ttl),
            Ok(seconds) if seconds > self.max_ttl.as_secs() => Err(IssueError::Ttl { requested, maximum: self.max_ttl.as_secs() }),
            Ok(seconds) => Ok(Duration::from_secs(seconds)),
        }
    }
}

/// What a certificate request decides: the key, and whether there is a common name.
struct SigningRequest {
    key: RequestKey,
    has_common_name: bool,
}

struct RequestKey {
    algorithm: &'static SignatureAlgorithm,
    bits: Vec<u8>,
}

impl PublicKeyData for RequestKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

fn read_request(text: &str) -> Result<SigningRequest, IssueError> {
    let wrong = |reason: &str| IssueError::Request(reason.to_owned());
    if text.len() > LARGEST_REQUEST {
        return Err(wrong("too large"));
    }
    let block = pem::parse(text).map_err(|_| wrong("not one PEM block"))?;
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(wrong("not a PEM block CERTIFICATE REQUEST"));
    }
    let (rest, request) = X509CertificationRequest::from_der(block.contents()).map_err(|_| wrong("not PKCS#10"))?;
    if !rest.is_empty() {
        return Err(wrong("bytes follow the request"));
    }
    let information = &request.certification_request_info;
    let key = &information.subject_pki;
    let algorithm = match key.parsed().map_err(|_| key_type("that cannot be read"))? {
        PublicKey::RSA(key) if key.key_size() >= 2048 => &rcgen::PKCS_RSA_SHA256,
        PublicKey::RSA(key) => return Err(key_type(&format!("RSA of {} bits", key.key_size()))),
        PublicKey::EC(_) => curve(key)?,
        _ => return Err(key_type(&format!("of algorithm {}", key.algorithm.algorithm))),
    };
    request.verify_signature().map_err(|_| wrong("its signature does not verify"))?;
    Ok(SigningRequest {
        key: RequestKey { algorithm, bits: key.subject_public_key.data.to_vec() },
        has_common_name: has_common_name(&information.subject),
    })
}

fn curve(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<&'static SignatureAlgorithm, IssueError> {
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match curve.map(|oid| oid.to_id_string()).as_deref() {
        Some("1.2.840.10045.3.1.7") => Ok(&rcgen::PKCS_ECDSA_P256_SHA256),
        Some("1.3.132.0.34") => Ok(&rcgen::PKCS_ECDSA_P384_SHA384),
        other => Err(key_type(&format!("on curve {}", other.unwrap_or("unknown")))),
    }
}

/// Says what sort of key it is: the name of an algorithm may be of any length.
fn key_type(what: &str) -> IssueError {
    IssueError::KeyType(PeerText::new(what))
}

fn has_common_name(subject: &X509Name<'_>) -> bool {
    subject.iter_common_name().any(|name| !name.as_slice().is_empty())
}

fn identity_uri(caller: &SpiffeId) -> Result<String, IssueError> {
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
