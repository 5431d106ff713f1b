//! Key sets (RFC 7517): what verifies tokens, as rules hold them and issuers publish them.

mod verifying;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use smol_str::SmolStr;

use self::verifying::{is_certificate, verifies};
use super::value::{Allowance, from_json};

/// The keys of an issuer, as they were fetched: an object that no user writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    /// The keys that were fetched last, in the one form that [`public`] gives them; `None`: none ever were.
    pub keys: Option<SmolStr>,
    /// Why they could not be fetched, if that is so now.
    pub trouble: Option<SmolStr>,
}

/// What is in a key set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// How many keys verify tokens of some algorithm.
    pub usable: usize,
    /// Which keys have private parts, counted from 0.
    pub private: Vec<usize>,
}

/// The members of a key that are public and count: with them it verifies, or says for what.
const PUBLIC: [&str; 9] = ["kty", "kid", "alg", "use", "n", "e", "crv", "x", "y"];
/// How long such a member may be, in bytes: the modulus of 16,384 bits has 2,731.
const LONGEST_MEMBER: usize = 4096;
/// How many keys a published set may have.
const MOST_KEYS: usize = 100;
/// How long the public keys of a set may be, in bytes: every proxy that wants them is sent them.
const LONGEST: usize = 64 << 10;
/// How much memory the values of a published document may take, in bytes.
const MOST_OF_DOCUMENT: usize = 16 << 20;
/// What begins a certificate in PEM.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Looks into a key set that a rule holds.
///
/// # Errors
/// When it is no key set: what is wrong.
pub fn inspect(text: &str) -> Result<Inspected, String> {
    let document = document(text)?;
    let Some(keys) = keys(&document)? else {
        let all = document.values().all(|text| text.as_str().is_some_and(is_certificate));
        return Ok(Inspected { usable: if all { document.len() } else { 0 }, private: Vec::new() });
    };
    let private = keys.iter().enumerate().filter(|(_, key)| is_private(key)).map(|(index, _)| index);
    Ok(Inspected { usable: keys.iter().filter(|key| verifies(key)).count(), private: private.collect() })
}

/// Returns the public keys of a set that an issuer publishes, in one form: whatever else the document says, in whatever order,
/// what follows from it stays the same. A shared secret that is published verifies nothing, and is left out.
///
/// # Errors
/// When there is no public key in it: what is wrong.
pub fn public(text: &str) -> Result<SmolStr, String> {
    let document = document(text)?;
    let Some(keys) = keys(&document)? else {
        if !document.values().all(|text| text.as_str().is_some_and(is_certificate)) {
            return Err("has a certificate that cannot be read".to_owned());
        }
        let certificates: BTreeMap<&String, &Value> = document.iter().collect();
        return written(&certificates);
    };
    if keys.len() > MOST_KEYS {
        return Err(format!("has {} keys, more than the {MOST_KEYS} that are taken", keys.len()));
    }
    let mut public: Vec<BTreeMap<&str, &str>> = keys.iter().filter_map(public_part).collect();
    public.sort();
    public.dedup();
    if public.is_empty() {
        return Err("has no public key that verifies a token".to_owned());
    }
    written(&BTreeMap::from([("keys", public)]))
}

/// Returns where an OpenID configuration says that the keys are; `None` if the document is none.
pub fn named_elsewhere(text: &str) -> Option<SmolStr> {
    let document = document(text).ok()?;
    let url = document.get("jwks_uri").filter(|_| !document.contains_key("keys"))?;
    url.as_str().map(SmolStr::from)
}

/// Checks that keys can be fetched from a URL.
///
/// # Errors
/// When they cannot: why.
pub fn check_url(url: &str) -> Result<(), String> {
    // To the parser a fragment may hold line breaks, though no request carries it.
    let parsed = url.parse::<http::Uri>().ok().filter(|_| url.bytes().all(|byte| byte.is_ascii_graphic()));
    let Some(parsed) = parsed else { return Err(format!("{url:?} is no URL")) };
    let Some(authority) = parsed.authority().filter(|_| matches!(parsed.scheme_str(), Some("http" | "https"))) else {
        return Err(format!("{url:?} is no URL of http:// or https://"));
    };
    match authority.as_str().contains('@') {
        true => Err("must not hold a user".to_owned()),
        false if authority.host().is_empty() => Err(format!("{url:?} names no host")),
        false => Ok(()),
    }
}

