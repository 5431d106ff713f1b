//! Network namespaces joined by a bridge, as pods on a node are, and what goes over the wire between them.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket},
    unistd::Uid,
};
use tokio::sync::oneshot;

use crate::process::run;

/// The user as which sidecars run: what it sends is not captured.
pub const SIDECAR_USER: u32 = 1337;

/// Networks that bridges can have, one each.
const NETWORKS: u32 = 250;

/// Programs that namespaces and capture need.
const PROGRAMS: &[&str] = &["ip", "iptables", "setpriv", "curl"];

/// Returns why this machine cannot make captured namespaces; `None` when it can.
pub fn missing() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("needs root for network namespaces".to_owned());
    }
    let absent = PROGRAMS.iter().filter(|program| run(program, &["--version"]).or_else(|_| run(program, &["-V"])).is_err());
    let absent = absent.copied().collect::<Vec<_>>();
    (!absent.is_empty()).then(|| format!("needs {} (`make setup-root` installs them)", absent.join(", ")))
}

/// A bridge on this machine; namespaces hang on it. Removed when dropped.
#[derive(Debug)]
pub struct Bridge {
    name: String,
    third: u8,
}

impl Bridge {
    /// Makes the bridge, with the first number that no other test on this machine has; the address of this machine on it is `.1`.
    pub fn create() -> Result<Self> {
        let start = std::process::id() % NETWORKS;
        let mut refusal = None;
        for number in (start..NETWORKS).chain(0..start) {
            let third = u8::try_from(number)?;
            let name = format!("isl{third}");
            match run("ip", &["link", "add", &name, "type", "bridge"]) {
                Err(error) => refusal = Some(error),
                Ok(_) => {
                    let bridge = Self { name, third };
                    run("ip", &["addr", "add", &format!("{}/24", bridge.address(1)), "dev", &bridge.name])?;
                    run("ip", &["link", "set", &bridge.name, "up"])?;
                    return Ok(bridge);
                }
            }
        }
        Err(refusal.unwrap_or_else(|| anyhow!("no network is free")))
    }

    /// Returns address number `host` on the bridge's network.
    pub fn address(&self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 211, self.third, host))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = run("ip", &["link", "del", &self.name]);
    }
}

/// A namespace with one address on a bridge. Removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    address: IpAddr,
}

impl Namespace {
    /// Makes it; its host names are those of `hosts` (`ADDRESS NAME` lines).
    pub fn create(bridge: &Bridge, role: &str, host: u8, hosts: &str) -> Result<Self> {
        let namespace = Self { name: format!("{}-{role}", bridge.name), address: bridge.address(host) };
        let (name, outer) = (namespace.name.as_str(), format!("{}p{host}", bridge.name));
        fs::create_dir_all(namespace.etc())?;
        fs::write(namespace.etc().join("hosts"), hosts)?;
        run("ip", &["netns", "add", name])?;
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        run("ip", &["link", "set", &outer, "master", &bridge.name, "up"])?;
        run("ip", &["-n", name, "addr", "add", &format!("{}/24", namespace.address), "dev", "eth0"])?;
        run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        run("ip", &["-n", name, "route", "add", "default", "via", &bridge.address(1).to_string()])?;
        Ok(namespace)
    }

    /// Returns its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Sends all its TCP to the sidecar's ports, as the init container of a pod does.
    pub fn capture(&self, istiod_lite: &Path) -> Result<()> {
        self.run(None, &istiod_lite.display().to_string(), &["capture"]).map(|_| ())
    }

    /// Returns a command that runs `program` inside, as root or as another user.
    pub fn command(&self, user: Option<u32>, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        if let Some(user) = user {
            let user = user.to_string();
            command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
        }
        command.arg(program);
        command
    }

