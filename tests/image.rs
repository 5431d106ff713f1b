//! The image that `make image` makes: it runs on nothing but itself, and the same inputs give the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use harness::{process::run, said::skip, tools};
use nix::unistd::Uid;

#[test]
fn the_image_runs_on_nothing_but_itself() -> Result<()> {
    if let Some(reason) = missing() {
        skip("the_image_runs_on_nothing_but_itself", &reason);
        return Ok(());
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    make(&folder.path().join("image"))?;
    let root = folder.path().join("root");
    fs::create_dir(&root)?;
    run(Path::new("tar"), &["xf", &text(&folder.path().join("image/rootfs.tar")), "-C", &text(&root)])?;
    if let Err(error) = inside(&root, &["istiod-lite", "--version"]) {
        ensure!(!Uid::effective().is_root(), error);
        skip("the_image_runs_on_nothing_but_itself", &format!("needs root or user namespaces: {error:#}"));
        return Ok(());
    }
    for (command, said) in [
        (["envoy", "--version"], "/1.40."),
        (["iptables-nft-restore", "--version"], "(nf_tables)"),
        (["ip6tables-legacy-save", "--version"], "(legacy)"),
    ] {
        let answer = inside(&root, &command)?;
        ensure!(answer.contains(said), "{}: {answer}", command.join(" "));
    }
    let rules = inside(&root, &["istiod-lite", "capture", "--dry-run"])?;
    ensure!(rules.contains("-A OUTPUT -p tcp -j ISTIO_OUTPUT"), "{rules}");
    ensure!(fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt"))?.contains("BEGIN CERTIFICATE"));
    ensure!(fs::read_to_string(root.join("etc/passwd"))?.contains(":1337:1337:"));
    capture_inside(&root)
}

/// Tries each variant of iptables in turn, alone in the image, in a network namespace of its own.
fn capture_inside(root: &Path) -> Result<()> {
    if !Uid::effective().is_root() {
        skip("the_image_runs_on_nothing_but_itself", "capture inside the image needs root");
        return Ok(());
    }
    let said = inside(root, &["istiod-lite", "capture"])?;
    ensure!(said.contains("IPv4: rules set with iptables-nft"), "{said}");
    for entry in fs::read_dir(root.join("usr/sbin"))? {
        let path = entry?.path();
        if !path.to_string_lossy().contains("legacy") {
            fs::remove_file(path)?;
        }
    }
    match inside(root, &["iptables-legacy-save", "-t", "nat"]) {
        Ok(_) => ensure!(inside(root, &["istiod-lite", "capture"])?.contains("IPv4: rules set with iptables-legacy")),
        Err(error) => skip("the_image_runs_on_nothing_but_itself", &format!("this kernel has nf_tables alone: {error:#}")),
    }
    Ok(())
}

#[test]
fn the_same_inputs_give_the_same_image() -> Result<()> {
    if let Some(reason) = missing() {
        skip("the_same_inputs_give_the_same_image", &reason);
        return Ok(());
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let read = |name: &str| -> Result<Vec<u8>> {
        let out = folder.path().join(name);
        make(&out)?;
        let image = fs::read(out.join("istiod-lite.tar"))?;
        ensure!(!image.is_empty());
        fs::remove_dir_all(out)?;
        Ok(image)
    };
    ensure!(read("once")? == read("twice")?, "two images of the same files differ");
    Ok(())
}

fn missing() -> Option<String> {
    run("dpkg", &["--version"]).is_err().then(|| "needs a Debian machine: iptables comes from its packages".to_owned())
}

fn make(out: &Path) -> Result<()> {
    let envoy = tools::envoy("1.40")?;
    let script = tools::project().join("scripts/make-image");
    let arguments = ["--bin", env!("CARGO_BIN_EXE_istiod-lite"), "--envoy", &text(&envoy), "--out", &text(out)];
    run(&script, &arguments).map(|_| ())
}

/// Runs a command with `root` as its whole file system, in a network of its own; its standard output.
fn inside(root: &Path, command: &[&str]) -> Result<String> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount"]);
    if !Uid::effective().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--", "chroot"]).arg(root).args(command).env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let output = unshare.output().context("unshare")?;
    ensure!(output.status.success(), "{}: {}: {}", command.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn text(path: &(impl AsRef<Path> + ?Sized)) -> String {
    PathBuf::from(path.as_ref()).display().to_string()
}
