//! Diverts probes of the application, which the kubelet makes from outside the mesh, to the agent (contract §5.5). The agent probes
//! the application as the kubelet would, by what environment variable `ISTIO_KUBE_APP_PROBERS` says.

use serde_json::{Map, Value, json};

use super::{
    shape::{containers_mut, name_of, set_variable},
    template::{INIT, PROXY},
};

/// The variable with a JSON map from the path at the agent to the action as the user wrote it.
pub(super) const VARIABLE: &str = "ISTIO_KUBE_APP_PROBERS";

/// Probes, and the last parts of their paths at the agent.
const PROBES: [(&str, &str); 3] = [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
/// Hooks, and the last parts of their paths at the agent.
const HOOKS: [(&str, &str); 2] = [("preStop", "prestopz"), ("postStart", "poststartz")];
/// The actions that need a connection to the application, which `exec` does not.
const ACTIONS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Rewrites all probes and hooks that connect to the application. Returns warnings about those that could not be rewritten.
pub(super) fn rewrite(pod: &mut Value, agent_port: u16) -> Vec<String> {
    let (mut probers, mut warnings) = (Map::new(), Vec::new());
    for container in containers_mut(pod).filter(|container| is_of_application(container)) {
        let name = name_of(container).to_owned();
        let ports = container.get("ports").cloned().unwrap_or_default();
        for (probe, path) in PROBES {
            let target = container.get_mut(probe);
            let path = format!("/app-health/{name}/{path}");
            divert(target, path, &ports, agent_port, &mut probers).unwrap_or_else(|why| warnings.push(format!("{name}.{probe} {why}")));
        }
        for (moment, path) in HOOKS {
            let target = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(moment));
            let path = format!("/app-lifecycle/{name}/{path}");
            divert(target, path, &ports, agent_port, &mut probers).unwrap_or_else(|why| warnings.push(format!("{name}.{moment} {why}")));
        }
    }
    if !probers.is_empty()
        && let Some(proxy) = super::shape::container_mut(pod, PROXY)
    {
        set_variable(proxy, VARIABLE, &Value::Object(probers).to_string());
    }
    warnings
}

/// Undoes [`rewrite`] by the value of the variable. A named port stays the number that it stood for.
pub(super) fn put_back(pod: &mut Value, probers: &str) {
    let Ok(probers) = serde_json::from_str::<Map<String, Value>>(probers) else { return };
    for container in containers_mut(pod).filter(|container| is_of_application(container)) {
        let name = name_of(container).to_owned();
        for (probe, path) in PROBES {
            put_back_action(container.get_mut(probe), probers.get(&format!("/app-health/{name}/{path}")));
        }
        for (moment, path) in HOOKS {
            let target = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(moment));
            put_back_action(target, probers.get(&format!("/app-lifecycle/{name}/{path}")));
        }
    }
}

fn is_of_application(container: &Value) -> bool {
    ![PROXY, INIT].contains(&name_of(container))
}

/// Replaces the action by a GET at the agent, and keeps it in `probers`.
fn divert(
    target: Option<&mut Value>,
    path: String,
    ports: &Value,
    agent_port: u16,
    probers: &mut Map<String, Value>,
) -> Result<(), String> {
    let Some(Value::Object(target)) = target else { return Ok(()) };
    let Some((kind, action)) = ACTIONS.iter().find_map(|kind| Some((*kind, target.get(*kind).filter(|action| action.is_object())?))) else {
        return Ok(());
    };
    let mut action = action.clone();
    let port = number_of(&action["port"], ports).ok_or_else(|| format!("names port {}, which its container has not", action["port"]))?;
    if port == u64::from(agent_port) {
        return Ok(());
    }
    action["port"] = json!(port);
    let mut prober = Map::from_iter([(kind.to_owned(), action)]);
    prober.extend(target.get("timeoutSeconds").map(|seconds| ("timeoutSeconds".to_owned(), seconds.clone())));
    target.remove(kind);
    target.insert("httpGet".to_owned(), json!({"path": path, "port": agent_port, "scheme": "HTTP"}));
    probers.insert(path, Value::Object(prober));
    Ok(())
}

fn put_back_action(target: Option<&mut Value>, prober: Option<&Value>) {
    let (Some(Value::Object(target)), Some(Value::Object(prober))) = (target, prober) else { return };
    target.remove("httpGet");
    target.extend(prober.iter().filter(|(kind, _)| ACTIONS.contains(&kind.as_str())).map(|(kind, action)| (kind.clone(), action.clone())));
}

fn number_of(port: &Value, ports: &Value) -> Option<u64> {
    let name = match port {
        Value::Number(number) => return number.as_u64(),
        Value::String(name) => name,
        _ => return None,
    };
    let named = ports.as_array()?.iter().find(|port| name_of(port) == name);
    named.and_then(|port| port.get("containerPort")?.as_u64()).or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"spec": {
            "initContainers": [{"name": "istio-proxy", "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021}}}],
            "containers": [{
                "name": "app", "ports": [{"name": "http", "containerPort": 8080}],
                "livenessProbe": {"httpGet": {"path": "/live", "port": "http", "scheme": "HTTPS"}, "timeoutSeconds": 2},
                "readinessProbe": {"grpc": {"port": 9000, "service": "s"}},
                "startupProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 8080}}},
            }],
        }})
    }

    #[test]
    fn probes_go_to_the_agent_and_come_back() {
        let mut rewritten = pod();
        assert_eq!(rewrite(&mut rewritten, 15020), [""; 0]);
        let app = &rewritten["spec"]["containers"][0];
        let at = |path: &str| json!({"path": path, "port": 15020, "scheme": "HTTP"});
        assert_eq!(app["livenessProbe"], json!({"httpGet": at("/app-health/app/livez"), "timeoutSeconds": 2}));
        assert_eq!(app["readinessProbe"], json!({"httpGet": at("/app-health/app/readyz")}));
        assert_eq!(app["startupProbe"], json!({"exec": {"command": ["true"]}}));
        assert_eq!(app["lifecycle"]["preStop"], json!({"httpGet": at("/app-lifecycle/app/prestopz")}));
        let probers = variable(&rewritten);
        assert_eq!(
            serde_json::from_str::<Value>(&probers).unwrap(),
            json!({
                "/app-health/app/livez": {"httpGet": {"path": "/live", "port": 8080, "scheme": "HTTPS"}, "timeoutSeconds": 2},
                "/app-health/app/readyz": {"grpc": {"port": 9000, "service": "s"}},
                "/app-lifecycle/app/prestopz": {"httpGet": {"path": "/bye", "port": 8080}},
            })
        );
        put_back(&mut rewritten, &probers);
        let mut expected = pod();
        expected["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] = json!(8080);
        assert_eq!(rewritten["spec"]["containers"], expected["spec"]["containers"]);
    }

    fn variable(pod: &Value) -> String {
        super::super::shape::variable(&pod["spec"]["initContainers"][0], VARIABLE).unwrap().to_owned()
    }

    #[test]
    fn a_port_that_is_not_there_stays_as_written() {
        let mut pod = json!({"spec": {"containers": [{"name": "app", "livenessProbe": {"tcpSocket": {"port": "web"}}}]}});
        assert_eq!(rewrite(&mut pod, 15020), [r#"app.livenessProbe names port "web", which its container has not"#]);
        assert_eq!(pod["spec"]["containers"][0]["livenessProbe"], json!({"tcpSocket": {"port": "web"}}));
    }
}
