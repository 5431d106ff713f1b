//! What users get wrong with kubectl: refused or warned about when it is written; and what slips past that hurts only
//! itself and shows, while real Envoys carry traffic.

use anyhow::{Context, Result, ensure};
use harness::{
    kubernetes::{ApiServer, Object, Options},
    mistakes::{self, Mistake},
    wait,
};
use serde_json::{Value, json};

use crate::{
    definitions::{install, said},
    objects::{self, pod, service},
    shop::{PATIENCE, Shop, VIRTUAL_SERVICE},
};

const CONDITION: &str = "istiod-lite.io/Accepted";

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_by_kubectl_is_refused_or_warned_about() -> Result<()> {
    let mut shop = Shop::start().await?;
    let traffic = shop.traffic().await?;
    shop.put_beside("bad").await?;
    shop.turn_webhook_on().await?;
    let all = mistakes::all();
    ensure!(all.len() >= 20, "only {} mistakes", all.len());
    for mistake in &all {
        shop.is_answered(&Placed::new(mistake, "bad")).await.with_context(|| mistake.name.to_owned())?;
    }
    shop.kubernetes_refuses_its_own().await?;
    shop.what_is_not_supported_passes_with_a_label("bad").await?;
    let refused = all.iter().filter(|mistake| mistake.refused).count();
    let metrics = shop.metrics().await?;
    ensure!(counted(&metrics, "galley_validation_failed") >= refused, "{metrics}");
    ensure!(counted(&metrics, "galley_validation_passed") >= all.len() - refused, "{metrics}");
    shop.a_condition_of_others_stays("bad").await?;
    traffic.judge(&mut shop).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_slips_past_hurts_only_itself_and_shows() -> Result<()> {
    let api = ApiServer::start(Options::default()).await?;
    install(&api).await?;
    let mut shop = Shop::open(api).await?;
    let traffic = shop.traffic().await?;
    let all = mistakes::all();
    let namespaces: Vec<String> = (0..all.len()).map(|number| format!("mistake-{number}")).collect();
    let placed: Vec<Placed> = all.iter().zip(&namespaces).map(|(mistake, namespace)| Placed::new(mistake, namespace)).collect();
    for mistake in &placed {
        shop.put_beside(mistake.namespace).await?;
        let output = shop.api.kubectl(&["apply", "-f", "-"], &mistake.yaml).await?;
        ensure!(output.status.success(), "{}: {}", mistake.name, said(&output));
    }
    for mistake in &placed {
        shop.is_shown(mistake).await.with_context(|| mistake.name.to_owned())?;
    }
    let errors = placed.iter().filter(|mistake| mistake.refused).count();
    shop.wait_for_metric(&format!("istiod_lite_diagnostics{{severity=\"error\"}} {errors}")).await?;
    // Its own writes are no news to it.
    let written = counted(&shop.metrics().await?, "istiod_lite_status_writes{what=\"condition\",result=\"written\"}");
    ensure!((placed.len()..2 * placed.len()).contains(&written), "{written} conditions written of {} objects", placed.len());
    shop.what_was_good_is_served_until_it_is_mended().await?;
    shop.what_an_earlier_leader_said_is_taken_back(placed.iter().find(|mistake| mistake.refused).context("a refusal")?).await?;
    traffic.judge(&mut shop).await?;
    Ok(())
}

/// A mistake in a namespace of its own.
struct Placed<'a> {
    name: &'static str,
    namespace: &'a str,
    yaml: String,
    refused: bool,
    /// `Kind/namespace/name`, or `Kind.group/namespace/name`
    object: String,
    /// Field and message, as the status has them.
    text: String,
    /// What the status says besides.
    remnant: Option<String>,
    /// What is said of it.
    told: String,
}

