//! What users want of a proxy by ProxyConfig and annotations, as its Envoy has it.

use std::fs;

use anyhow::{Context, Result, ensure};
use harness::http_client::get_text;
use serde_json::{Value, json};

use crate::{
    LONG, listener,
    stage::{Stage, envoy},
};

#[tokio::test]
async fn an_envoy_is_started_as_proxy_config_and_annotations_say() -> Result<()> {
    let mut stage = Stage::set(envoy()?, LONG)?;
    let config = json!({
        "concurrency": 3, "drainDuration": "7s", "fileFlushInterval": "2.5s", "fileFlushMinSizeKb": 16, "serviceCluster": "billing",
        "extraStatTags": ["shard"], "runtimeValues": { "some.number": "7", "re2.max_program_size.error_level": "" },
    });
    stage.environment.push(("PROXY_CONFIG", config.to_string()));
    stage.environment.push(("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", "500".to_owned()));
    stage.threads = None;
    let annotations = [
        ("statsHistogramBuckets", r#"{"http.agent_status": [1, 20, 300]}"#),
        ("statsFlushInterval", "250ms"),
        ("statsEvictionInterval", "1m"),
        ("extraStatTags", "shard,team"),
        ("statsInclusionRegexps", "(a"),
        ("statsInclusionPrefixes", "http."),
    ];
    let lines = annotations.map(|(name, value)| format!("sidecar.istio.io/{name}={}\n", json!(value)));
    let file = stage.folder.path().join("annotations");
    fs::write(&file, lines.concat())?;
    stage.shared.serve_resource("counted", listener::counted(stage.at(8081), "shard=.=blue;.;team=.=red;.;counted"));
    let _control_plane = stage.start_control_plane()?;
    stage.start_agent(&["--annotations-file", &file.display().to_string()])?;
    stage.wait_until_ready().await?;

    let admin = async |path: &str| get_text(stage.at(15000), path).await;
    let info: Value = serde_json::from_str(&admin("/server_info").await?)?;
    let options = &info["command_line_options"];
    let given = ["concurrency", "drain_time", "file_flush_interval"].map(|name| options[name].clone());
    assert_eq!(json!(given), json!([3, "7s", "2.500s"]));
    assert_eq!(info["node"]["cluster"], "billing");

    let bootstrap = bootstrap(&admin("/config_dump").await?)?;
    assert_eq!([&bootstrap["stats_flush_interval"], &bootstrap["stats_eviction_interval"]], ["0.250s", "60s"]);
    let limit = &bootstrap["overload_manager"]["resource_monitors"][0]["typed_config"]["max_active_downstream_connections"];
    assert_eq!(*limit, json!("500"));
    let runtime: Value = serde_json::from_str(&admin("/runtime").await?)?;
    assert_eq!(runtime["entries"]["some.number"]["final_value"], "7");
    assert!(runtime["entries"]["re2.max_program_size.error_level"].is_null(), "{runtime}");

    stage.is_ready().await;
    let seen = async || {
        let text = get_text(stage.at(15000), "/stats/prometheus").await.unwrap_or_default();
        let of_probes = |bound: &str| {
            let mut buckets = text.lines().filter(|line| line.contains("downstream_rq_time_bucket") && line.contains("agent_status"));
            buckets.any(|line| line.contains(&format!("le=\"{bound}\"")) && !line.ends_with(" 0"))
        };
        let labelled = text.lines().any(|line| line.contains("shard=\"blue\"") && line.contains("team=\"red\""));
        of_probes("300") && !text.contains("agent_status\",le=\"5\"") && labelled
    };
    stage.wait("counting in those buckets and by those labels", seen).await?;
    ensure!(stage.log().contains("annotation sidecar.istio.io/statsInclusionRegexps"), "{}", stage.log());
    Ok(())
}

/// Returns the bootstrap in a dump of configuration.
fn bootstrap(dump: &str) -> Result<Value> {
    let dump: Value = serde_json::from_str(dump)?;
    let parts = dump["configs"].as_array().context("no configs")?;
    let part = parts.iter().find(|part| !part["bootstrap"].is_null()).context("no bootstrap")?;
    Ok(part["bootstrap"].clone())
}
