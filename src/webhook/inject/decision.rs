//! Decides whether a pod gets a proxy (contract §5.1, §5.2).

use serde_json::Value;

use super::shape::{StringMap, annotation, string_map};

/// The label of a namespace with value `enabled` or `disabled`.
pub const NAMESPACE_LABEL: &str = "istio-injection";
/// The label of a namespace or pod that names the revision (or tag) that injects.
pub const REVISION_LABEL: &str = "istio.io/rev";
/// The label (formerly annotation) of a pod with value `true` or `false`.
pub const POD_LABEL: &str = "sidecar.istio.io/inject";
/// The label of a namespace with the level of the Pod Security Standards that it enforces.
pub(super) const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// The namespaces of the cluster itself, in which nothing is injected.
const IGNORED_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// The labels of nodes with their operating system; the second is the one of old clusters.
const NODE_OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
/// The annotation by which the kubelet marks its copy of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Why a pod is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// The pod shares the node's network, so that rules for its traffic would apply to the node.
    #[error("the pod uses the node's network (spec.hostNetwork)")]
    HostNetwork,
    /// The pod is for a Windows node, where neither the proxy nor its rules can run.
    #[error("the pod is for Windows nodes ({0}), and the proxy runs on Linux only")]
    Windows(&'static str),
    /// The pod is the API server's copy of a static pod, which runs as the kubelet's file says.
    #[error("the pod is a copy of a static pod: the kubelet runs what its file says")]
    Mirror,
    /// The namespace belongs to the cluster itself.
    #[error("nothing is injected in this namespace")]
    Namespace,
    /// The pod has `sidecar.istio.io/inject: "false"`.
    #[error("the pod says {POD_LABEL}: \"false\"")]
    Pod,
    /// Neither the namespace's nor the pod's labels ask for a proxy, or they ask another revision.
    #[error("neither namespace nor pod asks this revision for it")]
    NotAsked,
}

/// Decides about a pod that the API server sent to the webhook, having selected it by the labels of namespace and pod.
///
/// # Errors
/// Returns why the pod is to be left as it is.
pub fn decide(namespace: &str, pod: &Value) -> Result<(), Skip> {
    if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return Err(Skip::HostNetwork);
    }
    if let Some(field) = windows(pod) {
        return Err(Skip::Windows(field));
    }
    if annotation(pod, MIRROR).is_some() {
        return Err(Skip::Mirror);
    }
    if IGNORED_NAMESPACES.contains(&namespace) {
        return Err(Skip::Namespace);
    }
    // The label is the newer API and takes precedence over the annotation.
    let labels = string_map(pod, "/metadata/labels");
    let inject = labels.get(POD_LABEL).map(String::as_str).or_else(|| annotation(pod, POD_LABEL));
    if inject == Some("false") { Err(Skip::Pod) } else { Ok(()) }
}

/// Returns the field by which only Windows nodes can run the pod.
fn windows(pod: &Value) -> Option<&'static str> {
    let spec = pod.get("spec")?;
    if spec.pointer("/os/name").is_some_and(is_windows) {
        return Some("spec.os.name");
    }
    let selector = spec.get("nodeSelector");
    if NODE_OS_LABELS.iter().any(|label| selector.and_then(|labels| labels.get(label)).is_some_and(is_windows)) {
        return Some("spec.nodeSelector");
    }
    // A node has to match one of the terms.
    let terms = spec.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
    let terms = terms.and_then(Value::as_array)?;
    (!terms.is_empty() && terms.iter().all(asks_windows)).then_some("spec.affinity.nodeAffinity")
}

fn asks_windows(term: &Value) -> bool {
    let expressions = term.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    let mut of_os = expressions.filter(|expression| text(expression, "key").is_some_and(|key| NODE_OS_LABELS.contains(&key)));
    of_os.any(|expression| {
        let values = expression.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        match text(expression, "operator") {
            Some("In") => !values.is_empty() && values.iter().all(is_windows),
            Some("NotIn") => values.iter().any(|value| value == "linux"),
            _ => false,
        }
    })
}

fn is_windows(value: &Value) -> bool {
    value == "windows"
}

fn text<'v>(object: &'v Value, field: &str) -> Option<&'v str> {
    object.get(field)?.as_str()
}

