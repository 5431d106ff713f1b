//! `istiod-lite ca rotate`

mod control_planes;
mod folder;
mod place;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use jiff::Timestamp;
use tokio::time::Instant;

use self::{
    control_planes::ControlPlanes,
    place::{Place, PlaceArguments},
};
use crate::{
    identity::rotation::{Change, Material, Move, Need, Objection, Stage, Step, Which},
    peer_text::escaped,
};

/// How often the control planes are asked again while a step is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Replace the CA of a running mesh, its root included, step by step and without a failed request.
///
/// `--plan` puts the next CA beside the one in use. `--next` then takes one step at a time: hand out both roots; sign with the next CA;
/// drop the old root. (An intermediate of the same root takes one step.) A step that would break a connected proxy is refused, and the
/// proxy named. All state stands beside the CA, so that control planes may restart at any time. Exit status 1: refused.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    action: Action,
    #[command(flatten)]
    place: PlaceArguments,
    /// Port 15014 of a control plane, on this machine (`kubectl port-forward`); name every replica, because each knows of its own
    /// proxies only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    address: Vec<SocketAddr>,
    /// How many seconds a step waits for proxies that it would break now, because they need some time to be told
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Take the step although it breaks proxies, and say which
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Action {
    /// Begin a rotation to the CA in this folder, which `ca intermediate` made
    #[arg(long, value_name = "DIR")]
    plan: Option<PathBuf>,
    /// Take the next step
    #[arg(long)]
    next: bool,
    /// Say how far the rotation is, and which proxies the next step would break
    #[arg(long)]
    status: bool,
    /// Go back by one step
    #[arg(long)]
    abort: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(arguments.run())?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    async fn run(&self) -> anyhow::Result<()> {
        let place = Place::open(&self.place).await?;
        let found = place.read().await?;
        let material = Material::read(found.entries.clone())?;
        let after = if let Some(next) = &self.action.plan {
            material.plan(&folder::read(next)?, Timestamp::now())?
        } else if self.action.status {
            return self.show(&material).await;
        } else {
            let step = if self.action.abort { Step::Abort } else { Step::Next };
            self.wait_for(&material, step).await?;
            material.after(step, Timestamp::now())?
        };
        place.write(&found, &after).await?;
        let material = Material::read(after)?;
        println!("{}: {}", place, outlook(&material));
        Ok(())
    }

    /// Waits until a step breaks nobody, for as long as was allowed.
    async fn wait_for(&self, material: &Material, step: Step) -> anyhow::Result<()> {
        let Move { need: Some(need), .. } = material.step(step)? else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let control_planes = ControlPlanes(&self.address);
        loop {
            let judged = control_planes.judge(material, need).await;
            let why = match judged {
                Ok(objections) if objections.is_empty() => return Ok(()),
                Ok(objections) => named(&objections, "would break"),
                Err(error) => vec![format!("{error:#}")],
            };
            if Instant::now() < deadline {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            why.iter().for_each(|line| println!("{}", escaped(line)));
            if self.force {
                println!("taking the step all the same (--force)");
                return Ok(());
            }
            bail!("refused: {}; wait (--wait SECONDS), restart these proxies, or break them by --force", purpose(material, need));
        }
    }

    async fn show(&self, material: &Material) -> anyhow::Result<()> {
        println!("{}", outlook(material));
        if let Ok(Move { need: Some(need), .. }) = material.step(Step::Next) {
            let objections = ControlPlanes(&self.address).judge(material, need).await?;
            match objections.len() {
                0 => println!("the next step breaks no connected proxy"),
                _ => named(&objections, "would break").iter().for_each(|line| println!("{}", escaped(line))),
            }
        }
        Ok(())
    }
}

fn named(objections: &[Objection], would: &str) -> Vec<String> {
    objections.iter().map(|objection| format!("{would} {objection}")).collect()
}

/// Returns what a step waits for.
fn purpose(material: &Material, need: Need) -> String {
    match need {
        Need::Trust(which) => format!("not every connected proxy is known to trust {}", material.root(which).subject),
        Need::Leave(which) => format!("not every connected proxy is known to hold no certificate under {}", material.root(which).subject),
    }
}

/// Returns how far the rotation is, and what comes next.
fn outlook(material: &Material) -> String {
    let (stage, old, next) = (material.stage(), &material.root(Which::Old).subject, &material.root(Which::Next).subject);
    let to_come = match (stage, material.change()) {
        (Stage::Settled, _) => format!("the root is {next}"),
        (_, Change::Intermediate) => "--next lets the next intermediate of the same root sign".into(),
        (Stage::Planned, Change::Root) => format!("--next hands out {next} beside {old}"),
        (Stage::Distributing, Change::Root) => format!("--next lets the CA under {next} sign, when every connected proxy trusts it"),
        (Stage::Switched, Change::Root) => format!("--next drops {old}, when no connected proxy holds a certificate under it"),
    };
    escaped(&format!("{stage}; {to_come}"))
}
