//! The code of users' own that one workload's proxy runs.

use std::cmp::Reverse;

use crate::mesh::{
    by_ptr::ByPtr,
    configured::Configured,
    extension::{Extension, PullSecret},
    model::Labels,
    world::World,
};

/// Returns the extensions for a workload, in the order in which those of one phase stand: the higher priority first, and of one priority
/// those of its own namespace before the mesh's, the older first.
pub fn workload_extensions(world: &World, namespace: &str, labels: &Labels) -> Vec<ByPtr<Configured<Extension>>> {
    let mut found = world.extensions.applying(&world.mesh.root_namespace, namespace, labels);
    // One without a priority goes last.
    found.sort_by_key(|extension| Reverse(extension.spec.placement.priority));
    found.into_iter().map(ByPtr::from).collect()
}

/// Returns what a registry asks for to hand out an extension's module; `None`: the extension names no Secret.
pub fn pull_secret<'a>(world: &'a World, extension: &Configured<Extension>) -> Option<&'a PullSecret> {
    let name = extension.spec.module()?.pull_secret.clone()?;
    world.pull_secrets.get(&(extension.origin.object.namespace.clone(), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            mesh_config::MeshConfig,
            parse,
            yaml::{document, documents},
        },
        mesh::engine::Engine,
    };

    fn plugin(namespace: &str, name: &str, created: u32, spec: &str) -> String {
        format!(
            "---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: {name}, namespace: {namespace}, \
             creationTimestamp: \"2020-01-01T00:00:{created:02}Z\"}}\nspec: {{url: \"file:///x.wasm\"{spec}}}\n"
        )
    }

    fn world(yaml: &str) -> std::sync::Arc<World> {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let objects = documents(yaml).into_iter().flat_map(|text| parse(&document(text).unwrap(), &"c".into()).objects);
        engine.apply(objects.map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>()).world
    }

    #[test]
    fn the_higher_priority_goes_first_and_one_without_goes_last() {
        let text = [
            plugin("istio-system", "mesh", 1, ", priority: 5"),
            plugin("shop", "young", 9, ", priority: 5"),
            plugin("shop", "old", 2, ", priority: 5"),
            plugin("shop", "none", 1, ""),
            plugin("shop", "least", 1, ", priority: -2147483648"),
            plugin("shop", "most", 3, ", priority: 6"),
            plugin("shop", "other", 1, ", selector: {matchLabels: {app: db}}"),
            plugin("bank", "bank", 1, ""),
        ]
        .concat();
        let world = world(&text);
        let found = workload_extensions(&world, "shop", &Labels::from([("app".into(), "web".into())]));
        let names: Vec<&str> = found.iter().map(|extension| extension.origin.object.name.as_str()).collect();
        assert_eq!(names, ["most", "old", "young", "mesh", "least", "none"]);
    }
}
