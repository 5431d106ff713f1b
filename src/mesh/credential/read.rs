//! Reads a Secret as a credential, as istiod reads it, and holds it against what Envoy asks of one.

use std::sync::Arc;

use pem::Pem;
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use smol_str::SmolStr;
use x509_parser::{
    certificate::X509Certificate,
    prelude::{CertificateRevocationList, FromDer},
    public_key::PublicKey,
};

use super::{Credential, KeyPair, Roots, Validity};
use crate::api::{confidential::Confidential, kubernetes::Secret};

/// The shortest RSA key that Envoy takes, in bits.
const LEAST_RSA: usize = 2048;

/// The keys of the entries in Istio's own form, and in that of `kubernetes.io/tls`. The former goes first.
const FORMS: [Form; 2] = [
    Form { certificate: "cert", key: "key", roots: "cacert", crl: "crl", staple: None },
    Form { certificate: "tls.crt", key: "tls.key", roots: "ca.crt", crl: "ca.crl", staple: Some("tls.ocsp-staple") },
];

struct Form {
    certificate: &'static str,
    key: &'static str,
    roots: &'static str,
    crl: &'static str,
    staple: Option<&'static str>,
}

/// Reads both parts.
pub(in crate::mesh) fn credential(secret: &Secret) -> Credential {
    Credential { key_pair: key_pair(secret).map(Arc::new), roots: roots(secret).map(Arc::new) }
}

fn key_pair(secret: &Secret) -> Result<KeyPair, SmolStr> {
    for form in &FORMS {
        let (Some(certificates), Some(key)) = (filled(secret, form.certificate), filled(secret, form.key)) else { continue };
        let validity = checked_pair(certificates, key).map_err(|why| naming(form.certificate, form.key, &why))?;
        let ocsp_staple = form.staple.and_then(|staple| filled(secret, staple)).cloned();
        return Ok(KeyPair { certificates: certificates.clone(), key: key.clone(), ocsp_staple, validity });
    }
    let [istio, kubernetes] = &FORMS;
    Err(SmolStr::from(format!("has neither {} and {} nor {} and {}", kubernetes.certificate, kubernetes.key, istio.certificate, istio.key)))
}

fn roots(secret: &Secret) -> Result<Roots, SmolStr> {
    for form in &FORMS {
        let Some(certificates) = filled(secret, form.roots) else { continue };
        let all = certificates_of(certificates).map_err(|why| naming_one(form.roots, &why))?;
        let validity = validity_of(all.first().map(Vec::as_slice).unwrap_or_default()).map_err(|why| naming_one(form.roots, &why))?;
        let crl = secret.entry(form.crl);
        if let Some(crl) = crl {
            check_crl(crl).map_err(|why| naming_one(form.crl, &why))?;
        }
        return Ok(Roots { certificates: certificates.clone(), crl: crl.cloned(), validity });
    }
    let [istio, kubernetes] = &FORMS;
    Err(SmolStr::from(format!("has neither {} nor {}", kubernetes.roots, istio.roots)))
}

fn filled<'a>(secret: &'a Secret, key: &str) -> Option<&'a Confidential> {
    secret.entry(key).filter(|entry| !entry.reveal().is_empty())
}

fn naming(one: &str, other: &str, why: &str) -> SmolStr {
    SmolStr::from(format!("{one} and {other}: {why}"))
}

fn naming_one(entry: &str, why: &str) -> SmolStr {
    SmolStr::from(format!("{entry}: {why}"))
}

// What is wrong is told without anything of the key's text.
fn checked_pair(certificates: &Confidential, key: &Confidential) -> Result<Validity, String> {
    let chain = certificates_of(certificates)?;
    let mut validity = Validity { not_before: i64::MIN, not_after: i64::MAX };
    for certificate in &chain {
        validity = validity.both(validity_of(certificate)?);
    }
    if let Some(first) = chain.first() {
        check_strength(first)?;
    }
    let key = PrivateKeyDer::from_pem_slice(key.reveal()).map_err(|_| "the key is no private key in PEM without a passphrase")?;
    let signing = any_supported_type(&key).map_err(|_| "the key is of no kind that can be used: RSA of 2048 bits or more, P-256, P-384")?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    CertifiedKey::new(chain, signing).keys_match().map_err(|_| "the key is not that of the first certificate")?;
    Ok(validity)
}

/// Returns the certificates of a PEM text, of which there is at least one.
fn certificates_of(entry: &Confidential) -> Result<Vec<Vec<u8>>, String> {
    let found = blocks(entry, &["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"])?;
    if found.is_empty() { Err("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".into()) } else { Ok(found) }
}

