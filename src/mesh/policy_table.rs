//! Configuration that is attached to workloads: which objects of one kind count for a workload.
//!
//! Istio's rule is the same for all such kinds: an object of the root namespace is for the mesh, one of another
//! namespace for that namespace, one with a selector for the workloads it selects. Of several on one level the oldest
//! counts (contract §6.5, §6.6).

use std::sync::Arc;

use imbl::OrdMap;
use smol_str::SmolStr;

use crate::{
    api::{
        Labels,
        istio::{PolicyTarget, TargetRef},
        selects,
    },
    mesh::{
        configured::Configured,
        model::{NamedKey, Origin},
    },
    visits::{Visit, Visited},
};

/// What a configuration object is for, within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment<'a> {
    /// The whole namespace; the whole mesh when that is the root namespace.
    Namespace,
    /// The workloads with these labels, of which there is at least one.
    Selector(&'a Labels),
    /// The workloads that stand for these objects (`targetRefs`).
    Targets(&'a [TargetRef]),
}

impl Attachment<'_> {
    /// Returns the field that says for which workloads the object is, and how they are described; `None` where that is no workload in
    /// particular, or something that is told by itself: another kind in `targetRefs`.
    pub(in crate::mesh) fn described(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Namespace => None,
            Self::Selector(labels) => {
                let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                Some(("spec.selector", format!("has the labels {}", labels.join(","))))
            }
            Self::Targets(targets) if targets.iter().any(|target| target.kind != "Gateway") => None,
            Self::Targets(_) => Some(("spec.targetRefs", "stands for one of these".to_owned())),
        }
    }
}

/// A kind whose objects are attached to workloads.
pub trait Policy {
    /// Returns what the object is for.
    fn attachment(&self) -> Attachment<'_>;
}

/// The objects of one kind, by namespace and name.
#[derive(Debug, PartialEq)]
pub struct PolicyTable<T>(OrdMap<NamedKey, Arc<Configured<T>>>);

/// What stood under a key, and what stands there now.
#[derive(Debug)]
pub struct Replaced<T> {
    /// The value before.
    pub old: Option<Arc<Configured<T>>>,
    /// The value now.
    pub new: Option<Arc<Configured<T>>>,
}

/// The object that counts for a workload on each level. Each is the oldest of its level.
#[derive(Debug, PartialEq)]
pub struct Effective<'a, T> {
    /// That of the root namespace, for the whole mesh.
    pub mesh: Option<&'a Arc<Configured<T>>>,
    /// That of the workload's namespace; `None` in the root namespace, where it is the mesh's.
    pub namespace: Option<&'a Arc<Configured<T>>>,
    /// That which names the workload itself.
    pub workload: Option<&'a Arc<Configured<T>>>,
}

impl<'a> Attachment<'a> {
    /// Returns what a `selector` attaches to: an empty one is as good as none.
    pub fn of_selector(selector: Option<&'a Labels>) -> Self {
        selector.filter(|labels| !labels.is_empty()).map_or(Self::Namespace, Self::Selector)
    }

    /// Returns what a `target` attaches to.
    pub fn of_target(target: &'a PolicyTarget) -> Self {
        match target.refs.is_empty() {
            true => Self::of_selector(target.selector.as_ref()),
            false => Self::Targets(&target.refs),
        }
    }

    /// Returns whether it is for a workload of the object's own namespace (with a selector, of any).
    pub(in crate::mesh) fn covers(self, labels: &Labels) -> bool {
        self == Self::Namespace || self.names(labels)
    }

    /// Returns whether it names the workload with these labels itself.
    fn names(self, labels: &Labels) -> bool {
        match self {
            Self::Namespace => false,
            Self::Selector(selector) => selects(selector, labels),
            Self::Targets(targets) => targets.iter().any(|target| is_served_by(target, labels)),
        }
    }
}

/// Returns whether a workload with these labels stands for the object. Pods of a Gateway API Gateway carry its name.
fn is_served_by(target: &TargetRef, labels: &Labels) -> bool {
    (&*target.group, &*target.kind) == ("gateway.networking.k8s.io", "Gateway")
        && labels.get("gateway.networking.k8s.io/gateway-name") == Some(&target.name)
}

impl<T> PolicyTable<T> {
    /// Returns the object of that namespace and name.
    pub fn get(&self, key: &NamedKey) -> Option<&Arc<Configured<T>>> {
        self.0.get(key)
    }

