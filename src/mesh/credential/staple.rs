//! OCSP staples (RFC 6960): an issuer's word that a certificate is not revoked, which servers show beside it. One that Envoy refuses
//! would take the certificate with it.

use x509_parser::{
    certificate::X509Certificate,
    der_parser::{
        ber::{BerObject, BerObjectContent},
        der::parse_der,
    },
    oid_registry::asn1_rs::{Oid, oid},
};

/// `id-pe-tlsfeature` (RFC 7633).
const TLS_FEATURE: Oid<'_> = oid!(1.3.6.1.5.5.7.1.24);
/// Its value in a certificate that must not be shown without a staple, as Envoy asks for it: status_request, and nothing else.
const STATUS_REQUEST: [u8; 5] = [0x30, 3, 2, 1, 5];
/// `responseStatus` of a response that says something.
const SUCCESSFUL: u64 = 0;

/// Checks that a response is what Envoy takes for this certificate: good or bad, it is about nothing else. Whether it is still true is
/// for clients to judge: Envoy does not show one that has expired.
///
/// # Errors
/// When it is not: why.
pub(super) fn check(response: &[u8], certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    let serials = serials(response).ok_or("is no OCSP response in DER")?;
    match serials? {
        serials if serials.len() != 1 => Err("is about several certificates, or none"),
        serials if serials[0] != certificate.raw_serial() => Err("is about another certificate"),
        _ => Ok(()),
    }
}

/// Returns whether a certificate must not be shown without a staple.
pub(super) fn is_required(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| extension.oid == TLS_FEATURE && *extension.value == STATUS_REQUEST)
}

type Serials = Vec<Vec<u8>>;

/// Returns the serial numbers of the certificates that a response is about; `None`: it cannot be read.
fn serials(response: &[u8]) -> Option<Result<Serials, &'static str>> {
    let response = whole(response)?;
    let response = response.as_sequence().ok()?;
    let BerObjectContent::Enum(status) = response.first()?.content else { return None };
    if status != SUCCESSFUL {
        return Some(Err("is one in which the issuer says nothing of the certificate"));
    }
    // [0] EXPLICIT ResponseBytes: a type, and a BasicOCSPResponse.
    let bytes = whole(response.get(1)?.as_slice().ok()?)?;
    let basic = whole(bytes.as_sequence().ok()?.get(1)?.as_slice().ok()?)?;
    let data = basic.as_sequence().ok()?.first()?.as_sequence().ok()?;
    // Before the list of responses come a version, by whom and when.
    let singles = data.iter().find_map(|field| field.as_sequence().ok())?;
    let serials = singles.iter().map(|single| {
        let id = single.as_sequence().ok()?.first()?.as_sequence().ok()?;
        Some(id.get(3)?.as_slice().ok()?.to_vec())
    });
    serials.collect::<Option<_>>().map(Ok)
}

/// Reads one value, after which there is nothing more.
fn whole(bytes: &[u8]) -> Option<BerObject<'_>> {
    parse_der(bytes).ok().and_then(|(rest, object)| rest.is_empty().then_some(object))
}
