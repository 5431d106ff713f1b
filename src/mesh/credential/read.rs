//! Reads a Secret or ConfigMap as a credential, as istiod reads it, and holds it against what Envoy asks of one.

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

use super::{Credential, KeyPair, Roots, Validity, staple};
use crate::api::{Object, Spec, confidential::Confidential, kubernetes::Secret};

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

/// Reads both parts; `None`: the object is of another kind.
pub(in crate::mesh) fn credential(object: &Object) -> Option<Credential> {
    match &object.spec {
        Spec::Secret(secret) => Some(of_secret(secret)),
        Spec::ConfigMap(map) => {
            let roots = roots(|key| map.entry(key)).map(Arc::new);
            Some(Credential { key_pair: Err("is public, and holds no key".into()), roots })
        }
        _ => None,
    }
}

fn of_secret(secret: &Secret) -> Credential {
    Credential { key_pair: key_pair(secret).map(Arc::new), roots: roots(|key| secret.entry(key)).map(Arc::new) }
}

fn key_pair(secret: &Secret) -> Result<KeyPair, SmolStr> {
    for form in &FORMS {
        let (Some(certificates), Some(key)) = (filled(secret, form.certificate), filled(secret, form.key)) else { continue };
        let validity = checked_pair(certificates, key).map_err(|why| naming(form.certificate, form.key, &why))?;
        let ocsp_staple = checked_staple(form.staple.and_then(|entry| Some((entry, filled(secret, entry)?))), certificates)
            .map_err(|why| naming(form.certificate, form.key, &why))?;
        return Ok(KeyPair { certificates: certificates.clone(), key: key.clone(), ocsp_staple, validity });
    }
    let [istio, kubernetes] = &FORMS;
    Err(SmolStr::from(format!("has neither {} and {} nor {} and {}", kubernetes.certificate, kubernetes.key, istio.certificate, istio.key)))
}

fn roots<'a>(entry: impl Fn(&str) -> Option<&'a Confidential>) -> Result<Roots, SmolStr> {
    for form in &FORMS {
        let Some(certificates) = entry(form.roots).filter(is_filled) else { continue };
        let all = certificates_of(certificates).map_err(|why| naming_one(form.roots, &why))?;
        let validity = validity_of(all.first().map(Vec::as_slice).unwrap_or_default()).map_err(|why| naming_one(form.roots, &why))?;
        let crl = entry(form.crl);
        if let Some(crl) = crl {
            check_crl(crl).map_err(|why| naming_one(form.crl, &why))?;
        }
        return Ok(Roots { certificates: certificates.clone(), crl: crl.cloned(), validity });
    }
    let [istio, kubernetes] = &FORMS;
    Err(SmolStr::from(format!("has neither {} nor {}", kubernetes.roots, istio.roots)))
}

fn filled<'a>(secret: &'a Secret, key: &str) -> Option<&'a Confidential> {
    secret.entry(key).filter(is_filled)
}

