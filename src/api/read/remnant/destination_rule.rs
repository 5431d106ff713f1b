//! Of a DestinationRule its TLS holds: without it, connections would be made in plaintext.

use std::sync::Arc;

use serde_json::Value;
use smol_str::SmolStr;

use super::{
    super::{fields::Read, traffic_policy::client_tls_mode, virtual_service::port_selector},
    Left, alone, field, field_of, is_right, selected,
};
use crate::api::{
    Labels, ObjectKey, Spec,
    istio::{ClientTls, ClientTlsMode, DestinationRule, PortTrafficPolicy, Subset, TrafficPolicy},
};

/// Returns the rule with nothing but its TLS, if that asks for more than plaintext.
pub(super) fn left(key: &ObjectKey, spec: &Value) -> Option<Left> {
    let host: SmolStr = field_of(spec, "host").flatten().filter(|host: &SmolStr| !host.is_empty())?;
    let policy = policy_of(key, spec);
    let subsets = subsets(key, spec);
    if policy.is_none() && subsets.is_empty() {
        return None;
    }
    let policies = policy.iter().chain(subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
    let closed = policies.flat_map(|policy| settings(policy)).any(|tls| tls.refused);
    let consequence = match closed {
        true => format!("connections to {host} for which its TLS cannot be read are not made"),
        false => format!("its TLS holds for connections to {host}, and nothing else of it"),
    };
    let selector = field(spec, "workloadSelector", |node| selected(node.value, "matchLabels"));
    let export_to = match selector {
        // A rule with a selector is for its own namespace.
        Some(_) => vec![".".into()],
        None => field_of(spec, "exportTo").flatten().unwrap_or_default(),
    };
    let rule = DestinationRule { host, traffic_policy: policy, subsets, export_to, workload_selector: selector.flatten() };
    Some(Left { spec: Spec::DestinationRule(Arc::new(rule)), consequence })
}

/// Returns the `trafficPolicy` of a message, if it asks for TLS anywhere.
fn policy_of(key: &ObjectKey, message: &Value) -> Option<Arc<TrafficPolicy>> {
    let read = field(message, "trafficPolicy", |node| Some(policy(key, node.value)))?;
    let policy = read.flatten().unwrap_or_else(closed);
    let asked = settings(&policy).any(asks);
    asked.then(|| Arc::new(policy))
}

/// Reads the TLS of a `trafficPolicy`; `None` if there is no telling for which ports it asks.
fn policy(key: &ObjectKey, written: &Value) -> Option<TrafficPolicy> {
    let ports = field(written, "portLevelSettings", |node| {
        let ports = node.value.as_array()?.iter().map(|port| port_policy(key, port)).collect::<Result<Vec<_>, Unclear>>();
        Some(ports.ok()?.into_iter().flatten().collect())
    });
    let port_level_settings = ports.unwrap_or_else(|| Some(Vec::new()))?;
    let policy = TrafficPolicy { tls: tls_of(key, written), port_level_settings, ..TrafficPolicy::default() };
    written.is_object().then_some(policy)
}

/// TLS is asked for, and there is no telling where.
struct Unclear;

/// Reads the settings of one port, which stand for those of the host even where they say nothing of TLS.
fn port_policy(key: &ObjectKey, written: &Value) -> Result<Option<PortTrafficPolicy>, Unclear> {
    let tls = tls_of(key, written);
    match field(written, "port", port_selector).flatten() {
        Some(port) => Ok(Some(PortTrafficPolicy { port, tls, ..PortTrafficPolicy::default() })),
        None if written.is_object() && !tls.as_ref().is_some_and(asks) => Ok(None),
        None => Err(Unclear),
    }
}

/// Returns the `tls` of a message. What is wrong with it closes it, unless it asks for plaintext.
fn tls_of(key: &ObjectKey, message: &Value) -> Option<ClientTls> {
    field(message, "tls", |node| {
        let tls = alone(node.value, ClientTls::read).filter(|tls| is_right(key, rule_with(tls)));
        Some(tls.unwrap_or_else(|| ClientTls { refused: !is_plaintext(node.value), ..ClientTls::default() }))
    })
    .map(|tls| tls.unwrap_or_else(refused))
}

fn is_plaintext(tls: &Value) -> bool {
    let mode = tls.is_object().then(|| field(tls, "mode", client_tls_mode));
    matches!(mode, Some(None | Some(Some(ClientTlsMode::Disable))))
}

fn asks(tls: &ClientTls) -> bool {
    tls.refused || tls.mode != ClientTlsMode::Disable
}

fn refused() -> ClientTls {
    ClientTls { refused: true, ..ClientTls::default() }
}

/// Returns all that a policy says of TLS.
fn settings(policy: &TrafficPolicy) -> impl Iterator<Item = &ClientTls> {
    policy.tls.iter().chain(policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref()))
}

/// Returns a rule that is right if this is.
fn rule_with(tls: &ClientTls) -> Spec {
    let policy = TrafficPolicy { tls: Some(tls.clone()), ..TrafficPolicy::default() };
    Spec::DestinationRule(Arc::new(DestinationRule {
        host: "a".into(),
        traffic_policy: Some(Arc::new(policy)),
        ..DestinationRule::default()
    }))
}

