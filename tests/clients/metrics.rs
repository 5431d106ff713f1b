//! `/metrics` of a running control plane: istiod's names with true values, and every name in `docs/metrics.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use harness::{http_client::get_text, mesh::START, tools, wait};

use crate::stage::Stage;

/// A second route for the host that `manifests/folder-demo` routes.
const TWIN: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: twin, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http: [{route: [{destination: {host: reviews.shop.svc.cluster.local, port: {number: 9080}}}]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn they_tell_the_truth_and_are_documented() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    stage.ask().await?;
    let monitoring = stage.monitoring();
    expect(
        monitoring,
        &[
            (r#"pilot_xds{version="unknown"}"#, Is::Exactly(2.0)),
            ("pilot_services", Is::Exactly(2.0)),
            ("pilot_virt_services", Is::Exactly(1.0)),
            ("pilot_vservice_dup_domain", Is::Exactly(0.0)),
            // The ingress gateway, which does not run here.
            ("pilot_eds_no_instances", Is::Exactly(1.0)),
            (r#"pilot_xds_pushes{type="cds"}"#, Is::Exactly(2.0)),
            (r#"pilot_xds_push_time_count{type="lds"}"#, Is::Exactly(2.0)),
            (r#"pilot_xds_config_size_bytes_sum{type="cds"}"#, Is::Above(1_000.0)),
            ("pilot_xds_send_time_count", Is::Above(3.0)),
            ("pilot_xds_recv_max", Is::Above(100.0)),
            ("pilot_total_xds_internal_errors", Is::Exactly(0.0)),
            (r#"pilot_k8s_cfg_events{type="VirtualService",event="add"}"#, Is::Exactly(1.0)),
            (r#"pilot_k8s_reg_events{type="Services",event="add"}"#, Is::Exactly(2.0)),
            ("citadel_server_success_cert_issuance_count", Is::Above(1.0)),
            ("process_resident_memory_bytes", Is::Above(1_000_000.0)),
            ("process_open_fds", Is::Above(10.0)),
            ("istiod_uptime_seconds", Is::Above(0.1)),
        ],
    )
    .await?;
    stage.manifests.write("twin.yaml", TWIN)?;
    expect(
        monitoring,
        &[
            ("pilot_virt_services", Is::Exactly(2.0)),
            ("pilot_vservice_dup_domain", Is::Exactly(1.0)),
            (r#"pilot_push_triggers{type="config"}"#, Is::Above(5.0)),
            (r#"pilot_inbound_updates{type="config"}"#, Is::Above(5.0)),
            ("pilot_debounce_time_count", Is::Above(1.0)),
            ("pilot_pushcontext_init_seconds_count", Is::Above(1.0)),
        ],
    )
    .await?;
    // A route that wins nothing concerns no proxy; one that goes does.
    stage.manifests.remove("virtual-service.yaml")?;
    expect(
        monitoring,
        &[
            ("pilot_vservice_dup_domain", Is::Exactly(0.0)),
            (r#"pilot_k8s_cfg_events{type="VirtualService",event="delete"}"#, Is::Exactly(1.0)),
            ("pilot_proxy_convergence_time_count", Is::Above(0.0)),
            ("pilot_proxy_queue_time_count", Is::Above(0.0)),
        ],
    )
    .await?;
    expect_documented(&get_text(monitoring, "/metrics").await?)
}

#[derive(Clone, Copy, Debug)]
enum Is {
    Exactly(f64),
    Above(f64),
}

/// Waits until the series have these values.
async fn expect(monitoring: SocketAddr, expected: &[(&str, Is)]) -> Result<()> {
    wait::until("the metrics", START, || async move {
        let text = get_text(monitoring, "/metrics").await?;
        let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.rsplit_once(' ')).collect();
        for (series, is) in expected {
            let value: f64 = values.get(series).with_context(|| format!("no {series}"))?.parse()?;
            let holds = match is {
                Is::Exactly(wanted) => value == *wanted,
                Is::Above(least) => value > *least,
            };
            ensure!(holds, "{series} is {value}, not {is:?}");
        }
        Ok(())
    })
    .await
}

/// Checks that what is shown is documented with its type, and that what is documented exists.
fn expect_documented(metrics: &str) -> Result<()> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|line| line.split_once(' '));
    let shown: BTreeMap<&str, &str> = types.collect();
    ensure!(shown.len() > 30, "only {} metrics are shown", shown.len());
    let text = fs::read_to_string(tools::project().join("docs/metrics.md"))?;
    let documented = documented(&text);
    for (name, kind) in &shown {
        let series = series_of(name, metrics, &documented);
        let said = documented.get(series.as_str()).with_context(|| format!("{series} is not in docs/metrics.md"))?;
        ensure!(said == kind, "{name} is a {kind}, docs/metrics.md says {said}");
    }
    let known = names_in(&tools::project().join("src"))?;
    for name in documented.keys() {
        let registered = [*name, name.trim_end_matches("_total")];
        let exists = registered.iter().any(|name| shown.contains_key(name) || known.contains(*name));
        ensure!(exists, "{name} of docs/metrics.md exists nowhere");
    }
    Ok(())
}

/// Returns the name of a metric's series, which ends in `_total` for some counters; while there is none, as the page has it.
fn series_of(name: &str, metrics: &str, documented: &BTreeMap<&str, &str>) -> String {
    let total = format!("{name}_total");
    let counted = |name: &str| metrics.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let ends_in_total = counted(&total) || (!counted(name) && documented.contains_key(total.as_str()));
    if ends_in_total { total } else { name.to_owned() }
}

/// Returns the rows of the tables: `| `name` | type | …`.
fn documented(text: &str) -> BTreeMap<&str, &str> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (name, kind) = (cells.next()?.trim_matches('`'), cells.next()?);
        // The last table is of what does not exist.
        ["counter", "gauge", "histogram"].contains(&kind).then_some((name, kind))
    })
    .collect()
}

/// Returns every text between quotes in the sources.
fn names_in(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => names.extend(names_in(&path)?),
            false => names.extend(fs::read_to_string(&path)?.split('"').map(str::to_owned)),
        }
    }
    Ok(names)
}
