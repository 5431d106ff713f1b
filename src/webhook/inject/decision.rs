//! Decides whether a pod gets a proxy (contract §5.1, §5.2).

use std::collections::BTreeMap;

/// The label of a namespace with value `enabled` or `disabled`.
pub const NAMESPACE_LABEL: &str = "istio-injection";
/// The label of a namespace or pod that names the revision (or tag) that injects.
pub const REVISION_LABEL: &str = "istio.io/rev";
/// The label (formerly annotation) of a pod with value `true` or `false`.
pub const POD_LABEL: &str = "sidecar.istio.io/inject";

/// The namespaces of the cluster itself, in which nothing is injected.
const IGNORED_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// A map of labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// What the decision about a pod depends on.
#[derive(Clone, Copy, Debug)]
pub struct InjectionCandidate<'a> {
    /// The name of the namespace.
    pub namespace: &'a str,
    /// The pod's labels.
    pub labels: &'a StringMap,
    /// The pod's annotations.
    pub annotations: &'a StringMap,
    /// `spec.hostNetwork`
    pub host_network: bool,
}

/// Why a pod is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// The pod shares the node's network, so that rules for its traffic would apply to the node.
    #[error("the pod uses the node's network (spec.hostNetwork)")]
    HostNetwork,
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
pub fn decide(pod: InjectionCandidate<'_>) -> Result<(), Skip> {
    if pod.host_network {
        return Err(Skip::HostNetwork);
    }
    if IGNORED_NAMESPACES.contains(&pod.namespace) {
        return Err(Skip::Namespace);
    }
    // The label is the newer API and takes precedence over the annotation.
    let inject = pod.labels.get(POD_LABEL).or_else(|| pod.annotations.get(POD_LABEL));
    if inject.is_some_and(|inject| inject == "false") { Err(Skip::Pod) } else { Ok(()) }
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
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_the_webhook_decides() {
        let inject = |value| map(&[(POD_LABEL, value)]);
        let none = StringMap::new();
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
        ];
        for (namespace, labels, annotations, host_network, expected) in cases {
            let candidate = InjectionCandidate { namespace, labels, annotations, host_network };
            assert_eq!(decide(candidate), expected, "{candidate:?}");
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
