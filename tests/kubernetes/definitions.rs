//! `manifests/crds` on a real API server.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use harness::kubernetes::{ApiServer, Object, Options, crds, succeeded};
use serde_json::json;

/// Where the definitions are.
pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/crds");

const DEFINITION: Object<'_> = Object {
    api_version: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    namespace: "",
    name: "virtualservices.networking.istio.io",
};

/// Makes the definitions that are missing, and waits until their kinds are served.
pub(crate) async fn install(api: &ApiServer) -> Result<()> {
    succeeded(&api.kubectl(&["create", "-k", FOLDER], "").await?)?;
    let wait = ["wait", "crd", "-l", "app.kubernetes.io/part-of=istiod-lite", "--for", "condition=Established", "--timeout", "60s"];
    succeeded(&api.kubectl(&wait, "").await?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_version_keep_every_field() -> Result<()> {
    let api = ApiServer::start(Options::default()).await?;
    install(&api).await?;
    let spec = json!({ "hosts": ["a.example"], "new": { "deep": [{ "x": 1 }, null] }, "http": [{ "route": [{ "weight": "1" }] }] });
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let object = json!({
            "apiVersion": format!("networking.istio.io/{version}"), "kind": "VirtualService",
            "metadata": { "name": version, "namespace": "default" }, "spec": spec, "beside": { "spec": true },
        });
        succeeded(&api.kubectl(&["apply", "-f", "-"], &object.to_string()).await?)?;
        let stored = api.get(Object { api_version: "networking.istio.io/v1", kind: "VirtualService", namespace: "default", name: version });
        let stored = stored.await?;
        ensure!(stored["spec"] == spec && stored["beside"] == object["beside"], "{stored}");
    }
    let shown = succeeded(&api.kubectl(&["get", "vs,istio-io"], "").await?)?;
    ensure!(
        shown.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().starts_with(&["NAME", "GATEWAYS", "HOSTS", "AGE"])),
        "{shown}"
    );
    ensure!(shown.contains("[\"a.example\"]") || shown.contains("[a.example]"), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn they_never_replace_those_of_others() -> Result<()> {
    let api = ApiServer::start(Options::default()).await?;
    let theirs = crds::of_kind("VirtualService").context("a definition")?;
    succeeded(&api.kubectl(&["apply", "-f", "-"], &theirs.to_string()).await?)?;
    let before = api.get(DEFINITION).await?["spec"].clone();
    let created = api.kubectl(&["create", "-k", FOLDER], "").await?;
    let applied = api.kubectl(&["apply", "--server-side", "--field-manager=istiod-lite", "-k", FOLDER], "").await?;
    for (output, reason) in [(created, "already exists"), (applied, "conflict with \"kubectl-client-side-apply\"")] {
        ensure!(!output.status.success() && said(&output).contains(reason), "{}", said(&output));
        ensure!(api.get(DEFINITION).await?["spec"] == before, "it was changed");
    }
    // Those that were missing are there.
    api.get(Object { name: "sidecars.networking.istio.io", ..DEFINITION }).await?;
    Ok(())
}

/// Returns what kubectl said on stderr.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
