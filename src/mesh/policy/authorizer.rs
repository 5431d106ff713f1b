//! Whom policies of action CUSTOM have asked: a provider of MeshConfig, and the service that it names (contract §6.7).

use crate::{
    api::extension_provider::ExtAuthz,
    mesh::{
        by_ptr::ByPtr,
        model::Hostname,
        policy::server::{NoServer, server},
        world::World,
    },
};

/// A server that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authorizer {
    /// How it is asked.
    pub provider: ByPtr<ExtAuthz>,
    /// Its service.
    pub hostname: Hostname,
}

/// Why nobody can be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAuthorizer {
    /// There is no provider of that name.
    #[error("MeshConfig has no envoyExtAuthzHttp or envoyExtAuthzGrpc of this name in extensionProviders")]
    Provider,
    /// There is no service that could be asked.
    #[error(transparent)]
    Server(#[from] NoServer),
}

/// Finds the server of a provider.
pub fn authorizer(world: &World, provider: &str) -> Result<Authorizer, NoAuthorizer> {
    let provider = world.mesh.ext_authz.get(provider).ok_or(NoAuthorizer::Provider)?;
    Ok(Authorizer { provider: provider.into(), hostname: server(world, &provider.service)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Labels, Parsed, mesh_config::MeshConfig, parse, parse_mesh_config, yaml},
        mesh::engine::{Applied, Engine},
    };

    const PROVIDER: &str = "extensionProviders: [{name: guard, envoyExtAuthzGrpc: {service: guard.guards.svc.cluster.local, port: 90}}]";
    const POLICY: &str = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shop}, \
                          spec: {selector: {matchLabels: {app: a}}, action: CUSTOM, provider: {name: guard}, rules: [{}]}}";
    const GUARD: &str = "{apiVersion: v1, kind: Service, metadata: {name: guard, namespace: guards}, \
                         spec: {clusterIP: 10.96.0.1, ports: [{name: grpc, port: 90}]}}";
    const OTHER: &str = "{apiVersion: v1, kind: Service, metadata: {name: other, namespace: guards}, \
                         spec: {clusterIP: 10.96.0.2, ports: [{name: grpc, port: 90}]}}";

    fn value(text: &str) -> serde_json::Value {
        yaml::document(yaml::Document { lines_before: 0, text }).unwrap()
    }

    fn apply(engine: &mut Engine, parsed: Parsed) -> Applied {
        assert_eq!(parsed.refused, []);
        engine.apply(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))))
    }

    #[test]
    fn whoever_has_a_service_asked_is_touched_when_it_comes() {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let mut applied = |parsed| apply(&mut engine, parsed);
        let document = |text: &str| parse(&value(text), &"Kubernetes".into());
        applied(parse_mesh_config(&value(PROVIDER), &"Kubernetes".into()));
        let world = applied(document(POLICY)).world;
        assert_eq!(authorizer(&world, "guard"), Err(NoServer::Service("guard.guards.svc.cluster.local".into()).into()));
        assert_eq!(authorizer(&world, "other"), Err(NoAuthorizer::Provider));
        assert_eq!(applied(document(OTHER)).touched.policies, []);
        let Applied { world, touched, .. } = applied(document(GUARD));
        assert_eq!(authorizer(&world, "guard").map(|found| found.hostname), Ok(Hostname::new("guard.guards.svc.cluster.local")));
        let labels = |app: &str| Labels::from([("app".into(), app.into())]);
        let covers = |namespace: &str, app: &str| touched.policies.iter().any(|reach| reach.covers(namespace, &labels(app)));
        assert!(covers("shop", "a") && !covers("shop", "b") && !covers("guards", "a"));
    }
}
