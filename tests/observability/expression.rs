//! What is wrong with an expression of PromQL.

use std::{collections::BTreeSet, convert::Infallible};

use promql_parser::{
    label::{METRIC_NAME, MatchOp},
    parser::{self, Expr, VectorSelector},
    util::{ExprVisitor, walk_expr},
};

use super::documented::Documented;

/// Returns what is wrong: it does not parse, or names metrics or labels that are not documented. `shown` are labels that somebody
/// wants to show of its result.
pub(super) fn faults(expression: &str, shown: &[&str], documented: &Documented) -> Vec<String> {
    // Grafana puts the window in.
    let expression = expression.replace("$__rate_interval", "5m");
    let parsed = match parser::parse(&expression) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("{expression}: {error}")],
    };
    let mut names = Names { documented, labels: BTreeSet::new(), grouped: BTreeSet::new(), faults: Vec::new() };
    let Ok(_) = walk_expr(&mut names, &parsed);
    let wanted = names.grouped.iter().map(String::as_str).chain(shown.iter().copied());
    let missing: Vec<String> = wanted.filter(|label| !names.labels.contains(*label)).map(|label| format!("no label {label}")).collect();
    names.faults.extend(missing);
    names.faults.into_iter().map(|fault| format!("{expression}: {fault}")).collect()
}

/// Returns the labels that a text between double braces shows: `{{before label}}`.
pub(super) fn placeholders<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
    let inner = text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    inner.filter_map(|inner| inner.trim().strip_prefix(before)).map(|label| label.split('|').next().unwrap_or(label).trim()).collect()
}

/// Gathers what an expression names.
struct Names<'d> {
    documented: &'d Documented,
    /// The labels that any of the selected series has.
    labels: BTreeSet<String>,
    /// The labels by which it groups or joins.
    grouped: BTreeSet<String>,
    faults: Vec<String>,
}

impl Names<'_> {
    fn select(&mut self, selector: &VectorSelector) {
        let matchers = &selector.matchers.matchers;
        let by_pattern = matchers.iter().find(|matcher| matcher.name == METRIC_NAME);
        let (name, labels) = match (&selector.name, by_pattern) {
            (Some(name), _) => (name, self.documented.labels(name).cloned()),
            (None, Some(matcher)) if matches!(matcher.op, MatchOp::Re(_)) => {
                (&matcher.value, self.documented.labels_of_matching(&matcher.value))
            }
            _ => return self.faults.push(format!("{selector} names no metric")),
        };
        let Some(labels) = labels else { return self.faults.push(format!("docs/metrics.md has no {name}")) };
        for matcher in matchers.iter().filter(|matcher| matcher.name != METRIC_NAME && !labels.contains(&matcher.name)) {
            self.faults.push(format!("{name} has no label {}", matcher.name));
        }
        self.labels.extend(labels);
    }
}

impl ExprVisitor for Names<'_> {
    type Error = Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        match expression {
            Expr::VectorSelector(selector) => self.select(selector),
            Expr::MatrixSelector(selector) => self.select(&selector.vs),
            Expr::Aggregate(aggregate) => {
                self.grouped.extend(aggregate.modifier.iter().flat_map(|modifier| modifier.labels().labels.clone()));
            }
            Expr::Binary(binary) => {
                let matching = binary.modifier.iter().filter_map(|modifier| modifier.matching.as_ref());
                self.grouped.extend(matching.flat_map(|modifier| modifier.labels().labels.clone()));
            }
            _ => {}
        }
        Ok(true)
    }
}

const PAGE: &str = "
| Metric | Type | Labels | What |
|---|---|---|---|
| `pushes` | counter | type | Pushes |
| `seconds` | histogram | | Seconds |

| Metric | Why |
|---|---|
| `go_*` | There are none |
";

#[test]
fn what_is_not_documented_is_found() {
    let documented = Documented::parse(PAGE);
    let said = |expression: &str, shown: &[&str]| {
        let faults = faults(expression, shown, &documented).join("; ");
        faults.strip_prefix(&format!("{expression}: ")).unwrap_or(&faults).to_owned()
    };
    for good in [
        "sum by (type, pod) (rate(pushes{type!=\"cds\"}[$__rate_interval]))",
        "histogram_quantile(0.99, sum by (le) (rate(seconds_bucket[5m]))) > 5",
        "sum by (type) ({__name__=~\"pu.*\"}) / on (type) group_left pushes",
        "(increase(pushes[5m]) > 0) or (pushes unless pushes offset 5m)",
    ] {
        assert_eq!(said(good, &[]), "");
    }
    assert_eq!(said("sum(pushes)", &["type"]), "");
    assert_eq!(said("sum(pushed)", &[]), "docs/metrics.md has no pushed");
    assert_eq!(said("seconds", &[]), "docs/metrics.md has no seconds");
    assert_eq!(said("pushes{tpye=\"cds\"}", &[]), "pushes has no label tpye");
    assert_eq!(said("sum by (le) (pushes)", &[]), "no label le");
    assert_eq!(said("pushes / on (node) pushes", &[]), "no label node");
    assert_eq!(said("pushes", &["node"]), "no label node");
    assert_eq!(said("{__name__=~\"po.*\"}", &[]), "docs/metrics.md has no po.*");
    assert!(!said("sum(pushes", &[]).is_empty());
}

#[test]
fn placeholders_are_found() {
    assert_eq!(placeholders("{{type}} of {{ pod }}", ""), ["type", "pod"]);
    assert_eq!(placeholders("{{ $labels.type }}: {{ $value | humanizeDuration }}", "$labels."), ["type"]);
}
