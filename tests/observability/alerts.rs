//! The alerts and their runbooks.

use std::{collections::BTreeSet, fs, process::Command};

use harness::{said::skip, tools};
use serde_json::Value;

use super::{
    documented::Documented,
    expression::{faults, placeholders},
    text, yaml,
};

const RULES: &str = "manifests/observability/alerts.yaml";
/// What `promtool test rules` is given.
const CASES: &str = "tests/observability/alerts.yaml";

fn rules() -> Vec<Value> {
    let groups = yaml(RULES)["spec"]["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn name(rule: &Value) -> &str {
    rule["alert"].as_str().unwrap()
}

#[test]
fn every_alert_names_only_what_is_documented() {
    let documented = Documented::read();
    let rules = rules();
    assert!(rules.len() > 15, "only {} alerts", rules.len());
    let found: Vec<String> = rules
        .iter()
        .flat_map(|rule| {
            let summary = rule["annotations"]["summary"].as_str().unwrap();
            faults(rule["expr"].as_str().unwrap(), &placeholders(summary, "$labels."), &documented)
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let page = text("docs/observability.md");
    let runbooks: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = rules();
    assert_eq!(runbooks, rules.iter().map(name).collect::<Vec<_>>());
    for rule in &rules {
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(runbook, format!("docs/observability.md#{}", name(rule).to_lowercase()));
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
    }
}

#[test]
fn the_alerts_fire_for_what_they_are_about() {
    let cases = yaml(CASES);
    let tests = cases["tests"].as_array().unwrap().iter().flat_map(|case| case["alert_rule_test"].as_array().unwrap());
    let (firing, silent): (Vec<&Value>, Vec<&Value>) = tests.partition(|test| !test["exp_alerts"].is_null());
    let names = |tests: &[&Value]| tests.iter().map(|test| test["alertname"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
    let all: BTreeSet<String> = rules().iter().map(|rule| name(rule).to_owned()).collect();
    assert_eq!(names(&firing), all, "alerts that have to fire");
    assert_eq!(names(&silent), all, "alerts that have to be silent");

    let Ok(promtool) = tools::prometheus("promtool") else {
        return skip("the_alerts_fire_for_what_they_are_about", "no promtool: run `scripts/setup-prometheus`");
    };
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(&promtool).args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    };
    let mut spec = yaml(RULES)["spec"].clone();
    fs::write(folder.path().join("rules.yaml"), serde_norway::to_string(&spec).unwrap()).unwrap();
    run(&["check", "rules", "rules.yaml"]);
    // What annotations become is not part of the cases.
    for rule in spec["groups"].as_array_mut().unwrap().iter_mut().flat_map(|group| group["rules"].as_array_mut().unwrap()) {
        rule.as_object_mut().unwrap().remove("annotations");
    }
    fs::write(folder.path().join("rules.yaml"), serde_norway::to_string(&spec).unwrap()).unwrap();
    fs::write(folder.path().join("cases.yaml"), text(CASES)).unwrap();
    run(&["test", "rules", "cases.yaml"]);
}
