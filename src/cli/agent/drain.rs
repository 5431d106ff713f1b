//! `istiod-lite agent drain`

use std::{
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;

use crate::agent::admin::Admin;

#[derive(Args)]
pub(super) struct Arguments {
    /// The agent's own port
    #[arg(long, default_value_t = 15020)]
    agent_port: u16,
    /// The address that the agent was told to listen on, if any
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::LOCALHOST.into())]
    listen_address: IpAddr,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The agent bounds the wait, and the kubelet the hook.
        let agent = Admin::new((arguments.listen_address, arguments.agent_port).into()).without_timeout();
        agent.post("/drain?wait").await.context("no agent drains here; --agent-port and --listen-address say where it is")?;
        Ok(ExitCode::SUCCESS)
    })
}
