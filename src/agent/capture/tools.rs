//! Running iptables, a program that knows what the kernel at hand can do.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use super::rules::Family;

/// The variants in the order in which they are tried: nf_tables, the system's default, the older x_tables.
const VARIANTS: [&str; 3] = ["-nft", "", "-legacy"];
/// How many seconds the older variant waits for another process that holds its lock.
const LOCK_WAIT: &str = "10";

/// `iptables…-save` and `iptables…-restore` of one variant.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    prefix: String,
}

/// Why iptables did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No variant works here.
    #[error("no usable {program}: {reasons} (it takes root with the capabilities NET_ADMIN and NET_RAW)")]
    Unusable {
        /// `iptables` or `ip6tables`.
        program: &'static str,
        /// What each variant reported.
        reasons: String,
    },
    /// A run failed.
    #[error("{program}: {reason}")]
    Run {
        /// The program.
        program: String,
        /// What it reported.
        reason: String,
    },
}

impl Tools {
    /// Finds the first variant that can read the `nat` table of this network namespace.
    pub(crate) fn find(family: Family) -> Result<Self, Error> {
        let program = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let mut reasons = Vec::new();
        for variant in VARIANTS {
            let tools = Self { prefix: format!("{program}{variant}") };
            match tools.saved() {
                Ok(_) => return Ok(tools),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(Error::Unusable { program, reasons: reasons.join("; ") })
    }

    /// Returns its name: `iptables-nft`, `iptables`, ….
    pub(crate) fn name(&self) -> &str {
        &self.prefix
    }

    /// Returns the `nat` table as text.
    pub(crate) fn saved(&self) -> Result<String, Error> {
        run(&format!("{}-save", self.prefix), &["-t", "nat"], "")
    }

    /// Runs one transaction; chains that it does not name stay as they are.
    pub(crate) fn restore(&self, transaction: &str) -> Result<(), Error> {
        let arguments: &[&str] = if self.prefix.ends_with("-legacy") { &["--noflush", "--wait", LOCK_WAIT] } else { &["--noflush"] };
        run(&format!("{}-restore", self.prefix), arguments, transaction).map(|_| ())
    }
}

/// Runs a program with `input` to its end, and returns its standard output.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let failed = |reason: String| Error::Run { program: program.to_owned(), reason };
    let output = piped(program, arguments, input).map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn piped(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It ended before it read everything: its exit status says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_named_with_what_it_said() {
        let error = run("sh", &["-c", "echo no such table >&2; exit 3"], "input").unwrap_err().to_string();
        assert_eq!(error, "sh: exit status: 3: no such table");
        assert!(run("iptables-of-nobody", &[], "").unwrap_err().to_string().starts_with("iptables-of-nobody: No such file"));
        assert_eq!(run("cat", &[], "text").unwrap(), "text");
    }
}