fn is_filled(entry: &&Confidential) -> bool {
    !entry.reveal().is_empty()
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

/// Returns what is to be shown of a staple and the name of its entry. One that is of no use is left out, unless Envoy would refuse the
/// certificate without.
fn checked_staple(
    written: Option<(&str, &Confidential)>,
    certificates: &Confidential,
) -> Result<Result<Option<Confidential>, SmolStr>, String> {
    let first = certificates_of(certificates)?.into_iter().next().unwrap_or_default();
    let (_, certificate) = X509Certificate::from_der(&first).map_err(|_| "a certificate cannot be read")?;
    let checked = written.map(|(entry, staple)| match staple::check(staple.reveal(), &certificate) {
        Ok(()) => Ok(staple.clone()),
        Err(why) => Err(naming_one(entry, why)),
    });
    match checked.transpose() {
        Ok(Some(staple)) => Ok(Ok(Some(staple))),
        Ok(None) if staple::is_required(&certificate) => {
            Err("the certificate asks for an OCSP staple (tls.ocsp-staple), and there is none".into())
        }
        Err(why) if staple::is_required(&certificate) => Err(format!("the certificate asks for an OCSP staple, and {why}")),
        of_no_need => Ok(of_no_need),
    }
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
        let read = of_secret(&both);
        let pair = read.key_pair.unwrap();
        assert_eq!((pair.certificates.reveal(), pair.validity.not_before), (other.as_bytes(), 1_000));
        assert_eq!(read.roots.unwrap().certificates.reveal(), one.as_bytes());
    }

    #[test]
    fn what_cannot_be_used_says_why_and_nothing_of_the_key() {
        let ((one, one_key), (_, other_key)) = (pair(), pair());
        let why = |entries: &[(&'static str, &str)]| of_secret(&secret(entries)).key_pair.unwrap_err().to_string();
        assert_eq!(why(&[]), "has neither tls.crt and tls.key nor cert and key");
        assert_eq!(why(&[("tls.crt", &one), ("tls.key", "")]), "has neither tls.crt and tls.key nor cert and key");
        assert_eq!(why(&[("tls.crt", &one), ("tls.key", &other_key)]), "tls.crt and tls.key: the key is not that of the first certificate");
        assert!(why(&[("cert", "hunter2"), ("key", &one_key)]).starts_with("cert and key: holds no certificate in PEM"));
        let broken = one_key.replace("PRIVATE KEY", "PRIVATE LOCK");
        let told = why(&[("tls.crt", &one), ("tls.key", &broken)]);
        assert_eq!(told, "tls.crt and tls.key: the key is no private key in PEM without a passphrase");
    }

    #[test]
    fn a_config_map_holds_what_is_trusted_in_either_form_and_no_key() {
        let (one, _) = pair();
        let read = |data: serde_json::Value| {
            let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
            credential(&crate::api::parse(&map, &"Kubernetes".into()).objects[0]).unwrap()
        };
        for form in ["ca.crt", "cacert"] {
            let read = read(serde_json::json!({form: one, "tls.crt": one, "tls.key": "x"}));
            assert_eq!(read.roots.unwrap().certificates.reveal(), one.as_bytes());
            assert_eq!(read.key_pair.unwrap_err(), "is public, and holds no key");
        }
        let why = |data| read(data).roots.unwrap_err().to_string();
        assert_eq!(why(serde_json::json!({"other": one})), "has neither ca.crt nor cacert");
        assert!(why(serde_json::json!({"ca.crt": "nonsense"})).starts_with("ca.crt: holds no certificate in PEM"));
        assert!(why(serde_json::json!({"cacert": one, "crl": one})).starts_with("crl: holds no list of revoked certificates"));
    }

    #[test]
    fn a_list_of_revoked_certificates_that_cannot_be_read_leaves_nothing_trusted() {
        let (one, _) = pair();
        let why = |crl: &str| of_secret(&secret(&[("ca.crt", &one), ("ca.crl", crl)])).roots.unwrap_err().to_string();
        for crl in ["", "nonsense", &one] {
            assert!(why(crl).starts_with("ca.crl: holds no list of revoked certificates"), "{crl}: {}", why(crl));
        }
        let garbled = pem::encode(&Pem::new("X509 CRL", *b"abc"));
        assert_eq!(why(&garbled), "ca.crl: a list of revoked certificates cannot be read");
        assert!(of_secret(&secret(&[("ca.crt", &one)])).roots.is_ok_and(|roots| roots.crl.is_none()));
    }

    /// Makes an OCSP response of these serial numbers, as an issuer does, but for the signature.
    fn response(serials: &[u8]) -> Vec<u8> {
        fn of(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
            let content = parts.concat();
            [&[tag, 0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes(), &content].concat()
        }
        let octets = |text: &[u8]| of(4, &[text.to_vec()]);
        let algorithm = || of(0x30, &[vec![6, 5, 0x2b, 0x0e, 3, 2, 0x1a]]);
        let time = || of(0x18, &[b"20260101000000Z".to_vec()]);
        let single = |serial: &u8| {
            let id = of(0x30, &[algorithm(), octets(b"name"), octets(b"key"), vec![2, 1, *serial]]);
            of(0x30, &[id, vec![0x80, 0], time()])
        };
        let responder = of(0xa2, &[octets(b"key")]);
        let data = of(0x30, &[responder, time(), of(0x30, &serials.iter().map(single).collect::<Vec<_>>())]);
        let basic = of(0x30, &[data, algorithm(), of(3, &[vec![0]])]);
        let bytes = of(0x30, &[vec![6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1], octets(&basic)]);
        of(0x30, &[vec![0x0a, 1, 0], of(0xa0, &[bytes])])
    }

    fn stapled(must: bool, staple: Option<&[u8]>) -> Result<KeyPair, SmolStr> {
        let key = Key::generate().unwrap();
        let mut params = CertificateParams::new(["till.example.com".to_owned()]).unwrap();
        params.serial_number = Some(7_u64.into());
        let feature = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
        params.custom_extensions.extend(must.then_some(feature));
        let mut secret = secret(&[("tls.crt", &params.self_signed(&key).unwrap().pem()), ("tls.key", &key.serialize_pem())]);
        secret.entries.extend(staple.map(|staple| ("tls.ocsp-staple", Confidential::from(staple.to_vec()))));
        key_pair(&secret)
    }

    #[test]
    fn a_staple_is_shown_if_it_is_about_the_certificate() {
        let good = response(&[7]);
        let shown = |must, staple: &[u8]| stapled(must, Some(staple)).unwrap().ocsp_staple;
        for must in [false, true] {
            assert_eq!(shown(must, &good).unwrap().map(|staple| staple.reveal().to_vec()), Some(good.clone()));
        }
        let of_cert_and_key = stapled(false, None).unwrap().ocsp_staple;
        assert_eq!(of_cert_and_key, Ok(None));
    }

    #[test]
    fn a_staple_that_envoy_would_refuse_is_left_out_unless_the_certificate_asks_for_one() {
        let trailing = [response(&[7]), vec![0]].concat();
        for (staple, why) in [
            (response(&[8]), "is about another certificate"),
            (response(&[7, 8]), "is about several certificates, or none"),
            (response(&[]), "is about several certificates, or none"),
            (trailing, "is no OCSP response in DER"),
            (b"x".to_vec(), "is no OCSP response in DER"),
            (vec![0x30, 3, 0x0a, 1, 6], "is one in which the issuer says nothing of the certificate"),
        ] {
            let left_out = stapled(false, Some(&staple)).unwrap().ocsp_staple.unwrap_err();
            assert_eq!(left_out, format!("tls.ocsp-staple: {why}"));
            let refused = stapled(true, Some(&staple)).unwrap_err();
            assert_eq!(refused, format!("tls.crt and tls.key: the certificate asks for an OCSP staple, and tls.ocsp-staple: {why}"));
        }
        for cut in 0..response(&[7]).len() {
            assert!(stapled(false, Some(&response(&[7])[..cut])).unwrap().ocsp_staple.is_err() || cut == 0, "{cut}");
        }
        let none = "tls.crt and tls.key: the certificate asks for an OCSP staple (tls.ocsp-staple), and there is none";
        assert_eq!(stapled(true, None).unwrap_err(), none);
    }
}
