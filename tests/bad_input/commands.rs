//! What the commands say when they cannot begin: what is the matter, and what to do next. And the first command that
//! somebody types, which begins.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

fn istiod_lite(home: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
    command.args(line.split_whitespace()).current_dir(home).env_clear().env("HOME", home).stdin(Stdio::null());
    command
}

const PORTS: &str = "--httpAddr 127.0.0.1:0 --grpcAddr 127.0.0.1:0 --secureGRPCAddr 127.0.0.1:0 --monitoringAddr 127.0.0.1:0";

#[test]
fn every_error_says_what_to_do_next() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    fs::create_dir(home.path().join("empty")).unwrap();
    fs::write(home.path().join("text"), "text\n").unwrap();
    for (line, words) in [
        (format!("discovery {PORTS}"), "--config-dir"),
        (format!("discovery {PORTS} --kubeconfig none"), "--kubeconfig none: there is no such file or folder; check the path"),
        (format!("discovery {PORTS} --kubeconfig text"), "name a file that kubectl reads"),
        (format!("discovery --config-dir . --httpAddr {address}"), "another process listens there; end it, or choose another"),
        (format!("discovery {PORTS} --config-dir . --ca-dir none"), "none: there is no such file or folder"),
        (format!("discovery {PORTS} --config-dir . --ca-dir none"), "`istiod-lite ca intermediate` makes"),
        (format!("discovery {PORTS} --config-dir . --ca-dir empty"), "`istiod-lite ca intermediate` makes one"),
        (format!("discovery {PORTS} --config-dir . --state-dir text"), "--state-dir names"),
        (format!("discovery {PORTS} --config-dir . --meshConfig none"), "check the path"),
        (format!("discovery {PORTS} --config-dir . --token-issuer-dir none"), "`istiod-lite ca issuer` made"),
        (format!("discovery {PORTS} --config-dir . --log_output_level a=b=c"), "write info"),
        ("inject -f none".into(), "none: there is no such file or folder; check the path"),
        ("inject -f text --meshConfig none".into(), "check the path"),
        ("translate -f none --proxy a.b".into(), "check the path"),
        ("ca root --out out --passphrase-file none".into(), "--passphrase-file none: there is no such file"),
        ("ca root --out out --passphrase-env NONE".into(), "set it to the passphrase"),
        ("ca root --out text/out --passphrase-file text".into(), "is not a folder; check the path"),
        ("ca intermediate --root none --out out --passphrase-file text".into(), "`istiod-lite ca root` made"),
        ("ca inspect none".into(), "check the path"),
        ("ca token --issuer-dir none --namespace a --service-account b".into(), "`istiod-lite ca issuer` makes"),
        ("agent sidecar --name a --namespace b --ip 127.0.0.1".into(), "--envoy or ENVOY"),
        ("agent sidecar --name a --namespace b --ip 127.0.0.1 --envoy text --work-dir text".into(), "--work-dir names another"),
        (format!("agent sidecar --name a --namespace b --ip 127.0.0.1 --envoy text --agent-port {}", address.port()), "--agent-port"),
        ("agent drain --agent-port 1".into(), "--agent-port and --listen-address say where it is"),
    ] {
        let output = istiod_lite(home.path(), &line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{line} succeeds");
        assert!(said.contains(words), "{line}: {words:?} is not in: {said}");
        assert!(!said.contains("os error"), "{line}: {said}");
    }
}

/// `discovery --config-dir DIR` alone: it serves, with a root of its own that it keeps and says where.
#[test]
fn the_first_command_begins() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("mesh")).unwrap();
    let state = home.path().join(".local/state/istiod-lite/ca");
    let first = log_until_serving(home.path());
    assert!(first.contains("made a self-signed root") && first.contains(&state.display().to_string()), "{first}");
    assert!(first.contains("For production") && first.contains("istiod-lite ca issuer"), "{first}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("ca-key.pem"))), (0o700, 0o600));
    let root = fs::read(state.join("root-cert.pem")).unwrap();
    let second = log_until_serving(home.path());
    assert!(second.contains("signing with the self-signed root"), "{second}");
    assert_eq!(fs::read(state.join("root-cert.pem")).unwrap(), root, "the root is another after a restart");
}

/// Runs the control plane until it serves, and returns what it logged.
fn log_until_serving(home: &Path) -> String {
    let mut process = istiod_lite(home, &format!("discovery --config-dir mesh {PORTS}")).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(process.stderr.take().unwrap());
    let (lines, said) = mpsc::channel();
    thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let mut seen = String::new();
    while !seen.contains("serving") {
        match said.recv_timeout(Duration::from_secs(60)) {
            Ok(line) => seen.extend([line, "\n".to_owned()]),
            Err(_) => break,
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(seen.contains("serving"), "{seen}");
    seen
}