/// Checks that the selectors in the webhook configuration of `revision` (contract §5.1) select the pod.
///
/// # Errors
/// Returns why they do not.
pub fn selected(namespace: &StringMap, pod: &StringMap, revision: &str) -> Result<(), Skip> {
    let get = |map: &StringMap, key: &str| map.get(key).cloned();
    let (of_namespace, of_pod) = (get(namespace, REVISION_LABEL), get(pod, REVISION_LABEL));
    let inject = get(pod, POD_LABEL);
    if inject.as_deref() == Some("false") {
        return Err(Skip::Pod);
    }
    let is_default = matches!(revision, "" | "default");
    let mine = |asked: &str| if is_default { asked == "default" } else { asked == revision };
    let asked = match (get(namespace, NAMESPACE_LABEL).as_deref(), of_namespace, of_pod) {
        (Some(injection), ..) => is_default && injection == "enabled",
        (None, Some(asked), _) => mine(&asked),
        (None, None, Some(asked)) => mine(&asked),
        (None, None, None) => is_default && inject.as_deref() == Some("true"),
    };
    if asked { Ok(()) } else { Err(Skip::NotAsked) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_the_webhook_decides() {
        let inject = |value: &str| json!({POD_LABEL: value});
        let none = json!({});
        let cases = [
            ("shop", &none, &none, false, Ok(())),
            ("shop", &none, &none, true, Err(Skip::HostNetwork)),
            ("shop", &inject("true"), &none, true, Err(Skip::HostNetwork)),
            ("kube-system", &none, &none, false, Err(Skip::Namespace)),
            ("kube-public", &inject("true"), &none, false, Err(Skip::Namespace)),
            ("istio-system", &none, &none, false, Ok(())),
            ("shop", &inject("true"), &none, false, Ok(())),
            ("shop", &inject("false"), &none, false, Err(Skip::Pod)),
            ("shop", &none, &inject("false"), false, Err(Skip::Pod)),
            ("shop", &inject("true"), &inject("false"), false, Ok(())),
            ("shop", &inject("false"), &inject("true"), false, Err(Skip::Pod)),
            ("shop", &inject("no"), &none, false, Ok(())),
            ("shop", &none, &json!({MIRROR: "hash"}), false, Err(Skip::Mirror)),
        ];
        for (namespace, labels, annotations, host_network, expected) in cases {
            let metadata = json!({"labels": labels, "annotations": annotations});
            let pod = json!({"metadata": metadata, "spec": {"hostNetwork": host_network}});
            assert_eq!(decide(namespace, &pod), expected, "{namespace}: {pod}");
        }
    }

    #[test]
    fn pods_for_windows_nodes_are_left_alone() {
        let affinity = |terms: &[(&str, &str, &[&str])]| {
            let term = |(key, operator, values): &(&str, &str, &[&str])| json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}, {"key": key, "operator": operator, "values": values}]});
            let terms: Vec<_> = terms.iter().map(term).collect();
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let windows = ("kubernetes.io/os", "In", &["windows"][..]);
        let cases = [
            (json!({"os": {"name": "windows"}}), Some("spec.os.name")),
            (json!({"os": {"name": "linux"}}), None),
            (json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), Some("spec.nodeSelector")),
            (json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}), Some("spec.nodeSelector")),
            (json!({"nodeSelector": {"kubernetes.io/os": "linux"}}), None),
            (affinity(&[windows]), Some("spec.affinity.nodeAffinity")),
            (affinity(&[windows, ("kubernetes.io/os", "In", &["linux", "windows"])]), None),
            (affinity(&[("kubernetes.io/os", "NotIn", &["linux"])]), Some("spec.affinity.nodeAffinity")),
            (affinity(&[("kubernetes.io/os", "NotIn", &["windows"])]), None),
            (affinity(&[]), None),
        ];
        for (spec, expected) in cases {
            assert_eq!(windows_field(&spec), expected, "{spec}");
        }
    }

    fn windows_field(spec: &Value) -> Option<&'static str> {
        match decide("shop", &json!({"spec": spec})) {
            Err(Skip::Windows(field)) => Some(field),
            _ => None,
        }
    }

    #[test]
    fn what_the_selectors_say() {
        const ENABLED: (&str, &str) = (NAMESPACE_LABEL, "enabled");
        const DISABLED: (&str, &str) = (NAMESPACE_LABEL, "disabled");
        const CANARY: (&str, &str) = (REVISION_LABEL, "canary");
        const DEFAULT: (&str, &str) = (REVISION_LABEL, "default");
        const YES: (&str, &str) = (POD_LABEL, "true");
        const NO: (&str, &str) = (POD_LABEL, "false");
        // (namespace, pod, injected by the default revision, injected by revision canary)
        let cases: [(&[_], &[_], bool, bool); 14] = [
            (&[], &[], false, false),
            (&[], &[YES], true, false),
            (&[], &[YES, CANARY], false, true),
            (&[], &[CANARY], false, true),
            (&[], &[CANARY, NO], false, false),
            (&[], &[DEFAULT], true, false),
            (&[ENABLED], &[], true, false),
            (&[ENABLED], &[NO], false, false),
            (&[ENABLED, CANARY], &[], true, false),
            (&[DISABLED], &[YES], false, false),
            (&[DISABLED, CANARY], &[CANARY], false, false),
            (&[CANARY], &[], false, true),
            (&[CANARY], &[DEFAULT], false, true),
            (&[DEFAULT], &[], true, false),
        ];
        for (namespace, pod, by_default, by_canary) in cases {
            let (namespace, pod) = (map(namespace), map(pod));
            let selects = |revision| selected(&namespace, &pod, revision).is_ok();
            assert_eq!((selects("default"), selects("canary")), (by_default, by_canary), "namespace {namespace:?}, pod {pod:?}");
        }
    }
}
