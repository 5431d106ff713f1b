//! Reading a certificate request (PKCS#10): what of it counts, whoever signs.

use rcgen::{PublicKeyData, SignatureAlgorithm};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
    public_key::PublicKey,
    x509::X509Name,
};

use crate::peer_text::PeerText;

/// The largest request that is read: RSA-8192 with attributes is 3 kB.
const LARGEST_REQUEST: usize = 16 << 10;

/// A request whose signature verifies, with a key that we have signed.
pub(super) struct SigningRequest {
    /// The key that is to be signed.
    pub(super) key: RequestKey,
    /// Whether its subject has a common name.
    pub(super) has_common_name: bool,
    der: Vec<u8>,
}

/// The key of a request.
pub(super) struct RequestKey {
    algorithm: &'static SignatureAlgorithm,
    bits: Vec<u8>,
}

/// Why a request is not signed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SigningRequestError {
    /// Not a PKCS#10 request in PEM, or one whose signature does not verify.
    #[error("certificate request: {0}")]
    Malformed(String),
    /// A kind of key that we do not sign.
    #[error("certificate request: key {0}; supported: RSA of 2048 bits or more, P-256, P-384")]
    KeyType(PeerText),
    /// It asks for more, or for something else, than whoever signs what it says may be handed.
    #[error("certificate request: {0}; the signer takes over what it says, so it may hold the caller's own SPIFFE id and nothing else")]
    Excess(PeerText),
}

// === impl SigningRequest ===

impl SigningRequest {
    /// Reads one PEM block.
    ///
    /// # Errors
    /// When it is no request, its signature does not verify, or its key is of a kind that is not signed.
    pub(super) fn read(text: &str) -> Result<Self, SigningRequestError> {
        let wrong = |reason: &str| SigningRequestError::Malformed(reason.to_owned());
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
        Ok(Self {
            key: RequestKey { algorithm, bits: key.subject_public_key.data.to_vec() },
            has_common_name: has_common_name(&information.subject),
            der: block.contents().to_vec(),
        })
    }

    /// Returns the bits of the key, as certificates hold them.
    pub(super) fn key_bits(&self) -> &[u8] {
        &self.key.bits
    }

    /// Returns the request as PEM, of which nothing is left but the request itself.
    pub(super) fn pem(&self) -> String {
        super::certificate::pem_block("CERTIFICATE REQUEST", &self.der)
    }

    /// Checks that the request asks for this URI and for nothing else: no other name, no subject, extension or attribute.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn asks_only_for(&self, uri: &str) -> Result<(), SigningRequestError> {
        let excess = |what: &str| Err(SigningRequestError::Excess(PeerText::new(what)));
        let Ok((_, request)) = X509CertificationRequest::from_der(&self.der) else { return excess("cannot be read again") };
        let information = &request.certification_request_info;
        if information.subject.iter_attributes().any(|attribute| !attribute.attr_value().data.is_empty()) {
            return excess(&format!("has subject {}", information.subject));
        }
        let [attribute] = information.attributes() else { return excess("has no names, or further attributes") };
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else { return excess("has no names") };
        let [extension] = wanted.extensions.as_slice() else { return excess("has no names, or asks for further extensions") };
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return excess(&format!("asks for extension {}", extension.oid));
        };
        match names.general_names.as_slice() {
            [GeneralName::URI(name)] if *name == uri => Ok(()),
            [GeneralName::URI(name)] => excess(&format!("is for {name}, and the caller is {uri}")),
            _ => excess(&format!("has other names than {uri}")),
        }
    }
}

impl PublicKeyData for RequestKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

fn curve(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<&'static SignatureAlgorithm, SigningRequestError> {
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match curve.map(|oid| oid.to_id_string()).as_deref() {
        Some("1.2.840.10045.3.1.7") => Ok(&rcgen::PKCS_ECDSA_P256_SHA256),
        Some("1.3.132.0.34") => Ok(&rcgen::PKCS_ECDSA_P384_SHA384),
        other => Err(key_type(&format!("on curve {}", other.unwrap_or("unknown")))),
    }
}

/// Says what sort of key it is: the name of an algorithm may be of any length.
fn key_type(what: &str) -> SigningRequestError {
    SigningRequestError::KeyType(PeerText::new(what))
}

fn has_common_name(subject: &X509Name<'_>) -> bool {
    subject.iter_common_name().any(|name| !name.as_slice().is_empty())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};

    use super::*;

    const OWN: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    /// Returns what is said of a request with these parameters.
    fn verdict(change: impl Fn(&mut CertificateParams)) -> Result<(), String> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.subject_alt_names = vec![SanType::URI(OWN.try_into().unwrap())];
        change(&mut parameters);
        let request = parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        SigningRequest::read(&request).unwrap().asks_only_for(OWN).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_for_the_callers_own_name_is_handed_on() {
        assert_eq!(verdict(|_| {}), Ok(()));
        // As Istio's agent writes it: an organization without a name.
        assert_eq!(verdict(|parameters| parameters.distinguished_name.push(DnType::OrganizationName, "")), Ok(()));
    }

    #[test]
    fn whatever_else_a_request_asks_for_is_refused() {
        type Change = fn(&mut CertificateParams);
        let cases: [(&str, Change); 9] = [
            ("other than the caller", |all| {
                all.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/admin".try_into().unwrap())];
            }),
            ("nobody", |all| all.subject_alt_names.clear()),
            ("a second URI", |all| all.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/shop/sa/b".try_into().unwrap()))),
            ("the same URI twice", |all| all.subject_alt_names.push(SanType::URI(OWN.try_into().unwrap()))),
            ("a DNS name", |all| all.subject_alt_names.push(SanType::DnsName("istiod.istio-system.svc".try_into().unwrap()))),
            ("an address", |all| all.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()))),
            ("a subject", |all| all.distinguished_name.push(DnType::CommonName, "system:admin")),
            ("a key usage", |all| all.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            ("an extension", |all| all.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])]),
        ];
        for (what, change) in cases {
            let refusal = verdict(change).expect_err(what);
            assert!(refusal.contains("nothing else"), "{what}: {refusal}");
        }
    }
}
