//! Trust bundles: the roots that vouch for the identities of trust domains, as MeshConfig holds them and meshes publish them
//! (the SPIFFE bundle format).
//!
//! Every proxy is given all of them as one, and refuses the whole for one that it cannot read. So each is read here first.

use base64::{Engine, prelude::BASE64_STANDARD};
use pem::Pem;
use rustls::{RootCertStore, pki_types::CertificateDer};
use serde_json::Value;
use smol_str::SmolStr;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    key_set::check_url,
    value::{Allowance, from_json},
};

/// Roots: an object that no user writes. They are our own CA's, or were fetched from the URL that is its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundle {
    /// The certificates that were good last, as PEM; `None`: there never were any.
    pub roots: Option<SmolStr>,
    /// Lists of certificates that these revoked, as PEM; empty: there are none.
    pub revoked: SmolStr,
    /// Why there are no newer ones, if that is so.
    pub trouble: Option<SmolStr>,
}

/// The name of the object with the roots of our own CA.
pub const OWN: &str = "";

/// How many roots one bundle may have.
const MOST_ROOTS: usize = 100;
/// How long they may be, in bytes: every proxy is sent them.
const LONGEST: usize = 64 << 10;
/// How much memory the values of a published document may take, in bytes.
const MOST_OF_DOCUMENT: usize = 16 << 20;
const TAG: &str = "CERTIFICATE";

/// Reads roots that are written as PEM, and returns them in one form.
///
/// # Errors
/// When one of them is no root that proxies take: which, and why.
pub fn of_pem(text: &str) -> Result<SmolStr, String> {
    let blocks = pem::parse_many(text).map_err(|_| "is not PEM".to_owned())?;
    if text.matches("-----BEGIN").count() != blocks.len() {
        return Err("has a block that cannot be read".to_owned());
    }
    if let Some(other) = blocks.iter().find(|block| block.tag() != TAG) {
        let what = if other.tag().ends_with("PRIVATE KEY") { "a private key, which must not be here" } else { "a block of another kind" };
        return Err(format!("has {what} beside certificates"));
    }
    written(blocks.into_iter().map(Pem::into_contents))
}

/// Reads the roots of a document in the SPIFFE bundle format, and returns them in one form.
///
/// # Errors
/// When it is none, or one of its roots is none that proxies take.
pub fn of_document(text: &str) -> Result<SmolStr, String> {
    let document = from_json(text, &Allowance::new(MOST_OF_DOCUMENT)).map_err(|error| format!("is no trust bundle: {error}"))?;
    let Some(Value::Array(keys)) = document.get("keys") else { return Err("is no trust bundle: it has no list of keys".to_owned()) };
    let roots = keys.iter().filter(|key| key.get("use").and_then(Value::as_str) == Some("x509-svid"));
    let roots = roots.map(|key| match key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::String(certificate)]) => {
            BASE64_STANDARD.decode(certificate).map_err(|_| "has a certificate that is no base64".to_owned())
        }
        _ => Err("has a key without exactly one certificate (x5c)".to_owned()),
    });
    written(roots.collect::<Result<Vec<_>, _>>()?)
}

/// Returns the URL at which a bundle is published. It is fetched by HTTPS, as who answers says whom the mesh trusts.
///
/// # Errors
/// When it is none.
pub fn url_of(written: &str) -> Result<SmolStr, String> {
    let url = if written.contains("://") { SmolStr::from(written) } else { SmolStr::from(format!("https://{written}")) };
    check_url(&url)?;
    if url.starts_with("https://") { Ok(url) } else { Err(format!("{written:?} is not of https://: anybody on the way could answer")) }
}

fn written(certificates: impl IntoIterator<Item = Vec<u8>>) -> Result<SmolStr, String> {
    let mut text = String::new();
    let mut count = 0;
    for certificate in certificates {
        count += 1;
        check(&certificate).map_err(|why| format!("certificate {count} {why}"))?;
        text += &pem::encode_config(&Pem::new(TAG, certificate), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF));
        if count > MOST_ROOTS || text.len() > LONGEST {
            return Err(format!("has more than {MOST_ROOTS} roots, or more than {LONGEST} bytes of them"));
        }
    }
    if count == 0 { Err("has no certificate in it".to_owned()) } else { Ok(text.into()) }
}

