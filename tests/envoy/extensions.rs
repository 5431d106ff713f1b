//! Code of users' own in real Envoys: it comes by ECDS, is replaced without its listeners, and fails as it was told to.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get as on_get};
use harness::{
    http_client::{Connection, Response, get, get_text},
    mesh::{CONVERGE, Mesh},
    wait,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::mesh::{start, turn};

/// How long it may take until a module is there that was not: agents try again after a while.
const TRIED_AGAIN: Duration = Duration::from_secs(60);

const FILE: &str = "extension.yaml";

/// Modules by name, and how often any was asked for.
#[derive(Default)]
struct Modules {
    modules: Mutex<BTreeMap<String, Vec<u8>>>,
    requests: AtomicUsize,
}

impl Modules {
    async fn serve(at: SocketAddr) -> Result<Arc<Self>> {
        let served = Arc::new(Self::default());
        let answer = async |axum::extract::Path(name): axum::extract::Path<String>, State(served): State<Arc<Self>>| {
            served.requests.fetch_add(1, Ordering::SeqCst);
            served.modules.lock().get(&name).cloned().map_or(StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
        };
        let router = Router::new().route("/{name}", on_get(answer)).with_state(Arc::clone(&served));
        let listener = TcpListener::bind(at).await?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(served)
    }

    fn put(&self, name: &str, module: Vec<u8>) {
        self.modules.lock().insert(name.to_owned(), module);
    }
}

/// Assembles a module. `on_response` is what it does with each response.
fn module(on_response: &str) -> Result<Vec<u8>> {
    let text = format!(
        r#"(module
          (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "x-module")
          (data (i32.const 16) "v1v2")
          (func (export "proxy_abi_version_0_2_1"))
          (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 4096))
          (func (export "proxy_on_context_create") (param i32 i32))
          (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
          (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
          (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) {on_response} (i32.const 0)))"#
    );
    Ok(wat::parse_str(text)?)
}

/// Returns a module that says its version in a header.
fn says(version: u8) -> Result<Vec<u8>> {
    let at = 14 + 2 * u32::from(version);
    module(&format!("(drop (call $add (i32.const 2) (i32.const 0) (i32.const 8) (i32.const {at}) (i32.const 2)))"))
}

/// A mesh, and what its client's sidecar adds to responses of `reviews`.
struct Stage {
    mesh: Mesh,
    modules: Arc<Modules>,
    at: SocketAddr,
}

impl Stage {
    async fn start(envoy_minor: &str, delta: bool) -> Result<Self> {
        let mesh = start(envoy_minor, delta).await?;
        let at = mesh.network().socket(9, 8000);
        Ok(Self { modules: Modules::serve(at).await?, mesh, at })
    }

    fn apply(&self, name: &str, spec: &str) -> Result<()> {
        let text = format!(
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: stamp, namespace: shop}}\n\
             spec: {{selector: {{matchLabels: {{app: client}}}}, url: \"http://{}/{name}\"{spec}}}\n",
            self.at
        );
        self.mesh.manifests().write(FILE, &text)
    }

    async fn ask(&self) -> Result<Response> {
        let client = &self.mesh.paths()[1];
        get(client.target, &client.host, "/").await
    }

    async fn until(&self, what: &str, within: Duration, is_so: impl Fn(&Response) -> bool) -> Result<()> {
        wait::until(what, within, || async {
            let response = self.ask().await?;
            ensure!(is_so(&response), "{} {:?}", response.status, response.headers);
            Ok(())
        })
        .await
    }

    /// Returns how the client's listeners were changed so far.
    async fn listeners(&mut self) -> Result<Vec<(String, u64)>> {
        let stats = self.mesh.proxies()[1].admin().stats().await?;
        let of_listeners = |name: &String| {
            name.starts_with("listener_manager.")
                && ["listener_added", "listener_modified", "listener_removed", "listener_in_place_updated", "draining"]
                    .iter()
                    .any(|what| name.contains(what))
        };
        Ok(stats.into_iter().filter(|(name, _)| of_listeners(name)).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_runs_and_is_replaced_without_draining_its_listener() -> Result<()> {
    let _turn = turn().await?;
    for delta in [true, false] {
        let mut stage = Stage::start("1.40", delta).await?;
        stage.modules.put("v1", says(1)?);
        stage.modules.put("v2", says(2)?);
        stage.apply("v1", "")?;
        stage.until("the first module", CONVERGE, |response| response.header("x-module") == "v1").await?;
        let before = stage.listeners().await?;
        let client = stage.mesh.paths()[1].clone();
        let mut long = Connection::open(client.target).await?;
        ensure!(long.get(&client.host, "/").await?.header("x-module") == "v1");

        stage.apply("v2", ", failStrategy: FAIL_CLOSE, pluginConfig: {rule: new}")?;
        stage.until("the second module", CONVERGE, |response| response.header("x-module") == "v2").await?;
        ensure!(stage.listeners().await? == before, "{before:?} became {:?}", stage.listeners().await?);
        // A connection from before goes on, with what there is now.
        let answer = long.get(&client.host, "/").await?;
        ensure!(answer.status == StatusCode::OK && answer.header("x-module") == "v2" && long.is_open(), "{:?}", answer.headers);
        let configs = stage.mesh.proxies()[1].admin().config_dump().await?.to_string();
        ensure!(!configs.contains("ISTIO_META_WASM"), "what is said to the agent is not for the module");
        // Nobody else asks for it.
        ensure!(stage.modules.requests.load(Ordering::SeqCst) == 2);

        stage.mesh.manifests().remove(FILE)?;
        stage.until("no module", CONVERGE, |response| response.status == StatusCode::OK && response.header("x-module").is_empty()).await?;
        stage.mesh.check_running()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_without_its_module_passes_or_is_refused_as_told() -> Result<()> {
    let _turn = turn().await?;
    let mut stage = Stage::start("1.40", true).await?;
    // A file that is no module, and none at all.
    stage.modules.put("text", b"hello".to_vec());
    stage.apply("text", ", failStrategy: FAIL_CLOSE")?;
    stage.until("a refusal", CONVERGE, |response| response.status == StatusCode::FORBIDDEN).await?;
    stage.apply("gone", ", failStrategy: FAIL_OPEN")?;
    stage.until("no refusal", CONVERGE, |response| response.status == StatusCode::OK).await?;
    // It is tried again without a change of the object.
    stage.modules.put("gone", says(1)?);
    stage.until("the module that was missing", TRIED_AGAIN, |response| response.header("x-module") == "v1").await?;
    // A module that breaks down while it runs.
    stage.modules.put("broken", module("unreachable")?);
    stage.apply("broken", ", failStrategy: FAIL_OPEN")?;
    let is_plain = |response: &Response| response.status == StatusCode::OK && response.header("x-module").is_empty();
    stage.until("responses without the module", CONVERGE, is_plain).await?;
    stage.apply("broken", ", failStrategy: FAIL_CLOSE")?;
    stage.until("no responses without the module", CONVERGE, |response| response.status.is_server_error()).await?;
    stage.apply("gone", "")?;
    stage.until("a module that works", CONVERGE, |response| response.header("x-module") == "v1").await?;
    stage.mesh.check_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_runs_no_modules_is_sent_none() -> Result<()> {
    let _turn = turn().await?;
    let mut stage = Stage::start("1.38", true).await?;
    stage.modules.put("v1", says(1)?);
    stage.apply("v1", "")?;
    stage.until("a refusal", CONVERGE, |response| response.status == StatusCode::FORBIDDEN).await?;
    stage.apply("v1", ", failStrategy: FAIL_OPEN")?;
    stage.until("no refusal", CONVERGE, |response| response.status == StatusCode::OK).await?;
    let told = get_text(stage.mesh.monitoring(), "/debug/diagnostics").await?;
    ensure!(told.contains("built without what runs WebAssembly (V8)"), "{told}");
    ensure!(stage.modules.requests.load(Ordering::SeqCst) == 0);
    stage.mesh.check_running()
}

fn script(name: &str, code: &str) -> String {
    format!(
        "---\napiVersion: extensions.istio.io/v1alpha1\nkind: TrafficExtension\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: client}}}}, lua: {{inlineCode: '{code}'}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_script_is_named_and_stops_nothing_else() -> Result<()> {
    let _turn = turn().await?;
    let mut stage = Stage::start("1.40", true).await?;
    let add = |value: &str| format!("function envoy_on_response(handle) handle:headers():add(\"x-script\", \"{value}\") end");
    stage.mesh.manifests().write(FILE, &script("stamp", &add("one")))?;
    stage.until("the script", CONVERGE, |response| response.header("x-script") == "one").await?;
    let before = stage.listeners().await?;
    // What was good stays where Envoy refuses what is new.
    stage.mesh.manifests().write(FILE, &script("stamp", "function broken("))?;
    let monitoring = stage.mesh.monitoring();
    wait::until("the refusal to be told", CONVERGE, || async {
        let told = get_text(monitoring, "/debug/syncz").await?;
        ensure!(told.contains("TrafficExtension/shop/stamp"), "{told}");
        Ok(())
    })
    .await?;
    ensure!(stage.ask().await?.header("x-script") == "one");
    stage.mesh.manifests().write(FILE, &script("stamp", &add("two")))?;
    stage.until("the mended script", CONVERGE, |response| response.header("x-script") == "two").await?;
    ensure!(stage.listeners().await? == before, "{before:?} became {:?}", stage.listeners().await?);
    stage.mesh.check_running()
}
