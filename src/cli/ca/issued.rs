//! `istiod-lite ca issued`

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;

use crate::{agent::admin::Admin, peer_text::escaped};

/// List the certificates that a control plane has issued and that are valid, the newest first.
///
/// Each replica knows of its own, and of none from before its start; the log has a line for each (`istiod_lite::audit`).
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Port 15014 of the control plane, on this machine (`kubectl port-forward`)
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 15014)))]
    address: SocketAddr,
    /// Only those of workloads of this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What the debug page says.
#[derive(Deserialize)]
struct Listing {
    certificates: Vec<Entry>,
    forgotten: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    serial: String,
    identity: String,
    not_after: Timestamp,
    caller: String,
    proof: String,
    #[serde(default)]
    signer: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let page = match &arguments.namespace {
        None => "/debug/certificates".to_owned(),
        Some(namespace) => {
            let namespace = percent_encoding::utf8_percent_encode(namespace, percent_encoding::NON_ALPHANUMERIC);
            format!("/debug/certificates?namespace={namespace}")
        }
    };
    let unanswered = "no control plane answers; --address says where its port 15014 is";
    let body = runtime.block_on(Admin::new(arguments.address).get(&page)).context(unanswered)?;
    if arguments.json {
        println!("{}", escaped(String::from_utf8_lossy(&body).trim_end()));
        return Ok(ExitCode::SUCCESS);
    }
    let listing: Listing = serde_json::from_slice(&body).context("the answer is not that of a control plane")?;
    print!("{}", table(&listing.certificates));
    if listing.forgotten > 0 {
        eprintln!("{} older ones are no longer known to it", listing.forgotten);
    }
    Ok(ExitCode::SUCCESS)
}

fn table(certificates: &[Entry]) -> String {
    let mut lines = format!("{:<47}  {:<20}  {:<25}  IDENTITY\n", "SERIAL", "NOT AFTER", "PROVEN BY");
    for Entry { serial, identity, not_after, caller, proof, signer } in certificates {
        let until = not_after.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let asked_by = if caller == identity { String::new() } else { format!(" (asked for by {caller})") };
        let signed_by = signer.as_ref().map_or_else(String::new, |signer| format!(" (signed by {signer})"));
        lines += &escaped(&format!("{serial:<47}  {until:<20}  {proof:<25}  {identity}{asked_by}{signed_by}"));
        lines.push('\n');
    }
    lines
}
