//! Our dashboard.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    documented::Documented,
    expression::{faults, placeholders},
    text,
};

fn dashboard() -> Value {
    serde_json::from_str(&text("manifests/observability/dashboard.json")).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter()
}

#[test]
fn every_panel_shows_only_what_is_documented() {
    let (documented, dashboard) = (Documented::read(), dashboard());
    let mut found = Vec::new();
    for panel in panels(&dashboard).filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            let shown = placeholders(target["legendFormat"].as_str().unwrap(), "");
            found.extend(faults(target["expr"].as_str().unwrap(), &shown, &documented));
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_panel_has_a_place_and_a_name_of_its_own() {
    let dashboard = dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}: its id is another's", panel["title"]);
        assert!(!panel["title"].as_str().unwrap().is_empty(), "{panel}");
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + width <= 24, "{} is wider than the page", panel["title"]);
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies on another", panel["title"]);
        }
    }
    assert_eq!(dashboard["templating"]["list"][0]["name"], "datasource");
}

#[test]
fn the_page_lists_the_rows() {
    let (dashboard, page) = (dashboard(), text("docs/observability.md"));
    let rows: Vec<&str> = panels(&dashboard).filter(|panel| panel["type"] == "row").map(|row| row["title"].as_str().unwrap()).collect();
    assert!(rows.len() > 3, "{rows:?}");
    for row in rows {
        assert!(page.contains(&format!("\n| {row} | ")), "docs/observability.md says nothing of {row}");
    }
}
