//! What other processes on the machine can read of ours.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use harness::{
    address::Loopback,
    launch::{self, PORT_SECURE_GRPC},
    process::Process,
    wait,
};
use nix::unistd::geteuid;

use super::stage::istiod_lite;

/// Whoever is root reads everything, so that root runs both processes as somebody else.
const NOBODY: u32 = 65534;

const PATIENCE: Duration = Duration::from_secs(30);

/// The kernel lets a process of the same user read the environment where it would let it attach a debugger.
#[tokio::test]
async fn other_processes_of_its_user_read_nothing_of_it() {
    let (home, network) = (tempfile::tempdir().unwrap(), Loopback::free().unwrap());
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    for folder in ["config", "state", "work"] {
        fs::create_dir(home.path().join(folder)).unwrap();
        fs::set_permissions(home.path().join(folder), Permissions::from_mode(0o777)).unwrap();
    }
    let folder = |name: &str| home.path().join(name);
    fs::write(folder("token"), "a token").unwrap();
    launch::ceremony(&istiod_lite(), home.path()).unwrap();
    fs::copy(folder("ca/root-cert.pem"), folder("root.pem")).unwrap();

    let mut sleeper = as_somebody("sleep");
    sleeper.arg("60");
    let sleeper = Process::start("sleeper", sleeper, home.path()).unwrap();
    assert!(environment_of(sleeper.id()).status.success(), "what can be read is read");

    let mut discovery = as_somebody(istiod_lite());
    discovery.arg("discovery").arg("--config-dir").arg(folder("config")).arg("--state-dir").arg(folder("state"));
    for (port, flag) in ["--httpAddr", "--grpcAddr", "--secureGRPCAddr", "--monitoringAddr"].into_iter().enumerate() {
        discovery.arg(flag).arg(network.socket(1, 18080 + port as u16).to_string());
    }
    let mut agent = as_somebody(istiod_lite());
    agent.args(["agent", "sidecar", "--pod-name", "a", "--namespace", "shop", "--service-account", "a", "--envoy", "/bin/true"]);
    agent.arg("--discovery-address").arg(network.socket(1, PORT_SECURE_GRPC).to_string());
    agent.args(["--instance-ip", "10.0.0.1", "--interception-mode", "NONE"]);
    agent.arg("--root-cert").arg(folder("root.pem")).arg("--token-file").arg(folder("token")).arg("--work-dir").arg(folder("work"));
    for (name, command) in [("discovery", discovery), ("agent", agent)] {
        let mut process = Process::start(name, command, home.path()).unwrap();
        let id = process.id();
        let concealed = || async move {
            let Output { status, stderr, .. } = environment_of(id);
            anyhow::ensure!(!status.success(), "another process of its user has read its environment");
            let said = String::from_utf8_lossy(&stderr);
            anyhow::ensure!(said.contains("Permission denied"), "{said}");
            Ok(())
        };
        wait::until("it is concealed", PATIENCE, concealed).await.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", process.log()));
        process.check_running().unwrap();
    }
}

/// Returns a command of a user that is not root.
fn as_somebody(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn environment_of(process: u32) -> Output {
    as_somebody("cat").arg(format!("/proc/{process}/environ")).output().unwrap()
}
