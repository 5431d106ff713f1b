//! Making roots and intermediates, away from the control plane.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::{asn1_rs::Tag, certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer};

use super::{
    certificate::{Certificate, pem_block},
    key::PrivateKey,
    serial::Serial,
};

/// What a CA certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSubject {
    /// `O`
    pub organization: String,
    /// `CN`; empty: none.
    pub common_name: String,
}

/// A CA certificate to make.
#[derive(Clone, Copy, Debug)]
pub struct CaRequest<'a> {
    /// The key that it is for.
    pub key: &'a PrivateKey,
    /// What it says about itself.
    pub subject: &'a CaSubject,
    /// How many days it is valid.
    pub days: u32,
    /// The start of its validity.
    pub now: Timestamp,
    /// Its serial number.
    pub serial: Serial,
}

/// Why a CA certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CeremonyError {
    /// The parent is not a CA, may not sign, or allows no CA below itself.
    #[error("{subject}: cannot sign an intermediate: {why}")]
    Parent {
        /// The parent's subject.
        subject: String,
        /// Why.
        why: String,
    },
    /// The intermediate would outlive its root.
    #[error("the intermediate would expire at {wanted}, after its root {subject} at {root}; choose fewer --days")]
    Outlives {
        /// The root's subject.
        subject: String,
        /// The root's end.
        root: Timestamp,
        /// The end asked for.
        wanted: Timestamp,
    },
    /// The days reach beyond the calendar.
    #[error("validity: {0}")]
    Validity(String),
    /// The crypto library refused.
    #[error("signing failed: {0}")]
    Signing(#[from] rcgen::Error),
}

/// Makes a self-signed root, without name constraints (verifiers refuse SPIFFE chains under URI constraints).
///
/// # Errors
/// When the validity is beyond the calendar, or the crypto library refuses.
pub fn root_certificate(request: &CaRequest<'_>) -> Result<Certificate, CeremonyError> {
    let parameters = ca_parameters(request, BasicConstraints::Unconstrained, end_after(request.now, request.days)?)?;
    read_back(parameters.self_signed(request.key.pair())?.der())
}

/// Makes the list of certificates that `ca` has revoked, as PEM: those of these serial numbers. It is valid for some days.
///
/// # Errors
/// When the key is not the CA's, the validity is beyond the calendar, or the crypto library refuses.
pub fn revocation_list(
    ca: &Certificate,
    key: PrivateKey,
    serials: &BTreeSet<Vec<u8>>,
    days: u32,
    now: Timestamp,
) -> Result<String, CeremonyError> {
    if ca.public_key != key.public_key() {
        return Err(CeremonyError::Parent { subject: ca.subject.clone(), why: "the key is not its own".to_owned() });
    }
    let at = moment(now)?;
    let entry = |serial: &Vec<u8>| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: at,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: at,
        next_update: moment(end_after(now, days)?)?,
        // A later list has a larger number.
        crl_number: SerialNumber::from(u64::try_from(now.as_millisecond()).unwrap_or_default()),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(entry).collect(),
        key_identifier_method: key_identifier(ca),
    };
    let issuer = Issuer::from_ca_cert_der(ca.der(), key.into_pair())?;
    Ok(pem_block("X509 CRL", list.signed_by(&issuer)?.der()))
}

/// Returns the identifier of a CA's key as its certificate has it: verifiers find a list by that.
fn key_identifier(ca: &Certificate) -> KeyIdMethod {
    let parsed = X509Certificate::from_der(ca.der());
    let found = parsed.iter().flat_map(|(_, x509)| x509.extensions()).find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(KeyIdMethod::PreSpecified(key.0.to_vec())),
        _ => None,
    });
    found.unwrap_or(KeyIdMethod::Sha256)
}

/// Makes the same root again, with its name and key: whoever trusts the old certificate trusts what the new one signs.
pub fn renewed_root(root: &Certificate, key: &PrivateKey, days: u32, now: Timestamp, serial: Serial) -> Result<Certificate, CeremonyError> {
    if !root.is_self_signed() || root.public_key != key.public_key() {
        let why = "it is not self-signed by this key".to_owned();
        return Err(CeremonyError::Parent { subject: root.subject.clone(), why });
    }
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name_of(root)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.serial_number = Some(serial.number());
    parameters.not_before = moment(now)?;
    parameters.not_after = moment(end_after(now, days)?)?;
    let renewed = read_back(parameters.self_signed(key.pair())?.der())?;
    if renewed.subject_der != root.subject_der {
        let why = "its name cannot be written again as it is".to_owned();
        return Err(CeremonyError::Parent { subject: root.subject.clone(), why });
    }
    Ok(renewed)
}

