//! The tokens that a workload takes, by all RequestAuthentications that are for it (contract §6.6).

use std::sync::Arc;

use crate::mesh::{
    by_ptr::ByPtr,
    model::{Labels, Origin},
    policy_table::{Attachment, Policy},
    request_authentication::{JwtRule, Keys, RequestAuthentication},
    world::World,
};

/// How a workload takes tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenRules {
    /// The rules, by issuer; of one issuer those of the workload's own namespace before the mesh's, the older object's first.
    pub rules: Vec<TokenRule>,
    /// The objects that they are from.
    pub origins: Vec<Origin>,
}

/// A rule, with the keys that verify its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenRule {
    /// The rule.
    pub rule: ByPtr<JwtRule>,
    /// The keys that were fetched for it; `None` if it has its own, or if there are none.
    pub fetched: Option<ByPtr<str>>,
}

impl TokenRule {
    fn of(world: &World, rule: &Arc<JwtRule>) -> Self {
        let fetched = match &rule.keys {
            Keys::At(url) => world.key_sets.get(url).and_then(|fetched| fetched.keys.as_ref()),
            Keys::Inline(_) | Keys::Unknown => None,
        };
        Self { rule: rule.into(), fetched: fetched.map(ByPtr::from) }
    }

    /// Returns the key set that verifies its tokens; `None`: no token is good.
    pub fn keys(&self) -> Option<&str> {
        match &self.rule.keys {
            Keys::Inline(keys) => Some(keys),
            Keys::At(_) | Keys::Unknown => self.fetched.as_deref(),
        }
    }
}

impl Policy for RequestAuthentication {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_target(&self.target)
    }
}

/// Returns the rules for a workload: unlike policies of which the closest counts, all hold together.
pub fn token_rules(world: &World, namespace: &str, labels: &Labels) -> TokenRules {
    let objects = world.request_authentications.applying(&world.mesh.root_namespace, namespace, labels);
    let mut rules: Vec<&Arc<JwtRule>> = objects.iter().flat_map(|object| &object.spec.rules).collect();
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let with_rules = objects.iter().filter(|object| !object.spec.rules.is_empty());
    TokenRules {
        rules: rules.into_iter().map(|rule| TokenRule::of(world, rule)).collect(),
        origins: with_rules.map(|object| object.origin.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Kind, ObjectKey, istio::PolicyTarget},
        mesh::{configured::Configured, model::Precedence},
    };

    fn object(namespace: &str, name: &str, created: i64, app: Option<&str>, issuers: &[&str]) -> Configured<RequestAuthentication> {
        let key =
            ObjectKey { cluster: "Kubernetes".into(), kind: Kind::RequestAuthentication, namespace: namespace.into(), name: name.into() };
        let rule = |issuer: &&str| Arc::new(JwtRule { issuer: (*issuer).into(), payload_header: name.into(), ..JwtRule::default() });
        let selector = app.map(|app| Labels::from([("app".into(), app.into())]));
        Configured {
            spec: Arc::new(RequestAuthentication {
                target: PolicyTarget { selector, ..PolicyTarget::default() },
                rules: issuers.iter().map(rule).collect(),
            }),
            precedence: Precedence { created, name: name.into(), namespace: namespace.into() },
            origin: Origin { object: key, generation: 1 },
        }
    }

    #[test]
    fn all_objects_hold_together_by_issuer() {
        let mut world = World::default();
        for object in [
            object("istio-system", "mesh", 1, None, &["b", "a"]),
            object("istio-system", "mesh-web", 2, Some("web"), &["a"]),
            object("istio-system", "mesh-db", 2, Some("db"), &["z"]),
            object("shop", "young", 9, None, &["a"]),
            object("shop", "old", 5, Some("web"), &["a", "c"]),
            object("shop", "none", 5, None, &[]),
            object("other", "all", 1, None, &["z"]),
        ] {
            let key = (object.origin.object.namespace.clone(), object.origin.object.name.clone());
            world.request_authentications.replace(&key, Some(object));
        }
        let found = token_rules(&world, "shop", &Labels::from([("app".into(), "web".into())]));
        let rules: Vec<String> = found.rules.iter().map(|of| format!("{}/{}", of.rule.issuer, of.rule.payload_header)).collect();
        assert_eq!(rules, ["a/old", "a/young", "a/mesh", "a/mesh-web", "b/mesh", "c/old"]);
        let origins: Vec<&str> = found.origins.iter().map(|origin| origin.object.name.as_str()).collect();
        assert_eq!(origins, ["old", "young", "mesh", "mesh-web"]);
        assert_eq!(token_rules(&world, "istio-system", &Labels::new()).rules.len(), 2, "those of the root namespace count once");
    }
}