    /// Runs `program` inside to its end; its standard output.
    pub fn run(&self, user: Option<u32>, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(user, program).args(arguments).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{program} {}: {}: {error}", arguments.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Keeps what `make` gives alive on a thread inside the namespace: its sockets are the namespace's.
    pub fn inhabit<T, F, Fut>(&self, make: F) -> Result<Inhabitant>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>>,
    {
        let file = File::open(format!("/run/netns/{}", self.name))?;
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let run = || -> Result<()> {
                setns(file, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let kept = make().await?;
                    let _ = started.send(Ok(()));
                    let _ = stopped.await;
                    drop(kept);
                    Ok(())
                })
            };
            if let Err(error) = run() {
                let _ = started.send(Err(error));
            }
        });
        starting.recv().map_err(|_| anyhow!("the thread in the namespace ended"))??;
        Ok(Inhabitant { stop: Some(stop), thread: Some(thread) })
    }

    fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.name]);
        let _ = fs::remove_dir_all(self.etc());
    }
}

/// Something that lives on a thread in a namespace until it is dropped.
#[derive(Debug)]
pub struct Inhabitant {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Records every frame of a bridge's network that this machine's interfaces see.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Sniffer {
    /// Starts recording; what else happens on this machine (another mesh, say) is left out.
    pub fn start(bridge: &Bridge) -> Result<Self> {
        Self::of([10, 211, bridge.third])
    }

    /// Starts recording what goes from or to a /24 network, on every interface of this thread's network namespace.
    pub fn of(network: [u8; 3]) -> Result<Self> {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).context("packet socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        Ok(Self { stop, thread: thread::spawn(move || record(&socket, network, &told)) })
    }

    /// Ends recording; the frames.
    pub fn stop(self) -> Result<Vec<Vec<u8>>> {
        // What was sent just now is still on its way through the interfaces.
        thread::sleep(Duration::from_millis(200));
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the recorder panicked"))
    }
}

fn record(socket: &OwnedFd, network: [u8; 3], stop: &AtomicBool) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) if is_of(network, &buffer[..length]) => frames.push(buffer[..length].to_vec()),
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => thread::sleep(Duration::from_millis(1)),
            Err(_) => break,
        }
    }
    frames
}

/// Returns whether source or destination of an IPv4 packet in an Ethernet frame is in the network.
fn is_of(network: [u8; 3], frame: &[u8]) -> bool {
    [26, 30].into_iter().any(|at| frame.get(at..at + 3) == Some(&network))
}

/// Returns whether any frame contains these bytes.
pub fn seen(frames: &[Vec<u8>], needle: &[u8]) -> bool {
    frames.iter().any(|frame| frame.windows(needle.len()).any(|window| window == needle))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{said::skip, tools::istiod_lite, workload::Workload};

    #[test]
    fn namespaces_talk_and_the_recorder_sees_it() {
        if let Some(reason) = missing() {
            return skip("namespaces_talk_and_the_recorder_sees_it", &reason);
        }
        let bridge = Bridge::create().unwrap();
        let client = Namespace::create(&bridge, "client", 3, "127.0.0.1 localhost\n").unwrap();
        let server = Namespace::create(&bridge, "server", 4, "127.0.0.1 localhost\n").unwrap();
        let _workload = server.inhabit(|| Workload::start("v1", SocketAddr::from(([0, 0, 0, 0], 9080)), None)).unwrap();
        let url = format!("http://{}:9080/plain-as-day", server.address());
        let sniffer = Sniffer::start(&bridge).unwrap();
        let answer = client.run(Some(SIDECAR_USER), "curl", &["-sS", "--max-time", "5", &url]).unwrap();
        let frames = sniffer.stop().unwrap();
        assert_eq!(answer, "reviews v1 (good)\n");
        assert!(seen(&frames, b"GET /plain-as-day") && seen(&frames, b"reviews v1") && !seen(&frames, b"reviews v2"));
        // Captured, with nobody on 15001, it goes nowhere; the sidecar's user still gets through.
        client.capture(&istiod_lite().unwrap()).unwrap();
        assert!(client.run(None, "curl", &["-sS", "--max-time", "5", &url]).is_err());
        assert!(client.run(Some(SIDECAR_USER), "curl", &["-sS", "--max-time", "5", &url]).is_ok());
    }
}
