//! How many files and sockets this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is not for connections: listeners, watches, folders, the API server; and connections that have not ended yet.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one, as Go's runtime does by itself; returns how many connections that allows.
pub(super) fn raise_limit() -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                tracing::warn!(soft, hard, %error, "the limit of open files cannot be raised");
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is unknown");
            1024
        }
    };
    usize::try_from(for_connections(limit)).unwrap_or(usize::MAX)
}

fn for_connections(files: u64) -> u64 {
    files - (files / 8).max(OTHERS).min(files / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_kept_for_other_things() {
        assert_eq!([256, 1024, 1 << 20].map(for_connections), [128, 768, 917_504]);
    }

    #[test]
    fn the_limit_of_this_process_is_raised() {
        assert!(raise_limit() > 0);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
