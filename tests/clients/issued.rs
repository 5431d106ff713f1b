//! Which certificates were issued: the list of `istiod-lite ca issued` and the lines of the audit log.

use std::process::Command;

use anyhow::{Result, ensure};
use harness::http_client::get_text;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_listed_and_logged_as_they_were_issued() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    stage.ask().await?;
    let monitoring = stage.monitoring();
    let page = get_text(monitoring, "/debug/certificates?namespace=shop").await?;
    ensure!(!page.contains("PRIVATE KEY") && !page.contains("BEGIN"), "{page}");
    let page: serde_json::Value = serde_json::from_str(&page)?;
    let listed = page["certificates"].as_array().map(Vec::as_slice).unwrap_or_default();
    for account in ["client", "reviews"] {
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let entry = listed.iter().find(|entry| entry["identity"] == *identity);
        let Some(serial) = entry.and_then(|entry| entry["serial"].as_str()) else { anyhow::bail!("no {identity} in {page:#}") };
        let log = stage.control_plane_log();
        let line = log.lines().find(|line| line.contains("istiod_lite::audit") && line.contains(serial)).unwrap_or_default();
        for part in [&*identity, "not_after=", "proof=\"token of the local issuer\"", "caller="] {
            ensure!(line.contains(part), "{part:?} is not in the audit line {line:?}");
        }
        let table = ca_issued(&["--address", &monitoring.to_string()])?;
        ensure!(table.lines().any(|line| line.contains(serial) && line.ends_with(&identity)), "{table}");
    }
    let others = ca_issued(&["--address", &monitoring.to_string(), "--namespace", "bank"])?;
    ensure!(others.lines().count() == 1, "{others}");
    Ok(())
}

fn ca_issued(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_istiod-lite")).args(["ca", "issued"]).args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
