//! One case: a mesh, and what its two proxies are sent.

use std::{fmt, sync::Arc};

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use istiod_lite::{
    api::{self, mesh_config::MeshConfig, yaml},
    mesh::{
        engine::Engine,
        model::{Interception, Proxy, ProxyKind, ProxyPorts},
    },
    xds::{classes::Classes, static_bootstrap::static_bootstrap},
};

use crate::judge::Tried;

/// A mesh and its proxies.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its place among those of a seed.
    pub(crate) number: u64,
    /// One YAML document each.
    pub(crate) objects: Vec<String>,
    pub(crate) mesh: MeshConfig,
    pub(crate) interception: Interception,
    pub(crate) unprivileged: bool,
    /// The client's addresses.
    pub(crate) ips: &'static [&'static str],
}

impl Case {
    fn client(&self) -> Proxy {
        let ips = self.ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let ports = ProxyPorts { unprivileged: self.unprivileged, ..ProxyPorts::USUAL };
        let labels = Arc::new([("app".into(), "client".into())].into());
        Proxy { ips, labels, ports, interception: self.interception, ..Proxy::new(ProxyKind::Sidecar, "client.shop") }
    }

    fn gateway(&self) -> Proxy {
        let labels = Arc::new([("app".into(), "edge".into())].into());
        let ips = vec![[10, 0, 0, 100].into()];
        Proxy { ips, labels, ports: ProxyPorts::USUAL, ..Proxy::new(ProxyKind::Gateway, "edge.shop") }
    }
}

impl Tried for Case {
    /// Returns what a sidecar and a gateway are sent.
    fn sent(&self) -> Vec<Bootstrap> {
        let mut engine = Engine::new("cluster.local", self.mesh.clone());
        let documents = self.objects.iter().flat_map(|text| yaml::documents(text));
        // Objects that no one is let write are no conflict.
        let parsed = documents.flat_map(|text| api::parse(&yaml::document(text).unwrap(), &"Kubernetes".into()).objects);
        let changes: Vec<_> = parsed.map(|object| (object.key.clone(), Some(object))).collect();
        let world = engine.apply(changes).world;
        let classes = Classes::default();
        classes.prepare(world, &Default::default()).send();
        [self.client(), self.gateway()].map(|proxy| static_bootstrap(&classes.view_for(&proxy), &proxy).unwrap()).into()
    }

    fn without(&self, part: usize) -> Option<Self> {
        let mut fewer = self.clone();
        (part < fewer.objects.len()).then(|| fewer.objects.remove(part))?;
        Some(fewer)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interception, unprivileged, ips, mesh, .. } = self;
        writeln!(f, "# client.shop: {ips:?} {interception:?} unprivileged {unprivileged} proxyHttpPort {}", mesh.proxy_http_port)?;
        self.objects.iter().try_for_each(|object| writeln!(f, "---\n{object}"))
    }
}
