//! The copy of Envoy's descriptors in `proto/envoy.binpb`, which the build script reads, is that of the envoy-types that
//! is linked. `UPDATE_GOLDEN=1 cargo test --test offline descriptors` writes it anew after an update of envoy-types.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use harness::process::run;
use istiod_lite::proto;
use prost_reflect::{DescriptorPool, prost::Message, prost_types::FileDescriptorSet};
use serde_json::Value;

const COPY: &str = "proto/envoy.binpb";

#[test]
fn the_copy_of_envoys_descriptors_is_that_of_the_linked_envoy_types() -> Result<()> {
    let linked = without_comments(&fs::read(source_of("envoy-types")?.join("src/generated/types.bin"))?)?;
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join(COPY);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&copy, &linked)?;
    }
    ensure!(fs::read(&copy)? == linked, "{COPY} is stale: UPDATE_GOLDEN=1 cargo test --test offline descriptors");
    Ok(())
}

#[test]
fn our_own_protos_are_described_beside_envoys() -> Result<()> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS)?;
    for name in ["envoy.config.listener.v3.Listener", "istio.v1.auth.IstioCertificateRequest", "udpa.type.v1.TypedStruct"] {
        ensure!(pool.get_message_by_name(name).is_some(), "{name} has no descriptor");
    }
    Ok(())
}

/// Returns the set as the copy has it: comments and positions in the source are four fifths of it, and nothing reads them.
fn without_comments(set: &[u8]) -> Result<Vec<u8>> {
    let mut set = FileDescriptorSet::decode(set)?;
    set.file.iter_mut().for_each(|file| file.source_code_info = None);
    Ok(set.encode_to_vec())
}

/// Returns the folder of the source of a package that this one is built with, wherever cargo has it.
fn source_of(package: &str) -> Result<PathBuf> {
    let metadata = run(env!("CARGO"), &["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform=host-tuple"])?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let found = packages.iter().find(|listed| listed["name"] == package).with_context(|| format!("no package {package}"))?;
    let manifest = found["manifest_path"].as_str().context("a package without a manifest")?;
    Ok(Path::new(manifest).with_file_name(""))
}
