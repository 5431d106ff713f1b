//! The command line: one file per subcommand.

mod agent;
mod ca;
mod capture;
mod discovery;
mod features;
mod inject;
mod log;
mod translate;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::peer_text::escaped;

/// A control plane for Envoy that takes istiod's place.
#[derive(Parser)]
#[command(name = "istiod-lite", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Discovery(Box<discovery::Arguments>),
    Agent(agent::Arguments),
    Ca(ca::Arguments),
    Capture(Box<capture::Arguments>),
    Inject(Box<inject::Arguments>),
    Translate(translate::Arguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Discovery(arguments) => discovery::run(*arguments),
        Command::Agent(arguments) => agent::run(arguments),
        Command::Ca(arguments) => ca::run(arguments),
        Command::Capture(arguments) => capture::run(*arguments),
        Command::Inject(arguments) => inject::run(*arguments),
        Command::Translate(arguments) => translate::run(arguments),
    }
}

/// Keeps other processes of our user from reading our memory, by a debugger or a core dump: keys and tokens are in it. What is
/// started from here is not concerned.
fn conceal() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "other processes of this user can read our memory");
    }
}

/// Runs a long-lived command; an error is printed to stderr and makes the exit status 1.
fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let finished = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from);
    match finished.and_then(|runtime| runtime.block_on(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", escaped(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::Parser;
    use serde_json::Value;

    use super::Arguments;
    use crate::api::yaml;

    /// Checks that everything that injection writes into pods is understood by this program.
    #[test]
    fn commands_of_injected_pods_are_commands() {
        let mut seen = 0;
        for feature in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject")).unwrap() {
            let path = feature.unwrap().path().join("out.yaml");
            let text = fs::read_to_string(&path).unwrap();
            let documents = yaml::documents(&text).into_iter().map(|document| yaml::document(document).unwrap());
            for line in documents.flat_map(|document| command_lines(&document)) {
                // A pod has these in its environment.
                let in_a_pod =
                    ["--name", "a", "--namespace", "b", "--ip", "10.0.0.1"].iter().filter(|_| line[1] == "agent" && line[2] != "drain");
                let arguments = line.iter().map(String::as_str).chain(in_a_pod.copied());
                if let Err(error) = Arguments::try_parse_from(arguments) {
                    panic!("{}: {line:?}: {error}", path.display());
                }
                seen += 1;
            }
        }
        assert!(seen > 100, "only {seen} commands seen");
    }

    /// Returns the commands of containers, and of hooks and probes in them.
    fn command_lines(value: &Value) -> Vec<Vec<String>> {
        let texts = |field: &str| -> Vec<String> {
            let list = value.get(field).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let mut found = match value {
            Value::Array(elements) => elements.iter().flat_map(command_lines).collect(),
            Value::Object(fields) => fields.values().flat_map(command_lines).collect(),
            _ => Vec::new(),
        };
        let line: Vec<String> = texts("command").into_iter().chain(texts("args")).collect();
        if line.first().is_some_and(|program| program == "istiod-lite") && line.len() > 2 {
            found.push(line);
        }
        found
    }
}
