//! Makes our condition in the `status` of Istio's kinds (`IstioStatus.conditions`). Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{object::ReadObject, report::Report};

/// The most lines in a message. Further ones are only counted.
const MOST_LINES: usize = 20;

/// Returns the type of our condition. Istio's own types (`Reconciled`, `PassedAnalysis`) belong to istiod, and each revision
/// has a type of its own.
pub(super) fn type_of(revision: &str) -> String {
    match revision {
        "" | "default" => "istiod-lite.io/Accepted".to_owned(),
        revision => format!("{revision}.istiod-lite.io/Accepted"),
    }
}

/// Returns whether our condition says that something is wrong or doubtful.
pub(super) fn complains(status: &Value, type_: &str) -> bool {
    ours(status, type_).is_some_and(|condition| condition["reason"] != "Accepted")
}

/// Returns the `status` to apply, or `None` if our condition is up to date. It has only our condition if each writer owns its
/// own conditions, otherwise those of others too.
pub(super) fn status(type_: &str, object: &ReadObject, report: &Report, now: Timestamp) -> Option<Value> {
    let before = ours(&object.status, type_);
    let reason = report.reason();
    let accepted = if reason.is_accepted() { "True" } else { "False" };
    let mut condition = json!({
        "type": type_,
        "status": accepted,
        "reason": reason.as_str(),
        "message": message(report),
        "observedGeneration": object.metadata.generation,
    });
    let same = |name: &str| before.is_some_and(|before| before[name] == condition[name]);
    // Istio's definitions allow numbers as strings.
    let generation = before.is_some_and(|before| number(&before["observedGeneration"]) == Some(object.metadata.generation));
    if same("status") && same("reason") && same("message") && generation {
        return None;
    }
    let since = before.filter(|_| same("status")).map(|before| before["lastTransitionTime"].clone()).filter(Value::is_string);
    condition["lastTransitionTime"] = since.unwrap_or_else(|| json!(seconds(now)));
    let mut conditions = if is_one_list(&object.metadata.managed_fields) { others(&object.status, type_) } else { Vec::new() };
    conditions.push(condition);
    Some(json!({ "conditions": conditions }))
}

fn message(report: &Report) -> String {
    let mut lines: Vec<String> = report.lines.iter().take(MOST_LINES).map(|line| line.text()).collect();
    let more = report.lines.len().saturating_sub(MOST_LINES);
    if more > 0 {
        lines.push(format!("{more} more findings are not listed"));
    }
    lines.join("; ")
}

fn ours<'a>(status: &'a Value, type_: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

fn others(status: &Value, type_: &str) -> Vec<Value> {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.filter(|condition| condition["type"] != type_).cloned().collect()
}

/// Returns whether the list of conditions belongs as a whole to its last writer, as in Istio's definitions, so that a writer
/// must repeat the conditions of others. In our definitions the list has keys. `managedFields` show which it is.
pub(super) fn is_one_list(managed_fields: &Value) -> bool {
    let owned = managed_fields.as_array().into_iter().flatten().filter_map(|manager| manager.pointer("/fieldsV1/f:status/f:conditions"));
    let mut owned = owned.filter_map(Value::as_object).peekable();
    owned.peek().is_some() && !owned.any(|conditions| conditions.keys().any(|key| key.starts_with("k:")))
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Formats a time as Kubernetes does: RFC 3339 in whole seconds.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::report::{ConditionReason, ReportLine};

    const TYPE: &str = "istiod-lite.io/Accepted";

    fn object(status: Value) -> ReadObject {
        let mut object = ReadObject { status, ..ReadObject::default() };
        object.metadata.generation = 4;
        object
    }

    fn report(lines: &[(ConditionReason, &str)]) -> Report {
        let line =
            |(reason, message): &(ConditionReason, &str)| ReportLine { reason: *reason, field: "spec".into(), message: (*message).into() };
        Report { lines: lines.iter().map(line).collect() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_refusal_stands_until_it_is_mended_and_keeps_its_time() {
        let refused = report(&[(ConditionReason::Refused, "wrong"), (ConditionReason::Doubtful, "odd")]);
        let first = status(TYPE, &object(Value::Null), &refused, at(0)).unwrap();
        let condition = json!({
            "type": TYPE, "status": "False", "reason": "Refused", "message": "spec: wrong; spec: odd",
            "observedGeneration": 4, "lastTransitionTime": "1970-01-01T00:00:00Z",
        });
        assert_eq!(first, json!({"conditions": [condition]}));
        assert_eq!(status(TYPE, &object(first.clone()), &refused, at(9)), None);
        assert!(complains(&first, TYPE));
        let other = status(TYPE, &object(first.clone()), &report(&[(ConditionReason::RefusedByProxies, "no")]), at(9)).unwrap();
        assert_eq!(other["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let mended = status(TYPE, &object(first), &Report::accepted(), at(9)).unwrap();
        let condition = &mended["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"], &condition["message"]), (&json!("True"), &json!("Accepted"), &json!("")));
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:09Z");
        assert!(!complains(&mended, TYPE));
    }

    #[test]
    fn a_new_generation_is_news_and_a_number_as_text_is_none() {
        let doubtful = report(&[(ConditionReason::Doubtful, "odd")]);
        let mut stands = status(TYPE, &object(Value::Null), &doubtful, at(0)).unwrap();
        assert_eq!(stands["conditions"][0]["status"], "True");
        stands["conditions"][0]["observedGeneration"] = json!("4");
        assert_eq!(status(TYPE, &object(stands.clone()), &doubtful, at(9)), None);
        stands["conditions"][0]["observedGeneration"] = json!("3");
        assert!(status(TYPE, &object(stands), &doubtful, at(9)).is_some());
    }

    #[test]
    fn conditions_of_others_are_repeated_where_the_list_is_one_value() {
        let refused = report(&[(ConditionReason::Refused, "wrong")]);
        let mut object = object(json!({"conditions": [{"type": "Reconciled", "status": "True"}, {"type": TYPE, "status": "True"}]}));
        let owned = |conditions: Value| json!([{"manager": "x", "fieldsV1": {"f:status": {"f:conditions": conditions}}}]);
        let types = |object: &ReadObject| -> Vec<String> {
            let status = status(TYPE, object, &refused, at(0)).unwrap();
            status["conditions"].as_array().unwrap().iter().map(|condition| condition["type"].as_str().unwrap().to_owned()).collect()
        };
        object.metadata.managed_fields = owned(json!({}));
        assert_eq!(types(&object), ["Reconciled", TYPE]);
        object.metadata.managed_fields = owned(json!({".": {}, "k:{\"type\":\"Reconciled\"}": {".": {}}}));
        assert_eq!(types(&object), [TYPE]);
        object.metadata.managed_fields = json!([{"fieldsV1": {"f:spec": {}}}]);
        assert_eq!(types(&object), [TYPE]);
    }

    #[test]
    fn every_revision_has_its_own() {
        assert_eq!([type_of(""), type_of("default"), type_of("1-2")], [TYPE, TYPE, "1-2.istiod-lite.io/Accepted"]);
    }
}
