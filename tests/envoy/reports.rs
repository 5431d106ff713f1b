//! What proxies report by Telemetry: logs as text, as JSON and to OpenTelemetry, each compared with what was sent, and traces to Zipkin and
//! OpenTelemetry through a gateway and a sidecar.

mod collector;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    http_client::{get, get_text},
    mesh::{CONVERGE, Mesh, PUBLIC_HOST},
    statistics::{binomial_p_value, share_agrees},
    wait,
};
use serde_json::Value;

use self::collector::{Collector, Span};
use crate::mesh::{Measured, start, turn};

const OTLP: u16 = 4317;
const ZIPKIN: u16 = 9411;
/// Addresses that no pod has: the collector's, and one at which its listeners in sidecars are in nobody's way.
const COLLECTOR: u8 = 60;
const ASIDE: u8 = 61;
/// Envoy writes files every ten seconds, or when there is enough to write.
const WRITTEN: Duration = Duration::from_secs(40);

struct Stage {
    mesh: Mesh,
    collector: Collector,
    gateway: SocketAddr,
}

impl Stage {
    async fn open(envoy_minor: &str) -> Result<Self> {
        let mesh = start(envoy_minor, true).await?;
        let socket = |port| mesh.network().socket(COLLECTOR, port);
        let collector = Collector::start(socket(OTLP), socket(ZIPKIN)).await?;
        let stage = Self { gateway: mesh.paths()[0].target, mesh, collector };
        stage.import_collector()?;
        stage.mesh.manifests().write("providers.yaml", &stage.providers())?;
        Ok(stage)
    }

    /// Has the sidecars of the demo, which see next to nothing, see the collector.
    fn import_collector(&self) -> Result<()> {
        let manifests = self.mesh.manifests();
        let listener = |port: u16, protocol: &str| {
            format!(
                "  - port: {{number: {port}, protocol: {protocol}, name: p-{port}}}\n    bind: {}\n    captureMode: NONE\n    \
                 hosts: [istio-system/collector.example.com]\n",
                self.mesh.network().address(ASIDE)
            )
        };
        let both = listener(OTLP, "GRPC") + &listener(ZIPKIN, "HTTP");
        let text = manifests.read("sidecars.yaml")?;
        let text = text.replace("  - hosts: [\"~/*\"]\n", &both).replacen("  egress:\n", &format!("  egress:\n{both}"), 1);
        manifests.write("sidecars.yaml", &text)
    }

    fn providers(&self) -> String {
        let (text, json) = (self.log("text"), self.log("json"));
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders:\n\
             \x20   - {{name: text, envoyFileAccessLog: {{path: {}, logFormat: {{text: '%REQ(:PATH)% %RESPONSE_CODE% %UPSTREAM_CLUSTER_RAW%'}}}}}}\n\
             \x20   - {{name: json, envoyFileAccessLog: {{path: {}, logFormat: {{labels: {{path: '%REQ_WITHOUT_QUERY(:PATH)%', status: '%RESPONSE_CODE%'}}}}}}}}\n\
             \x20   - {{name: otlp-logs, envoyOtelAls: {{service: collector.example.com, port: {OTLP}, logFormat: {{text: '%REQ(:PATH)%', labels: {{status: '%RESPONSE_CODE%'}}}}}}}}\n\
             \x20   - {{name: zipkin, zipkin: {{service: collector.example.com, port: {ZIPKIN}}}}}\n\
             \x20   - {{name: otlp, opentelemetry: {{service: istio-system/collector.example.com, port: {OTLP}}}}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: collector, namespace: istio-system}}\n\
             spec: {{hosts: [collector.example.com], location: MESH_EXTERNAL, resolution: STATIC, endpoints: [{{address: {}}}], \
             ports: [{{number: {OTLP}, name: grpc, protocol: GRPC}}, {{number: {ZIPKIN}, name: http, protocol: HTTP}}]}}\n",
            text.display(),
            json.display(),
            self.mesh.network().address(COLLECTOR)
        )
    }

    fn log(&self, name: &str) -> PathBuf {
        self.mesh.home().join("logs").join(format!("access-{name}.log"))
    }

    fn report(&self, spec: &str) -> Result<()> {
        let object = format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: mesh, namespace: istio-system}}\nspec: {spec}\n"
        );
        self.mesh.manifests().write("telemetry.yaml", &object)
    }

    async fn ask(&self, path: &str) -> Result<()> {
        let answer = get(self.gateway, PUBLIC_HOST, path).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        Ok(())
    }
}

