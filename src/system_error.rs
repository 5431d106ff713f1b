//! Says errors of the operating system in words that help: what is the matter, and what to look at.

use std::io::{Error, ErrorKind};

/// Returns the error in words, without its number where the words say all.
pub(crate) fn explain(error: &Error) -> String {
    // An error without a number is one that this program or a library made, and has words of its own.
    if error.raw_os_error().is_none() {
        return error.to_string();
    }
    let words = match error.kind() {
        ErrorKind::NotFound => "there is no such file or folder; check the path",
        ErrorKind::PermissionDenied => "this user may not; check owner and mode, or run as another user",
        ErrorKind::NotADirectory => "is not a folder; check the path",
        ErrorKind::IsADirectory => "is a folder; name a file in it",
        ErrorKind::AlreadyExists => "exists already; remove it, or name another",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only; name a place that can be written",
        ErrorKind::StorageFull => "the disk is full; make room, or name another place",
        ErrorKind::AddrInUse => "another process listens there; end it, or choose another address",
        ErrorKind::AddrNotAvailable => "this machine has no such address; choose one that it has",
        ErrorKind::ConnectionRefused => "nobody listens there; check the address, and that the other side runs",
        _ => return error.to_string(),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_errors_say_what_to_do() {
        let missing = std::fs::read("/none/such").unwrap_err();
        assert_eq!(explain(&missing), "there is no such file or folder; check the path");
        assert_eq!(explain(&Error::other("is not a regular file")), "is not a regular file");
        assert!(explain(&Error::from_raw_os_error(libc_einval())).contains("os error"), "what is not known keeps its number");
    }

    fn libc_einval() -> i32 {
        nix::errno::Errno::EINVAL as i32
    }
}
