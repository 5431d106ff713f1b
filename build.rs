//! Compiles our own few protos (Istio's, which envoy-types lacks) without protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost_build::Config;

const PROTOS: &[&str] = &[
    "proto/istio/v1/auth/ca.proto",
    "proto/istio/envoy/config/filter/http/alpn/v2alpha1/config.proto",
    "proto/udpa/type/v1/typed_struct.proto",
    "proto/xds/type/v3/typed_struct.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("istio.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let mut config = Config::new();
    config
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf");
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
