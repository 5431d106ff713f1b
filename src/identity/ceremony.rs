//! Making roots and intermediates, away from the control plane.

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyUsagePurpose};
use time::OffsetDateTime;
use x509_parser::{asn1_rs::Tag, certificate::X509Certificate, prelude::FromDer};

use super::{certificate::Certificate, key::PrivateKey, serial::Serial};

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
