//! Lists of revoked certificates (`ca-crl.pem`), which every proxy verifies its peers with.
//!
//! An Envoy that has such lists wants one of each CA up to the root, valid now, and refuses every peer without. So a text is checked
//! before anybody is given it: one that is not of use leaves the one before in use.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use super::revocation_error::{LARGEST_TEXT, MOST_LISTS, RevocationError, TAG};
use crate::identity::certificate::{Certificate, flaw_of_pem, pem_block, pem_blocks};

/// Extensions of lists that are not of all that a CA has revoked: those of a part, and of changes since another list.
const PARTIAL: [&str; 2] = ["2.5.29.28", "2.5.29.27"];

/// Lists that were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationLists {
    lists: Vec<RevocationList>,
    pem: Arc<str>,
}

/// One CA's list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RevocationList {
    der: Vec<u8>,
    issuer_der: Vec<u8>,
    /// Which key of that name signed it: CAs that replace each other may have one name.
    authority_key: Option<Vec<u8>>,
    serials: Vec<Vec<u8>>,
    /// When it was made.
    this_update: Timestamp,
    /// When it stops being valid; `None`: never.
    next_update: Option<Timestamp>,
}

/// Takes the lists of one CA out of a text: returns the PEM of the others, and the numbers that the list revokes.
///
/// # Errors
/// When the text has something else in it.
pub fn split_lists(text: &str, ca: &Certificate) -> Result<(String, BTreeSet<Vec<u8>>), RevocationError> {
    let (mut others, mut serials) = (String::new(), BTreeSet::new());
    for (index, block) in pem_blocks(text).enumerate() {
        let unreadable = |reason: String| RevocationError::Unreadable { number: index + 1, reason };
        let block = block.map_err(|error| unreadable(flaw_of_pem(&error).to_owned()))?;
        let (_, list) = CertificateRevocationList::from_der(block.contents()).map_err(|error| unreadable(error.to_string()))?;
        match is_signed_by(&list, ca) {
            true => serials.extend(list.iter_revoked_certificates().map(|entry| without_zeros(entry.raw_serial()).to_vec())),
            false => others += &pem_block(TAG, block.contents()),
        }
    }
    Ok((others, serials))
}

// === impl RevocationLists ===

impl RevocationLists {
    /// Reads lists that cover each of `cas`, the certificates from the signing one up to the root.
    ///
    /// # Errors
    /// When proxies that were given them would refuse them, or peers that are not revoked.
    pub fn read(text: &str, cas: &[&Certificate], now: Timestamp) -> Result<Self, RevocationError> {
        if text.len() > LARGEST_TEXT {
            return Err(RevocationError::TooLarge(text.len()));
        }
        let mut lists = Vec::new();
        for (index, block) in pem_blocks(text).enumerate() {
            let unreadable = |reason: String| RevocationError::Unreadable { number: index + 1, reason };
            let block = block.map_err(|error| unreadable(flaw_of_pem(&error).to_owned()))?;
            if block.tag() != TAG {
                return Err(unreadable("it is another block".to_owned()));
            }
            lists.push(RevocationList::read(block.contents(), index + 1, now)?);
        }
        match lists.len() {
            0 => return Err(RevocationError::Missing),
            1..=MOST_LISTS => {}
            more => return Err(RevocationError::TooMany(more)),
        }
        let lists = Self::of(lists);
        lists.cover(cas)?;
        lists.serve(cas)?;
        Ok(lists)
    }

