//! Resources by the input of their translation: each distinct input is translated and encoded once, and counted.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use prometheus_client::metrics::family::Family;

use super::{
    memo::{Memo, Shared},
    patching::Patching,
};
use crate::{
    mesh::{envoy_filter::Patch, policy::envoy_filter::Patches},
    metrics::{ExactCounter, MetricLabels},
    translate::{
        cluster::{self, ClusterInput},
        endpoint::{self, EndpointInput},
        extension::{self, ExtensionInput},
        input::ByPtr,
        listener::{
            gateway::{self, GatewayListenerInput},
            inbound::{self, InboundInput},
            outbound::{self, ListenerInput},
        },
        patch::TableIdentity,
        rate_limit::{self, RateLimitInput},
        route::{self, RouteTable, VirtualHostInput},
    },
    xds::{
        encode::{
            self,
            checked::{self, CheckedVirtualHost, Encoded},
            patched::{self, Capabilities, PatchedHeader, PatchedHost, TablePatching},
        },
        resource::Resource,
        resource_type::ResourceType,
    },
};

/// The memos of all kinds of resources.
#[derive(Debug)]
pub(super) struct ResourceCache {
    clusters: Memo<ClusterInput, Encoded>,
    assignments: Memo<EndpointInput, Encoded>,
    outbound: Memo<ListenerInput, Encoded>,
    inbound: Memo<InboundInput, InboundListeners>,
    gateway: Memo<GatewayListenerInput, Encoded>,
    virtual_hosts: Memo<VirtualHostInput, Arc<CheckedVirtualHost>>,
    tables: Memo<JoinedTable, Encoded>,
    patched: Memo<PatchedInput, PatchedResult>,
    added: Memo<(ByPtr<Patch>, Capabilities), Encoded>,
    patched_headers: Memo<(Vec<u8>, Arc<TablePatching>), Arc<PatchedHeader>>,
    patched_hosts: Memo<(ByPtr<CheckedVirtualHost>, Arc<TablePatching>), Arc<PatchedHost>>,
    extensions: Memo<ExtensionInput, Encoded>,
    rate_limits: Memo<RateLimitInput, Encoded>,
    translations: Translations,
}

/// The input of a patched resource: what it was, and the patches that may be for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PatchedInput {
    base: ByPtr<Resource>,
    patches: Patches,
    having: Capabilities,
}

/// The inbound listeners of a sidecar. Whoever asks for them holds each by itself.
#[derive(Clone, Debug)]
struct InboundListeners(Arc<[Encoded]>);

/// What patches made of a resource.
#[derive(Clone, Debug)]
struct PatchedResult {
    /// `None`: none is for it.
    made: Option<Encoded>,
    /// Whether it is another resource than that which was patched.
    is_new: bool,
}

/// The input of a route table: its own fields and its virtual hosts. Each distinct one is joined once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct JoinedTable {
    header: Vec<u8>,
    hosts: Vec<ByPtr<CheckedVirtualHost>>,
}

/// Counters of the translations since the start, by what was translated (`istiod_lite_translated`).
pub type Translations = Family<MetricLabels<1, &'static str>, ExactCounter>;

/// The labels in [`Translations`].
pub(super) const TRANSLATED: [&str; 8] =
    ["cluster", "load_assignment", "listener", "virtual_host", "route_table", "patched", "extension_config", "rate_limit"];

impl Default for ResourceCache {
    fn default() -> Self {
        let translations = Translations::default();
        let [cluster, load_assignment, listener, virtual_host, route_table, patched, extension_config, rate_limit] =
            TRANSLATED.map(|what| translations.get_or_create(&[("type", what)]).clone());
        Self {
            clusters: Memo::counting(cluster),
            assignments: Memo::counting(load_assignment),
            outbound: Memo::counting(listener.clone()),
            inbound: Memo::counting(listener.clone()),
            gateway: Memo::counting(listener),
            virtual_hosts: Memo::counting(virtual_host),
            tables: Memo::counting(route_table),
            patched: Memo::counting(patched.clone()),
            added: Memo::counting(patched.clone()),
            patched_headers: Memo::counting(patched.clone()),
            patched_hosts: Memo::counting(patched),
            extensions: Memo::counting(extension_config),
            rate_limits: Memo::counting(rate_limit),
            translations,
        }
    }
}

