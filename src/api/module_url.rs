//! Where a WebAssembly module is, as users write it.

use std::fmt;

use http::Uri;
use smol_str::{SmolStr, format_smolstr};

/// How long a URL may be, in bytes.
const LONGEST: usize = 2048;

/// Where a module is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModuleUrl {
    /// `file://`: a path beside the proxy.
    File(SmolStr),
    /// `http://` and `https://`
    Http(SmolStr),
    /// `oci://`, which may be left out: an image in a registry.
    Image(SmolStr),
}

impl ModuleUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// When there can be no module: why.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is missing".to_owned());
        }
        if text.len() > LONGEST {
            return Err(format!("has more than {LONGEST} bytes"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("{text:?} is no URL"));
        }
        match scheme(text) {
            Some("file") => match text.strip_prefix("file://").unwrap_or_default() {
                "" => Err("names no file".to_owned()),
                path => Ok(Self::File(path.into())),
            },
            Some("http" | "https") => named(text).map(Self::Http),
            Some("oci") => named(text).map(Self::Image),
            Some(other) => Err(format!("is of {other}, and must be of file://, http://, https:// or oci://")),
            None => named(&format!("oci://{text}")).map(Self::Image),
        }
    }

    /// Returns whether somebody has to fetch it.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::File(_))
    }
}

/// Returns what stands before the first colon, if it has the form of a scheme.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then_some(scheme)
}

/// Returns a URL that names a host.
fn named(url: &str) -> Result<SmolStr, String> {
    // The tag of an image is no port, and `@` stands before its digest: neither is part of an authority.
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url:?} is no URL"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a user".to_owned());
    }
    let parsed = format_smolstr!("http://{authority}/").parse::<Uri>();
    match parsed.ok().and_then(|uri| uri.host().map(str::is_empty)) {
        Some(false) => Ok(format_smolstr!("{scheme}://{rest}")),
        _ => Err(format!("{url:?} names no host")),
    }
}

/// The URL as those are told who fetch it; of a file its path.
impl fmt::Display for ModuleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(text) | Self::Http(text) | Self::Image(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_who_has_the_module() {
        let file = |path: &str| ModuleUrl::File(path.into());
        let image = |url: &str| ModuleUrl::Image(url.into());
        for (text, expected) in [
            ("file:///opt/filter.wasm", file("/opt/filter.wasm")),
            ("http://a.b:8080/m.wasm?x=1", ModuleUrl::Http("http://a.b:8080/m.wasm?x=1".into())),
            ("oci://ghcr.io/x/y:v1", image("oci://ghcr.io/x/y:v1")),
            ("ghcr.io/x/y@sha256:00", image("oci://ghcr.io/x/y@sha256:00")),
            ("x/y", image("oci://x/y")),
        ] {
            assert_eq!(ModuleUrl::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_names_no_module_is_refused() {
        // As Istio has it, a registry with a port needs the scheme.
        for text in ["", "file://", "ftp://a/b", "http:///x", "http://u:p@a/x", "a b", "localhost:5000/x", "http://a\n", "oci://"] {
            assert!(ModuleUrl::parse(text).is_err(), "{text}");
        }
        assert!(ModuleUrl::parse(&format!("http://a/{}", "x".repeat(LONGEST))).is_err());
    }
}