fn blocks(entry: &Confidential, tags: &[&str]) -> Result<Vec<Vec<u8>>, String> {
    let found: Vec<Pem> = pem::parse_many(entry.reveal()).map_err(|_| "is not PEM")?;
    Ok(found.into_iter().filter(|block| tags.contains(&block.tag())).map(Pem::into_contents).collect())
}

fn validity_of(certificate: &[u8]) -> Result<Validity, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| "a certificate cannot be read")?;
    let validity = certificate.validity();
    Ok(Validity { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
}

fn check_strength(certificate: &[u8]) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| "a certificate cannot be read")?;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < LEAST_RSA => {
            Err(format!("the key has {} bits: Envoy takes RSA keys of {LEAST_RSA} bits or more", key.key_size()))
        }
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) => Ok(()),
        _ => Err("the key is neither RSA nor ECDSA, and Envoy takes no other".into()),
    }
}

fn check_crl(entry: &Confidential) -> Result<(), String> {
    let lists = blocks(entry, &["X509 CRL"])?;
    if lists.is_empty() {
        return Err("holds no list of revoked certificates in PEM (-----BEGIN X509 CRL-----)".into());
    }
    let readable = |list: &Vec<u8>| CertificateRevocationList::from_der(list).is_ok();
    if lists.iter().all(readable) { Ok(()) } else { Err("a list of revoked certificates cannot be read".into()) }
}

#[cfg(test)]
pub(in crate::mesh) mod tests {
    use rcgen::{CertificateParams, KeyPair as Key};

    use super::*;

    fn secret(entries: &[(&'static str, &str)]) -> Secret {
        Secret { entries: entries.iter().map(|(key, text)| (*key, Confidential::from(text.as_bytes().to_vec()))).collect() }
    }

    fn pair() -> (String, String) {
        let key = Key::generate().unwrap();
        let mut params = CertificateParams::new(["till.example.com".to_owned()]).unwrap();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(1_000).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(2_000_000_000).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn both_forms_are_read_and_istios_own_goes_first() {
        let ((one, one_key), (other, other_key)) = (pair(), pair());
        let both = secret(&[("tls.crt", &one), ("tls.key", &one_key), ("cert", &other), ("key", &other_key), ("ca.crt", &one)]);
        let read = credential(&both);
        let pair = read.key_pair.unwrap();
        assert_eq!((pair.certificates.reveal(), pair.validity.not_before), (other.as_bytes(), 1_000));
        assert_eq!(read.roots.unwrap().certificates.reveal(), one.as_bytes());
        let staple = secret(&[("tls.crt", &one), ("tls.key", &one_key), ("tls.ocsp-staple", "x")]);
        assert_eq!(credential(&staple).key_pair.unwrap().ocsp_staple.as_ref().map(Confidential::reveal), Some(&b"x"[..]));
    }

    #[test]
    fn what_cannot_be_used_says_why_and_nothing_of_the_key() {
        let ((one, one_key), (_, other_key)) = (pair(), pair());
        let why = |entries: &[(&'static str, &str)]| credential(&secret(entries)).key_pair.unwrap_err().to_string();
        assert_eq!(why(&[]), "has neither tls.crt and tls.key nor cert and key");
        assert_eq!(why(&[("tls.crt", &one), ("tls.key", "")]), "has neither tls.crt and tls.key nor cert and key");
        assert_eq!(why(&[("tls.crt", &one), ("tls.key", &other_key)]), "tls.crt and tls.key: the key is not that of the first certificate");
        assert!(why(&[("cert", "hunter2"), ("key", &one_key)]).starts_with("cert and key: holds no certificate in PEM"));
        let broken = one_key.replace("PRIVATE KEY", "PRIVATE LOCK");
        let told = why(&[("tls.crt", &one), ("tls.key", &broken)]);
        assert_eq!(told, "tls.crt and tls.key: the key is no private key in PEM without a passphrase");
    }

    #[test]
    fn a_list_of_revoked_certificates_that_cannot_be_read_leaves_nothing_trusted() {
        let (one, _) = pair();
        let why = |crl: &str| credential(&secret(&[("ca.crt", &one), ("ca.crl", crl)])).roots.unwrap_err().to_string();
        for crl in ["", "nonsense", &one] {
            assert!(why(crl).starts_with("ca.crl: holds no list of revoked certificates"), "{crl}: {}", why(crl));
        }
        let garbled = pem::encode(&Pem::new("X509 CRL", *b"abc"));
        assert_eq!(why(&garbled), "ca.crl: a list of revoked certificates cannot be read");
        assert!(credential(&secret(&[("ca.crt", &one)])).roots.is_ok_and(|roots| roots.crl.is_none()));
    }
}
