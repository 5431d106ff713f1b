//! Two dumps, path by path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::Value;

/// Resources by type (`cds`, `eds`, `lds`, `rds`, and `ecds` or `pcds` where there were some) and name.
pub(crate) type Dump = BTreeMap<String, BTreeMap<String, Value>>;

/// What a comparison found.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) equal: usize,
    pub(crate) total: usize,
    pub(crate) differences: Vec<Difference>,
}

/// One path that differs.
pub(crate) struct Difference {
    /// `type/name` of a resource that only one side has, else `type/name:path`.
    pub(crate) path: String,
    theirs: Option<String>,
    ours: Option<String>,
}

// The endpoint of the API server's own Service was at a port of the moment.
fn is_of_the_moment(kind: &str, name: &str) -> bool {
    kind == "eds" && name.contains("kubernetes.default.svc.cluster.local")
}

pub(crate) fn compare(theirs: &Dump, ours: &Dump) -> Report {
    let mut report = Report::default();
    let asked = ["cds", "eds", "lds", "rds"].into_iter().chain(["ecds", "pcds"].into_iter().filter(|kind| theirs.contains_key(*kind)));
    for kind in asked {
        let empty = BTreeMap::new();
        let (theirs, ours) = (theirs.get(kind).unwrap_or(&empty), ours.get(kind).unwrap_or(&empty));
        let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).filter(|name| !is_of_the_moment(kind, name)).collect();
        for name in names {
            report.total += 1;
            let resource = format!("{kind}/{name}");
            match (theirs.get(name), ours.get(name)) {
                (Some(theirs), Some(ours)) if theirs == ours => report.equal += 1,
                (Some(theirs), Some(ours)) => report.differences.extend(paths(&resource, theirs, ours)),
                (Some(_), None) => report.differences.push(Difference { path: resource, theirs: Some("sent".into()), ours: None }),
                (None, _) => report.differences.push(Difference { path: resource, theirs: None, ours: Some("sent".into()) }),
            }
        }
    }
    report
}

fn paths(resource: &str, theirs: &Value, ours: &Value) -> Vec<Difference> {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    flatten(theirs, String::new(), &mut one);
    flatten(ours, String::new(), &mut two);
    let (one, two): (BTreeMap<_, _>, BTreeMap<_, _>) = (one.into_iter().collect(), two.into_iter().collect());
    let all: BTreeSet<_> = one.keys().chain(two.keys()).collect();
    let differing = all.into_iter().filter(|path| one.get(*path) != two.get(*path));
    differing
        .map(|path| Difference { path: format!("{resource}:{path}"), theirs: one.get(path).cloned(), ours: two.get(path).cloned() })
        .collect()
}

// An item of a list is known by its name where it has one, so that an insertion does not shift all that follow; the
// order is compared apart.
fn flatten(value: &Value, path: String, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                flatten(value, format!("{path}.{key}"), into);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let mut seen = BTreeMap::<String, usize>::new();
            let mut order = Vec::new();
            for (at, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(Value::as_str);
                let label = name.map_or_else(|| at.to_string(), str::to_owned);
                let count = seen.entry(label.clone()).or_default();
                *count += 1;
                let label = if *count == 1 { label } else { format!("{label}#{count}") };
                flatten(item, format!("{path}[{label}]"), into);
                order.extend(name.map(str::to_owned));
            }
            if !order.is_empty() {
                into.push((format!("{path}[order]"), order.join(" ")));
            }
        }
        leaf => into.push((path, leaf.to_string())),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |side: &Option<String>| side.as_deref().map_or("(nothing)".to_owned(), |text| text.chars().take(200).collect());
        write!(f, "{}\n      istiod: {}\n      ours:   {}", self.path, cut(&self.theirs), cut(&self.ours))
    }
}
