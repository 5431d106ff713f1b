//! The copy of Envoy's descriptors in `proto/envoy.binpb`, which the build script reads, is that of the envoy-types that
//! is linked, with the rules for fields that its own descriptors lack. `UPDATE_GOLDEN=1 cargo test --test offline descriptors`
//! writes it anew after an update of envoy-types.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use harness::process::run;
use istiod_lite::proto;
use prost_reflect::{
    DescriptorPool,
    prost::Message,
    prost_types::{FileDescriptorProto, FileDescriptorSet},
};
use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
};
use serde_json::Value;

const COPY: &str = "proto/envoy.binpb";

#[test]
fn the_copy_of_envoys_descriptors_is_that_of_the_linked_envoy_types() -> Result<()> {
    let source = source_of("envoy-types")?;
    let linked = FileDescriptorSet::decode(&fs::read(source.join("src/generated/types.bin"))?[..])?;
    let compiled = compile(&source.join("proto"), &linked)?;
    ensure!(by_name(FileDescriptorSet::decode(&compiled[..])?) == by_name(linked), "envoy-types' protos are not what it was made from");
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join(COPY);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&copy, &compiled)?;
    }
    ensure!(fs::read(&copy)? == compiled, "{COPY} is stale: UPDATE_GOLDEN=1 cargo test --test offline descriptors");
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

/// Compiles the files of a set from their sources: in the set itself, options that are extensions (Envoy's rules for fields) are
/// lost.
fn compile(protos: &Path, set: &FileDescriptorSet) -> Result<Vec<u8>> {
    let repositories = fs::read_dir(protos)?.map(|entry| Ok(entry?.path())).collect::<Result<BTreeSet<_>>>()?;
    let includes = repositories.into_iter().flat_map(|repository| [repository.join("proto"), repository]);
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(includes.collect()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_files(set.file.iter().map(|file| file.name()))?;
    Ok(compiler.encode_file_descriptor_set())
}

/// Files of the folders. In extensions, names of packages outside are written out: protox also looks for `config.…` and
/// `common.…` in packages that a file does not import, and finds others there.
struct Sources(BTreeSet<PathBuf>);

/// The packages under `envoy.extensions.common` of which there are others that begin like them.
const COMMON: [&str; 5] = ["async_files", "aws", "dynamic_forward_proxy", "ratelimit", "tap"];

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let read = self.0.iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok());
        let mut source = read.ok_or_else(|| protox::Error::file_not_found(name))?;
        if name.starts_with("envoy/extensions/") {
            for before in [' ', '<'] {
                source = source.replace(&format!("{before}config."), &format!("{before}.envoy.config."));
                for package in COMMON {
                    source = source.replace(&format!("{before}common.{package}."), &format!("{before}.envoy.extensions.common.{package}."));
                }
            }
        }
        File::from_source(name, &source)
    }
}

/// Returns the messages and enums of Envoy's files by name, without comments and positions in the source. Services differ in
/// whether what is false is written, and Google's files come with the compiler.
fn by_name(set: FileDescriptorSet) -> BTreeMap<String, FileDescriptorProto> {
    let envoys = set.file.into_iter().filter(|file| !file.name().starts_with("google/protobuf/"));
    let files = envoys.map(|file| FileDescriptorProto { source_code_info: None, service: Vec::new(), ..file });
    files.map(|file| (file.name().to_owned(), file)).collect()
}

/// Returns the folder of the source of a package that this one is built with, wherever cargo has it.
fn source_of(package: &str) -> Result<PathBuf> {
    // Not offline: it lists what the benches need, too, which nobody has fetched who has only run the tests.
    let metadata = run(env!("CARGO"), &["metadata", "--format-version=1", "--locked", "--filter-platform=host-tuple"])?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let found = packages.iter().find(|listed| listed["name"] == package).with_context(|| format!("no package {package}"))?;
    let manifest = found["manifest_path"].as_str().context("a package without a manifest")?;
    Ok(Path::new(manifest).with_file_name(""))
}
