//! Compiles our own few protos (Istio's, which envoy-types lacks) without protoc, and derives from all descriptors
//! what canonical encoding and reflection need.

#[path = "build/shapes.rs"]
mod shapes;

use std::{env, error::Error, fs, path::PathBuf, process::Command};

use prost::Message;
use prost_build::Config;
use prost_types::FileDescriptorSet;

const PROTOS: &[&str] = &[
    "istio/v1/auth/ca.proto",
    "istio/envoy/config/filter/http/alpn/v2alpha1/config.proto",
    "udpa/type/v1/typed_struct.proto",
    "xds/type/v3/typed_struct.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let own = protox::compile(PROTOS, ["proto"])?;
    let mut all = envoy_descriptors()?;
    for file in &own.file {
        if all.file.iter().all(|known| known.name != file.name) {
            all.file.push(file.clone());
        }
    }
    fs::write(out.join("descriptors.bin"), all.encode_to_vec())?;
    fs::write(out.join("shapes.rs"), shapes::generate(&all))?;

    let mut config = Config::new();
    config
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf");
    tonic_prost_build::configure().compile_fds_with_config(own, config)?;
    Ok(())
}

/// The descriptors of all Envoy APIs. envoy-types ships them in its source but exports no way to read them, so cargo
/// is asked where that source is.
fn envoy_descriptors() -> Result<FileDescriptorSet, Box<dyn Error>> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform"])
        .arg(env::var("TARGET")?)
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "envoy-types"))
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not know envoy-types")?;
    let mut set = FileDescriptorSet::decode(&fs::read(PathBuf::from(manifest).with_file_name("src/generated/types.bin"))?[..])?;
    for file in &mut set.file {
        file.source_code_info = None;
    }
    Ok(set)
}
