//! The images that the cluster runs, made from what was built beside this program.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{process::tail, tools};

/// Puts the images of istiod-lite, the demo's workload and the cluster's own into a folder.
///
/// # Errors
/// When a program is missing; says which and how to get it.
pub fn make(folder: &Path) -> Result<()> {
    let project = tools::project();
    let drafts = tempfile::tempdir_in(folder.parent().context("the folder is in another")?)?;
    let mut istiod_lite = Command::new(project.join("scripts/make-image"));
    istiod_lite.arg("--bin").arg(tools::istiod_lite()?).arg("--envoy").arg(tools::envoy("1.40")?).arg("--out").arg(drafts.path());
    run(istiod_lite)?;
    fs::create_dir_all(folder)?;
    fs::rename(drafts.path().join("istiod-lite.tar"), folder.join("istiod-lite.tar"))?;
    let mut others = Command::new(project.join("tests/cluster/box/images.py"));
    others.arg(folder).arg("--coredns").arg(tools::go("coredns", "coredns")?).arg("--reviews").arg(tools::built("reviews")?);
    run(others)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, tail(&String::from_utf8_lossy(&output.stderr), 20));
    Ok(())
}
