//! The source against a real folder with real inotify.

use std::{
    collections::BTreeMap,
    fs,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use tokio::sync::mpsc;

use super::*;
use crate::{
    api::Diagnostic,
    source::{Change, SourceEvent},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn namespace(name: &str, label: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{v: '{label}'}}}}\n")
}

/// What the events of a folder said so far.
struct Received {
    events: mpsc::Receiver<SourceEvent>,
    world: BTreeMap<String, String>,
    findings: Vec<String>,
    log: Vec<&'static str>,
    changes: usize,
}

impl Received {
    async fn of(folder: Folder) -> Self {
        let mut received =
            Self { events: folder.watch().unwrap(), world: BTreeMap::new(), findings: Vec::new(), log: Vec::new(), changes: 0 };
        received.until("first word", |received| received.log.contains(&"synced") || received.log.contains(&"lost")).await;
        received
    }

    // A rescan so rare that only inotify can be the reason for what is seen.
    async fn at(path: &Path) -> Self {
        Self::of(Folder { rescan: Duration::from_secs(3600), ..Folder::new(path) }).await
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                let event = self.events.recv().await.expect("the source ended");
                self.take(event);
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("never came: {what}; knows {:?}, findings {:?}, log {:?}", self.world, self.findings, self.log);
        }
    }

    async fn has(&mut self, world: &[(&str, &str)]) {
        let wanted: BTreeMap<_, _> = world.iter().map(|(name, label)| ((*name).to_owned(), (*label).to_owned())).collect();
        self.until(&format!("{wanted:?}"), |received| received.world == wanted).await;
    }

    async fn finds(&mut self, part: &str) {
        self.until(part, |received| received.findings.iter().any(|finding| finding.contains(part))).await;
    }

    // Takes what comes in a while.
    async fn rest(&mut self, millis: u64) {
        let end = tokio::time::Instant::now() + Duration::from_millis(millis);
        while let Ok(Some(event)) = tokio::time::timeout_at(end, self.events.recv()).await {
            self.take(event);
        }
    }

    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => {
                for change in changes {
                    self.changes += 1;
                    match change {
                        Change::Applied(object) => {
                            self.world.insert(object.key.name.to_string(), object.metadata.labels["v"].to_string());
                        }
                        Change::Deleted(key) => {
                            self.world.remove(key.name.as_str());
                        }
                    }
                }
            }
            SourceEvent::Synced => self.log.push("synced"),
            SourceEvent::Diagnostics { findings, .. } => self.findings = findings.iter().map(ToString::to_string).collect(),
            SourceEvent::Locations(_) => {}
            SourceEvent::Lost { .. } => self.log.push("lost"),
            SourceEvent::Recovered { .. } => self.log.push("recovered"),
        }
    }
}

#[tokio::test]
async fn all_objects_come_before_synced_and_then_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), namespace("a", "1") + &namespace("b", "1")).unwrap();
    fs::create_dir(folder.path().join("deep")).unwrap();
    fs::write(folder.path().join("deep/c.json"), r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"c","labels":{"v":"1"}}}"#)
        .unwrap();
    fs::write(folder.path().join("readme.txt"), "no").unwrap();
    fs::write(folder.path().join(".hidden.yaml"), namespace("hidden", "1")).unwrap();
    let mut received = Received::at(folder.path()).await;
    assert_eq!(received.log, ["synced"]);
    received.has(&[("a", "1"), ("b", "1"), ("c", "1")]).await;

    fs::write(folder.path().join("a.yaml"), namespace("a", "2") + &namespace("b", "1")).unwrap();
    received.has(&[("a", "2"), ("b", "1"), ("c", "1")]).await;
    assert_eq!(received.changes, 4, "only what differs is told");

    // A new folder, filled after it was made and before anybody can watch it.
    fs::create_dir_all(folder.path().join("new/er")).unwrap();
    fs::write(folder.path().join("new/er/d.yml"), namespace("d", "1")).unwrap();
    received.has(&[("a", "2"), ("b", "1"), ("c", "1"), ("d", "1")]).await;

    // Editors and pipelines replace a file in one step.
    fs::write(folder.path().join("a.yaml.tmp"), namespace("a", "3")).unwrap();
    fs::rename(folder.path().join("a.yaml.tmp"), folder.path().join("a.yaml")).unwrap();
    received.has(&[("a", "3"), ("c", "1"), ("d", "1")]).await;

    fs::remove_file(folder.path().join("deep/c.json")).unwrap();
    fs::remove_dir_all(folder.path().join("new")).unwrap();
    received.has(&[("a", "3")]).await;
    assert_eq!(received.findings, [""; 0]);
}

