//! Istio's own sample of a server that policies of action CUSTOM have asked, over gRPC and HTTP: it decides, is killed under load, and
//! comes back.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Result, ensure};
use harness::{
    address::Ports,
    mesh::CONVERGE,
    process::{Process, tail},
    tools, wait,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    decisions::{
        client::Verdict,
        stage::Stage,
        table::{Row, Set},
    },
    mesh::turn,
};

/// The workloads, by whom they ask, and whether they let pass what nobody answers.
const WORKLOADS: [(&str, bool); 4] =
    [("envoyExtAuthzGrpc", false), ("envoyExtAuthzGrpc", true), ("envoyExtAuthzHttp", false), ("envoyExtAuthzHttp", true)];
const LETS_PASS: &str = "allow";

fn authorizer(ports: &Ports<2>, logs: &Path) -> Result<Process> {
    named_authorizer("extauthz", ports, logs)
}

fn named_authorizer(name: &str, ports: &Ports<2>, logs: &Path) -> Result<Process> {
    let [http, grpc] = ports.all();
    let mut command = Command::new(tools::go("extauthz", "extauthz")?);
    command.args(["-http", &http.to_string(), "-grpc", &grpc.to_string()]);
    Process::start(name, command, logs)
}

/// Returns the service of an authorizer.
fn entry(name: &str, ports: &Ports<2>) -> Value {
    let [http, grpc] = ports.all();
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"hosts": [format!("{name}.example.com")], "resolution": "STATIC", "endpoints": [{"address": "127.0.0.1"}],
            "ports": [{"number": http, "name": "http", "protocol": "HTTP"}, {"number": grpc, "name": "grpc", "protocol": "GRPC"}]}})
}

fn set(ports: &Ports<2>, kind: &str, fail_open: bool) -> Set {
    let [http, grpc] = ports.all();
    let asked = match kind {
        "envoyExtAuthzGrpc" => json!({"service": "guard.example.com", "port": grpc, "failOpen": fail_open}),
        _ => {
            json!({"service": "shop/guard.example.com", "port": http, "failOpen": fail_open, "includeRequestHeadersInCheck": ["x-ext-authz"]})
        }
    };
    Set {
        name: format!("{kind}, failOpen: {fail_open}"),
        providers: vec![json!({"name": "guard", kind: asked})],
        beside: vec![entry("guard", ports)],
        policies: vec![json!({"action": "CUSTOM", "provider": {"name": "guard"},
            "rules": [{"to": [{"operation": {"paths": ["/asked/*"]}}]}]})],
        ..Set::default()
    }
}

fn row(path: &str, said: Option<&str>) -> Row {
    let headers = said.map(|said| serde_json::Map::from_iter([("x-ext-authz".to_owned(), Value::from(said))]));
    Row { headers: headers.into_iter().collect(), ..Row::of_path(path) }
}

