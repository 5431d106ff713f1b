//! Text of others where kubectl shows it: conditions and Events about hostile objects, and about what a proxy refuses in hostile words.
//! The API server takes all of them, and nothing in them does anything to a terminal.

use anyhow::{Context, Result, ensure};
use harness::{kubernetes::succeeded, wait};
use istiod_lite::peer_text::{escaped, escaped_in_json};
use serde_json::{Value, json};

use crate::{
    refusals::refusing_proxy,
    shop::{PATIENCE, Shop},
};

/// What ends lines, moves cursors, turns and hides writing.
const HOSTILE: &str =
    "a\n2026-01-01T00:00:00Z ERROR FORGED\r\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{7f}\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}";
/// The longest note that an Event may have.
const LONGEST_NOTE: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_is_harmless_where_kubectl_shows_it() -> Result<()> {
    let shop = Shop::start().await?;
    let long = format!("{HOSTILE}{}", "L".repeat(5_000));
    // Applied, they would be read as YAML, which takes fewer characters.
    let list = json!({"apiVersion": "v1", "kind": "List", "items": hostile_objects(&long)}).to_string();
    succeeded(&shop.api.kubectl(&["create", "-f", "-"], &escaped_in_json(&list)).await?)?;
    let _proxy = refusing_proxy(&shop, &long).await?;
    for (kind, name) in
        [("virtualservice", "hostile"), ("destinationrule", "hostile"), ("gateway", "hostile"), ("destinationrule", "reviews")]
    {
        wait::until(&format!("a condition of {kind}/{name}"), PATIENCE, || async {
            let object = read(&shop, &["get", kind, name, "--namespace", "shop"]).await?;
            let message = object["status"]["conditions"][0]["message"].as_str().context("no message")?;
            ensure!(message.contains("FORGED"), "{kind}/{name}: nothing of it is said: {message:.300}");
            is_harmless(message)
        })
        .await?;
        wait::until(&format!("an Event about {kind}/{name}"), PATIENCE, || async {
            let events = read(&shop, &["get", "events", "--namespace", "shop"]).await?;
            let about = |event: &&Value| {
                let of = &event["involvedObject"];
                of["name"] == name && of["kind"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(kind))
            };
            let events: Vec<&Value> = events["items"].as_array().context("no list")?.iter().filter(about).collect();
            ensure!(!events.is_empty(), "none");
            for event in events {
                let note = event["message"].as_str().context("no note")?;
                ensure!(note.len() <= LONGEST_NOTE, "{} bytes", note.len());
                is_harmless(note)?;
                is_harmless(event["involvedObject"]["fieldPath"].as_str().unwrap_or_default())?;
            }
            Ok(())
        })
        .await?;
    }
    let metrics = shop.metrics().await?;
    let written = metrics.lines().filter(|line| line.starts_with("istiod_lite_status_writes"));
    let failed: Vec<&str> = written.filter(|line| line.contains("failed") && !line.ends_with(" 0")).collect();
    ensure!(failed.is_empty(), "{failed:?}");
    shop.log().lines().try_for_each(is_harmless)
}

/// Returns objects with mistakes in hostile words, in values and in the names of fields.
fn hostile_objects(long: &str) -> Vec<Value> {
    let object = |kind: &str, spec: Value| {
        let metadata = json!({"name": "hostile", "namespace": "shop"});
        json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let headers = json!({ long: {"exact": "a"}, HOSTILE: {"exact": "b"} });
    let route = json!({"match": [{"headers": headers}], "route": [{"destination": {"host": HOSTILE}}]});
    let port = json!({"number": 80, "name": HOSTILE, "protocol": long});
    vec![
        object("VirtualService", json!({"hosts": ["reviews"], "http": [route]})),
        object("DestinationRule", json!({"host": "reviews", "subsets": [{"name": "v9", "labels": {long: HOSTILE}}]})),
        object("Gateway", json!({"selector": {"app": HOSTILE}, "servers": [{"port": port, "hosts": [HOSTILE]}]})),
    ]
}

async fn read(shop: &Shop, command: &[&str]) -> Result<Value> {
    let output = shop.api.kubectl(&[command, &["-o", "json"]].concat(), "").await?;
    Ok(serde_json::from_str(&succeeded(&output)?)?)
}

fn is_harmless(text: &str) -> Result<()> {
    ensure!(escaped(text) == text, "{:.300}", escaped(text));
    let longest = text.split(|c| c != 'L').map(str::len).max().unwrap_or_default();
    ensure!(longest <= LONGEST_NOTE, "{longest} bytes of a long text");
    Ok(())
}