    /// Checks that our own ports can verify by them.
    fn serve(&self, cas: &[&Certificate]) -> Result<(), RevocationError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(cas.iter().map(|ca| ca.der().clone()));
        let provider = rustls::crypto::aws_lc_rs::default_provider().into();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).with_crls(self.der()).build();
        verifier.map(drop).map_err(|error| RevocationError::Unsupported(error.to_string()))
    }

    /// Returns the lists that are in use when these come; with none, those of before stay.
    pub(super) fn joined(new: Option<Arc<Self>>, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        match (new, before) {
            (Some(new), Some(before)) => Some(Arc::new(new.with_those_of_before(before))),
            (new, before) => new.or_else(|| before.cloned()),
        }
    }

    /// Checks that each of these CAs has a list.
    pub(super) fn cover(&self, cas: &[&Certificate]) -> Result<(), RevocationError> {
        match cas.iter().find(|ca| !self.lists.iter().any(|list| list.is_of(ca))) {
            Some(ca) => Err(RevocationError::NotCovered { issuer: ca.subject.clone() }),
            None => Ok(()),
        }
    }

    /// Adds the lists before of CAs that have none here: certificates of an intermediate that was replaced are still in use, and are
    /// refused without its list. One that ended before these were made is of no use to anybody.
    fn with_those_of_before(&self, before: &Self) -> Self {
        let has = |old: &RevocationList| {
            self.lists.iter().any(|new| (&new.issuer_der, &new.authority_key) == (&old.issuer_der, &old.authority_key))
        };
        let made = self.lists.iter().map(|list| list.this_update).max();
        let valid = |list: &&RevocationList| list.next_update.is_none_or(|end| made.is_none_or(|made| end > made));
        let kept = before.lists.iter().filter(|list| !has(list)).filter(valid);
        let mut lists: Vec<RevocationList> = self.lists.iter().chain(kept).cloned().collect();
        lists.truncate(MOST_LISTS);
        Self::of(lists)
    }

    fn of(lists: Vec<RevocationList>) -> Self {
        let pem: String = lists.iter().map(|list| pem_block(TAG, &list.der)).collect();
        Self { lists, pem: pem.into() }
    }

    /// Returns all lists as PEM.
    pub fn pem(&self) -> &Arc<str> {
        &self.pem
    }

    /// Returns each list, for a verifier.
    pub fn der(&self) -> impl Iterator<Item = CertificateRevocationListDer<'static>> {
        self.lists.iter().map(|list| list.der.clone().into())
    }

    /// Returns whether the certificate with this number of this issuer is revoked.
    pub fn revokes(&self, issuer_der: &[u8], serial: &[u8]) -> bool {
        let serial = without_zeros(serial);
        self.lists
            .iter()
            .any(|list| list.issuer_der == issuer_der && list.serials.binary_search_by(|one| one.as_slice().cmp(serial)).is_ok())
    }

    /// Returns when the first of the lists stops being valid, from when on proxies refuse every peer; `None`: never.
    pub fn not_after(&self) -> Option<Timestamp> {
        self.lists.iter().filter_map(|list| list.next_update).min()
    }

    /// Returns how many certificates are revoked.
    pub fn count(&self) -> usize {
        self.lists.iter().map(|list| list.serials.len()).sum()
    }
}

// === impl RevocationList ===

impl RevocationList {
    /// Reads one list. Whose it is does not matter yet: those of a mesh that we trust, and of intermediates that are gone, stand beside.
    fn read(der: &[u8], number: usize, now: Timestamp) -> Result<Self, RevocationError> {
        let unreadable = |reason: String| RevocationError::Unreadable { number, reason };
        let (rest, list) = CertificateRevocationList::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow it".into()));
        }
        if list.extensions().iter().any(|extension| PARTIAL.contains(&extension.oid.to_id_string().as_str())) {
            return Err(RevocationError::Unsupported(format!("list {number} is of a part, or of changes alone")));
        }
        let moment = |seconds| Timestamp::from_second(seconds).map_err(|error| unreadable(error.to_string()));
        let issuer = list.issuer().to_string();
        let from = moment(list.last_update().timestamp())?;
        let next_update = list.next_update().map(|end| moment(end.timestamp())).transpose()?;
        let to = next_update.unwrap_or(Timestamp::MAX);
        if now < from || now >= to {
            return Err(RevocationError::NotValid { issuer, from, to });
        }
        let mut serials: Vec<Vec<u8>> = list.iter_revoked_certificates().map(|entry| without_zeros(entry.raw_serial()).to_vec()).collect();
        serials.sort_unstable();
        let (issuer_der, authority_key) = (list.issuer().as_raw().to_vec(), authority_key(&list));
        Ok(Self { der: der.to_vec(), issuer_der, authority_key, serials, this_update: from, next_update })
    }

    /// Returns whether it is this CA's.
    fn is_of(&self, ca: &Certificate) -> bool {
        CertificateRevocationList::from_der(&self.der).is_ok_and(|(_, list)| is_signed_by(&list, ca))
    }
}