impl<'a> Placed<'a> {
    fn new(mistake: &Mistake, namespace: &'a str) -> Self {
        let place = |text: &str| text.replace("shop", namespace);
        let text = match mistake.field {
            "" => mistake.message.to_owned(),
            field => format!("{field}: {}", mistake.message),
        };
        let separator = if mistake.field.is_empty() { ": " } else { " " };
        Self {
            name: mistake.name,
            namespace,
            yaml: place(&mistake.yaml),
            refused: mistake.refused,
            object: place(mistake.object),
            told: place(&format!("{}{separator}{text}", mistake.object)),
            text: place(&text),
            remnant: mistake
                .remnant
                .map(|remnant| format!("spec: {NO_GOOD_VERSION}: {remnant}", NO_GOOD_VERSION = harness::mistakes::NO_GOOD_VERSION)),
        }
    }

    fn stored(&self) -> Object<'_> {
        let mut parts = self.object.split('/');
        let (written, name) = (parts.next().unwrap_or_default(), parts.next_back().unwrap_or_default());
        // A name that kinds of several groups have comes with its group: `Gateway.networking.istio.io`.
        let kind = written.split_once('.').map_or(written, |(kind, _)| kind);
        let of_security = matches!(kind, "PeerAuthentication" | "AuthorizationPolicy");
        let api_version = if of_security { "security.istio.io/v1" } else { "networking.istio.io/v1" };
        Object { api_version, kind, namespace: self.namespace, name }
    }
}

impl Shop {
    /// Puts what stands beside a mistake, and is right.
    async fn put_beside(&self, namespace: &str) -> Result<()> {
        self.api.namespace(namespace).await?;
        let service = |name: &str| service(namespace, name, &json!({ "app": name }), 9080, &json!("http"));
        let gateway = pod(namespace, "gateway-1", "default", &json!({ "istio": "ingress" }), [192, 0, 2, 9].into());
        self.api.put(&[service("reviews"), service("ratings"), gateway]).await
    }