// Contents of equal size, written faster than the clock of the file system ticks.
#[tokio::test]
async fn no_version_is_missed_because_its_stamp_looks_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, namespace("a", "0000")).unwrap();
    let mut received = Received::at(folder.path()).await;
    for round in 1..=200 {
        let label = format!("{round:04}");
        fs::write(&file, namespace("a", &label)).unwrap();
        if round % 20 == 0 {
            received.has(&[("a", &label)]).await;
        }
    }
}

#[tokio::test]
async fn a_half_written_file_withdraws_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, namespace("a", "1") + &namespace("b", "1")).unwrap();
    let mut received = Received::at(folder.path()).await;
    received.has(&[("a", "1"), ("b", "1")]).await;

    // Truncated, then written in two steps of which the first is valid YAML that lacks an object.
    let mut writer = OpenOptions::new().write(true).truncate(true).open(&file).unwrap();
    received.rest(60).await;
    writer.write_all(namespace("a", "2").as_bytes()).unwrap();
    received.rest(60).await;
    assert_eq!(received.changes, 2, "{:?}", received.world);
    writer.write_all(namespace("b", "2").as_bytes()).unwrap();
    drop(writer);
    received.has(&[("a", "2"), ("b", "2")]).await;

    // A writer that breaks a document and leaves it so.
    fs::write(&file, namespace("a", "3") + "---\nkind: {").unwrap();
    received.finds("(a.yaml, document 2): ").await;
    received.has(&[("a", "2"), ("b", "2")]).await;
    fs::write(&file, namespace("a", "4")).unwrap();
    received.has(&[("a", "4")]).await;
    received.until("no finding", |received| received.findings.is_empty()).await;

    // Emptied for good.
    fs::write(&file, "").unwrap();
    received.has(&[]).await;
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_all() {
    let parent = tempfile::tempdir().unwrap();
    let (path, away) = (parent.path().join("config"), parent.path().join("away"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), namespace("a", "1")).unwrap();
    fs::write(path.join("b.yaml"), namespace("b", "1")).unwrap();
    let mut received = Received::of(Folder { rescan: Duration::from_millis(50), ..Folder::new(&path) }).await;
    fs::rename(&path, &away).unwrap();
    received.until("lost", |received| received.log.ends_with(&["lost"])).await;
    fs::remove_file(away.join("b.yaml")).unwrap();

    // Another folder in its place is not it.
    fs::create_dir(&path).unwrap();
    fs::write(path.join("z.yaml"), namespace("z", "1")).unwrap();
    received.rest(600).await;
    assert_eq!(received.log, ["synced", "lost"]);
    received.has(&[("a", "1"), ("b", "1")]).await;

    fs::rename(&path, parent.path().join("other")).unwrap();
    fs::rename(&away, &path).unwrap();
    received.until("recovered", |received| received.log.ends_with(&["recovered"])).await;
    received.has(&[("a", "1")]).await;
    // And it is watched again.
    fs::write(path.join("a.yaml"), namespace("a", "2")).unwrap();
    received.has(&[("a", "2")]).await;
    assert_eq!(received.log, ["synced", "lost", "recovered"]);
}

#[tokio::test]
async fn a_folder_that_appears_late_is_read_then() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("config");
    let mut received = Received::at(&path).await;
    assert_eq!(received.log, ["lost"]);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), namespace("a", "1")).unwrap();
    received.has(&[("a", "1")]).await;
    received.until("synced", |received| received.log == ["lost", "recovered", "synced"]).await;
}

