//! What features look like: `tests/golden/<feature>/in.yaml` has objects, the other files what `istiod-lite translate`
//! makes of them for one proxy and stock Envoy. `UPDATE_GOLDEN=1 cargo test --test offline golden` writes them anew.
//!
//! `in.yaml` begins with `# proxy: NAME.NAMESPACE`, `# shows: clusters endpoints listeners routes extensions agent findings`
//! (those of interest; agent is what Istio's agents are told beside, findings are what is said of the objects) and a line that says what to look at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const KINDS: [(&str, &str); 6] =
    [("clusters", "cds"), ("endpoints", "eds"), ("listeners", "lds"), ("routes", "rds"), ("extensions", "ecds"), ("agent", "pcds")];

pub(crate) fn features() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

// The value of a comment `# key: value` in the first lines.
fn said(feature: &Path, key: &str) -> String {
    let text = fs::read_to_string(feature.join("in.yaml")).unwrap();
    let start = format!("# {key}: ");
    let line = text.lines().take(3).find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("{}: no `{start}`", feature.display())).to_owned()
}

pub(crate) fn translate(feature: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_istiod-lite"))
        .args(["translate", "-f"])
        .arg(feature.join("in.yaml"))
        .args(["--proxy", &said(feature, "proxy")])
        .args(["--multi-root-mesh", if gives_roots(feature) { "true" } else { "false" }])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", feature.display(), String::from_utf8_lossy(&output.stderr));
    output
}

// Whether proxies are given the roots of other meshes.
fn gives_roots(feature: &Path) -> bool {
    feature.ends_with("multi-root")
}

// The name of each file that is recorded, with what it has now.
fn shown(feature: &Path) -> Vec<(String, String)> {
    let shows = said(feature, "shows");
    let asked = |name: &str| shows.split(' ').any(|shown| shown == name);
    let mut files: Vec<_> = KINDS
        .into_iter()
        .filter(|(name, _)| asked(name))
        .map(|(name, kind)| (format!("{name}.yaml"), String::from_utf8(translate(feature, &["--type", kind]).stdout).unwrap()))
        .collect();
    if asked("findings") {
        let said = String::from_utf8(translate(feature, &[]).stderr).unwrap();
        files.push(("findings.txt".into(), said.replace(&format!("{}/", feature.display()), "")));
    }
    files
}

#[test]
fn features_look_as_recorded() {
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let mut different = Vec::new();
    for feature in features() {
        for (name, ours) in shown(&feature) {
            assert!(!ours.trim().is_empty(), "{}: no {name}", feature.display());
            let path = feature.join(name);
            if update {
                fs::write(&path, &ours).unwrap();
            }
            let recorded = fs::read_to_string(&path).unwrap_or_default();
            if recorded != ours {
                let line = recorded.lines().zip(ours.lines()).position(|(a, b)| a != b).unwrap_or_else(|| recorded.lines().count());
                let of = |text: &str| text.lines().nth(line).unwrap_or("(nothing)").to_owned();
                different.push(format!("{} line {}:\n  recorded {}\n  now      {}", path.display(), line + 1, of(&recorded), of(&ours)));
            }
        }
    }
    assert!(different.is_empty(), "{}\nUPDATE_GOLDEN=1 records what is made now", different.join("\n"));
}

#[test]
fn a_mesh_config_file_wins_over_the_config_map() {
    let feature = features().into_iter().find(|feature| feature.ends_with("mesh-config")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    fs::write(&file, "outboundTrafficPolicy: {mode: ALLOW_ANY}\n").unwrap();
    let routes = |arguments: &[&str]| String::from_utf8(translate(&feature, arguments).stdout).unwrap();
    assert!(routes(&["--type", "rds"]).contains("name: block_all"));
    assert!(routes(&["--type", "rds", "--meshConfig", file.to_str().unwrap()]).contains("name: allow_any"));
}

#[test]
fn every_recorded_file_is_shown() {
    for feature in features() {
        let shows = said(&feature, "shows");
        for entry in fs::read_dir(&feature).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".txt")).unwrap_or(&name);
            assert!(
                name == "in" || shows.split(' ').any(|shown| shown == name),
                "{}: {name}.yaml is compared with nothing",
                feature.display()
            );
        }
    }
}

#[test]
fn envoy_accepts_every_feature() {
    for minor in ["1.40", "1.38"] {
        let envoy = harness::tools::envoy(minor).unwrap();
        for feature in features() {
            let bootstrap = translate(&feature, &["--bootstrap", "-o", "json"]).stdout;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("bootstrap.json");
            fs::write(&file, &bootstrap).unwrap();
            let output = Command::new(&envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "Envoy {minor} refuses {}: {said}", feature.display());
        }
    }
}
