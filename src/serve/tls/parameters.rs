//! The TLS versions and cipher suites of our ports (contract §1.1).

use std::sync::Arc;

use rustls::{SupportedProtocolVersion, crypto::CryptoProvider, version};

static ONLY_NEWEST: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// TLS versions and cipher suites.
#[derive(Clone, Debug)]
pub struct TlsParameters {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
}

impl Default for TlsParameters {
    /// Returns TLS 1.2 and 1.3 with the cipher suites of the library, all of which are safe.
    fn default() -> Self {
        Self { provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()), versions: rustls::DEFAULT_VERSIONS }
    }
}

impl TlsParameters {
    /// Refuses versions below this one: `TLSv1_2` or `TLSv1_3` (`--tls-min-version`). `None` if there is no such version.
    pub fn at_least(self, version: &str) -> Option<Self> {
        let versions = match version {
            "TLSv1_2" => rustls::DEFAULT_VERSIONS,
            "TLSv1_3" => ONLY_NEWEST,
            _ => return None,
        };
        Some(Self { versions, ..self })
    }

    /// Keeps only these cipher suites of TLS 1.2, by their IANA names (`--tls-cipher-suites`). Those of TLS 1.3 stay, as with
    /// istiod.
    ///
    /// # Errors
    /// The names that we do not know.
    pub fn with_suites(self, names: &[String]) -> Result<Self, Vec<String>> {
        if names.is_empty() {
            return Ok(self);
        }
        let mut provider = CryptoProvider::clone(&self.provider);
        let known: Vec<String> = self.suites();
        let unknown: Vec<String> = names.iter().filter(|name| !known.contains(name)).cloned().collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || names.iter().any(|name| is_called(*suite, name)));
        Ok(Self { provider: Arc::new(provider), ..self })
    }

    /// Returns the names of TLS 1.2's cipher suites.
    pub fn suites(&self) -> Vec<String> {
        let names = self.provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
        names.filter_map(|suite| suite.suite().as_str().map(str::to_owned)).collect()
    }

    /// Returns the cryptography.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    /// Returns the versions.
    pub(in crate::serve) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        self.versions
    }
}

fn is_called(suite: rustls::SupportedCipherSuite, name: &str) -> bool {
    suite.suite().as_str() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_chosen_by_name_and_unknown_ones_are_named() {
        let one = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned();
        let chosen = TlsParameters::default().with_suites(std::slice::from_ref(&one)).unwrap();
        assert_eq!(chosen.suites(), [one]);
        assert!(chosen.provider().cipher_suites.iter().any(|suite| suite.tls13().is_some()), "those of TLS 1.3 stay");
        assert_eq!(
            TlsParameters::default().with_suites(&["TLS_RSA_WITH_RC4_128_SHA".to_owned()]).unwrap_err(),
            ["TLS_RSA_WITH_RC4_128_SHA"]
        );
    }

    #[test]
    fn versions_have_istiods_names() {
        assert_eq!(TlsParameters::default().at_least("TLSv1_3").unwrap().versions().len(), 1);
        assert_eq!(TlsParameters::default().at_least("TLSv1_2").unwrap().versions().len(), 2);
        assert!(TlsParameters::default().at_least("TLSv1_1").is_none());
    }
}