fn check(certificate: &[u8]) -> Result<(), String> {
    let unreadable = |why: String| format!("cannot be read: {why}");
    let (rest, read) = X509Certificate::from_der(certificate).map_err(|error| unreadable(error.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("bytes follow it".to_owned()));
    }
    if !read.is_ca() {
        return Err("is none of a CA (basicConstraints)".to_owned());
    }
    let anchor = RootCertStore::empty().add(CertificateDer::from(certificate));
    anchor.map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    use serde_json::json;

    use super::*;

    /// Returns the PEM of a root of this name.
    pub(crate) fn root(name: &str) -> String {
        certificate(name, IsCa::Ca(BasicConstraints::Unconstrained))
    }

    fn certificate(name: &str, is_ca: IsCa) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem().replace("\r\n", "\n")
    }

    fn x5c(pem: &str) -> String {
        BASE64_STANDARD.encode(pem::parse(pem).unwrap().contents())
    }

    #[test]
    fn roots_have_one_form() {
        let (one, other) = (root("a"), root("b"));
        assert_eq!(of_pem(&format!("a root:\n{}\nanother:\n{other}", one.replace('\n', "\r\n"))).unwrap(), format!("{one}{other}"));
    }

    #[test]
    fn what_is_no_root_says_why() {
        let (good, leaf) = (root("a"), certificate("leaf", IsCa::NoCa));
        let key = KeyPair::generate().unwrap().serialize_pem();
        let half = &good[..good.len() / 2];
        let garbled = pem::encode(&Pem::new(TAG, *b"abc"));
        for (text, why) in [
            ("".to_owned(), "has no certificate in it"),
            ("nonsense".to_owned(), "has no certificate in it"),
            (format!("{good}{half}"), "has a block that cannot be read"),
            (half.to_owned(), "has a block that cannot be read"),
            (format!("{good}{garbled}"), "certificate 2 cannot be read"),
            (leaf, "certificate 1 is none of a CA"),
            (format!("{good}{key}"), "has a private key, which must not be here"),
            (good.repeat(MOST_ROOTS + 1), "has more than 100 roots"),
        ] {
            let said = of_pem(&text).unwrap_err();
            assert!(said.starts_with(why), "{text}: {said}");
            assert!(!said.contains("BEGIN"), "{said}");
        }
    }

    #[test]
    fn of_a_published_bundle_the_roots_count() {
        let (one, other) = (root("a"), root("b"));
        let of = |keys: Value| of_document(&json!({"spiffe_sequence": 1, "spiffe_refresh_hint": 2, "keys": keys}).to_string());
        let svid = |x5c: Value| json!({"use": "x509-svid", "kty": "EC", "x5c": x5c});
        let jwt = json!({"use": "jwt-svid", "kty": "EC", "x": "AA"});
        assert_eq!(of(json!([svid(json!([x5c(&one)])), jwt, svid(json!([x5c(&other)]))])).unwrap(), format!("{one}{other}"));
        for wrong in [json!([]), json!([jwt]), json!({}), json!(null)] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
        for x5c in [json!([]), json!([x5c(&one), x5c(&other)]), json!([7]), json!(["AAAA"]), json!(["%"]), json!("AAAA")] {
            assert!(of(json!([svid(x5c.clone())])).is_err(), "{x5c}");
            assert!(of(json!([svid(json!([super::tests::x5c(&one)])), svid(x5c.clone())])).is_err(), "one bad root leaves none: {x5c}");
        }
        for text in ["", "[]", "null", "{}", &"[".repeat(100_000)] {
            assert!(of_document(text).is_err(), "{text:.10}");
        }
    }

    #[test]
    fn bundles_come_by_https() {
        assert_eq!(url_of("bundle.west.example:8443/a").as_deref(), Ok("https://bundle.west.example:8443/a"));
        assert_eq!(url_of("https://bundle.west.example").as_deref(), Ok("https://bundle.west.example"));
        for wrong in ["", "http://bundle.west.example", "file:///etc/passwd", "https://", "https://user@a/", "a b"] {
            assert!(url_of(wrong).is_err(), "{wrong}");
        }
    }
}
