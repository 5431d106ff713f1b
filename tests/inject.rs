//! What injection makes of pods: `tests/inject/<feature>/in.yaml` has objects, `out.yaml` what `istiod-lite inject` makes of
//! them, `said.txt` what it says about them (no file: nothing). `UPDATE_GOLDEN=1 cargo test --test offline inject` writes them anew.
//!
//! `in.yaml` begins with a line that says what to look at. `arguments` holds more arguments, `mesh.yaml` MeshConfig.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn features() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/inject");
    let mut found: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    assert!(found.len() > 40, "only {} features found", found.len());
    found
}

fn inject(feature: &Path, file: &Path) -> Output {
    let arguments = fs::read_to_string(feature.join("arguments")).unwrap_or_default();
    let mesh = feature.join("mesh.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
    command.args(["inject", "-f"]).arg(file).args(arguments.split_whitespace()).env_clear();
    if mesh.exists() {
        command.arg("--meshConfig").arg(&mesh);
    }
    command.output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

// Refused objects are said, and make the exit status 2.
fn status_of(said: &str) -> i32 {
    if said.lines().any(|line| line.starts_with("error: ")) { 2 } else { 0 }
}

#[test]
fn features_look_as_recorded() {
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let mut different = Vec::new();
    for feature in features() {
        let output = inject(&feature, &feature.join("in.yaml"));
        let (made, said) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(status_of(&said)), "{}: {said}", feature.display());
        for (name, ours) in [("out.yaml", made), ("said.txt", said)] {
            let path = feature.join(name);
            let recorded = fs::read_to_string(&path).unwrap_or_default();
            if update && recorded != ours {
                if ours.is_empty() { fs::remove_file(&path).unwrap() } else { fs::write(&path, &ours).unwrap() }
            } else if recorded != ours {
                let line = recorded.lines().zip(ours.lines()).position(|(a, b)| a != b).unwrap_or_else(|| recorded.lines().count());
                let of = |text: &str| text.lines().nth(line).unwrap_or("(nothing)").to_owned();
                different.push(format!("{} line {}:\n  recorded {}\n  now      {}", path.display(), line + 1, of(&recorded), of(&ours)));
            }
        }
    }
    assert!(different.is_empty(), "{}\nUPDATE_GOLDEN=1 records what is made now", different.join("\n"));
}

#[test]
fn injecting_twice_equals_injecting_once() {
    for feature in features() {
        let once = feature.join("out.yaml");
        let twice = text(inject(&feature, &once).stdout);
        assert_eq!(twice, fs::read_to_string(&once).unwrap(), "{}", feature.display());
    }
}
