//! A parsed certificate: the facts that issuing, checking and inspecting need.

use std::net::IpAddr;

use jiff::Timestamp;
use pem::PemError;
use rustls_pki_types::CertificateDer;
use smol_str::SmolStr;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, NameConstraints, ParsedExtension},
    prelude::FromDer,
};

use super::cluster_mark;
use crate::mesh::model::SpiffeId;

/// A certificate, with what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    /// The subject's name, as text.
    pub subject: String,
    /// The issuer's name, as text.
    pub issuer: String,
    /// The subject's name as it is encoded, for comparing.
    pub subject_der: Vec<u8>,
    /// The issuer's name as it is encoded.
    pub issuer_der: Vec<u8>,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// The serial number as it is encoded, for comparing.
    pub serial_der: Vec<u8>,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// Whether basic constraints say that it is a CA.
    pub is_ca: bool,
    /// How many CAs may follow below; `None`: any number.
    pub path_length: Option<u32>,
    /// Whether it may sign certificates: key usage says so, or is absent.
    pub signs_certificates: bool,
    /// The public key, as the bits of its SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// `RSA 2048`, `P-256`…
    pub key_type: String,
    /// URI subject alternative names.
    pub uris: Vec<String>,
    /// DNS subject alternative names.
    pub dns_names: Vec<String>,
    /// IP subject alternative names.
    pub addresses: Vec<IpAddr>,
    /// Name constraints, as text; with those on URIs many verifiers refuse every chain.
    pub name_constraints: Option<String>,
    /// The remote cluster whose caller our CA signed it for; `None`: nothing says that it is of another cluster than ours.
    pub remote_cluster: Option<SmolStr>,
}

/// Why a certificate could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// The text is not PEM.
    #[error("is not PEM: {0}; write it as PEM (-----BEGIN CERTIFICATE-----)")]
    Pem(&'static str),
    /// PEM without a certificate in it.
    #[error("holds no certificate; put it in as PEM (-----BEGIN CERTIFICATE-----)")]
    Missing,
    /// A block that is not an X.509 certificate.
    #[error("certificate {number} cannot be read: {reason}; replace it, or take it out")]
    Unreadable {
        /// Counted from 1.
        number: usize,
        /// The parser's reason.
        reason: String,
    },
}

// === impl Certificate ===

impl Certificate {
    /// Reads all certificates of a PEM text, in its order; at least one.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, CertificateError> {
        let blocks = pem::parse_many(text).map_err(|error| CertificateError::Pem(flaw_of_pem(&error)))?;
        let certificates = blocks
            .iter()
            .filter(|block| block.tag() == "CERTIFICATE")
            .enumerate()
            .map(|(index, block)| {
                Self::from_der(block.contents()).map_err(|reason| CertificateError::Unreadable { number: index + 1, reason })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() { Err(CertificateError::Missing) } else { Ok(certificates) }
    }

    /// Reads the certificates of a PEM text one by one: those that can be read, and why others cannot.
    pub fn each_from_pem(text: &str) -> (Vec<Self>, Vec<CertificateError>) {
        let (mut certificates, mut errors) = (Vec::new(), Vec::new());
        for (index, block) in pem_blocks(text).enumerate() {
            let unreadable = |reason: String| CertificateError::Unreadable { number: index + 1, reason };
            match block {
                Ok(block) if block.tag() != "CERTIFICATE" => {}
                Ok(block) => match Self::from_der(block.contents()) {
                    Ok(certificate) => certificates.push(certificate),
                    Err(reason) => errors.push(unreadable(reason)),
                },
                Err(error) => errors.push(unreadable(flaw_of_pem(&error).to_owned())),
            }
        }
        (certificates, errors)
    }

    /// Logs the certificate, in istiod's words.
    pub fn log(&self) {
        let Self { issuer, subject, serial, not_before, not_after, .. } = self;
        tracing::info!(
            "x509 cert - Issuer: {issuer:?}, Subject: {subject:?}, SN: {serial}, NotBefore: \"{not_before}\", NotAfter: \"{not_after}\""
        );
    }

    /// Reads one DER certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let (rest, x509) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".into());
        }
        let mut certificate = Self {
            der: CertificateDer::from(der.to_vec()),
            subject: x509.subject().to_string(),
            issuer: x509.issuer().to_string(),
            subject_der: x509.subject().as_raw().to_vec(),
            issuer_der: x509.issuer().as_raw().to_vec(),
            serial: x509.raw_serial_as_string(),
            serial_der: x509.raw_serial().to_vec(),
            not_before: timestamp(x509.validity().not_before.timestamp())?,
            not_after: timestamp(x509.validity().not_after.timestamp())?,
            is_ca: false,
            path_length: None,
            signs_certificates: true,
            public_key: x509.public_key().subject_public_key.data.to_vec(),
            key_type: key_type(&x509),
            uris: Vec::new(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            name_constraints: None,
            remote_cluster: None,
        };
        for extension in x509.extensions() {
            certificate.remote_cluster = certificate.remote_cluster.or_else(|| cluster_mark::read(&extension.oid, extension.value));
            certificate.read_extension(extension.parsed_extension());
        }
        Ok(certificate)
    }