fn authority_key(list: &CertificateRevocationList<'_>) -> Option<Vec<u8>> {
    list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    })
}

fn is_signed_by(list: &CertificateRevocationList<'_>, signer: &Certificate) -> bool {
    if signer.subject_der != list.issuer().as_raw() {
        return false;
    }
    let Ok((_, signer)) = X509Certificate::from_der(signer.der()) else { return false };
    let may_sign = signer.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()));
    may_sign && list.verify_signature(signer.public_key()).is_ok()
}

/// Returns a number without the zero that keeps it positive.
fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use rcgen::{
        CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, Issuer, KeyIdMethod, KeyPair,
        RevokedCertParams, SerialNumber,
    };
    use time::OffsetDateTime;

    use super::*;
    use crate::identity::{
        ca::Serial,
        ceremony::{CaRequest, CaSubject, intermediate_certificate, root_certificate},
        key::{KeyType, PrivateKey},
    };

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    /// A root, an intermediate below it, and their keys.
    struct Cas {
        root: (Certificate, PrivateKey),
        intermediate: (Certificate, PrivateKey),
        now: Timestamp,
    }

    impl Cas {
        fn new(name: &str) -> Self {
            let now = Timestamp::now();
            let key = || PrivateKey::generate(KeyType::P256).unwrap();
            let make = |key: &PrivateKey, name: String, root: Option<&(Certificate, PrivateKey)>| {
                let subject = CaSubject { organization: "test".into(), common_name: name };
                let request = CaRequest {
                    key,
                    subject: &subject,
                    days: if root.is_some() { 20 } else { 30 },
                    now,
                    serial: Serial::random().unwrap(),
                };
                match root {
                    None => root_certificate(&request).unwrap(),
                    Some((root, root_key)) => {
                        intermediate_certificate(&request, 0, root, PrivateKey::from_pem(&root_key.to_pem()).unwrap()).unwrap()
                    }
                }
            };
            let (root_key, intermediate_key) = (key(), key());
            let root = (make(&root_key, format!("root {name}"), None), root_key);
            let intermediate = (make(&intermediate_key, format!("intermediate {name}"), Some(&root)), intermediate_key);
            Self { root, intermediate, now }
        }

        fn cas(&self) -> [&Certificate; 2] {
            [&self.intermediate.0, &self.root.0]
        }

        fn both(&self, revoked: &[u8]) -> String {
            list(&self.intermediate, revoked, self.now - HOUR, self.now + HOUR) + &list(&self.root, &[], self.now - HOUR, self.now + HOUR)
        }

        fn read(&self, text: &str) -> Result<RevocationLists, RevocationError> {
            RevocationLists::read(text, &self.cas(), self.now)
        }
    }

    fn list(ca: &(Certificate, PrivateKey), revoked: &[u8], from: Timestamp, to: Timestamp) -> String {
        list_of(ca, revoked, from, to, None)
    }

    /// Returns a list of a part of all certificates, if `part` says of which.
    fn list_of(
        (ca, key): &(Certificate, PrivateKey),
        revoked: &[u8],
        from: Timestamp,
        to: Timestamp,
        part: Option<CrlIssuingDistributionPoint>,
    ) -> String {
        let moment = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap();
        let entry = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: moment(from),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: moment(from),
            next_update: moment(to),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: part,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_ca_cert_der(ca.der(), KeyPair::from_pem(&key.to_pem()).unwrap()).unwrap();
        params.signed_by(&issuer).unwrap().pem().unwrap()
    }

    #[test]
    fn what_is_listed_is_revoked_of_that_issuer_alone() {
        let cas = Cas::new("a");
        let lists = cas.read(&cas.both(&[0x05, 0xf0])).unwrap();
        let (intermediate, root) = (&cas.intermediate.0.subject_der, &cas.root.0.subject_der);
        assert!(lists.revokes(intermediate, &[0x05]) && lists.revokes(intermediate, &[0, 0xf0]), "with and without the sign's zero");
        assert!(!lists.revokes(intermediate, &[0x06]) && !lists.revokes(root, &[0x05]));
        assert_eq!((lists.count(), lists.der().count()), (2, 2));
        assert_eq!(lists.not_after().map(|end| end.as_second()), Some((cas.now + HOUR).as_second()));
    }

    #[test]
    fn lists_with_which_proxies_would_refuse_everybody_are_refused() {
        let (cas, other, now) = (Cas::new("a"), Cas::new("a"), Timestamp::now());
        let of_root = list(&cas.root, &[], now - HOUR, now + HOUR);
        let old = list(&cas.intermediate, &[], now - HOUR * 2, now - HOUR);
        let early = list(&cas.intermediate, &[], now + HOUR, now + HOUR * 2);
        let forged = list(&other.intermediate, &[], now - HOUR, now + HOUR);
        let cut = cas.both(&[1]).replace("-----END X509 CRL-----", "");
        let point = CrlDistributionPoint { uris: vec!["http://example.com/part".into()] };
        let part = Some(CrlIssuingDistributionPoint { distribution_point: point, scope: Some(CrlScope::CaCertsOnly) });
        let part = list_of(&cas.intermediate, &[], now - HOUR, now + HOUR, part);
        for (text, why) in [
            (String::new(), "holds no list"),
            ("hello".into(), "holds no list"),
            (cas.root.0.pem(), "list 1 cannot be read: it is another block"),
            (of_root.clone(), "no list of O=test, CN=intermediate a"),
            (of_root.clone() + &old, "and not now"),
            (of_root.clone() + &early, "and not now"),
            (of_root.clone() + &part, "list 2 is of a part"),
            (of_root.clone() + &forged, "no list of O=test, CN=intermediate a"),
            (of_root.repeat(17), "has 17 lists"),
            (" ".repeat(LARGEST_TEXT + 1), "more than the"),
            (cut, "cannot be read"),
        ] {
            let error = cas.read(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{error:?} does not say {why:?}");
        }
    }

    #[test]
    fn the_list_of_an_intermediate_that_was_replaced_stays_until_it_ends() {
        // Their names are the same, as `ca intermediate` gives them.
        let (before, now) = (Cas::new("a"), Cas::new("a"));
        let (old, new) = (before.read(&before.both(&[1])).unwrap(), now.read(&now.both(&[2])).unwrap());
        let joined = new.with_those_of_before(&old);
        assert!(joined.cover(&before.cas()).is_ok() && joined.cover(&now.cas()).is_ok());
        assert!(joined.revokes(&before.intermediate.0.subject_der, &[1]) && joined.revokes(&now.intermediate.0.subject_der, &[2]));
        let later = list(&now.intermediate, &[2], now.now + HOUR * 2, now.now + HOUR * 3)
            + &list(&now.root, &[], now.now - HOUR, now.now + HOUR * 3);
        let later = RevocationLists::read(&later, &now.cas(), now.now + HOUR * 2).unwrap();
        assert_eq!(later.with_those_of_before(&old), later);
        let changed = now.read(&now.both(&[])).unwrap();
        assert!(!changed.with_those_of_before(&new).revokes(&now.intermediate.0.subject_der, &[2]), "a newer list replaces its own");
    }
}