#[tokio::test]
async fn links_within_are_followed_and_links_out_are_refused() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret.yaml"), namespace("secret", "1")).unwrap();
    symlink(outside.path().join("secret.yaml"), folder.path().join("leak.yaml")).unwrap();
    symlink(outside.path(), folder.path().join("leaks")).unwrap();
    symlink("nowhere.yaml", folder.path().join("dangling.yaml")).unwrap();
    symlink(".", folder.path().join("loop")).unwrap();
    // As Kubernetes mounts a ConfigMap.
    fs::create_dir_all(folder.path().join("..2024_01/sub")).unwrap();
    fs::write(folder.path().join("..2024_01/a.yaml"), namespace("a", "1")).unwrap();
    fs::write(folder.path().join("..2024_01/sub/b.yaml"), namespace("b", "1")).unwrap();
    symlink("..2024_01", folder.path().join("..data")).unwrap();
    symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
    symlink("..data/sub", folder.path().join("sub")).unwrap();
    let mut received = Received::at(folder.path()).await;
    received.has(&[("a", "1"), ("b", "1")]).await;
    received.until("findings", |received| received.findings.len() == 3).await;
    assert!(received.findings[0].starts_with("error: (dangling.yaml): is a link that leads nowhere"), "{:?}", received.findings);
    assert_eq!(
        received.findings[1..],
        ["error: (leak.yaml): is a link out of the folder: not read", "error: (leaks): is a link out of the folder: not read"]
    );

    // And turns it to its next version.
    fs::create_dir(folder.path().join("..2024_02")).unwrap();
    fs::write(folder.path().join("..2024_02/a.yaml"), namespace("a", "2")).unwrap();
    symlink("..2024_02", folder.path().join("..data_tmp")).unwrap();
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    fs::remove_file(folder.path().join("sub")).unwrap();
    received.has(&[("a", "2")]).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_harms_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), namespace("a", "1")).unwrap();
    let big = fs::File::create(folder.path().join("big.yaml")).unwrap();
    big.set_len(50 << 20).unwrap();
    fs::write(folder.path().join("bytes.yaml"), [b'a', 0xff]).unwrap();
    nix::unistd::mkfifo(&folder.path().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut received = Received::at(folder.path()).await;
    received.has(&[("a", "1")]).await;
    received.until("findings", |received| received.findings.len() == 3).await;
    assert_eq!(
        received.findings,
        [
            "error: (big.yaml): has 52428800 bytes, more than the 10485760 that are read",
            "error: (bytes.yaml): is not UTF-8 text at byte 1",
            "error: (pipe.yaml): is not a regular file: not read",
        ]
    );
    // A good file that grows too large keeps what it said.
    let grown = OpenOptions::new().write(true).open(folder.path().join("a.yaml")).unwrap();
    grown.set_len(50 << 20).unwrap();
    drop(grown);
    received.finds("(a.yaml): has 52428800 bytes").await;
    received.has(&[("a", "1")]).await;
    fs::remove_file(folder.path().join("big.yaml")).unwrap();
    received.until("two findings", |received| received.findings.len() == 3).await;
}

#[tokio::test]
async fn a_folder_below_that_cannot_be_read_keeps_what_it_said() {
    if nix::unistd::geteuid().is_root() {
        eprintln!("skipped: root reads every folder");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("a.yaml"), namespace("a", "1")).unwrap();
    let mut received = Received::at(folder.path()).await;
    fs::set_permissions(&below, fs::Permissions::from_mode(0o000)).unwrap();
    received.finds("(below): cannot be read").await;
    received.has(&[("a", "1")]).await;
    fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).unwrap();
    received.until("no finding", |received| received.findings.is_empty()).await;
    received.has(&[("a", "1")]).await;
}

#[test]
fn files_and_folders_are_read_once_for_offline_use() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("dir")).unwrap();
    fs::write(folder.path().join("dir/b.yaml"), namespace("b", "1")).unwrap();
    fs::write(folder.path().join("a.conf"), namespace("a", "1") + &namespace("b", "2")).unwrap();
    let paths = [folder.path().join("dir"), folder.path().join("a.conf"), folder.path().join("missing")];
    let Contents { objects, findings, locations } = read_paths(&paths, "Kubernetes");
    let names: Vec<_> = objects.iter().map(|object| object.key.to_string()).collect();
    assert_eq!(names, ["Namespace/a", "Namespace/b"]);
    let place = locations.locate(Diagnostic::warning("", "").of(&objects[1].key)).location.unwrap();
    assert!(place.file.ends_with("/a.conf") && place.document == 2, "{place:?}");
    let said: Vec<_> =
        findings.iter().map(|finding| finding.to_string().replace(&folder.path().to_string_lossy().into_owned(), "")).collect();
    assert_eq!(
        said,
        [
            "error: Namespace/b (/dir/b.yaml, document 1): is given already in /a.conf, document 2, which counts; this one has no effect",
            "error: (/missing): cannot be read: there is no such file or folder; check the path",
        ]
    );
}
