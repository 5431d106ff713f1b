//! Where the programs are that tests and demo run.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::process::run;

/// Returns the root of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// Returns the Envoy of a minor version (`1.40`): `ENVOY` if it is of that version, else what `make setup` fetched.
pub fn envoy(minor: &str) -> Result<PathBuf> {
    let own = env::var_os("ENVOY").map(PathBuf::from).filter(|path| version_of(path).is_ok_and(|version| is_of(&version, minor)));
    let path = own.unwrap_or_else(|| project().join(".tools/bin").join(format!("envoy-{minor}")));
    let version = version_of(&path).with_context(|| format!("Envoy {minor} is missing: run `make setup`"))?;
    ensure!(is_of(&version, minor), "{} is Envoy {version}, not {minor}", path.display());
    Ok(path)
}

/// Returns a program of Kubernetes, or etcd, as `make setup` built it from its Go module.
pub fn kubernetes(program: &str) -> Result<PathBuf> {
    go("kubernetes", program)
}

/// Returns a program that `scripts/setup-go-tools <tools>` built.
pub fn go(tools: &str, program: &str) -> Result<PathBuf> {
    let path = project().join(".tools/go").join(tools).join("bin").join(program);
    ensure!(path.is_file(), "{program} is missing: run `scripts/setup-go-tools {tools}`");
    Ok(path)
}

/// Returns `prometheus` or `promtool`: that of `PROMETHEUS` (a path to the former), else the machine's, else what
/// `scripts/setup-prometheus` unpacked.
pub fn prometheus(program: &str) -> Result<PathBuf> {
    let own = env::var_os("PROMETHEUS").map(PathBuf::from).and_then(|path| path.parent().map(Path::to_path_buf));
    let installed = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let folders = own.into_iter().chain(installed).chain([project().join(".tools/prometheus")]);
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("{program} is missing: run `scripts/setup-prometheus`"))
}

/// Returns `redis-server`: the machine's, else what `scripts/setup-redis` unpacked.
pub fn redis() -> Result<PathBuf> {
    let installed = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let folders = installed.into_iter().chain([project().join(".tools/redis/bin")]);
    let found = folders.map(|folder| folder.join("redis-server")).find(|path| path.is_file());
    found.context("redis-server is missing: run `scripts/setup-redis`")
}

/// Returns the version of an Envoy binary, such as `1.40.0`.
pub fn version_of(envoy: &Path) -> Result<String> {
    let text = run(envoy, &["--version"])?;
    let version = text.split_once("version: ").and_then(|(_, rest)| rest.split('/').nth(1));
    Ok(version.with_context(|| format!("not an Envoy: {text}"))?.to_owned())
}

/// Returns the `istiod-lite` that was built together with the running example or test.
pub fn istiod_lite() -> Result<PathBuf> {
    built("istiod-lite")
}

/// Returns a program that was built together with the running example or test.
pub fn built(program: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("no {program} beside {}: run `make build`", own.display()))
}

fn is_of(version: &str, minor: &str) -> bool {
    version.strip_prefix(minor).is_some_and(|rest| rest.starts_with('.'))
}
