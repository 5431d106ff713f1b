//! `istiod-lite ca rotate`, and what a control plane must say before a step is taken.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::Arc,
    thread,
};

use istiod_lite::identity::{
    ca,
    rotation::{Connected, Holder, Record, Report, Stage},
};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::fixture::Authority;

/// A control plane as far as the command asks it: it shows a report.
struct ControlPlane {
    address: SocketAddr,
    report: Arc<Mutex<String>>,
}

impl ControlPlane {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, report) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(String::new())));
        let shown = Arc::clone(&report);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
                let _ = stream.read(&mut request).unwrap();
                let body = shown.lock().clone();
                let length = body.len();
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
            }
        });
        Self { address, report }
    }

    /// Shows what it knows: it uses what is in a folder, and its one proxy was told what was there then.
    fn shows(&self, in_use: &Authority, told: &Record) {
        let ca = in_use.load().unwrap();
        let connected = vec![Connected { proxy: "reviews-1.shop".into(), holder: Some(holder()), acknowledged: None }];
        let (signing, roots, told) = (ca.certificate().serial.clone(), ca.root_ids().clone(), told.list(Timestamp::now()));
        let report = Report { instance: "istiod-1".into(), signing, roots, connected, running: BTreeSet::new(), told };
        *self.report.lock() = serde_json::to_string(&report).unwrap();
    }
}

fn holder() -> Holder {
    Holder { namespace: "shop".into(), service_account: "reviews".into(), address: [10, 0, 0, 1].into() }
}

fn tell(record: &Record, authority: &Authority, seconds_ago: i64) {
    let now = Timestamp::now();
    let ca = authority.load().unwrap();
    record.note(holder(), &ca, now - SignedDuration::from_secs(seconds_ago), now + SignedDuration::from_hours(1));
}

/// Returns whether the command succeeded, and what it printed.
fn rotate(authority: &Authority, control_plane: &ControlPlane, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
    command.args(["ca", "rotate", "--ca-dir"]).arg(authority.path());
    let output = command.args(["--address", &control_plane.address.to_string()]).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn a_step_that_would_break_a_proxy_names_it_and_is_refused() {
    let (old, next) = (Authority::new(), Authority::new());
    let (control_plane, told) = (ControlPlane::start(), Record::default());
    let run = |arguments: &[&str]| rotate(&old, &control_plane, arguments);
    let succeeds = |arguments: &[&str], words: &str| {
        let (succeeded, said) = run(arguments);
        assert!(succeeded && said.contains(words), "{arguments:?}: {said}");
    };
    let fails = |arguments: &[&str], words: &[&str]| {
        let before = ca::load(old.path(), Timestamp::now()).unwrap().root_bundle().to_owned();
        let (succeeded, said) = run(arguments);
        assert!(!succeeded && words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
        assert_eq!(old.load().unwrap().root_bundle(), before, "nothing is written");
    };
    fails(&["--next"], &["no rotation is on"]);
    succeeds(&["--plan", &next.path().display().to_string()], Stage::Planned.as_str());
    fails(&["--plan", &next.path().display().to_string()], &["already (planned"]);
    tell(&told, &old, 60);
    succeeds(&["--next"], Stage::Distributing.as_str());

    // The control plane has not taken the last step over, or says nothing.
    control_plane.shows(&next, &told);
    fails(&["--next"], &["istiod-1 has not taken over the last step", "refused", "--force"]);
    control_plane.report.lock().clear();
    fails(&["--next"], &["does not say what its proxies trust"]);
    control_plane.shows(&old, &told);
    fails(&["--next"], &["would break reviews-1.shop: was last told what to trust at", "refused", "--wait SECONDS"]);
    let (_, said) = run(&["--status"]);
    assert!(said.contains("distributing") && said.contains("would break reviews-1.shop"), "{said}");

    tell(&told, &old, 3);
    control_plane.shows(&old, &told);
    succeeds(&["--next"], Stage::Switched.as_str());
    control_plane.shows(&old, &told);
    fails(&["--next"], &["would break reviews-1.shop: holds a certificate under the root that would go, until"]);
    succeeds(&["--abort"], Stage::Distributing.as_str());
    control_plane.shows(&old, &told);
    succeeds(&["--next"], Stage::Switched.as_str());
    control_plane.shows(&old, &told);
    succeeds(&["--next", "--force"], "would break reviews-1.shop: holds a certificate");
    assert_eq!(old.load().unwrap().root(), &next.root);
}