    /// Iterates over all objects, sorted by namespace and name.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Configured<T>>> {
        self.0.values()
    }

    /// Iterates over what all objects came from, sorted by namespace and name.
    pub fn origins(&self) -> impl Iterator<Item = &Origin> {
        self.values().map(|object| &object.origin)
    }

    /// Iterates over the objects of a namespace, sorted by name.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Configured<T>>> {
        let from = (SmolStr::new(namespace), SmolStr::default());
        self.0.range(from..).take_while(move |((of, _), _)| of == namespace).map(|(_, object)| object)
    }
}

impl<T: PartialEq> PolicyTable<T> {
    /// Puts the new value under a key; returns both, unless they are equal. An equal value leaves the old one in place.
    pub(in crate::mesh) fn replace(&mut self, key: &NamedKey, new: Option<Configured<T>>) -> Option<Replaced<T>> {
        if self.0.get(key).map(|old| &**old) == new.as_ref() {
            return None;
        }
        let new = new.map(Arc::new);
        let old = match &new {
            Some(new) => self.0.insert(key.clone(), Arc::clone(new)),
            None => self.0.remove(key),
        };
        Some(Replaced { old, new })
    }
}

impl<T: Policy> PolicyTable<T> {
    /// Returns what counts for a workload of `namespace` with these labels, by level. `root` is the root namespace.
    pub fn effective<'a>(&'a self, root: &'a str, namespace: &'a str, labels: &Labels) -> Effective<'a, T> {
        let mesh = oldest(self.in_namespace(root).filter(|object| object.is_namespace_wide()));
        let (mut of_namespace, mut workload) = (None, None);
        for object in self.in_namespace(namespace) {
            let attachment = object.spec.attachment();
            if attachment == Attachment::Namespace {
                of_namespace = oldest(of_namespace.into_iter().chain([object]));
            } else if attachment.names(labels) {
                workload = oldest(workload.into_iter().chain([object]));
            }
        }
        Effective { mesh, namespace: of_namespace.filter(|_| namespace != root), workload }
    }

    /// Returns what counts for a workload of `namespace` with these labels, for kinds whose objects are laid over one another, the
    /// widest first: the oldest for the mesh, the oldest for the namespace, then all that name the workload, the oldest first.
    pub fn layered<'a>(&'a self, root: &'a str, namespace: &'a str, labels: &Labels) -> Vec<&'a Arc<Configured<T>>> {
        let Effective { mesh, namespace: of_namespace, .. } = self.effective(root, namespace, labels);
        let named = self.in_namespace(namespace).visiting(Visited::Object).filter(|object| object.spec.attachment().names(labels));
        let mut named: Vec<_> = named.collect();
        named.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        mesh.into_iter().chain(of_namespace).chain(named).collect()
    }

    /// Returns all objects that are for a workload of `namespace` with these labels, for kinds whose objects hold together: those of
    /// its own namespace before those of `root`, the root namespace, each the oldest first. An object of the root namespace is for the
    /// whole mesh, or for what it selects there; targets are of its own namespace.
    pub fn applying<'a>(&'a self, root: &'a str, namespace: &'a str, labels: &Labels) -> Vec<&'a Arc<Configured<T>>> {
        let of = |of: &'a str| {
            let is_for = |object: &&Arc<Configured<T>>| object.is_for(root, namespace, labels);
            let mut objects: Vec<_> = self.in_namespace(of).visiting(Visited::Object).filter(is_for).collect();
            objects.sort_by(|a, b| a.precedence.cmp(&b.precedence));
            objects
        };
        let of_mesh = if namespace == root { Vec::new() } else { of(root) };
        of(namespace).into_iter().chain(of_mesh).collect()
    }

    /// Returns objects that are for a whole namespace and have no effect, as another one of the namespace is older:
    /// each with that one.
    pub fn eclipsed(&self) -> Vec<(&Configured<T>, &Configured<T>)> {
        let mut found = Vec::new();
        let wide: Vec<_> = self.values().filter(|object| object.is_namespace_wide()).collect();
        for group in wide.chunk_by(|a, b| a.origin.object.namespace == b.origin.object.namespace) {
            let Some(first) = oldest(group.iter().copied()) else { continue };
            found.extend(group.iter().filter(|object| !Arc::ptr_eq(object, first)).map(|object| (&***object, &**first)));
        }
        found
    }
}

impl<T: Policy> Configured<T> {
    /// Returns whether it is for a workload of `namespace` with these labels. `root` is the root namespace.
    pub(in crate::mesh) fn is_for(&self, root: &str, namespace: &str, labels: &Labels) -> bool {
        let is_near = !self.is_for_one_namespace(root) || self.origin.object.namespace == namespace;
        is_near && self.spec.attachment().covers(labels)
    }