/// Returns the subsets that ask for TLS of their own: another rule may have others of the same names.
fn subsets(key: &ObjectKey, spec: &Value) -> Vec<Subset> {
    let of = |written: &Value| {
        let mut policy = policy_of(key, written)?;
        let name = field_of(written, "name").flatten()?;
        let labels = field_of::<Labels>(written, "labels").unwrap_or_else(|| Some(Labels::new())).unwrap_or_else(|| {
            policy = Arc::new(closed());
            Labels::new()
        });
        Some(Subset { name, labels, traffic_policy: Some(policy) })
    };
    let read = field(spec, "subsets", |node| Some(node.value.as_array()?.iter().filter_map(of).collect()));
    read.flatten().unwrap_or_default()
}

fn closed() -> TrafficPolicy {
    TrafficPolicy { tls: Some(refused()), ..TrafficPolicy::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    /// Returns what is left of a refused rule, as text: `all`, the ports and the subsets with the TLS of each.
    fn left_of(spec: &str) -> Vec<String> {
        let yaml =
            format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n");
        let mut parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(parsed.objects.len(), 0, "{spec} is to be refused");
        let Some(remnant) = parsed.refused.remove(0).remnant else { return Vec::new() };
        let Spec::DestinationRule(rule) = &remnant.object.spec else { panic!("a rule") };
        let closed = remnant.finding.message.contains("are not made");
        let tls = |of: &Option<ClientTls>| match of {
            None => "-".to_owned(),
            Some(tls) if tls.refused => "closed".to_owned(),
            Some(tls) => format!("{:?}", tls.mode),
        };
        let policy = |name: &str, policy: &TrafficPolicy| {
            let ports = policy.port_level_settings.iter().map(|port| format!("{name}:{} {}", port.port, tls(&port.tls)));
            std::iter::once(format!("{name} {}", tls(&policy.tls))).chain(ports).collect::<Vec<_>>()
        };
        let mut said: Vec<String> = rule.traffic_policy.iter().flat_map(|of| policy("all", of)).collect();
        said.extend(rule.subsets.iter().flat_map(|subset| policy(&subset.name, subset.traffic_policy.as_ref().unwrap())));
        assert_eq!(closed, said.iter().any(|line| line.ends_with("closed")), "{}", remnant.finding);
        said
    }

    #[test]
    fn tls_that_can_be_read_holds_when_the_rest_is_refused() {
        let bad = "connectionPool: {tcp: {connectTimeout: soon}}";
        assert_eq!(left_of(&format!("{{host: a, trafficPolicy: {{{bad}, tls: {{mode: SIMPLE, sni: x}}}}}}")), ["all Simple"]);
        assert_eq!(left_of(&format!("{{host: a, traffic_policy: {{{bad}, tls: {{mode: 3}}}}}}")), ["all IstioMutual"]);
        let ports = "portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}, {port: {number: 81}, outlierDetection: {interval: x}}]";
        assert_eq!(left_of(&format!("{{host: a, trafficPolicy: {{{ports}}}}}")), ["all -", "all:80 Simple", "all:81 -"]);
    }

    #[test]
    fn a_rule_that_asks_for_no_tls_takes_nothing_down() {
        for policy in [
            "loadBalancer: {simple: RUOND_ROBIN}",
            "tls: {mode: DISABLE}, loadBalancer: {simple: RUOND_ROBIN}",
            "tls: {mode: DISABLE, sni: 5}",
            "tls: {sni: 5}",
            "portLevelSettings: [{port: {number: 99999}}]",
            "portLevelSettings: [{port: {number: 80}, tls: null, outlierDetection: {interval: x}}]",
        ] {
            assert_eq!(left_of(&format!("{{host: a, trafficPolicy: {{{policy}}}}}")), [""; 0], "{policy}");
        }
        assert_eq!(left_of("{trafficPolicy: {tls: {mode: SIMPLE}}}"), [""; 0], "there is no telling for which host");
        assert_eq!(left_of("{host: a, subsets: [{name: v1, labels: {a: [b]}}]}"), [""; 0]);
    }

    #[test]
    fn what_may_ask_for_tls_and_cannot_be_read_is_closed() {
        for policy in [
            "tls: {mode: MUTUAL}",
            "tls: {mode: MUTAUL}",
            "tls: SIMPLE",
            "tls: {mode: SIMPLE, credentialName: a, caCertificates: /b}",
            "tls: {mode: SIMPLE, subjectAltNames: x}",
            "tls: {mode: SIMPLE}, portLevelSettings: 80",
            "portLevelSettings: [{port: {number: 99999}, tls: {mode: SIMPLE}}]",
            "portLevelSettings: [80]",
        ] {
            assert_eq!(left_of(&format!("{{host: a, trafficPolicy: {{{policy}}}}}")), ["all closed"], "{policy}");
        }
        assert_eq!(left_of("{host: a, trafficPolicy: [{tls: {mode: SIMPLE}}]}"), ["all closed"]);
        assert_eq!(left_of("{host: a, trafficPolicy: {}, traffic_policy: {tls: {mode: SIMPLE}}}"), ["all closed"]);
    }

    #[test]
    fn subsets_keep_their_tls_or_are_closed() {
        let subsets = "[{name: v1, labels: {v: '1'}, trafficPolicy: {tls: {mode: SIMPLE}}}, {name: v2, labels: {v: '2'}}, \
                       {name: v3, labels: {v: [3]}, trafficPolicy: {tls: {mode: SIMPLE}}}, {name: v4, trafficPolicy: {tls: {mode: MUTUAL}}}]";
        assert_eq!(left_of(&format!("{{host: a, subsets: {subsets}}}")), ["v1 Simple", "v3 closed", "v4 closed"]);
    }
}
