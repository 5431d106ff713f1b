//! Names of secrets, as users write them and as proxies ask for them.

use std::fmt;

use smol_str::{SmolStr, ToSmolStr};

use crate::api::Kind;

/// Marks the name of what peers are verified with.
pub(super) const CA_SUFFIX: &str = "-cacert";

/// The name of a secret as proxies ask for it: `kubernetes://[namespace/]name[-cacert]`.
// Names sort by the object's first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName {
    /// The name of the Secret or ConfigMap, without the suffix.
    pub name: SmolStr,
    /// Its namespace; `None`: that of the proxy.
    pub namespace: Option<SmolStr>,
    /// How it is written.
    pub scheme: Scheme,
    /// Which part of it is meant.
    pub part: Part,
}

/// What stands before `://`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `kubernetes`: a Secret. It may be left out.
    Kubernetes,
    /// `kubernetes-gateway`: a Secret, too.
    KubernetesGateway,
    /// `configmap`: a ConfigMap, whose namespace is part of the name.
    ConfigMap,
}

/// A part of a Secret. A ConfigMap has but the second.
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
    /// It is a ConfigMap, where a certificate with its key is meant.
    Public,
}

impl SecretName {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// When no Secret can be meant by it.
    pub(in crate::mesh) fn parse(written: &str, part: Part) -> Result<Self, Unnamed> {
        let (scheme, path) = match written.split_once("://") {
            Some(("kubernetes", path)) => (Scheme::Kubernetes, path),
            Some(("kubernetes-gateway", path)) => (Scheme::KubernetesGateway, path),
            Some(("configmap", path)) => (Scheme::ConfigMap, path),
            Some(_) => return Err(Unnamed::Scheme),
            None => (Scheme::Kubernetes, written),
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None if scheme == Scheme::Kubernetes => (None, path),
            None => return Err(Unnamed::Form),
        };
        let is_name = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if ![namespace, Some(name)].into_iter().flatten().all(is_name) {
            return Err(Unnamed::Form);
        }
        if (scheme, part) == (Scheme::ConfigMap, Part::KeyPair) {
            return Err(Unnamed::Public);
        }
        let bare = name.strip_suffix(CA_SUFFIX).filter(|bare| !bare.is_empty());
        let name = match (part, bare) {
            (Part::KeyPair, Some(_)) => return Err(Unnamed::Suffix),
            (Part::Roots, Some(bare)) => bare,
            _ => name,
        };
        Ok(Self { name: name.into(), namespace: namespace.map(SmolStr::from), scheme, part })
    }

    /// Reads what a client's TLS names: a Secret by its certificate, or, where the client shows none, a ConfigMap by what it holds.
    ///
    /// # Errors
    /// When neither can be meant by it.
    pub(in crate::mesh) fn of_client(written: &str, mutual: bool) -> Result<Self, Unnamed> {
        match Self::parse(written, Part::KeyPair) {
            // As istiod, which adds the suffix to any name, and takes it off once.
            Err(Unnamed::Public) if !mutual => Self::parse(&format!("{written}{CA_SUFFIX}"), Part::Roots),
            read => read,
        }
    }

    /// Returns the name of what peers are verified with in the same Secret.
    pub(in crate::mesh) fn roots(&self) -> Self {
        Self { part: Part::Roots, ..self.clone() }
    }

    /// Returns the kind of object that is meant.
    pub fn kind(&self) -> Kind {
        match self.scheme {
            Scheme::Kubernetes | Scheme::KubernetesGateway => Kind::Secret,
            Scheme::ConfigMap => Kind::ConfigMap,
        }
    }

    /// Returns the namespace of the object for proxies of `own`.
    pub fn namespace_for<'a>(&'a self, own: &'a SmolStr) -> &'a SmolStr {
        self.namespace.as_ref().unwrap_or(own)
    }

    /// Returns the names of the objects that may be meant, the first of which counts that is there.
    pub fn candidates(&self) -> impl Iterator<Item = SmolStr> {
        let with_suffix =
            (self.part == Part::Roots && self.kind() == Kind::Secret).then(|| format!("{}{CA_SUFFIX}", self.name).to_smolstr());
        with_suffix.into_iter().chain([self.name.clone()])
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            Scheme::Kubernetes => "kubernetes://",
            Scheme::KubernetesGateway => "kubernetes-gateway://",
            Scheme::ConfigMap => "configmap://",
        })?;
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
        for other in ["sds://a", "builtin://", "invalid://", "file://a", "KUBERNETES://a"] {
            assert_eq!(of(other), Unnamed::Scheme, "{other}");
        }
        for wrong in ["", "kubernetes://", "kubernetes:///a", "kubernetes://a/", "a/b/c", "kubernetes-gateway://a", "a b", "../a", "a\n"] {
            assert_eq!(of(wrong), Unnamed::Form, "{wrong}");
        }
        assert_eq!(of("till-cacert"), Unnamed::Suffix);
    }

    #[test]
    fn a_config_map_is_named_with_its_namespace_and_holds_no_key() {
        let roots = |written: &str| SecretName::parse(written, Part::Roots);
        assert_eq!(roots("configmap://bank/tellers").map(|name| name.to_string()).as_deref(), Ok("configmap://bank/tellers-cacert"));
        assert_eq!(roots("configmap://bank/tellers-cacert"), roots("configmap://bank/tellers"));
        assert_eq!(SecretName::parse("configmap://bank/tellers", Part::KeyPair), Err(Unnamed::Public));
        for wrong in ["configmap://", "configmap://tellers", "configmap:///tellers", "configmap://bank/", "configmap://a/b/c"] {
            assert_eq!(roots(wrong), Err(Unnamed::Form), "{wrong}");
            assert_eq!(SecretName::of_client(wrong, false), Err(Unnamed::Form), "{wrong}");
        }
    }

    #[test]
    fn a_client_that_shows_no_certificate_may_name_a_config_map() {
        let written = "configmap://bank/roots-cacert";
        let name = SecretName::of_client(written, false).unwrap();
        assert_eq!((name.to_string(), name.roots()), (format!("{written}-cacert"), name.clone()));
        assert_eq!(name.candidates().collect::<Vec<_>>(), ["roots-cacert"]);
        assert_eq!(SecretName::of_client(written, true), Err(Unnamed::Public));
        assert_eq!(SecretName::of_client("till", false), SecretName::parse("till", Part::KeyPair));
    }

    #[test]
    fn roots_are_looked_for_under_both_names() {
        let candidates = |part| SecretName::parse("till", part).unwrap().candidates().map(String::from).collect::<Vec<_>>();
        assert_eq!(candidates(Part::KeyPair), ["till"]);
        assert_eq!(candidates(Part::Roots), ["till-cacert", "till"]);
    }
}
