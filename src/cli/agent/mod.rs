//! `istiod-lite agent`

mod bootstrap;
mod drain;
mod environment;
mod options;
mod pod;
mod settings;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};

pub(super) use self::pod::settings_of_pod;
use self::{
    environment::{Environment, PodInfo},
    options::ProxyOptions,
};
use super::log;
use crate::agent::{self, End, settings::Role};
use crate::peer_text::escaped;

/// Runs a stock Envoy as sidecar or gateway.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    role: RoleCommand,
}

#[derive(Subcommand)]
enum RoleCommand {
    /// Envoy beside one workload.
    Sidecar(Box<ProxyOptions>),
    /// Envoy at the edge of the mesh.
    Gateway(Box<ProxyOptions>),
    /// Tells the agent that runs here to drain, and waits until it has; for a container's preStop hook.
    ///
    /// The proxy is unready at once, goes on taking connections while others learn that it ends, and asks those who are
    /// connected to go elsewhere. This returns when nobody is connected any more (but not before the minimum drain duration), or
    /// when the termination drain duration is over, both as the agent was told.
    Drain(drain::Arguments),
    /// Becomes Envoy; the agent starts it so that no Envoy outlives its agent.
    #[command(hide = true)]
    Launch {
        parent: i32,
        binary: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let outcome = match arguments.role {
        RoleCommand::Sidecar(options) => serve(Role::Sidecar, *options),
        RoleCommand::Gateway(options) => serve(Role::Gateway, *options),
        RoleCommand::Drain(arguments) => drain::run(&arguments),
        RoleCommand::Launch { parent, binary, arguments } => {
            eprintln!("{}: {}", binary.display(), agent::launch::become_envoy(parent, &binary, &arguments));
            return ExitCode::FAILURE;
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("istiod-lite agent: {}", escaped(&format!("{error:#}")));
        ExitCode::FAILURE
    })
}

fn serve(role: Role, options: ProxyOptions) -> anyhow::Result<ExitCode> {
    log::start(&options.envoy.log_level, false).context("--log-level: write info, or istiod_lite=debug,info")?;
    crate::cli::conceal();
    let pod = PodInfo::read(options.workload.labels_file.as_deref(), options.workload.annotations_file.as_deref())?;
    let settings = settings::of(role, options, &Environment::of_this_process()?, pod)?;
    // One thread is enough for one Envoy. It must be this one: the kernel ends Envoy with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(agent::run(settings))? {
        End::Asked => Ok(ExitCode::SUCCESS),
        End::EnvoyEnded(status) => {
            eprintln!("istiod-lite agent: Envoy ended on its own: {status}");
            let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
    }
}
