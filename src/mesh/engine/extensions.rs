//! Code of users' own that proxies run, and what registries ask for to hand it out.

use std::collections::BTreeSet;

use super::{Dirty, Engine};
use crate::{
    api::{
        Id, Kind, Object,
        istio::{TrafficExtension, WasmPlugin},
        kubernetes::Secret,
    },
    mesh::{
        configured::Configured,
        extension::{Extension, PullSecret, of_traffic_extension, of_wasm_plugin, plugin_name},
        model::NamedKey,
        policy_table::Replaced,
        reach::Reach,
        world::World,
    },
    visits::{Visit, Visited},
};

impl Engine {
    /// Derives the extensions and pull secrets that changed, and marks the workloads whose proxies run them.
    pub(super) fn derive_extensions(&self, world: &mut World, changed: &[Id], dirty: &mut Dirty) {
        let mut due: BTreeSet<NamedKey> = BTreeSet::new();
        for id in changed {
            match id {
                Id::Config(id) if matches!(id.kind, Kind::TrafficExtension | Kind::WasmPlugin) => {
                    dirty.recomputed += 1;
                    let (key, new) = match id.kind {
                        Kind::WasmPlugin => {
                            ((id.namespace.clone(), plugin_name(&id.name)), self.store.config(id).and_then(|of| plugin(of)))
                        }
                        _ => ((id.namespace.clone(), id.name.clone()), self.store.config(id).and_then(|of| extension(of))),
                    };
                    let Some(replaced) = world.extensions.replace(&key, new) else { continue };
                    due.extend(replaced.both().filter_map(|of| pull_secret(of)));
                    touch(world, &replaced, dirty);
                }
                Id::Local(id) if id.key().kind == Kind::Secret => {
                    due.insert((id.key().namespace.clone(), id.key().name.clone()));
                }
                _ => {}
            }
        }
        for key in due {
            self.derive_pull_secret(world, key, dirty);
        }
    }

    fn derive_pull_secret(&self, world: &mut World, key: NamedKey, dirty: &mut Dirty) {
        let users = world.extensions.in_namespace(&key.0).visiting(Visited::Object);
        let users: Vec<_> = users.filter(|of| pull_secret(of).as_ref() == Some(&key)).collect();
        let old = world.pull_secrets.get(&key);
        if users.is_empty() {
            if old.is_some() {
                world.pull_secrets.remove(&key);
            }
            return;
        }
        dirty.recomputed += 1;
        let new = match self.store.named(Kind::Secret, &key.0, &key.1).next().map(|object| object.content::<Secret>()) {
            Some(Some(secret)) => PullSecret::of(secret),
            _ => PullSecret::missing(),
        };
        if old == Some(&new) {
            return;
        }
        if old.and_then(|old| old.credentials.as_ref()) != new.credentials.as_ref() {
            dirty.touched.policies.extend(users.iter().map(|of| Reach::of(of, &world.mesh.root_namespace)));
        }
        world.pull_secrets.insert(key, new);
    }
}

fn extension(object: &Object) -> Option<Configured<Extension>> {
    let meaning = of_traffic_extension(&object.key, object.content::<TrafficExtension>()?)?;
    Some(Configured::new(object, meaning.into()))
}

fn plugin(object: &Object) -> Option<Configured<Extension>> {
    let meaning = of_wasm_plugin(&object.key, object.content::<WasmPlugin>()?)?;
    Some(Configured::new(object, meaning.into()))
}

fn pull_secret(of: &Configured<Extension>) -> Option<NamedKey> {
    let name = of.spec.module()?.pull_secret.clone()?;
    Some((of.origin.object.namespace.clone(), name))
}

fn touch(world: &World, replaced: &Replaced<Extension>, dirty: &mut Dirty) {
    dirty.touched.policies.extend(replaced.both().map(|object| Reach::of(object, &world.mesh.root_namespace)));
}