fn document(text: &str) -> Result<Map<String, Value>, String> {
    match from_json(text, &Allowance::new(MOST_OF_DOCUMENT)) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err("is no key set: it must be a JSON object".to_owned()),
        Err(error) => Err(format!("is no key set: {error}")),
    }
}

/// Returns the keys of a set; `None` if it is of the other sort, which has a certificate under each key's name.
fn keys(document: &Map<String, Value>) -> Result<Option<&Vec<Value>>, String> {
    let is_certificate = |value: &Value| value.as_str().is_some_and(|text| text.starts_with(CERTIFICATE));
    match document.get("keys") {
        Some(Value::Array(keys)) => Ok(Some(keys)),
        Some(_) => Err("is no key set: keys must be a list".to_owned()),
        None if !document.is_empty() && document.values().all(is_certificate) => Ok(None),
        None => Err("is no key set: it has no keys".to_owned()),
    }
}

fn member<'k>(key: &'k Value, name: &str) -> &'k str {
    key.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_private(key: &Value) -> bool {
    key.get("d").is_some() || member(key, "kty") == "oct"
}

fn public_part(key: &Value) -> Option<BTreeMap<&str, &str>> {
    if !verifies(key) || member(key, "kty") == "oct" {
        return None;
    }
    let members = PUBLIC.into_iter().map(|name| (name, member(key, name))).filter(|(_, value)| !value.is_empty());
    let members: BTreeMap<&str, &str> = members.collect();
    members.values().all(|value| value.len() <= LONGEST_MEMBER).then_some(members)
}

