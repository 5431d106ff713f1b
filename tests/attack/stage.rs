//! The control plane that is attacked. Tests take turns: each measures, and has the machine to itself.

use std::{
    fs::{self, Permissions},
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use harness::{
    address::Loopback,
    http_client::get_text,
    launch::{self, PORT_MONITORING, PORT_PLAIN_GRPC, PORT_PLAIN_HTTP, PORT_SECURE_GRPC, PORT_WEBHOOKS},
    mesh::{CLIENT, Options, wait_until_ready},
    process::Process,
};
use tempfile::TempDir;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Mutex, MutexGuard},
};

use super::{
    cost::{self, Cost},
    good::GoodClient,
};

/// The host number of the control plane; attackers have the others.
const CONTROL_PLANE: u8 = 1;

static TURN: Mutex<()> = Mutex::const_new(());

/// A running control plane. Dropping it ends the process.
pub(crate) struct Stage {
    process: Process,
    home: TempDir,
    network: Loopback,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Stage {
    /// Starts on a mesh of three services.
    pub(crate) async fn start() -> Self {
        Self::of_mesh(&services(3), &[]).await
    }

    /// Starts on the objects of `mesh` (YAML) with more arguments for `istiod-lite discovery`.
    pub(crate) async fn of_mesh(mesh: &str, arguments: &[&str]) -> Self {
        let turn = TURN.lock().await;
        Self { _turn: Some(turn), ..Self::of_program(istiod_lite(), mesh, arguments).await }
    }

    /// Starts another control plane on the objects of `mesh`, which is left alone.
    pub(crate) async fn beside(_: &Self, mesh: &str) -> Self {
        Self::of_program(istiod_lite(), mesh, &[]).await
    }

    /// Starts on the same mesh, with so few open files.
    pub(crate) async fn with_files(files: usize) -> Self {
        let turn = TURN.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("istiod-lite");
        // Without -S or -H it is both limits: the soft one cannot be raised again.
        fs::write(&program, format!("#!/bin/sh\nulimit -n {files}\nexec '{}' \"$@\"\n", istiod_lite().display())).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        Self { _turn: Some(turn), ..Self::of_program(program, &services(3), &[]).await }
    }

    async fn of_program(program: PathBuf, mesh: &str, arguments: &[&str]) -> Self {
        let (home, network) = (tempfile::tempdir().unwrap(), Loopback::free().unwrap());
        let options = Options {
            istiod_lite: program,
            envoy: PathBuf::new(),
            delta: false,
            debounce: Some("10ms"),
            certificate_ttl: None,
            listener_drain: None,
        };
        for folder in ["logs", "config"] {
            fs::create_dir(home.path().join(folder)).unwrap();
        }
        launch::ceremony(&options.istiod_lite, home.path()).unwrap();
        launch::issue_token(&options.istiod_lite, home.path(), CLIENT).unwrap();
        fs::write(home.path().join("config/mesh.yaml"), mesh).unwrap();
        let source = ["--config-dir".into(), home.path().join("config").into()];
        let more: Vec<_> = source.into_iter().chain(arguments.iter().map(Into::into)).collect();
        let mut process = launch::discovery(&options, home.path(), network.address(CONTROL_PLANE), &more).unwrap();
        wait_until_ready(&mut process, network.socket(CONTROL_PLANE, PORT_PLAIN_HTTP), "/ready").await.unwrap();
        Self { process, home, network, _turn: None }
    }

    /// Replaces the objects of the mesh in one step.
    pub(crate) fn write(&self, mesh: &str) {
        let draft = self.home.path().join("config/.draft");
        fs::write(&draft, mesh).unwrap();
        fs::rename(draft, self.home.path().join("config/mesh.yaml")).unwrap();
    }

    /// Writes a file beside those of the mesh in one step.
    pub(crate) fn write_file(&self, name: &str, text: &str) {
        let draft = self.home.path().join("config/.draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.home.path().join("config").join(name)).unwrap();
    }

    /// Returns the folder of the objects.
    pub(crate) fn config(&self) -> PathBuf {
        self.home.path().join("config")
    }

    /// Makes the kernel forget the peak of the process's memory.
    pub(crate) fn forget_peak(&self) {
        cost::forget_peak(self.process.id());
    }

    /// Returns the client that means well.
    pub(crate) fn good(&self) -> GoodClient {
        GoodClient {
            http: self.http(),
            plain_grpc: self.plain_grpc(),
            secure_grpc: self.secure_grpc(),
            webhooks: self.webhooks(),
            token: self.token(),
            root: self.root(),
        }
    }

    /// Returns a token of `client` in `shop`.
    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.home.path().join(format!("{}.token", CLIENT.name))).unwrap().trim().to_owned()
    }

