//! Which version this is, in the words that istiod's clients read (contract §1.2, §1.3).

use serde::Serialize;

/// The version of istiod that this control plane stands in for, with its own behind it.
pub const VERSION: &str = concat!("1.30.3-istiod-lite.", env!("CARGO_PKG_VERSION"));

/// The revision that was built, if the build was told (`ISTIOD_LITE_REVISION`).
pub const REVISION: &str = match option_env!("ISTIOD_LITE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// `Clean` or `Modified`, if the build was told (`ISTIOD_LITE_STATUS`).
pub const STATUS: &str = match option_env!("ISTIOD_LITE_STATUS") {
    Some(status) => status,
    None => "unknown",
};

/// Istio's `BuildInfo` as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildInfo {
    version: &'static str,
    revision: &'static str,
    golang_version: &'static str,
    status: &'static str,
    tag: &'static str,
}

/// This build. There is no Go in it: that field is empty.
pub const BUILD: BuildInfo = BuildInfo { version: VERSION, revision: REVISION, golang_version: "", status: STATUS, tag: VERSION };

/// Returns the single line of `/version`: version, revision and status. Clients take it apart from the right, by its dashes.
pub fn line() -> String {
    format!("{VERSION}-{REVISION}-{STATUS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_splits_the_line_finds_the_version() {
        let line = line();
        let parts: Vec<&str> = line.rsplitn(3, '-').collect();
        assert_eq!(parts, [STATUS, REVISION, VERSION]);
    }
}
