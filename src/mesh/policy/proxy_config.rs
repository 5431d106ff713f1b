//! How the proxy of a pod is started, by all that is said of it (contract §6.8).

use crate::{
    api::proxy_config,
    mesh::{
        model::Labels,
        policy_table::{Attachment, Policy},
        proxy_config::ProxyConfig,
        world::World,
    },
};

impl Policy for ProxyConfig {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_selector(self.selector.as_ref())
    }
}

/// Returns how the proxy of a pod of `namespace` with these labels is started. `annotated` is what the pod's own annotation says. Each
/// field is that of the first of these which has it: the object that selects the pod, the annotation, the object for its namespace,
/// that for the mesh, `defaultConfig` of MeshConfig.
pub fn proxy_config(world: &World, namespace: &str, labels: &Labels, annotated: &proxy_config::ProxyConfig) -> proxy_config::ProxyConfig {
    let found = world.proxy_configs.effective(&world.mesh.root_namespace, namespace, labels);
    let [mesh, of_namespace, workload] =
        [found.mesh, found.namespace, found.workload].map(|object| object.map(|object| &object.spec.config));
    let layers = [mesh, of_namespace, Some(annotated), workload].into_iter().flatten();
    layers.fold(world.proxy_defaults.config.clone(), |below, above| below.with(above))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::{
            mesh_config::MeshConfig,
            parse, parse_proxy_config,
            yaml::{document, documents},
        },
        mesh::engine::Engine,
    };

    const OBJECTS: &str = "
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: mesh, namespace: istio-system}
spec: {concurrency: 1, environmentVariables: {A: mesh, B: mesh, C: mesh, D: mesh}, image: {imageType: debug}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: all, namespace: shop}
spec: {concurrency: 2, environmentVariables: {B: namespace, C: namespace, D: namespace}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: younger, namespace: shop, creationTimestamp: \"2026-01-01T00:00:00Z\"}
spec: {concurrency: 9}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, environmentVariables: {D: workload}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: web, namespace: istio-system}
spec: {selector: {matchLabels: {app: web}}, concurrency: 8}
";

    fn engine() -> Engine {
        let defaults = json!({"concurrency": 0, "proxyMetadata": {"A": "defaults", "E": "defaults"}, "drainDuration": "7s"});
        let (default_config, _) = parse_proxy_config(&defaults).unwrap();
        let mut engine = Engine::new("cluster.local", MeshConfig { default_config, ..MeshConfig::default() });
        let values = documents(OBJECTS).into_iter().map(|text| document(text).unwrap());
        let objects = values.flat_map(|value| parse(&value, &"Kubernetes".into()).objects);
        let applied = engine.apply(objects.map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>());
        assert_eq!(applied.touched, crate::mesh::world::Touched::default(), "no proxy is sent anything else");
        engine
    }

    fn effective(engine: &Engine, namespace: &str, app: &str, annotated: Value) -> Value {
        let (annotated, _) = parse_proxy_config(&annotated).unwrap();
        proxy_config(engine.world(), namespace, &Labels::from([("app".into(), app.into())]), &annotated).to_json()
    }

    #[test]
    fn what_is_closer_to_the_pod_goes_first() {
        let annotated = json!({"concurrency": 3, "proxyMetadata": {"C": "annotation", "D": "annotation"}});
        let of = |concurrency: u32, metadata: [&str; 4]| {
            let [a, b, c, d] = metadata;
            json!({
                "concurrency": concurrency, "drainDuration": "7s", "image": {"imageType": "debug"},
                "proxyMetadata": {"A": a, "B": b, "C": c, "D": d, "E": "defaults"},
            })
        };
        let engine = engine();
        assert_eq!(effective(&engine, "shop", "web", annotated.clone()), of(3, ["mesh", "namespace", "annotation", "workload"]));
        assert_eq!(effective(&engine, "shop", "db", annotated.clone()), of(3, ["mesh", "namespace", "annotation", "annotation"]));
        assert_eq!(effective(&engine, "shop", "db", json!({})), of(2, ["mesh", "namespace", "namespace", "namespace"]));
        assert_eq!(effective(&engine, "other", "web", json!({})), of(1, ["mesh"; 4]), "what selects is of its own namespace");
        assert_eq!(effective(&engine, "istio-system", "web", annotated), of(8, ["mesh", "mesh", "annotation", "annotation"]));
    }
}
