//! `istiod-lite ca`

mod crl;
mod files;
mod inspect;
mod issued;
mod root;
mod rotate;
mod token;

use std::process::ExitCode;

use clap::Subcommand;

use crate::peer_text::escaped;

/// The offline ceremony: root, intermediate, inspect; the rotation of a running mesh's CA; and tokens for meshes without Kubernetes.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Root(root::RootArguments),
    Intermediate(root::IntermediateArguments),
    Crl(crl::Arguments),
    Inspect(inspect::Arguments),
    Issued(issued::Arguments),
    Rotate(rotate::Arguments),
    Issuer(token::IssuerArguments),
    Token(token::TokenArguments),
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let outcome = match arguments.command {
        Command::Root(arguments) => root::make_root(arguments),
        Command::Intermediate(arguments) => root::make_intermediate(arguments),
        Command::Crl(arguments) => crl::run(arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Issued(arguments) => issued::run(&arguments),
        Command::Rotate(arguments) => rotate::run(&arguments),
        Command::Issuer(arguments) => token::make_issuer(&arguments),
        Command::Token(arguments) => token::make_token(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("istiod-lite ca: {}", escaped(&format!("{error:#}")));
        ExitCode::FAILURE
    })
}
