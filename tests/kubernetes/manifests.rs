//! `manifests/base` and what stands on it, as a real API server takes them.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::kubernetes::{ApiServer, Options, succeeded};
use serde_json::{Value, json};

/// The folders of this project.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_install_is_taken_and_opens_what_it_says() -> Result<()> {
    let api = ApiServer::start(Options::default()).await?;
    succeeded(&api.kubectl(&["create", "namespace", "istio-system"], "").await?)?;

    let base = applied(&api, &format!("{MANIFESTS}/base")).await?;
    ensure!(ports(&base)? == [json!(15012), json!(15017), json!(15014)], "{:?}", ports(&base)?);
    ensure!(container(&base)?["args"][2] == "--grpcAddr=", "{}", container(&base)?["args"]);
    ensure!(base.deployment()?["spec"]["replicas"] == 1, "{:?}", base.deployment()?);
    let probe = &container(&base)?["livenessProbe"]["httpGet"];
    ensure!((&probe["path"], &probe["port"]) == (&json!("/version"), &json!(15014)), "{probe}");
    ensure!(policy(&base)? == [json!(15012), json!(15014), json!(15017)], "{:?}", policy(&base)?);

    let production = applied(&api, &format!("{MANIFESTS}/production")).await?;
    let spec = &production.deployment()?["spec"];
    let spread = spec["template"]["spec"]["topologySpreadConstraints"].as_array().context("no spread")?;
    ensure!(spec["replicas"] == 2 && spread.len() == 2, "{spec}");

    // As a user writes it, beside this project's folders.
    let own = tempfile::tempdir_in(MANIFESTS)?;
    fs::write(own.path().join("kustomization.yaml"), "resources: [../production]\ncomponents: [../components/plaintext-xds]\n")?;
    let plaintext = applied(&api, &own.path().display().to_string()).await?;
    ensure!(ports(&plaintext)?.contains(&json!(15010)) && policy(&plaintext)?.contains(&json!(15010)), "{:?}", ports(&plaintext)?);
    ensure!(container(&plaintext)?["args"][2] == "--grpcAddr=:15010", "{}", container(&plaintext)?["args"]);

    fs::write(own.path().join("kustomization.yaml"), "resources: [../base]\ncomponents: [../components/external-signer]\n")?;
    let signed = applied(&api, &own.path().display().to_string()).await?;
    let variables = &container(&signed)?["env"];
    ensure!(variables.to_string().contains("ISTIOD_RA_KUBERNETES_API"), "{variables}");
    let rules = signed.named("ClusterRole", "istiod-istio-system")?["rules"].to_string();
    ensure!(rules.contains("certificatesigningrequests/approval") && !base_rules(&base)?.contains("certificatesigningrequests"), "{rules}");

    // As docs/kubernetes.md says.
    let patched = documented("resources: [../production]\npatches:")?;
    fs::write(own.path().join("kustomization.yaml"), patched)?;
    let closed = applied(&api, &own.path().display().to_string()).await?;
    let rules = &closed.named("NetworkPolicy", "istiod")?["spec"]["ingress"];
    let expected = json!({"ports": [{"port": 15017, "protocol": "TCP"}], "from": [{"ipBlock": {"cidr": "192.0.2.0/28"}}]});
    ensure!(rules[2] == expected && policy(&closed)? == policy(&base)?, "{rules}");

    // The rest of that folder needs definitions of the Prometheus Operator, which are not here.
    let built = succeeded(&api.kubectl(&["kustomize", &format!("{MANIFESTS}/observability")], "").await?)?;
    let kinds = built.lines().filter_map(|line| line.strip_prefix("kind: ")).collect::<Vec<_>>();
    ensure!(kinds == ["ConfigMap", "PodMonitor", "PrometheusRule", "ServiceMonitor"], "{kinds:?}");
    let settings = applied(&api, &format!("{MANIFESTS}/observability/aks")).await?;
    settings.named("ConfigMap", "ama-metrics-settings-configmap")?;

    let revision = applied(&api, &format!("{MANIFESTS}/revision")).await?;
    let selected = &revision.named("NetworkPolicy", "istiod-lite")?["spec"]["podSelector"]["matchLabels"];
    ensure!(*selected == json!({ "app": "istiod", "istio.io/rev": "lite" }), "{selected}");
    Ok(())
}

/// Returns the piece of YAML in the docs that begins so.
fn documented(beginning: &str) -> Result<String> {
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kubernetes.md"))?;
    let mut pieces = docs.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    pieces.find(|piece| piece.starts_with(beginning)).map(ToOwned::to_owned).with_context(|| format!("the docs have no {beginning:?}"))
}

/// What the API server would store.
struct Stored(Vec<Value>);

impl Stored {
    fn named(&self, kind: &str, name: &str) -> Result<&Value> {
        self.0
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .with_context(|| format!("no {kind}/{name}"))
    }

    fn deployment(&self) -> Result<&Value> {
        self.named("Deployment", "istiod")
    }
}

fn base_rules(base: &Stored) -> Result<String> {
    Ok(base.named("ClusterRole", "istiod-istio-system")?["rules"].to_string())
}

async fn applied(api: &ApiServer, folder: &str) -> Result<Stored> {
    let output = api.kubectl(&["apply", "--server-side", "--dry-run=server", "-o", "json", "-k", folder], "").await?;
    let applied: Value = serde_json::from_str(&succeeded(&output)?)?;
    // One object stands for itself.
    Ok(Stored(applied["items"].as_array().cloned().unwrap_or_else(|| vec![applied])))
}

fn container(stored: &Stored) -> Result<&Value> {
    Ok(&stored.deployment()?["spec"]["template"]["spec"]["containers"][0])
}

/// Returns the ports that the Service leads to.
fn ports(stored: &Stored) -> Result<Vec<Value>> {
    let ports = stored.named("Service", "istiod")?["spec"]["ports"].as_array().context("no ports")?;
    Ok(ports.iter().map(|port| port["targetPort"].clone()).collect())
}

/// Returns the ports that callers are let through to.
fn policy(stored: &Stored) -> Result<Vec<Value>> {
    let rules = stored.named("NetworkPolicy", "istiod")?["spec"]["ingress"].as_array().context("no rules")?;
    Ok(rules.iter().flat_map(|rule| rule["ports"].as_array().into_iter().flatten()).map(|port| port["port"].clone()).collect())
}