impl ResourceCache {
    /// Returns a cluster with the patches that are for it.
    pub(super) fn cluster(&mut self, input: ClusterInput, patching: &Patching) -> Encoded {
        let made = self.clusters.get(input, |input| checked::cluster(cluster::cluster(input)));
        if patching.patches.is_empty() {
            return made;
        }
        let patches = patching.of_cluster(&made.name);
        self.patched(made, patches, &patching.having, patched::cluster)
    }

    /// Returns the resource that a patch adds.
    pub(super) fn added(&mut self, kind: ResourceType, patch: &ByPtr<Patch>, having: &Capabilities) -> Encoded {
        self.added.get((patch.clone(), having.clone()), |(patch, having)| match kind {
            ResourceType::Cluster => patched::added_cluster(patch, having),
            ResourceType::ExtensionConfig => patched::added_extension_config(patch, having),
            _ => patched::added_listener(patch, having),
        })
    }

    fn patched_listener(&mut self, made: Encoded, patching: &Patching) -> Encoded {
        self.patched(made, patching.patches.clone(), &patching.having, patched::listener)
    }

    fn patched(
        &mut self,
        made: Encoded,
        patches: Patches,
        having: &Capabilities,
        apply: impl FnOnce(&Encoded, &Patches, &Capabilities) -> Option<Encoded>,
    ) -> Encoded {
        let Some(base) = made.resource.as_ref().filter(|_| !patches.is_empty()) else { return made };
        let input = PatchedInput { base: base.into(), patches, having: having.clone() };
        let patched = self.patched.get(input, |input| PatchedResult::of(&made, apply(&made, &input.patches, &input.having)));
        patched.made.unwrap_or(made)
    }

    pub(super) fn assignment(&mut self, input: EndpointInput) -> Encoded {
        self.assignments.get(input, |input| checked::load_assignment(input.name().clone(), endpoint::load_assignment(input)))
    }

    pub(super) fn outbound_listener(&mut self, input: ListenerInput, patching: &Patching) -> Encoded {
        let made = self.outbound.get(input, |input| checked::listener(outbound::listener(input)));
        self.patched_listener(made, patching)
    }

    pub(super) fn inbound_listeners(&mut self, input: InboundInput, patching: &Patching) -> Vec<Encoded> {
        let make = |input: &InboundInput| InboundListeners(inbound::listeners(input).into_iter().map(checked::listener).collect());
        let InboundListeners(made) = self.inbound.get(input, make);
        made.iter().map(|made| self.patched_listener(made.clone(), patching)).collect()
    }

    pub(super) fn gateway_listener(&mut self, input: GatewayListenerInput, patching: &Patching) -> Encoded {
        let made = self.gateway.get(input, |input| checked::listener(gateway::listener(input)));
        self.patched_listener(made, patching)
    }

    pub(super) fn table(&mut self, table: RouteTable, patching: &Patching) -> Encoded {
        let header: RouteConfiguration = route::route_configuration_header(&table);
        let patches = patching.of_routes();
        if patches.is_empty() {
            let hosts = table.hosts.into_iter().map(|host| ByPtr(self.virtual_host(host))).collect();
            return self.joined(&header, hosts);
        }
        let identity = TableIdentity { name: table.name.to_string(), servers: table.servers };
        let of = Arc::new(TablePatching { table: identity, patches, having: patching.having.clone() });
        let hosts: Vec<_> = table.hosts.into_iter().map(|host| self.virtual_host(host)).collect();
        self.patched_table(&header, &hosts, &of)
    }

