//! What the filter of a limit does, as proxies ask for it by name: it can be another without any listener being made anew.

mod action;
mod global;
mod local;

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;

use super::{input::Built, wkt};
use crate::mesh::{
    model::{Hostname, Origin},
    rate_limit::{GlobalRateLimit, RateLimit, counter, filter_name, global_filter_name},
    scope::AppliedLimits,
    world::World,
};

/// Statistics of what proxies count begin like this.
const STATISTICS: &str = "rate_limit";

/// All that decides about what a limit's filter does, and the key of its memo.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RateLimitInput {
    held: Held,
    origin: Origin,
}

/// Who counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Held {
    /// The proxy.
    Local(Arc<RateLimit>),
    /// A service, of this host.
    Global(Arc<GlobalRateLimit>, Hostname),
}

impl RateLimitInput {
    /// Returns those of policies.
    pub fn of(world: &World, applied: &[AppliedLimits]) -> Vec<Self> {
        let of = |applied: &AppliedLimits| {
            let (origin, spec) = (&applied.policy.origin, &applied.policy.spec);
            let local = spec.limits.iter().map(|limit| Held::Local(Arc::clone(limit)));
            let host = |global| counter(&origin.object, global, &world.mesh.domain);
            let global = spec.global.iter().map(|global| Held::Global(Arc::clone(global), host(global)));
            local.chain(global).map(|held| Self { held, origin: origin.clone() }).collect::<Vec<_>>()
        };
        applied.iter().flat_map(of).collect()
    }
}

/// Makes the resource.
pub fn filter_config(input: &RateLimitInput) -> Built<TypedExtensionConfig> {
    let RateLimitInput { held, origin } = input;
    let (name, config, cluster) = match held {
        Held::Local(limit) => (filter_name(&origin.object, limit), wkt::any(&local::filter(limit, &origin.object)), None),
        Held::Global(limit, host) => {
            let config = global::filter(limit, host, &origin.object);
            (global_filter_name(&origin.object), wkt::any(&config), Some(global::cluster(limit, host)))
        }
    };
    let message = TypedExtensionConfig { name: name.into(), typed_config: Some(config) };
    let mut built = Built::new(message, [origin.clone()]);
    built.clusters.extend(cluster);
    built
}
