//! Reads the parameters in the webhook's URL: `/inject/cluster/<id>/net/<network>/<KEY>/<value>` (contract §5.2).

use std::collections::BTreeMap;

const CLUSTER: &str = "ISTIO_META_CLUSTER_ID";
const NETWORK: &str = "ISTIO_META_NETWORK";

/// The parameters of the URL, which become environment variables of the proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, String>);

// === impl Parameters ===

impl Parameters {
    /// Reads the path after `/inject`. `--slash--` in a value stands for `/`. As in istiod, a last key without a value is ignored,
    /// and so is a key that cannot be the name of a variable.
    pub fn read(path: &str) -> Self {
        let path = path.trim_matches('/');
        if path.contains(":ENV:") {
            return Self(path.split(":ENV:").filter_map(|pair| pair.split_once('=')).filter_map(variable).collect());
        }
        let parts: Vec<&str> = path.split('/').collect();
        Self(parts.chunks_exact(2).filter_map(|pair| variable((pair[0], pair[1]))).collect())
    }

    /// Returns names and values, sorted by name.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the network (`net`).
    pub fn network(&self) -> Option<&str> {
        self.0.get(NETWORK).map(String::as_str).filter(|network| !network.is_empty())
    }
}

fn variable((key, value): (&str, &str)) -> Option<(String, String)> {
    let name = match key {
        "cluster" => CLUSTER.to_owned(),
        "net" => NETWORK.to_owned(),
        other => other.to_uppercase(),
    };
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    is_name.then(|| (name, value.replace("--slash--", "/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_variables() {
        let read = |path: &str| Parameters::read(path).0.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!(read("/cluster/c1/net/n1"), ["ISTIO_META_CLUSTER_ID=c1", "ISTIO_META_NETWORK=n1"]);
        assert_eq!(read("my_dir/a--slash--b/odd"), ["MY_DIR=a/b"]);
        assert_eq!(read(":ENV:cluster=c1:ENV:x=:ENV:=lost"), ["ISTIO_META_CLUSTER_ID=c1", "X="]);
        assert_eq!(read(""), [""; 0]);
        assert_eq!(read("/a b/c/"), [""; 0]);
    }
}