    fn read_extension(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::BasicConstraints(constraints) => {
                self.is_ca = constraints.ca;
                self.path_length = constraints.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => self.signs_certificates = usage.key_cert_sign(),
            ParsedExtension::NameConstraints(constraints) => self.name_constraints = Some(describe_constraints(constraints)),
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                        GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => self.addresses.extend(address(bytes)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns the certificate itself.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Returns the certificate as PEM, ending in a newline.
    pub fn pem(&self) -> String {
        pem_block("CERTIFICATE", &self.der)
    }

    /// Returns whether `issuer` signed this certificate: the names match, and the signature verifies.
    pub fn is_issued_by(&self, issuer: &Self) -> bool {
        if self.issuer_der != issuer.subject_der {
            return false;
        }
        let (Ok((_, child)), Ok((_, parent))) = (X509Certificate::from_der(&self.der), X509Certificate::from_der(&issuer.der)) else {
            return false;
        };
        child.verify_signature(Some(parent.public_key())).is_ok()
    }

    /// Returns whether it is a root: subject and issuer are the same, and its own key signed it.
    pub fn is_self_signed(&self) -> bool {
        self.is_issued_by(self)
    }

    /// Returns the identity of a workload's certificate, which is not a CA and has exactly one URI, a SPIFFE id.
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        match self.uris.as_slice() {
            [uri] if !self.is_ca => SpiffeId::parse(uri),
            _ => None,
        }
    }
}

/// Parses the blocks of a PEM text, each by itself.
pub(super) fn pem_blocks(text: &str) -> impl Iterator<Item = Result<pem::Pem, pem::PemError>> {
    const BEGIN: &str = "-----BEGIN ";
    text.split(BEGIN).skip(1).map(|block| pem::parse(format!("{BEGIN}{block}")))
}

/// Says what is wrong with a PEM text, and nothing of what is in it: a file in which lines got lost may hold a key anywhere.
pub(super) fn flaw_of_pem(error: &PemError) -> &'static str {
    match error {
        PemError::MismatchedTags(..) => "a BEGIN and its END line differ",
        PemError::InvalidHeader(_) => "what follows a BEGIN line is no header",
        PemError::InvalidData(_) => "what is between BEGIN and END is not base64",
        PemError::NotUtf8(_) => "it is not UTF-8",
        PemError::MissingData => "nothing is between BEGIN and END",
        PemError::MalformedFraming | PemError::MissingBeginTag | PemError::MissingEndTag => "a BEGIN or END line is missing or broken",
    }
}

/// Encodes a PEM block with lines of 64 characters, each ending in a plain newline.
pub(super) fn pem_block(tag: &str, contents: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, contents), config)
}

fn timestamp(seconds: i64) -> Result<Timestamp, String> {
    Timestamp::from_second(seconds).map_err(|error| error.to_string())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn key_type(x509: &X509Certificate<'_>) -> String {
    use x509_parser::public_key::PublicKey;
    match x509.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => match point.key_size() {
            256 => "P-256".into(),
            384 => "P-384".into(),
            bits => format!("EC {bits}"),
        },
        _ => format!("algorithm {}", x509.public_key().algorithm.algorithm),
    }
}

fn describe_constraints(constraints: &NameConstraints<'_>) -> String {
    let list = |label: &str, trees: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
        trees.iter().flatten().map(|tree| format!("{label} {}", tree.base)).collect::<Vec<_>>()
    };
    let mut all = list("permitted", &constraints.permitted_subtrees);
    all.extend(list("excluded", &constraints.excluded_subtrees));
    all.join(", ")
}
