//! Of an AuthorizationPolicy the rules hold that can be read. Of those that cannot, nothing is allowed, and everything is denied.

use std::sync::Arc;

use serde_json::Value;

use super::{super::fields::Read, Left, alone, field, field_of, is_right, selected};
use crate::api::{
    ObjectKey, Spec,
    istio::{AuthorizationAction, AuthorizationPolicy, AuthorizationRule, PolicyTarget, TargetRef},
};

/// Returns the policy with what can be read of it; `None` if it closes nothing.
pub(super) fn left(key: &ObjectKey, spec: &Value) -> Option<Left> {
    let action = field_of::<AuthorizationAction>(spec, "action").unwrap_or(Some(AuthorizationAction::Allow));
    let selector = field(spec, "selector", |node| selected(node.value, "matchLabels")).flatten();
    let refs: Vec<TargetRef> = field(spec, "targetRefs", Vec::read).flatten().unwrap_or_default();
    let target = PolicyTarget { selector: selector.filter(|_| refs.is_empty()), refs, single: false };
    let rules: Vec<Option<AuthorizationRule>> = match spec.get("rules") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(rules)) => rules.iter().map(|rule| readable(key, rule)).collect(),
        Some(_) => vec![None],
    };
    let (action, rules, consequence) = match action {
        Some(AuthorizationAction::Allow) => {
            let allowing = rules.into_iter().flatten().collect();
            (AuthorizationAction::Allow, allowing, "what rules that can be read allow is allowed, and nothing else")
        }
        Some(AuthorizationAction::Audit) => return None,
        Some(AuthorizationAction::Deny | AuthorizationAction::Custom) if rules.is_empty() => return None,
        Some(AuthorizationAction::Deny | AuthorizationAction::Custom) => {
            let denying = rules.into_iter().map(Option::unwrap_or_default).collect();
            (AuthorizationAction::Deny, denying, "what rules that can be read hold for is denied, and everything if one cannot be read")
        }
        None => (AuthorizationAction::Deny, vec![AuthorizationRule::default()], "everything is denied"),
    };
    let policy = AuthorizationPolicy { target, action, rules, provider: None };
    Some(Left { spec: Spec::AuthorizationPolicy(Arc::new(policy)), consequence: consequence.to_owned() })
}

/// Reads a rule by itself; `None` if anything is wrong with it.
fn readable(key: &ObjectKey, rule: &Value) -> Option<AuthorizationRule> {
    let rule = alone(rule, AuthorizationRule::read)?;
    let alone = AuthorizationPolicy { action: AuthorizationAction::Deny, rules: vec![rule.clone()], ..Default::default() };
    is_right(key, Spec::AuthorizationPolicy(Arc::new(alone))).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    /// Returns what is left of a refused policy: its selector, its action, and how many of each rule's conditions.
    fn left_of(spec: &str) -> Option<String> {
        let yaml =
            format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n");
        let mut parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(parsed.objects.len(), 0, "{spec} is to be refused");
        let remnant = parsed.refused.remove(0).remnant?;
        let Spec::AuthorizationPolicy(policy) = &remnant.object.spec else { panic!("a policy") };
        let rules: Vec<_> = policy.rules.iter().map(|rule| rule.from.len() + rule.to.len() + rule.when.len()).collect();
        Some(format!("{:?} {:?} {rules:?}", policy.target.selector, policy.action))
    }

    #[test]
    fn a_rule_that_cannot_be_read_allows_nothing_and_denies_everything() {
        let rules =
            "rules: [{to: [{operation: {ports: [x]}}]}, {to: [{operation: {ports: ['80']}}]}, {when: [{key: nothing, values: [a]}]}]";
        assert_eq!(left_of(&format!("{{selector: {{matchLabels: {{app: a}}}}, {rules}}}")).unwrap(), r#"Some({"app": "a"}) Allow [1]"#);
        assert_eq!(left_of(&format!("{{action: DENY, {rules}}}")).unwrap(), "None Deny [0, 1, 0]");
        assert_eq!(left_of(&format!("{{action: CUSTOM, provider: {{name: p}}, {rules}}}")).unwrap(), "None Deny [0, 1, 0]");
        assert_eq!(left_of("{action: DENY, rules: {}}").unwrap(), "None Deny [0]");
        assert_eq!(left_of("{action: DENI, rules: [{}]}").unwrap(), "None Deny [0]");
        assert_eq!(left_of("{selector: a}").unwrap(), "None Allow []");
        assert_eq!(left_of("{action: ALLOW, rules: [{from: []}]}").unwrap(), "None Allow []");
    }

    #[test]
    fn a_policy_that_closes_nothing_leaves_nothing() {
        assert_eq!(left_of("{action: DENY}"), None);
        assert_eq!(left_of("{action: AUDIT, rules: [{from: []}]}"), None);
    }
}
