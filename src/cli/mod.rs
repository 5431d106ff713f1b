//! The command line: one file per subcommand.

mod agent;
mod ca;
mod discovery;
mod translate;

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
    Discovery(discovery::Arguments),
    Agent(agent::Arguments),
    Ca(ca::Arguments),
    Translate(translate::Arguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Discovery(arguments) => discovery::run(arguments),
        Command::Agent(arguments) => agent::run(arguments),
        Command::Ca(arguments) => ca::run(arguments),
        Command::Translate(arguments) => translate::run(arguments),
    }
}
