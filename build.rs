//! Compiles our own few protos (Istio's, which envoy-types lacks) without protoc, and derives from all descriptors
//! what the check and the order of what is encoded, and reflection, need. Runs no program and reads nothing outside
//! this folder.

#[path = "build/constraints.rs"]
mod constraints;

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_build::Config;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// The descriptors of all Envoy APIs (a `FileDescriptorSet`) with Envoy's rules for fields. envoy-types exports no way to read
/// its own, which lack the rules, so this is a copy; `tests/descriptors.rs` holds it equal to the linked version and writes it
/// anew.
const ENVOY: &str = "proto/envoy.binpb";

/// Our own protos, below `proto/`.
const PROTOS: &[&str] = &[
    "istio/v1/auth/ca.proto",
    "istio/mesh/v1alpha1/proxy.proto",
    "istio/envoy/config/filter/http/alpn/v2alpha1/config.proto",
    "istio/envoy/extensions/stats/config.proto",
    "udpa/type/v1/typed_struct.proto",
    "xds/type/v3/typed_struct.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let own = protox::compile(PROTOS, ["proto"])?;
    let envoy = fs::read(ENVOY)?;
    let mut all = FileDescriptorSet::decode(&envoy[..])?;
    let is_new = |file: &&FileDescriptorProto| all.file.iter().all(|known| known.name != file.name);
    let added: Vec<FileDescriptorProto> = own.file.iter().filter(is_new).cloned().collect();
    fs::write(out.join("constraints.rs"), constraints::generate(&envoy, FileDescriptorSet { file: added.clone() })?)?;
    all.file.extend(added);
    fs::write(out.join("descriptors.bin"), all.encode_to_vec())?;

    let mut config = Config::new();
    config
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .compile_well_known_types()
        // Its map encodes in a fixed order.
        .btree_map([".stats"])
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf");
    tonic_prost_build::configure().compile_fds_with_config(own, config)?;
    Ok(())
}
