//! Names of secrets, as users write them and as proxies ask for them.

use std::fmt;

use smol_str::{SmolStr, ToSmolStr};

/// Marks the name of what peers are verified with.
pub(super) const CA_SUFFIX: &str = "-cacert";

/// The name of a secret as proxies ask for it: `kubernetes://[namespace/]name[-cacert]`.
// Names sort by the Secret's first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName {
    /// The Secret's name, without the suffix.
    pub name: SmolStr,
    /// The Secret's namespace; `None`: that of the proxy.
    pub namespace: Option<SmolStr>,
    /// Whether it is written with `kubernetes-gateway://`.
    pub of_gateway: bool,
    /// Which part of the Secret it is.
    pub part: Part,
}

/// A part of a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The certificate with its key.
    KeyPair,
    /// What peers are verified with. It is public.
    Roots,
}

/// Why no Secret can be meant by what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mesh) enum Unnamed {
    /// It is to come from something that is not read yet.
    Scheme,
    /// It is no name.
    Form,
    /// It is the name of what peers are verified with, where a certificate is meant.
    Suffix,
}

impl SecretName {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// When no Secret can be meant by it.
    pub(in crate::mesh) fn parse(written: &str, part: Part) -> Result<Self, Unnamed> {
        let (of_gateway, path) = match written.split_once("://") {
            Some(("kubernetes", path)) => (false, path),
            Some(("kubernetes-gateway", path)) => (true, path),
            Some(_) => return Err(Unnamed::Scheme),
            None => (false, written),
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None if of_gateway => return Err(Unnamed::Form),
            None => (None, path),
        };
        let is_name = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if ![namespace, Some(name)].into_iter().flatten().all(is_name) {
            return Err(Unnamed::Form);
        }
        let bare = name.strip_suffix(CA_SUFFIX).filter(|bare| !bare.is_empty());
        let name = match (part, bare) {
            (Part::KeyPair, Some(_)) => return Err(Unnamed::Suffix),
            (Part::Roots, Some(bare)) => bare,
            _ => name,
        };
        Ok(Self { name: name.into(), namespace: namespace.map(SmolStr::from), of_gateway, part })
    }

    /// Returns the name of what peers are verified with in the same Secret.
    pub(in crate::mesh) fn roots(&self) -> Self {
        Self { part: Part::Roots, ..self.clone() }
    }

    /// Returns the namespace of the Secret for proxies of `own`.
    pub fn namespace_for<'a>(&'a self, own: &'a SmolStr) -> &'a SmolStr {
        self.namespace.as_ref().unwrap_or(own)
    }

    /// Returns the names of the Secrets that may be meant, the first of which counts that is there.
    pub fn candidates(&self) -> impl Iterator<Item = SmolStr> {
        let with_suffix = (self.part == Part::Roots).then(|| format!("{}{CA_SUFFIX}", self.name).to_smolstr());
        with_suffix.into_iter().chain([self.name.clone()])
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.of_gateway { "kubernetes-gateway://" } else { "kubernetes://" })?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)?;
        f.write_str(if self.part == Part::Roots { CA_SUFFIX } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_proxies_ask_for() {
        let shown = |written: &str, part| SecretName::parse(written, part).map(|name| name.to_string());
        assert_eq!(shown("till", Part::KeyPair).as_deref(), Ok("kubernetes://till"));
        assert_eq!(shown("kubernetes://till", Part::KeyPair).as_deref(), Ok("kubernetes://till"));
        assert_eq!(shown("kubernetes://bank/till", Part::Roots).as_deref(), Ok("kubernetes://bank/till-cacert"));
        assert_eq!(shown("till-cacert", Part::Roots).as_deref(), Ok("kubernetes://till-cacert"));
        assert_eq!(shown("kubernetes-gateway://bank/till", Part::KeyPair).as_deref(), Ok("kubernetes-gateway://bank/till"));
        assert_eq!(
            SecretName::parse("till", Part::KeyPair).map(|name| name.roots().to_string()).as_deref(),
            Ok("kubernetes://till-cacert")
        );
    }

    #[test]
    fn what_names_no_secret_is_refused() {
        let of = |written: &str| SecretName::parse(written, Part::KeyPair).unwrap_err();
        for other in ["configmap://a/b", "sds://a", "builtin://", "invalid://", "file://a", "KUBERNETES://a"] {
            assert_eq!(of(other), Unnamed::Scheme, "{other}");
        }
        for wrong in ["", "kubernetes://", "kubernetes:///a", "kubernetes://a/", "a/b/c", "kubernetes-gateway://a", "a b", "../a", "a\n"] {
            assert_eq!(of(wrong), Unnamed::Form, "{wrong}");
        }
        assert_eq!(of("till-cacert"), Unnamed::Suffix);
    }

    #[test]
    fn roots_are_looked_for_under_both_names() {
        let candidates = |part| SecretName::parse("till", part).unwrap().candidates().map(String::from).collect::<Vec<_>>();
        assert_eq!(candidates(Part::KeyPair), ["till"]);
        assert_eq!(candidates(Part::Roots), ["till-cacert", "till"]);
    }
}