    fn patched_table(&mut self, header: &RouteConfiguration, hosts: &[Arc<CheckedVirtualHost>], of: &Arc<TablePatching>) -> Encoded {
        let key = (encode::canonical(header), Arc::clone(of));
        let patched_header = self.patched_headers.get(key, |(_, of)| Arc::new(patched::header(header, of)));
        let mut patched_host =
            |host| self.patched_hosts.get((ByPtr::from(host), Arc::clone(of)), |(host, of)| Arc::new(patched::virtual_host(&host.0, of)));
        let patched_hosts: Vec<_> = hosts.iter().map(&mut patched_host).collect();
        let (hosts, report) = patched::hosts(hosts, &patched_hosts, &patched_header, of);
        let made = self.joined(&patched_header.header, hosts);
        let resource = made.resource.as_ref().map(|table| patched::reported(table, &report));
        Encoded { resource, report: Some(Arc::new(report)), ..made }
    }

    fn joined(&mut self, header: &RouteConfiguration, hosts: Vec<ByPtr<CheckedVirtualHost>>) -> Encoded {
        let joined = JoinedTable { header: encode::canonical(header), hosts };
        self.tables.get(joined, |joined| checked::route_configuration(header, joined.hosts.iter().map(|host| &*host.0)))
    }

    pub(super) fn extension_config(&mut self, input: ExtensionInput) -> Encoded {
        self.extensions.get(input, |input| {
            let built = extension::extension_config(input);
            if extension::is_rewritten(input) { checked::rewritten_extension_config(built) } else { checked::extension_config(built) }
        })
    }

    pub(super) fn rate_limit(&mut self, input: RateLimitInput) -> Encoded {
        self.rate_limits.get(input, |input| checked::extension_config(rate_limit::filter_config(input)))
    }

    /// Lets go of all that no group holds. Tables hold virtual hosts, and what is patched holds what it was.
    pub(super) fn drop_unused(&mut self) {
        self.patched.drop_unused();
        self.added.drop_unused();
        self.tables.drop_unused();
        self.patched_headers.drop_unused();
        self.patched_hosts.drop_unused();
        self.virtual_hosts.drop_unused();
        self.clusters.drop_unused();
        self.assignments.drop_unused();
        self.outbound.drop_unused();
        self.inbound.drop_unused();
        self.gateway.drop_unused();
        self.extensions.drop_unused();
        self.rate_limits.drop_unused();
    }

    /// Returns how many translations are remembered.
    pub(super) fn len(&self) -> usize {
        let listeners = self.outbound.len() + self.inbound.len() + self.gateway.len();
        let routes = self.virtual_hosts.len() + self.tables.len();
        self.clusters.len()
            + self.assignments.len()
            + listeners
            + routes
            + self.patched.len()
            + self.added.len()
            + self.patched_headers.len()
            + self.patched_hosts.len()
            + self.extensions.len()
            + self.rate_limits.len()
    }

    /// Returns the counters.
    pub(super) fn translations(&self) -> &Translations {
        &self.translations
    }

    fn virtual_host(&mut self, input: VirtualHostInput) -> Arc<CheckedVirtualHost> {
        self.virtual_hosts.get(input, |input| Arc::new(checked::virtual_host(route::virtual_host(input))))
    }
}

impl PatchedResult {
    fn of(base: &Encoded, made: Option<Encoded>) -> Self {
        let resource = |encoded: &Encoded| encoded.resource.as_ref().map(Arc::as_ptr);
        let is_new = made.as_ref().is_some_and(|made| resource(made) != resource(base));
        Self { made, is_new }
    }
}

// The resource that was patched is held by the input itself.
impl Shared for PatchedResult {
    fn is_held(&self) -> bool {
        self.made.as_ref().is_some_and(|made| {
            let by_report = made.report.as_ref().is_some_and(Shared::is_held);
            by_report || (self.is_new && made.resource.as_ref().is_some_and(Shared::is_held))
        })
    }
}

impl Shared for InboundListeners {
    fn is_held(&self) -> bool {
        self.0.iter().any(Shared::is_held)
    }
}

impl Shared for Encoded {
    fn is_held(&self) -> bool {
        let by_report = self.report.as_ref().is_some_and(Shared::is_held);
        by_report || self.resource.as_ref().is_some_and(Shared::is_held) || self.unfit.first().is_some_and(Shared::is_held)
    }
}