    /// Returns whether it is for workloads of its own namespace alone: objects that are named are always of that.
    pub(in crate::mesh) fn is_for_one_namespace(&self, root: &str) -> bool {
        self.origin.object.namespace != root || matches!(self.spec.attachment(), Attachment::Targets(_))
    }

    /// Returns whether it is for its whole namespace (in the root namespace: for the mesh).
    pub fn is_namespace_wide(&self) -> bool {
        self.spec.attachment() == Attachment::Namespace
    }
}

impl<T> Replaced<T> {
    /// Iterates over the value before and the value now, where there are any.
    pub fn both(&self) -> impl Iterator<Item = &Arc<Configured<T>>> {
        self.old.iter().chain(&self.new)
    }
}

impl<'a, T> Effective<'a, T> {
    /// Returns the object closest to the workload, for kinds that inherit nothing from a wider level.
    pub fn narrowest(&self) -> Option<&'a Arc<Configured<T>>> {
        self.workload.or(self.namespace).or(self.mesh)
    }
}

fn oldest<'a, T>(objects: impl Iterator<Item = &'a Arc<Configured<T>>>) -> Option<&'a Arc<Configured<T>>> {
    objects.min_by(|a, b| a.precedence.cmp(&b.precedence))
}

// By hand, as the derived ones would ask it of `T`.
impl<T> Clone for PolicyTable<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for PolicyTable<T> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Kind, ObjectKey},
        mesh::model::Precedence,
    };

    #[derive(Clone, Debug, PartialEq)]
    enum Rule {
        All,
        App(Labels),
        Targets(Vec<TargetRef>),
    }

    impl Policy for Rule {
        fn attachment(&self) -> Attachment<'_> {
            match self {
                Self::All => Attachment::Namespace,
                Self::App(labels) => Attachment::of_selector(Some(labels)),
                Self::Targets(targets) => Attachment::Targets(targets),
            }
        }
    }

    fn labels(name: &str, value: &str) -> Labels {
        Labels::from([(name.into(), value.into())])
    }

    fn table(rules: impl IntoIterator<Item = (&'static str, &'static str, i64, Rule)>) -> PolicyTable<Rule> {
        let mut table = PolicyTable::default();
        for (namespace, name, created, rule) in rules {
            let (namespace, name) = (SmolStr::from(namespace), SmolStr::from(name));
            let object = ObjectKey { cluster: "c".into(), kind: Kind::Sidecar, namespace: namespace.clone(), name: name.clone() };
            let configured = Configured {
                spec: Arc::new(rule),
                precedence: Precedence { created, name: name.clone(), namespace: namespace.clone() },
                origin: Origin { object, generation: 0 },
            };
            assert!(table.replace(&(namespace, name), Some(configured)).is_some());
        }
        table
    }

    fn names<'a>(found: &Effective<'a, Rule>) -> [Option<&'a str>; 3] {
        [found.mesh, found.namespace, found.workload].map(|object| object.map(|object| object.origin.object.name.as_str()))
    }

    #[test]
    fn each_level_has_its_oldest() {
        let table = table([
            ("root", "young", 2, Rule::All),
            ("root", "old", 1, Rule::All),
            ("shop", "b", 1, Rule::All),
            ("shop", "a", 1, Rule::All),
            ("shop", "web", 3, Rule::App(labels("app", "web"))),
            ("shop", "empty", 0, Rule::App(Labels::new())),
            ("shop2", "other", 0, Rule::All),
        ]);
        let web = table.effective("root", "shop", &labels("app", "web"));
        assert_eq!(names(&web), [Some("old"), Some("empty"), Some("web")]);
        assert_eq!(web.narrowest().unwrap().origin.object.name, "web");
        assert_eq!(names(&table.effective("root", "shop", &labels("app", "db"))), [Some("old"), Some("empty"), None]);
        assert_eq!(names(&table.effective("root", "none", &labels("app", "web"))), [Some("old"), None, None]);
        // What is for the root namespace is for the mesh, and said once.
        assert_eq!(names(&table.effective("root", "root", &Labels::new())), [Some("old"), None, None]);
    }

    #[test]
    fn layers_are_the_oldest_of_each_wide_level_and_all_that_name_the_workload() {
        let table = table([
            ("root", "young", 2, Rule::All),
            ("root", "old", 1, Rule::All),
            ("root", "web", 0, Rule::App(labels("app", "web"))),
            ("shop", "a", 3, Rule::App(labels("app", "web"))),
            ("shop", "b", 2, Rule::App(labels("app", "web"))),
            ("shop", "db", 0, Rule::App(labels("app", "db"))),
            ("shop", "all", 4, Rule::All),
        ]);
        let names = |namespace: &str| -> Vec<String> {
            let found = table.layered("root", namespace, &labels("app", "web"));
            found.iter().map(|object| format!("{}/{}", object.origin.object.namespace, object.origin.object.name)).collect()
        };
        assert_eq!(names("shop"), ["root/old", "shop/all", "shop/b", "shop/a"]);
        assert_eq!(names("root"), ["root/old", "root/web"]);
        assert_eq!(names("other"), ["root/old"]);
    }

    #[test]
    fn targets_are_found_by_the_gateway_that_pods_belong_to() {
        let target = |kind: &str| TargetRef {
            group: "gateway.networking.k8s.io".into(),
            kind: kind.into(),
            name: "public".into(),
            namespace: SmolStr::default(),
        };
        let table = table([
            ("shop", "gateway", 1, Rule::Targets(vec![target("Gateway")])),
            ("shop", "class", 0, Rule::Targets(vec![target("GatewayClass")])),
        ]);
        let pod = labels("gateway.networking.k8s.io/gateway-name", "public");
        assert_eq!(names(&table.effective("root", "shop", &pod)), [None, None, Some("gateway")]);
        assert_eq!(names(&table.effective("root", "shop", &labels("app", "public"))), [None, None, None]);
        assert_eq!(names(&table.effective("root", "other", &pod)), [None, None, None]);
    }

    #[test]
    fn what_holds_together_is_all_that_is_for_a_workload() {
        let gateway =
            TargetRef { group: "gateway.networking.k8s.io".into(), kind: "Gateway".into(), name: "public".into(), ..Default::default() };
        let table = table([
            ("root", "all", 2, Rule::All),
            ("root", "web", 1, Rule::App(labels("app", "web"))),
            ("root", "db", 1, Rule::App(labels("app", "db"))),
            ("root", "gateway", 0, Rule::Targets(vec![gateway.clone()])),
            ("shop", "all", 4, Rule::All),
            ("shop", "web", 3, Rule::App(labels("app", "web"))),
            ("shop", "gateway", 1, Rule::Targets(vec![gateway])),
            ("shop2", "all", 0, Rule::All),
        ]);
        let names = |namespace: &str, labels: &Labels| -> Vec<String> {
            let found = table.applying("root", namespace, labels);
            found.iter().map(|object| format!("{}/{}", object.origin.object.namespace, object.origin.object.name)).collect()
        };
        assert_eq!(names("shop", &labels("app", "web")), ["shop/web", "shop/all", "root/web", "root/all"]);
        assert_eq!(names("root", &labels("app", "web")), ["root/web", "root/all"]);
        let pod = labels("gateway.networking.k8s.io/gateway-name", "public");
        assert_eq!(names("shop", &pod), ["shop/gateway", "shop/all", "root/all"]);
        assert_eq!(names("root", &pod), ["root/gateway", "root/all"]);
    }

    #[test]
    fn the_younger_of_two_for_one_namespace_are_eclipsed() {
        let table = table([
            ("a", "1", 5, Rule::All),
            ("a", "2", 4, Rule::All),
            ("a", "3", 1, Rule::App(labels("app", "web"))),
            ("b", "1", 1, Rule::All),
        ]);
        let eclipsed: Vec<_> = table
            .eclipsed()
            .into_iter()
            .map(|(younger, older)| (younger.origin.object.to_string(), older.origin.object.to_string()))
            .collect();
        assert_eq!(eclipsed, [("Sidecar/a/1".to_owned(), "Sidecar/a/2".to_owned())]);
    }

    #[test]
    fn an_equal_value_replaces_nothing() {
        let mut table = table([("a", "1", 1, Rule::All)]);
        let key = ("a".into(), "1".into());
        let before = Arc::clone(table.get(&key).unwrap());
        assert!(table.replace(&key, Some(Configured { spec: Arc::new(Rule::All), ..Configured::clone(&before) })).is_none());
        assert!(Arc::ptr_eq(table.get(&key).unwrap(), &before));
        let gone = table.replace(&key, None).unwrap();
        assert!(gone.old.is_some() && gone.new.is_none() && table.values().next().is_none());
        assert!(table.replace(&key, None).is_none());
    }
}