/// Asks until the answers are these: whoever goes or comes does so between two requests.
async fn until(stage: &Stage, what: &str, row: &Row, wanted: impl Fn(&str, bool) -> Verdict) -> Result<()> {
    for (workload, (kind, fail_open)) in WORKLOADS.into_iter().enumerate() {
        let wanted = wanted(kind, fail_open);
        wait::until(what, CONVERGE, || async {
            let got = stage.ask(workload, row).await?;
            ensure!(got == wanted, "{kind}, failOpen {fail_open}, {row}: {got:?}, not {wanted:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Sends what is allowed to a workload, on and on, and keeps what becomes of it.
struct Load {
    verdicts: Arc<Mutex<Vec<Result<Verdict, String>>>>,
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(stage: &Arc<Stage>, workload: usize) -> Self {
        let (verdicts, ends) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn({
            let (stage, verdicts, ends) = (Arc::clone(stage), Arc::clone(&verdicts), Arc::clone(&ends));
            async move {
                let row = row("/asked/x", Some(LETS_PASS));
                while !ends.load(Ordering::SeqCst) {
                    let verdict = stage.ask(workload, &row).await.map_err(|error| format!("{error:#}"));
                    verdicts.lock().push(verdict);
                }
            }
        });
        Self { verdicts, ends, task }
    }

    fn sent(&self) -> usize {
        self.verdicts.lock().len()
    }

    async fn end(self) -> Result<Vec<Result<Verdict, String>>> {
        self.ends.store(true, Ordering::SeqCst);
        self.task.await?;
        Ok(std::mem::take(&mut *self.verdicts.lock()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_authorizer_decides_and_what_nobody_answers_is_as_the_provider_says() -> Result<()> {
    let _turn = turn().await?;
    let home = tempfile::tempdir()?;
    let ports = Ports::<2>::free()?;
    let mut guard = authorizer(&ports, home.path())?;
    let stage = Arc::new(Stage::open(WORKLOADS.iter().map(|(kind, fail_open)| set(&ports, kind, *fail_open)).collect()).await?);
    let (allowed, refused) = (row("/asked/x", Some(LETS_PASS)), row("/asked/x", Some("deny")));
    until(&stage, "a verdict of the authorizer", &allowed, |_, _| Verdict::Passes).await?;
    until(&stage, "a refusal", &refused, |_, _| Verdict::Denied).await?;
    until(&stage, "a refusal without a word", &row("/asked/x", None), |_, _| Verdict::Denied).await?;
    until(&stage, "what is not asked about", &row("/free", None), |_, _| Verdict::Passes).await?;
    ensure!(guard.log().contains("[gRPCv3][denied]") && guard.log().contains("[HTTP][denied]"), "{}", tail(&guard.log(), 10));

    let load: Vec<Load> = (0..WORKLOADS.len()).map(|workload| Load::start(&stage, workload)).collect();
    let more = |load: &[Load], than: &[usize]| load.iter().zip(than).all(|(load, than)| load.sent() > than + 20);
    let sent = |load: &[Load]| load.iter().map(Load::sent).collect::<Vec<_>>();
    wait::until("load", CONVERGE, || async {
        ensure!(more(&load, &[0; 4]), "{:?}", sent(&load));
        Ok(())
    })
    .await?;
    guard.kill()?;
    let nobody = |_: &str, fail_open| if fail_open { Verdict::Passes } else { Verdict::Denied };
    until(&stage, "nobody to ask", &refused, nobody).await?;
    until(&stage, "nobody to ask", &allowed, nobody).await?;
    until(&stage, "what is not asked about", &row("/free", None), |_, _| Verdict::Passes).await?;
    let then = sent(&load);
    wait::until("load without the authorizer", CONVERGE, || async {
        ensure!(more(&load, &then), "{:?}", sent(&load));
        Ok(())
    })
    .await?;
    let _guard = authorizer(&ports, home.path())?;
    until(&stage, "the authorizer again", &refused, |_, _| Verdict::Denied).await?;
    until(&stage, "the authorizer again", &allowed, |_, _| Verdict::Passes).await?;

    for (load, (kind, fail_open)) in load.into_iter().zip(WORKLOADS) {
        let verdicts = load.end().await?;
        let (mut passed, mut denied) = (0, 0);
        for verdict in verdicts {
            match verdict {
                Ok(Verdict::Passes) => passed += 1,
                Ok(Verdict::Denied) if !fail_open => denied += 1,
                other => anyhow::bail!("{kind}, failOpen {fail_open}: {other:?} after {passed} that passed"),
            }
        }
        ensure!(passed > 20 && (fail_open || denied > 20), "{kind}, failOpen {fail_open}: {passed} passed, {denied} were denied");
        println!("{kind}, failOpen {fail_open}: {passed} passed, {denied} were denied");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_asked_about_over_grpc_only() -> Result<()> {
    let _turn = turn().await?;
    let home = tempfile::tempdir()?;
    let ports = Ports::<2>::free()?;
    let _guard = authorizer(&ports, home.path())?;
    let of = |identity: &str, tcp| Row { identity: Some(format!("cluster.local/ns/shop/sa/{identity}")), tcp, ..Row::of_path("/asked/x") };
    let mut sets: Vec<Set> = [WORKLOADS[0], WORKLOADS[2]].iter().map(|(kind, fail_open)| set(&ports, kind, *fail_open)).collect();
    sets[0].requests = vec![of("a", true), of("b", true)];
    let stage = Stage::open(sets).await?;
    // The sample lets in service account `a`, and no header is known of a connection.
    wait::until("a verdict of the authorizer", CONVERGE, || async {
        ensure!(stage.ask(0, &of("a", true)).await? == Verdict::Passes, "not yet");
        Ok(())
    })
    .await?;
    for (workload, row, wanted) in [
        (0, of("b", true), Verdict::Denied),
        (0, of("a", false), Verdict::Passes),
        (0, of("b", false), Verdict::Denied),
        (1, of("b", true), Verdict::Passes),
    ] {
        let got = stage.ask(workload, &row).await?;
        ensure!(got == wanted, "workload {workload}, {row}: {got:?}, not {wanted:?}");
    }
    Ok(())
}

/// The paths that are asked about, and whether `guard`, `guard-n` or both are to be.
const BY_PATH: [(&str, bool, bool); 4] =
    [("/one/x", true, false), ("/other/x", false, true), ("/both/x", true, true), ("/free", false, false)];

/// Returns a set whose policies have two asked. The name of one begins with that of the other, and so do the names of its policies.
fn of_two(ports: [&Ports<2>; 2]) -> Set {
    let names = ["guard", "guard-n"];
    let provider = |(name, ports): (&str, &Ports<2>)| json!({"name": name, "envoyExtAuthzGrpc": {"service": format!("{name}.example.com"), "port": ports.all()[1]}});
    let policy = |name: &str, paths: [&str; 2], ports: Value| {
        json!({"action": "CUSTOM", "provider": {"name": name}, "rules": [
            {"to": [{"operation": {"paths": paths}}]}, {"to": [{"operation": ports}]}]})
    };
    let tcp = json!({"ports": ["9090"]});
    let of = |identity: &str| Row { identity: Some(format!("cluster.local/ns/shop/sa/{identity}")), tcp: true, ..Row::default() };
    Set {
        name: "two authorizers".into(),
        providers: names.into_iter().zip(ports).map(provider).collect(),
        beside: names.into_iter().zip(ports).map(|(name, ports)| entry(name, ports)).collect(),
        policies: vec![policy("guard", ["/one/*", "/both/*"], tcp.clone()), policy("guard-n", ["/other/*", "/both/*"], tcp)],
        requests: vec![of("a"), of("b")],
        ..Set::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_authorizers_is_asked_about_its_own_and_both_must_allow() -> Result<()> {
    let _turn = turn().await?;
    let home = tempfile::tempdir()?;
    let ports = [Ports::<2>::free()?, Ports::<2>::free()?];
    let names = ["guard", "guard-n"];
    let mut guards = [named_authorizer(names[0], &ports[0], home.path())?, named_authorizer(names[1], &ports[1], home.path())?];
    let stage = Stage::open(vec![of_two([&ports[0], &ports[1]])]).await?;
    let ask = async |what: &str, row: &Row, wanted: Verdict| {
        wait::until(what, CONVERGE, || async {
            let got = stage.ask(0, row).await?;
            ensure!(got == wanted, "{row}: {got:?}, not {wanted:?}");
            Ok(())
        })
        .await
    };
    let heard = |guards: &[Process; 2]| [0, 1].map(|at| guards[at].log().matches("[gRPCv3]").count());
    ask("both authorizers", &row("/both/x", Some(LETS_PASS)), Verdict::Passes).await?;
    for (path, one, other) in BY_PATH {
        let before = heard(&guards);
        ask("an allowance", &row(path, Some(LETS_PASS)), Verdict::Passes).await?;
        let after = heard(&guards);
        ensure!([after[0] > before[0], after[1] > before[1]] == [one, other], "{path}: asked {before:?}, then {after:?}");
        let refused = if one || other { Verdict::Denied } else { Verdict::Passes };
        ask("a refusal", &row(path, Some("deny")), refused).await?;
    }
    let connection = |identity: &str| Row { identity: Some(format!("cluster.local/ns/shop/sa/{identity}")), tcp: true, ..Row::default() };
    let before = heard(&guards);
    ask("a connection", &connection("a"), Verdict::Passes).await?;
    let after = heard(&guards);
    ensure!(after[0] > before[0] && after[1] > before[1], "a connection: asked {before:?}, then {after:?}");
    ask("a connection of somebody else", &connection("b"), Verdict::Denied).await?;

    // Nobody answers for one of them: what the other decides alone is as before.
    for gone in [1, 0] {
        guards[gone].kill()?;
        for (path, one, other) in BY_PATH {
            let asks_who_is_gone = [one, other][gone];
            let wanted = if asks_who_is_gone { Verdict::Denied } else { Verdict::Passes };
            ask("one authorizer", &row(path, Some(LETS_PASS)), wanted).await?;
        }
        ask("a connection without one authorizer", &connection("a"), Verdict::Denied).await?;
        guards[gone] = named_authorizer(names[gone], &ports[gone], home.path())?;
        ask("both authorizers again", &row("/both/x", Some(LETS_PASS)), Verdict::Passes).await?;
    }
    Ok(())
}
