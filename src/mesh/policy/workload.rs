//! The policies that decide about requests to a workload.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use crate::mesh::{
    authorization::AuthorizationPolicy,
    by_ptr::ByPtr,
    configured::Configured,
    model::{Labels, Origin},
    policy::authorizer::{Authorizer, authorizer},
    rate_limit::PlacedLimit,
    world::World,
};

/// All policies that decide about what is sent to one workload, as filters in front of it hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkloadPolicies {
    /// Who may do what: those of the namespace, then those of the mesh, each the oldest first.
    pub authorization: Vec<ByPtr<Configured<AuthorizationPolicy>>>,
    /// Whom those of action CUSTOM have asked, by the name of the provider; `None`: nobody can be asked, or it is not clear who of
    /// several.
    pub authorizers: BTreeMap<SmolStr, Option<Authorizer>>,
    /// How many requests it takes.
    pub rate_limits: Vec<PlacedLimit>,
}

impl WorkloadPolicies {
    /// Returns the policies for a workload of `namespace` with these labels.
    pub fn of(world: &World, namespace: &str, labels: &Labels) -> Self {
        let authorization = world.authorization_policies.applying(&world.mesh.root_namespace, namespace, labels);
        let providers: BTreeSet<&SmolStr> = authorization.iter().filter_map(|policy| policy.spec.provider()).collect();
        let may_be_asked = providers.len() == 1 || world.mesh.several_ext_authz;
        let asked = |name| may_be_asked.then(|| authorizer(world, name).ok()).flatten();
        let authorizers = providers.into_iter().map(|name| (name.clone(), asked(name))).collect();
        Self { authorization: authorization.into_iter().map(ByPtr::from).collect(), authorizers, rate_limits: Vec::new() }
    }

    /// Adds the limits.
    pub fn with_rate_limits(self, rate_limits: Vec<PlacedLimit>) -> Self {
        Self { rate_limits, ..self }
    }

    /// Iterates over the objects that say so.
    pub fn origins(&self) -> impl Iterator<Item = &Origin> {
        self.authorization.iter().map(|policy| &policy.origin)
    }
}
