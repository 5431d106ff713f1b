//! Pods of any shape: nothing panics, and injecting twice equals injecting once.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn injected(pod: &Value) -> Result<Value, Refused> {
    let (parameters, settings) = (Parameters::default(), Settings::default());
    let world = World::default();
    let around =
        Surroundings { namespace: "shop", pod_security: None, owner: None, parameters: &parameters, settings: &settings, world: &world };
    inject(pod, around).map(|injected| injected.pod)
}

fn probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![(1u16..).prop_map(|port| json!(port)), Just(json!("http")), Just(json!("gone"))];
    (port, 0..4).prop_map(|(port, kind)| match kind {
        0 => json!({"httpGet": {"path": "/", "port": port}, "timeoutSeconds": 3}),
        1 => json!({"tcpSocket": {"port": port}}),
        2 => json!({"grpc": {"port": 9000}}),
        _ => json!({"exec": {"command": ["true"]}}),
    })
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    (prop::option::of(probe()), prop::option::of(probe()), any::<bool>(), any::<bool>()).prop_map(move |(live, ready, named, env)| {
        let mut container = json!({"name": name, "image": if named { "auto" } else { "example.com/app:v1" }});
        if named {
            container["ports"] = json!([{"name": "http", "containerPort": 8080}]);
        }
        if env {
            container["env"] = json!([{"name": "POD_NAME", "value": "mine"}]);
            container["volumeMounts"] = json!([{"name": "own", "mountPath": "/etc/istio/pod"}]);
        }
        for (field, probe) in [("livenessProbe", live), ("readinessProbe", ready)] {
            container.as_object_mut().unwrap().extend(probe.map(|probe| (field.to_owned(), probe)));
        }
        container
    })
}

fn containers(names: [&'static str; 3]) -> impl Strategy<Value = Vec<Value>> {
    let any = names.map(|name| prop::option::of(container(name)));
    any.prop_map(|found| found.into_iter().flatten().collect())
}

fn annotations() -> impl Strategy<Value = Value> {
    let choices = [
        ("inject.istio.io/templates", "gateway"),
        ("sidecar.istio.io/interceptionMode", "NONE"),
        ("status.sidecar.istio.io/port", "16020"),
        ("status.sidecar.istio.io/port", "0"),
        ("sidecar.istio.io/userVolume", r#"[{"name": "own", "emptyDir": {}}]"#),
        ("prometheus.io/port", "9090"),
        ("prometheus.io/port", "15020"),
        ("prometheus.io/path", "/stats/prometheus"),
        ("prometheus.io/scrape", "false"),
        ("prometheus.istio.io/merge-metrics", "false"),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "false"),
        ("sidecar.istio.io/status", "{}"),
        ("sidecar.istio.io/status", r#"{"containers": ["app"], "volumes": ["own"]}"#),
        ("proxy.istio.io/overrides", r#"{"containers": [{"name": "istio-proxy"}, 7]}"#),
    ];
    prop::collection::vec(prop::sample::select(choices.to_vec()), 0..5)
        .prop_map(|chosen| Value::Object(chosen.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()))
}

fn pod() -> impl Strategy<Value = Value> {
    let lists = (containers(["app", "helper", "istio-proxy"]), containers(["setup", "istio-init", "cache"]));
    (lists, annotations(), any::<bool>()).prop_map(|((main, init), annotations, volumes)| {
        let mut pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": main, "initContainers": init}});
        if volumes {
            pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}, {"name": "istio-token", "emptyDir": {}}]);
        }
        pod
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn injecting_twice_equals_injecting_once(pod in pod()) {
        twice_is_once(&injected(&pod).unwrap())?;
    }

    #[test]
    fn whatever_stands_somewhere_in_a_pod_nothing_panics(
        pod in pod(),
        place in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![json!(null), json!(1), json!("x"), json!([]), json!({}), json!([7]), json!({"name": 1})]),
    ) {
        let mut places = Vec::new();
        pointers(&pod, String::new(), &mut places);
        let mut pod = pod;
        *pod.pointer_mut(&places[place.index(places.len())]).unwrap() = value;
        if let Ok(once) = injected(&pod) {
            twice_is_once(&once)?;
        }
    }
}

fn twice_is_once(once: &Value) -> Result<(), TestCaseError> {
    let twice = injected(once).map_err(|refused| TestCaseError::fail(refused.to_string()))?;
    let difference = json_patch::diff(once, &twice);
    prop_assert!(difference.is_empty(), "{}", json!(difference));
    Ok(())
}

fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        pointers(child, format!("{at}/{key}"), found);
    }
    found.push(at);
}
