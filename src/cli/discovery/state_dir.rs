//! Where state is kept if nobody says it.

use std::{ffi::OsString, path::PathBuf};

/// Returns where programs keep state on this system, by the environment variables of the process.
pub(super) fn default_for(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let named = |name: &str| variable(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    // systemd makes this one for the service alone.
    let own = named("STATE_DIRECTORY");
    let of_all = || named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state"))).map(|all| all.join("istiod-lite"));
    own.or_else(of_all).unwrap_or_else(|| PathBuf::from("istiod-lite-state"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_kept_where_the_system_keeps_it() {
        let of = |variables: &[(&str, &str)]| {
            default_for(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/home/me");
        assert_eq!(of(&[home, ("STATE_DIRECTORY", "/var/lib/mesh")]), PathBuf::from("/var/lib/mesh"));
        assert_eq!(of(&[home, ("XDG_STATE_HOME", "/state")]), PathBuf::from("/state/istiod-lite"));
        assert_eq!(of(&[home]), PathBuf::from("/home/me/.local/state/istiod-lite"));
        assert_eq!(of(&[("HOME", "")]), PathBuf::from("istiod-lite-state"));
    }
}
