//! Finds the workload of a pod, for its name in telemetry and the canonical labels (contract §5.4).

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};

/// The longest value of a label.
const LONGEST_LABEL: usize = 63;

/// The owner of a pod as users know it: the Deployment instead of its ReplicaSet, the CronJob instead of its Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// The name; for a pod without an owner that of the pod, as far as it has one.
    pub name: String,
}

// === impl Owner ===

impl Owner {
    /// Finds the owner of a pod by its controller reference.
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        match controller {
            Some(controller) => of_controller(controller, metadata.labels.as_ref()),
            None => {
                let name = metadata.name.clone().filter(|name| !name.is_empty());
                let generated = || metadata.generate_name.as_deref().map(|prefix| prefix.trim_end_matches('-').to_owned());
                Self { api_version: "v1".to_owned(), kind: "Pod".to_owned(), name: name.or_else(generated).unwrap_or_default() }
            }
        }
    }

    /// Returns the value of `ISTIO_META_OWNER`.
    pub(super) fn url(&self, namespace: &str) -> String {
        format!("kubernetes://apis/{}/namespaces/{namespace}/{}s/{}", self.api_version, self.kind.to_lowercase(), self.name)
    }
}

/// Returns the values of labels `service.istio.io/canonical-name` and `service.istio.io/canonical-revision`.
pub(super) fn canonical(labels: &BTreeMap<String, String>, owner: &Owner) -> (String, String) {
    let first = |names: [&str; 3]| names.iter().find_map(|name| labels.get(*name)).filter(|value| !value.is_empty());
    let name = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or(&owner.name);
    let revision = first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    (label_value(name), revision.map_or_else(|| "latest".to_owned(), |revision| label_value(revision)))
}

fn of_controller(controller: &OwnerReference, labels: Option<&BTreeMap<String, String>>) -> Owner {
    let owner = |api_version: &str, kind: &str, name: &str| Owner {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
    };
    let hash = labels.and_then(|labels| labels.get("pod-template-hash"));
    match (controller.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) if controller.name.ends_with(&format!("-{hash}")) => {
            owner("apps/v1", "Deployment", &controller.name[..controller.name.len() - hash.len() - 1])
        }
        ("Job", _) if scheduled_by(&controller.name).is_some() => {
            owner("batch/v1", "CronJob", scheduled_by(&controller.name).unwrap_or_default())
        }
        _ => owner(&controller.api_version, &controller.kind, &controller.name),
    }
}

/// Returns the CronJob of a Job, whose name ends in the minute: `name-29012345`.
fn scheduled_by(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let is_minute = (8..=10).contains(&minute.len()) && minute.bytes().all(|byte| byte.is_ascii_digit());
    (is_minute && !name.is_empty()).then_some(name)
}

/// Makes a name a value of a label: it may be too long, and must begin and end with a letter or digit.
fn label_value(name: &str) -> String {
    let cut: String = name.chars().take(LONGEST_LABEL).collect();
    cut.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn owner(metadata: Value) -> (String, String) {
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        let owner = Owner::of(&pod);
        (owner.kind, owner.name)
    }

    fn controlled(kind: &str, name: &str, hash: Option<&str>) -> Value {
        let controller = json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true});
        let labels = hash.map_or(json!({}), |hash| json!({"pod-template-hash": hash}));
        json!({"ownerReferences": [controller], "labels": labels})
    }

    #[test]
    fn owners_are_those_that_a_user_names() {
        let cases = [
            (controlled("ReplicaSet", "reviews-v1-7d9f", Some("7d9f")), ("Deployment", "reviews-v1")),
            (controlled("ReplicaSet", "by-hand", None), ("ReplicaSet", "by-hand")),
            (controlled("StatefulSet", "db", None), ("StatefulSet", "db")),
            (controlled("Job", "report-29012345", None), ("CronJob", "report")),
            (controlled("Job", "migrate-2", None), ("Job", "migrate-2")),
            (json!({"name": "alone"}), ("Pod", "alone")),
            (json!({"generateName": "some-"}), ("Pod", "some")),
        ];
        for (metadata, (kind, name)) in cases {
            assert_eq!(owner(metadata.clone()), (kind.to_owned(), name.to_owned()), "{metadata}");
        }
    }

    #[test]
    fn canonical_names_are_labels() {
        let owner = Owner { api_version: "apps/v1".into(), kind: "Deployment".into(), name: format!("{}-b", "a".repeat(62)) };
        let (name, revision) = canonical(&BTreeMap::new(), &owner);
        assert_eq!((name.len(), revision.as_str()), (62, "latest"));
        let labels = BTreeMap::from([("app".to_owned(), "x".to_owned()), ("version".to_owned(), "v2".to_owned())]);
        assert_eq!(canonical(&labels, &owner), ("x".to_owned(), "v2".to_owned()));
        assert_eq!(owner.url("shop").split('/').nth_back(1), Some("deployments"));
    }
}