/// How often each path stands in a log.
fn count(paths: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    paths.into_iter().for_each(|path| *counts.entry(path).or_default() += 1);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_say_what_was_sent() -> Result<()> {
    let _turn = turn().await?;
    let stage = Stage::open("1.40").await?;
    let chosen = "filter: {expression: 'request.path.startsWith(\"/told/\")'}";
    let each = ["text", "json", "otlp-logs"].map(|name| format!("{{providers: [{{name: {name}}}], {chosen}}}")).join(", ");
    stage.report(&format!("{{accessLogging: [{each}]}}"))?;
    wait::until("a log at the collector", CONVERGE, || async {
        stage.ask("/told/first").await?;
        let logs = stage.collector.so_far().logs;
        // From the gateway and from a sidecar.
        ensure!(logs.iter().filter(|(body, _)| body == "/told/first").count() >= 2, "{logs:?}");
        Ok(())
    })
    .await?;
    for number in 0..20 {
        stage.ask(&format!("/told/{number}?a=b")).await?;
        stage.ask(&format!("/quiet/{number}")).await?;
    }
    let twice = |suffix: &str| (0..20).map(|number| (format!("/told/{number}{suffix}"), 2)).collect::<BTreeMap<_, _>>();
    let but_first = |paths: Vec<String>| count(paths.into_iter().filter(|path| !path.starts_with("/told/first")));
    wait::until("all logs at the collector", CONVERGE, || async {
        let logs = stage.collector.so_far().logs;
        ensure!(logs.iter().all(|(_, attributes)| attributes.contains(&("status".into(), "200".into()))), "{logs:?}");
        let seen = but_first(logs.into_iter().map(|(body, _)| body).collect());
        ensure!(seen == twice("?a=b"), "{seen:?}");
        Ok(())
    })
    .await?;
    wait::until("all logs in the files", WRITTEN, || async {
        let text = fs::read_to_string(stage.log("text"))?;
        let field = |at: usize| text.lines().map(move |line| line.split(' ').nth(at).unwrap_or_default().to_owned());
        ensure!(field(1).all(|status| status == "200"), "{text}");
        let seen = but_first(field(0).collect());
        ensure!(seen == twice("?a=b"), "{seen:?}");
        let clusters: BTreeSet<String> = field(2).collect();
        ensure!(clusters.contains("inbound|9080||") && clusters.iter().any(|name| name.starts_with("outbound|9080|")), "{clusters:?}");
        let json = fs::read_to_string(stage.log("json"))?;
        let lines: Vec<Value> = json.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(lines.iter().all(|line| line["status"] == 200), "{json}");
        let seen = but_first(lines.iter().map(|line| line["path"].as_str().unwrap_or_default().to_owned()).collect());
        ensure!(seen == twice(""), "{seen:?}");
        Ok(())
    })
    .await?;
    let told = get_text(stage.mesh.monitoring(), "/debug/diagnostics").await?;
    ensure!(told.contains("is a file that must be writable"), "{told}");
    Ok(())
}

/// Asks until a request is traced by both proxies.
async fn traced(stage: &Stage, path: &str, custom: &str) -> Result<()> {
    wait::until("a trace", CONVERGE, || async {
        stage.ask(path).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        newest(stage, custom)
    })
    .await
}

/// Checks the newest trace that a sidecar has reported with this tag.
fn newest(stage: &Stage, custom: &str) -> Result<()> {
    let spans = stage.collector.so_far().spans;
    let is_of_sidecar = |span: &&Span| span.is_server && span.tag("istio.canonical_service") == "reviews" && span.tag("custom") == custom;
    let trace = spans.iter().rev().find(is_of_sidecar).map(|span| span.trace.clone()).context("no span of a sidecar")?;
    let spans: Vec<Span> = spans.into_iter().filter(|span| span.trace == trace).collect();
    check_trace(&spans, custom)
}

/// Checks that a trace has the gateway's server span, its call, and the sidecar's server span below that, with the tags of each.
fn check_trace(spans: &[Span], custom: &str) -> Result<()> {
    let by = |service: &str, is_server| {
        let found = spans.iter().find(|span| span.tag("istio.canonical_service") == service && span.is_server == is_server);
        found.with_context(|| format!("no span of {service}, server {is_server}: {spans:#?}"))
    };
    let (entered, called, served) = (by("istio-ingressgateway", true)?, by("istio-ingressgateway", false)?, by("reviews", true)?);
    ensure!(called.parent == entered.id && served.parent == called.id, "{spans:#?}");
    for span in [entered, served] {
        ensure!(span.tag("custom") == custom && span.tag("http.status_code") == "200", "{span:#?}");
        ensure!(!span.tag("istio.mesh_id").is_empty() && !span.tag("istio.cluster_id").is_empty(), "{span:#?}");
    }
    ensure!((entered.tag("istio.namespace"), served.tag("istio.namespace")) == ("istio-system", "shop"), "{spans:#?}");
    ensure!(entered.service.contains("istio-ingressgateway") && served.service.contains("reviews"), "{spans:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_lead_through_gateway_and_sidecar_and_change_under_load() -> Result<()> {
    let _turn = turn().await?;
    let mut stage = Stage::open("1.40").await?;
    let tracing = |provider: &str, percent: f64, custom: &str| {
        format!(
            "{{tracing: [{{providers: [{{name: {provider}}}], randomSamplingPercentage: {percent}, customTags: {{custom: {{literal: {{value: {custom}}}}}}}}}]}}"
        )
    };
    stage.report(&tracing("zipkin", 100.0, "first"))?;
    traced(&stage, "/zipkin", "first").await?;

    let measured = Measured::start(&stage.mesh, 50).await?;
    stage.collector.take();
    stage.report(&tracing("otlp", 100.0, "second"))?;
    traced(&stage, "/otlp", "second").await?;
    measured.expect_no_failures(&mut stage.mesh).await?;

    stage.report(&tracing("otlp", 20.0, "third"))?;
    wait::until("a trace with another tag", CONVERGE, || async {
        stage.ask("/sampled").await?;
        let spans = stage.collector.so_far().spans;
        ensure!(spans.iter().any(|span| span.tag("custom") == "third"), "not yet");
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.collector.take();
    let asked = 1000;
    for _ in 0..asked {
        stage.ask("/sampled").await?;
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let spans = stage.collector.take().spans;
    let traces: BTreeSet<&str> =
        spans.iter().filter(|span| span.is_server && span.service.contains("ingress")).map(|span| span.trace.as_str()).collect();
    let p_value = binomial_p_value(traces.len() as u64, asked, 0.2);
    ensure!(share_agrees(p_value, 1), "{} of {asked} were traced, of which 20 % should be (p = {p_value:e})", traces.len());
    println!("{} of {asked} requests were traced at 20 %", traces.len());
    stage.mesh.check_running()
}