/// Makes an intermediate that `root` signs. `path_length`: how many CAs may follow below it.
///
/// # Errors
/// When the root may not sign it, or would expire before it.
pub fn intermediate_certificate(
    request: &CaRequest<'_>,
    path_length: u8,
    root: &Certificate,
    root_key: PrivateKey,
) -> Result<Certificate, CeremonyError> {
    check_parent(root, &root_key, path_length, request.now)?;
    let end = end_after(request.now, request.days)?;
    if end > root.not_after {
        return Err(CeremonyError::Outlives { subject: root.subject.clone(), root: root.not_after, wanted: end });
    }
    let mut parameters = ca_parameters(request, BasicConstraints::Constrained(path_length), end)?;
    parameters.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(root.der(), root_key.into_pair())?;
    read_back(parameters.signed_by(request.key.pair(), &issuer)?.der())
}

fn check_parent(root: &Certificate, key: &PrivateKey, path_length: u8, now: Timestamp) -> Result<(), CeremonyError> {
    let why = if root.public_key != key.public_key() {
        "the key is not that of the certificate".to_owned()
    } else if !root.is_ca || !root.signs_certificates {
        "it is not a CA certificate".to_owned()
    } else if now > root.not_after || now < root.not_before {
        format!("it is valid from {} to {} only", root.not_before, root.not_after)
    } else if root.path_length.is_some_and(|allowed| allowed <= u32::from(path_length)) {
        format!("its path length {} does not allow it", root.path_length.unwrap_or_default())
    } else {
        return Ok(());
    };
    Err(CeremonyError::Parent { subject: root.subject.clone(), why })
}

/// Returns the subject with the same attributes in the same kinds of strings: a name with another encoding is another name.
fn name_of(root: &Certificate) -> Result<DistinguishedName, CeremonyError> {
    let unreadable = || CeremonyError::Signing(rcgen::Error::CouldNotParseCertificate);
    let (_, x509) = X509Certificate::from_der(root.der()).map_err(|_| unreadable())?;
    let mut name = DistinguishedName::new();
    for attribute in x509.subject().iter_attributes() {
        let text = attribute.as_str().map_err(|_| unreadable())?;
        let value = match attribute.attr_value().tag() {
            Tag::PrintableString => DnValue::PrintableString(text.try_into()?),
            _ => DnValue::Utf8String(text.into()),
        };
        let oid: Vec<u64> = attribute.attr_type().iter().ok_or_else(unreadable)?.collect();
        name.push(DnType::from_oid(&oid), value);
    }
    Ok(name)
}

fn ca_parameters(request: &CaRequest<'_>, constraints: BasicConstraints, end: Timestamp) -> Result<CertificateParams, CeremonyError> {
    let subject = request.subject;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, subject.organization.as_str());
    if !subject.common_name.is_empty() {
        parameters.distinguished_name.push(DnType::CommonName, subject.common_name.as_str());
    }
    parameters.is_ca = IsCa::Ca(constraints);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.serial_number = Some(request.serial.number());
    parameters.not_before = moment(request.now)?;
    parameters.not_after = moment(end)?;
    Ok(parameters)
}

fn end_after(now: Timestamp, days: u32) -> Result<Timestamp, CeremonyError> {
    now.checked_add(SignedDuration::from_hours(i64::from(days) * 24)).map_err(|error| CeremonyError::Validity(error.to_string()))
}

fn moment(time: Timestamp) -> Result<OffsetDateTime, CeremonyError> {
    OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|error| CeremonyError::Validity(error.to_string()))
}

fn read_back(der: &[u8]) -> Result<Certificate, CeremonyError> {
    Certificate::from_der(der).map_err(|_| CeremonyError::Signing(rcgen::Error::CouldNotParseCertificate))
}
