//! The command line: one file per subcommand.

mod agent;
mod ca;
mod capture;
mod discovery;
mod inject;
mod log;
mod translate;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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

/// Runs a command that lives long; an error is said on stderr and makes the exit status 1.
fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let finished = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from);
    match finished.and_then(|runtime| runtime.block_on(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