fn written<T: serde::Serialize>(document: &T) -> Result<SmolStr, String> {
    let text = serde_json::to_string(document).map_err(|error| error.to_string())?;
    match text.len() {
        0..=LONGEST => Ok(text.into()),
        length => Err(format!("has {length} bytes of keys, more than the {LONGEST} that are taken")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = r#"{"kty": "RSA", "kid": "a", "n": "m86J_iuWwBpq07JP-EFIcOBGIMCOj0iKzefGXs_FATggHRecZ-8KNaAczifF8Jp39zoZmhS5toi6gMU_WvwA_w",
        "e": "AQAB", "x5c": ["MII"], "use": "sig"}"#;
    const EC: &str = r#"{"kty": "EC", "crv": "P-256", "x": "qH17P9d9ISF8YWOS9V2T5Dffd8fdhfMmxiwr6CDX3O0",
        "y": "VhnkyW3OfZOuM7f9vv9kX--Hu29KguRgICfoW5irFL4", "d": "secret"}"#;

    #[test]
    fn a_published_set_has_one_form_and_nothing_that_is_private() {
        let one = public(&format!(r#"{{"keys": [{RSA}, {EC}, {{"kty": "oct", "k": "c2VjcmV0"}}], "issuer": "x"}}"#)).unwrap();
        let other = public(&format!(r#"{{"keys": [{EC}, {RSA}, {RSA}]}}"#)).unwrap();
        assert_eq!(one, other);
        let said: Value = serde_json::from_str(&one).unwrap();
        let members = |at: usize| said["keys"][at].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
        assert_eq!((members(0), members(1)), (vec!["crv", "kty", "x", "y"], vec!["e", "kid", "kty", "n", "use"]));
        let certificates = |certificate: &str| serde_json::json!({"b": certificate, "a": certificate}).to_string();
        let key = rcgen::KeyPair::generate().unwrap();
        let good = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem().replace("\r\n", "\n");
        assert_eq!(public(&certificates(&good)).unwrap(), certificates(&good));
        let inspected = inspect(&certificates(&good)).unwrap();
        assert_eq!(inspected.usable, 2);
        let broken = good.replacen("MI", "IM", 1);
        assert_eq!(public(&certificates(&broken)), Err("has a certificate that cannot be read".to_owned()));
        assert_eq!(inspect(&certificates(&broken)).unwrap().usable, 0);
    }

    #[test]
    fn what_verifies_nothing_is_no_key_set() {
        let table = [
            ("", "is no key set: EOF while parsing a value at line 1 column 0"),
            ("[]", "is no key set: it must be a JSON object"),
            ("{}", "is no key set: it has no keys"),
            (r#"{"keys": {}}"#, "is no key set: keys must be a list"),
            (r#"{"error": "not found"}"#, "is no key set: it has no keys"),
            (r#"{"keys": []}"#, "has no public key that verifies a token"),
            (r#"{"keys": [{"kty": "oct", "k": "AA"}, {"kty": "RSA", "n": "AA"}, 7]}"#, "has no public key that verifies a token"),
        ];
        for (text, expected) in table {
            assert_eq!(public(text), Err(expected.to_owned()), "{text}");
        }
        let long = "A".repeat(LONGEST_MEMBER + 1);
        assert!(public(&format!(r#"{{"keys": [{{"kty": "RSA", "n": "{long}", "e": "AQAB"}}]}}"#)).is_err());
        let many = vec![RSA; MOST_KEYS + 1].join(",");
        assert_eq!(public(&format!(r#"{{"keys": [{many}]}}"#)), Err("has 101 keys, more than the 100 that are taken".to_owned()));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(public(&deep).unwrap_err().starts_with("is no key set: recursion limit"));
        let wide = format!("[{}{{}}]", "{},".repeat(1_000_000));
        assert!(public(&wide).is_err());
    }

    #[test]
    fn a_set_of_a_rule_is_looked_into() {
        let said = inspect(&format!(r#"{{"keys": [{RSA}, {EC}, {{"kty": "oct", "k": "AA"}}, {{"kty": "x"}}]}}"#)).unwrap();
        assert_eq!(said, Inspected { usable: 3, private: vec![1, 2] });
        assert!(inspect("{").is_err());
    }

    #[test]
    fn a_key_that_envoy_does_not_take_verifies_nothing() {
        let changed = |key: &str, name: &str, value: Value| {
            let mut key: Value = serde_json::from_str(key).unwrap();
            key[name] = value;
            inspect(&serde_json::json!({"keys": [key]}).to_string()).unwrap().usable
        };
        for (key, name, value, usable) in [
            (RSA, "kid", 7.into(), 1),
            (RSA, "alg", "PS512".into(), 1),
            (RSA, "alg", "ES256".into(), 0),
            (RSA, "alg", "none".into(), 0),
            (RSA, "n", "AQAB".into(), 0),
            (RSA, "n", "+/+/".into(), 0),
            (RSA, "e", "Ag".into(), 0),
            (RSA, "e", Value::Null, 0),
            (EC, "alg", "ES256".into(), 1),
            (EC, "alg", "ES384".into(), 0),
            (EC, "crv", "P-384".into(), 0),
            (EC, "crv", "secp256k1".into(), 0),
            (EC, "y", "AA".into(), 0),
        ] {
            assert_eq!(changed(key, name, value.clone()), usable, "{name}: {value}");
        }
        let ed25519 = r#"{"kty": "OKP", "crv": "Ed25519", "x": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}"#;
        assert_eq!((changed(ed25519, "use", "sig".into()), changed(ed25519, "x", "AA".into())), (1, 0));
        assert_eq!(changed(ed25519, "crv", "X25519".into()), 0);
    }

    #[test]
    fn an_openid_configuration_names_the_keys() {
        assert_eq!(named_elsewhere(r#"{"issuer": "a", "jwks_uri": "https://a/keys"}"#).as_deref(), Some("https://a/keys"));
        for text in [r#"{"jwks_uri": "https://a", "keys": []}"#, r#"{"jwks_uri": 7}"#, "{}", "x"] {
            assert_eq!(named_elsewhere(text), None, "{text}");
        }
    }

    #[test]
    fn keys_come_from_web_servers() {
        for url in ["https://issuer.example.com/keys", "http://10.0.0.1:8080", "https://[::1]/k?a=b"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        let broken = ["https://a/#b\nc", "https://a/#é"];
        let others = ["", "issuer.example.com", "file:///etc/passwd", "ftp://a/b", "https:///keys", "https://user@a/", "https://a b/"];
        for url in broken.into_iter().chain(others) {
            assert!(check_url(url).is_err(), "{url}");
        }
    }
}