    /// Returns the PEM of the root that the TLS ports' certificates chain to.
    pub(crate) fn root(&self) -> String {
        fs::read_to_string(self.home.path().join("ca/root-cert.pem")).unwrap()
    }

    /// Returns the folder of whoever issues tokens, which the process knows only the public keys of.
    pub(crate) fn issuer(&self) -> PathBuf {
        self.home.path().join("offline/issuer")
    }

    /// Returns what the process costs.
    pub(crate) fn cost(&self) -> Cost {
        Cost::of(self.process.id())
    }

    /// Returns how many files and sockets it has open, as it says itself: the kernel tells only root.
    pub(crate) async fn open_files(&self) -> usize {
        let metrics = get_text(self.monitoring(), "/metrics").await.unwrap();
        metrics.lines().find_map(|line| line.strip_prefix("process_open_fds ")).unwrap().parse::<f64>().unwrap() as usize
    }

    /// Returns the process's log so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Returns an address to attack from, which is not that of the good client: `number` is 2 to 253.
    pub(crate) fn attacker(&self, number: u8) -> IpAddr {
        self.network.address(number)
    }

    /// Returns port 8080.
    pub(crate) fn http(&self) -> SocketAddr {
        self.socket(PORT_PLAIN_HTTP)
    }

    /// Returns port 15010.
    pub(crate) fn plain_grpc(&self) -> SocketAddr {
        self.socket(PORT_PLAIN_GRPC)
    }

    /// Returns port 15012.
    pub(crate) fn secure_grpc(&self) -> SocketAddr {
        self.socket(PORT_SECURE_GRPC)
    }

    /// Returns port 15014.
    pub(crate) fn monitoring(&self) -> SocketAddr {
        self.socket(PORT_MONITORING)
    }

    /// Returns port 15017.
    pub(crate) fn webhooks(&self) -> SocketAddr {
        self.socket(PORT_WEBHOOKS)
    }

    fn socket(&self, port: u16) -> SocketAddr {
        self.network.socket(CONTROL_PLANE, port)
    }
}

/// Returns a mesh of that many Services in namespace `shop`, each with an endpoint and a route of its own.
pub(crate) fn services(count: usize) -> String {
    (0..count).map(service).collect()
}

fn service(number: usize) -> String {
    let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: svc-{number}, namespace: shop}}\n\
         spec: {{clusterIP: 10.2.{}.{}, selector: {{app: svc-{number}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n\
         ---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: svc-{number}-0, namespace: shop, labels: {{app: svc-{number}}}}}\n\
         spec: {{containers: [{{name: app, ports: [{{containerPort: 8080}}]}}]}}\n\
         status: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: 'True'}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: svc-{number}, namespace: shop}}\n\
         spec: {{hosts: [svc-{number}], http: [{{route: [{{destination: {{host: svc-{number}}}}}]}}]}}\n",
        number / 250,
        number % 250 + 1,
    )
}

/// Opens a TCP connection from an address of its own.
///
/// # Errors
/// When it is refused, or there is no file left.
pub(crate) async fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// Returns the program.
pub(crate) fn istiod_lite() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite"))
}
