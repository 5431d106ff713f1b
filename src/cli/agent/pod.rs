//! The settings of an agent that runs in a pod, from the pod: what its container's arguments, variables and labels say.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, bail};
use clap::{Arg, Args, Command, FromArgMatches};
use serde_json::Value;

use super::{
    Arguments, RoleCommand,
    environment::{Environment, PodInfo},
    settings,
};
use crate::agent::settings::{Role, Settings};

/// Returns the settings of the agent in the container of that name.
///
/// # Errors
/// When the pod has no such container, or the agent would not start with what it is told.
pub(in crate::cli) fn settings_of_pod(pod: &Value, container: &str) -> anyhow::Result<Settings> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    let proxy = lists.flatten().find(|one| one["name"] == container).with_context(|| format!("has no container {container}"))?;
    let arguments: Vec<&str> = proxy["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let role = match arguments.get(1) {
        Some(&"sidecar") => "sidecar",
        Some(&("gateway" | "router")) => "gateway",
        _ => bail!("container {container} says by its arguments neither sidecar nor gateway"),
    };
    // Istio's agent is told by its variables, and by a domain that begins with the namespace.
    let arguments = if arguments[0] == "agent" { arguments[2..].to_vec() } else { Vec::new() };
    let variables = variables(pod, proxy);
    let environment = Environment(variables);
    let info = PodInfo { labels: texts(&pod["metadata"]["labels"]), annotations: texts(&pod["metadata"]["annotations"]) };
    match parse(role, &arguments, &environment)?.role {
        RoleCommand::Sidecar(options) => settings::of(Role::Sidecar, *options, &environment, info),
        RoleCommand::Gateway(options) => settings::of(Role::Gateway, *options, &environment, info),
        _ => bail!("container {container} runs no proxy"),
    }
}

/// Parses arguments as they are parsed in the pod: with its variables, and not with those of this process.
fn parse(role: &'static str, arguments: &[&str], environment: &Environment) -> anyhow::Result<Arguments> {
    let command = Arguments::augment_args(Command::new("agent")).no_binary_name(true);
    let mut line = vec![role.to_owned(), "--envoy=envoy".to_owned()];
    let known = command.find_subcommand(role).context("the role is not known")?;
    for (flag, variable) in known.get_arguments().filter_map(|flag| Some((flag.get_long()?, flag.get_env()?.to_str()?))) {
        let is_given = arguments.iter().any(|argument| argument.strip_prefix("--") == Some(flag));
        if let Some(value) = environment.0.get(variable).filter(|_| !is_given && flag != "envoy") {
            line.push(format!("--{flag}={value}"));
        }
    }
    line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let command = command.mut_subcommand(role, |command| command.mut_args(without_variable));
    let matches = command.try_get_matches_from(line).map_err(|error| anyhow!("{}", error.to_string().trim_end()))?;
    Ok(Arguments::from_arg_matches(&matches)?)
}

fn without_variable(argument: Arg) -> Arg {
    argument.env(None::<&'static str>)
}

/// Returns the variables of a container as the kubelet sets them, as far as they can be known without one.
fn variables(pod: &Value, container: &Value) -> BTreeMap<String, String> {
    let written = container["env"].as_array().into_iter().flatten();
    let known = written.filter_map(|variable| Some((variable["name"].as_str()?.to_owned(), value(pod, container, variable)?)));
    known.collect()
}

fn value(pod: &Value, container: &Value, variable: &Value) -> Option<String> {
    let from = &variable["valueFrom"];
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return Some(field(pod, path));
    }
    match from["resourceFieldRef"]["resource"].as_str() {
        Some("limits.cpu") => whole_cpus(container["resources"]["limits"]["cpu"].as_str()?),
        Some(_) => None,
        None if from.is_null() => Some(variable["value"].as_str().unwrap_or_default().to_owned()),
        None => None,
    }
}

fn field(pod: &Value, path: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match path {
        "status.podIPs" => {
            let ips = pod["status"]["podIPs"].as_array().into_iter().flatten().map(|ip| text(&ip["ip"]));
            Some(ips.collect::<Vec<_>>().join(",")).filter(|ips| !ips.is_empty()).unwrap_or_else(|| text(&pod["status"]["podIP"]))
        }
        "status.podIP" => {
            Some(text(&pod["status"]["podIP"])).filter(|ip| !ip.is_empty()).unwrap_or_else(|| text(&pod["status"]["podIPs"][0]["ip"]))
        }
        "spec.serviceAccountName" => pod["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned(),
        "metadata.namespace" => pod["metadata"]["namespace"].as_str().unwrap_or("default").to_owned(),
        _ => text(path.split('.').fold(pod, |at, name| &at[name])),
    }
}

/// Returns a quantity of CPUs rounded up, as a divisor of one has it.
fn whole_cpus(quantity: &str) -> Option<String> {
    let cpus = match quantity.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()? / 1000.0,
        None => quantity.parse().ok()?,
    };
    Some(format!("{:.0}", cpus.ceil()))
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(args: &[&str], env: Value) -> Value {
        json!({
            "metadata": {"name": "a", "namespace": "shop", "labels": {"app": "x"}, "annotations": {"istio.io/rev": "r", "plain": "p"}},
            "spec": {"serviceAccountName": "s", "initContainers": [{
                "name": "istio-proxy", "args": args, "env": env, "resources": {"limits": {"cpu": "1500m"}},
            }]},
            "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        })
    }

    fn of_field(name: &str, path: &str) -> Value {
        json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
    }

    #[test]
    fn a_container_says_how_its_agent_runs() {
        let env = json!([
            of_field("POD_NAME", "metadata.name"),
            of_field("POD_NAMESPACE", "metadata.namespace"),
            of_field("INSTANCE_IPS", "status.podIPs"),
            of_field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            {"name": "ISTIO_CPU_LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "ISTIO_META_NETWORK", "value": "n"},
            {"name": "ISTIO_META_HTTP10", "value": "1"},
            {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "x"}}},
        ]);
        let settings = settings_of_pod(&pod(&["agent", "gateway", "--agent-port", "16020"], env), "istio-proxy").unwrap();
        assert_eq!((settings.role, settings.listen.agent.port(), settings.envoy.concurrency), (Role::Gateway, 16020, 2));
        let workload = settings.workload;
        assert_eq!((workload.name.as_str(), workload.service_account.as_str(), workload.network.as_str()), ("a", "s", "n"));
        assert_eq!((workload.ips.len(), &workload.labels["app"], &workload.metadata["HTTP10"]), (2, &"x".to_owned(), &json!("1")));
        assert_eq!(workload.annotations.keys().collect::<Vec<_>>(), ["istio.io/rev"]);
    }

    #[test]
    fn what_runs_no_proxy_is_named() {
        let refused = |pod: &Value, name: &str| settings_of_pod(pod, name).unwrap_err().to_string();
        assert!(refused(&pod(&["agent", "drain"], json!([])), "istio-proxy").contains("neither sidecar nor gateway"));
        assert!(refused(&pod(&[], json!([])), "other").contains("no container other"));
        assert!(refused(&pod(&["agent", "sidecar"], json!([])), "istio-proxy").contains("--name"));
    }
}
