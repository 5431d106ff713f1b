//! The versions that proxies are counted by: a closed set, since a label stays for as long as its metric.

/// The minor versions of Istio that are told apart.
const KNOWN: [&str; 6] = ["1.26", "1.27", "1.28", "1.29", "1.30", "1.31"];

/// A version in metrics: `1.30`, `other`, or `unknown` for a proxy that says none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownVersion(&'static str);

impl KnownVersion {
    /// Reads what a proxy says it is.
    pub fn of(version: &str) -> Self {
        let is_of = |minor: &&str| version.strip_prefix(*minor).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()));
        match version {
            // Istio's agents say the second when they are built without a version.
            "" | "unknown" => Self("unknown"),
            _ => Self(KNOWN.into_iter().find(is_of).unwrap_or("other")),
        }
    }

    /// Returns the word that metrics use.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_proxy_says_it_is_counted_under_one_of_a_few() {
        let said = ["1.30.3", "1.31-dev", "1.30", "1.300", "2.0", "1.30\n", "", "unknown"];
        assert_eq!(
            said.map(|version| KnownVersion::of(version).as_str()),
            ["1.30", "1.31", "1.30", "other", "other", "1.30", "unknown", "unknown"]
        );
    }
}