    /// Turns on the webhook of `manifests/base`, at the control plane's address where that has a Service. The control
    /// plane itself says by what root it is to be trusted.
    async fn turn_webhook_on(&self) -> Result<()> {
        let url = format!("https://{}/validate", self.network.socket(1, harness::launch::PORT_WEBHOOKS));
        let mut configurations = objects::documents("manifests/base/validating-webhook.yaml")?;
        for webhook in configurations.iter_mut().flat_map(|it| it["webhooks"].as_array_mut().into_iter().flatten()) {
            webhook["clientConfig"] = json!({ "url": url });
        }
        self.api.put(&configurations).await?;
        let wrong = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: probe, namespace: shop}, spec: {}}";
        wait::until("the webhook to be asked", PATIENCE, || async {
            let output = self.api.kubectl(&["create", "--dry-run=server", "-f", "-"], wrong).await?;
            ensure!(said(&output).contains("denied the request: Gateway.networking.istio.io/shop/probe spec.servers"), "{}", said(&output));
            Ok(())
        })
        .await
    }

    /// Checks what is answered when a mistake is written.
    async fn is_answered(&self, mistake: &Placed<'_>) -> Result<()> {
        let told = &mistake.told;
        if mistake.refused {
            let output = self.api.kubectl(&["apply", "-f", "-"], &mistake.yaml).await?;
            let refusal = format!("admission webhook \"validation.istio.io\" denied the request: {told}");
            ensure!(!output.status.success() && said(&output).contains(&refusal), "not {refusal:?} but {:?}", said(&output));
            ensure!(self.api.get(mistake.stored()).await.is_err(), "it is stored");
            return Ok(());
        }
        // The world that it is held against is that of a moment ago.
        wait::until("a warning", PATIENCE, || async {
            let output = self.api.kubectl(&["apply", "--dry-run=server", "-f", "-"], &mistake.yaml).await?;
            let warning = format!("Warning: {told}");
            ensure!(output.status.success() && said(&output).lines().eq([warning.as_str()]), "not {warning:?} but {:?}", said(&output));
            Ok(())
        })
        .await
    }

    /// Checks that what Kubernetes itself refuses does not come to us.
    async fn kubernetes_refuses_its_own(&self) -> Result<()> {
        let object = |version: &str, kind: &str, spec: &str| {
            format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: x, namespace: bad}}, {spec}}}")
        };
        let slice = "addressType: IPv4, ports: [{name: http, port: 80}], endpoints: [{addresses: [10.0.0.300]}]";
        for (yaml, told) in [
            (object("v1", "Service", "spec: {ports: [{port: 80, name: a}, {port: 80, name: b}]}"), "spec.ports[1]"),
            (object("v1", "Service", "spec: {ports: [{port: 70000}]}"), "spec.ports[0].port"),
            (object("v1", "Service", "spec: {type: ExternalName, externalName: 'a b'}"), "spec.externalName"),
            (object("discovery.k8s.io/v1", "EndpointSlice", slice), "endpoints[0].addresses[0]"),
            (object("networking.istio.io/v7", "Gateway", "spec: {}"), "networking.istio.io/v7"),
        ] {
            let output = self.api.kubectl(&["apply", "-f", "-"], &yaml).await?;
            ensure!(!output.status.success() && said(&output).contains(told), "{yaml}: {}", said(&output));
        }
        Ok(())
    }

    /// Checks that a label on the object or on its namespace lets it be stored.
    async fn what_is_not_supported_passes_with_a_label(&self, namespace: &str) -> Result<()> {
        let label = json!({ "istiod-lite.io/allow-unsupported": "true" });
        let sidecar = |labels: &Value| {
            let metadata = json!({ "name": "open", "namespace": namespace, "labels": labels });
            let spec = json!({ "workloadSelector": { "labels": { "app": "nobody" } }, "outboundTrafficPolicy": { "egressProxy": { "host": "way-out.example.com" } } });
            json!({ "apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": metadata, "spec": spec }).to_string()
        };
        let told = format!("Sidecar/{namespace}/open spec.outboundTrafficPolicy.egressProxy: is not supported yet");
        let refused = self.api.kubectl(&["apply", "-f", "-"], &sidecar(&json!({}))).await?;
        ensure!(!refused.status.success() && said(&refused).contains(&told), "{}", said(&refused));
        let labelled = self.api.kubectl(&["apply", "-f", "-"], &sidecar(&label)).await?;
        ensure!(labelled.status.success() && said(&labelled).contains(&format!("Warning: {told}")), "{}", said(&labelled));
        let label = ["label", "namespace", namespace, "istiod-lite.io/allow-unsupported=true"];
        harness::kubernetes::succeeded(&self.api.kubectl(&label, "").await?)?;
        // The namespace's label is seen a moment later.
        wait::until("the namespace's label to count", PATIENCE, || async {
            let unlabelled = sidecar(&json!({})).replace("\"open\"", "\"wide\"");
            let output = self.api.kubectl(&["create", "--dry-run=server", "-f", "-"], &unlabelled).await?;
            ensure!(output.status.success() && said(&output).contains("Warning: "), "{}", said(&output));
            Ok(())
        })
        .await
    }

    /// Checks that a mistake is in the findings, in an Event and in the condition.
    async fn is_shown(&self, mistake: &Placed<'_>) -> Result<()> {
        let severity = if mistake.refused { "error" } else { "warning" };
        let finding = format!("{severity}: {}", mistake.told);
        wait::until("the finding", PATIENCE, || async {
            let found: Vec<String> = serde_json::from_str(&self.diagnostics().await?)?;
            ensure!(found.contains(&finding), "no {finding:?} in {found:#?}");
            Ok(())
        })
        .await?;
        let reason = if mistake.refused { "Refused" } else { "Doubtful" };
        let condition = self.wait_for_condition(mistake.stored(), reason).await?;
        ensure!(condition["status"] == if mistake.refused { "False" } else { "True" }, "{condition}");
        let message = std::iter::once(&mistake.text).chain(&mistake.remnant).cloned().collect::<Vec<_>>().join("; ");
        ensure!(condition["message"] == message && condition["observedGeneration"] == 1, "{condition}");
        self.wait_for_event(mistake.stored(), reason, &mistake.text).await
    }

    async fn wait_for_condition(&self, object: Object<'_>, reason: &str) -> Result<Value> {
        wait::until("the condition", PATIENCE, || async {
            let stored = self.api.get(object).await?;
            let conditions = stored["status"]["conditions"].as_array().context("no conditions")?;
            let ours = conditions.iter().find(|condition| condition["type"] == CONDITION && condition["reason"] == reason);
            ours.cloned().with_context(|| format!("no reason {reason} in {conditions:#?}\n{}", self.log_end()))
        })
        .await
    }

    /// Waits for an Event as `kubectl describe` shows it.
    async fn wait_for_event(&self, object: Object<'_>, reason: &str, note: &str) -> Result<()> {
        wait::until("the Event", PATIENCE, || async {
            let described = self.api.kubectl(&["describe", "--namespace", object.namespace, object.kind, object.name], "").await?;
            let shown = String::from_utf8_lossy(&described.stdout).into_owned();
            let events = shown.split_once("\nEvents:").map(|(_, events)| events).context("no Events")?;
            ensure!(events.lines().any(|line| line.contains(reason) && line.contains(note)), "{events}\n{}", self.log_end());
            Ok(())
        })
        .await
    }

    /// Checks that conditions of others stay, although Istio's definitions, and those of the harness, hold all conditions for one value.
    async fn a_condition_of_others_stays(&self, namespace: &str) -> Result<()> {
        let theirs = json!({ "type": "Reconciled", "status": "True" });
        let doubtful = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": { "name": "both", "namespace": namespace },
            "spec": { "host": "nobody" }, "status": { "conditions": [theirs] },
        });
        self.api.put(&[doubtful]).await?;
        let object = Object { kind: "DestinationRule", name: "both", namespace, ..VIRTUAL_SERVICE };
        self.wait_for_condition(object, "Doubtful").await?;
        let stored = self.api.get(object).await?;
        ensure!(stored["status"]["conditions"][0] == theirs, "{stored}");
        Ok(())
    }

    /// Breaks and mends the shop's own routes while they carry traffic.
    async fn what_was_good_is_served_until_it_is_mended(&self) -> Result<()> {
        let weights = |v1: i32| json!([{ "op": "replace", "path": "/spec/http/0/route/0/weight", "value": v1 }]).to_string();
        let patch = async |v1: i32| {
            let patch = ["--namespace", "shop", "patch", "virtualservice", "reviews", "--type", "json", "--patch", &weights(v1)];
            harness::kubernetes::succeeded(&self.api.kubectl(&patch, "").await?)
        };
        patch(-5).await?;
        let condition = self.wait_for_condition(VIRTUAL_SERVICE, "Refused").await?;
        self.wait_for_event(VIRTUAL_SERVICE, "Refused", "spec.http[0].route[0].weight: must not be negative, is -5").await?;
        patch(100).await?;
        let mended = self.wait_for_condition(VIRTUAL_SERVICE, "Accepted").await?;
        ensure!(mended["observedGeneration"].as_i64() > condition["observedGeneration"].as_i64(), "{condition} {mended}");
        self.wait_for_event(VIRTUAL_SERVICE, "Accepted", "the earlier findings no longer apply").await
    }

    /// Mends an object while nobody looks, and checks what the next leader says.
    async fn what_an_earlier_leader_said_is_taken_back(&mut self, mistake: &Placed<'_>) -> Result<()> {
        let right = json!({ "spec": { "http": [{ "route": [{ "destination": { "host": "reviews" }, "weight": 1 }] }] } });
        ensure!(mistake.object.starts_with("VirtualService/"), "{} is no VirtualService", mistake.object);
        self.restart_control_plane_after(async |api| api.patch(mistake.stored(), &right).await).await?;
        let condition = self.wait_for_condition(mistake.stored(), "Accepted").await?;
        ensure!(condition["status"] == "True" && condition["observedGeneration"] == 2, "{condition}");
        Ok(())
    }

    fn log_end(&self) -> String {
        harness::process::tail(&self.log(), 20)
    }
}

/// Returns the sum of all series of a counter.
fn counted(metrics: &str, name: &str) -> usize {
    let series = metrics.lines().filter(|line| line.starts_with(name));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}
