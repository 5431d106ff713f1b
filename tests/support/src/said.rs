//! What a test says even when it passes: the runner captures `println!`, not the stream itself.

use std::io::{Write, stdout};

/// Prints a line on the test runner's own output.
pub fn say(line: &str) {
    let mut out = stdout().lock();
    // A runner that closed its output does not fail the test.
    let _ = writeln!(out, "\n{line}");
    let _ = out.flush();
}

/// Says why a test is skipped. Under CI, which has what every test needs, that is a failure.
///
/// # Panics
/// When `CI` is `true`.
pub fn skip(test: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must not be skipped under CI: {reason}");
    say(&format!("skipped: {test}: {reason}"));
}
