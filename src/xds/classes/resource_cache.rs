//! Resources by the input of their translation: each distinct input is translated and encoded once, and counted.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use prometheus_client::metrics::family::Family;

use super::memo::{Memo, Shared};
use crate::{
    metrics::{ExactCounter, MetricLabels},
    translate::{
        cluster::{self, ClusterInput},
        endpoint::{self, EndpointInput},
        input::ByPtr,
        listener::{
            gateway::{self, GatewayListenerInput},
            inbound::{self, InboundInput},
            outbound::{self, ListenerInput},
        },
        route::{self, RouteTable, VirtualHostInput},
    },
    xds::encode::{
        self,
        checked::{self, CheckedVirtualHost, Encoded},
    },
};

/// The memos of all kinds of resources.
#[derive(Debug)]
pub(super) struct ResourceCache {
    clusters: Memo<ClusterInput, Encoded>,
    assignments: Memo<EndpointInput, Encoded>,
    outbound: Memo<ListenerInput, Encoded>,
    inbound: Memo<InboundInput, Arc<Vec<Encoded>>>,
    gateway: Memo<GatewayListenerInput, Encoded>,
    virtual_hosts: Memo<VirtualHostInput, Arc<CheckedVirtualHost>>,
    tables: Memo<JoinedTable, Encoded>,
    translations: Translations,
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
pub(super) const TRANSLATED: [&str; 5] = ["cluster", "load_assignment", "listener", "virtual_host", "route_table"];

impl Default for ResourceCache {
    fn default() -> Self {
        let translations = Translations::default();
        let [cluster, load_assignment, listener, virtual_host, route_table] =
            TRANSLATED.map(|what| translations.get_or_create(&[("type", what)]).clone());
        Self {
            clusters: Memo::counting(cluster),
            assignments: Memo::counting(load_assignment),
            outbound: Memo::counting(listener.clone()),
            inbound: Memo::counting(listener.clone()),
            gateway: Memo::counting(listener),
            virtual_hosts: Memo::counting(virtual_host),
            tables: Memo::counting(route_table),
            translations,
        }
    }
}

impl ResourceCache {
    pub(super) fn cluster(&mut self, input: ClusterInput) -> Encoded {
        self.clusters.get(input, |input| checked::cluster(cluster::cluster(input)))
    }

    pub(super) fn assignment(&mut self, input: EndpointInput) -> Encoded {
        self.assignments.get(input, |input| checked::load_assignment(input.name().clone(), endpoint::load_assignment(input)))
    }

    pub(super) fn outbound_listener(&mut self, input: ListenerInput) -> Encoded {
        self.outbound.get(input, |input| checked::listener(outbound::listener(input)))
    }

    pub(super) fn inbound_listeners(&mut self, input: InboundInput) -> Vec<Encoded> {
        let make = |input: &InboundInput| Arc::new(inbound::listeners(input).into_iter().map(checked::listener).collect());
        self.inbound.get(input, make).to_vec()
    }

    pub(super) fn gateway_listener(&mut self, input: GatewayListenerInput) -> Encoded {
        self.gateway.get(input, |input| checked::listener(gateway::listener(input)))
    }

    pub(super) fn table(&mut self, table: RouteTable) -> Encoded {
        let header: RouteConfiguration = route::route_configuration_header(&table);
        let hosts = table.hosts.into_iter().map(|host| ByPtr(self.virtual_host(host))).collect();
        let joined = JoinedTable { header: encode::canonical(&header), hosts };
        self.tables.get(joined, |joined| checked::route_configuration(&header, joined.hosts.iter().map(|host| &*host.0)))
    }

    /// Lets go of all that no group holds. Tables hold virtual hosts.
    pub(super) fn drop_unused(&mut self) {
        self.tables.drop_unused();
        self.virtual_hosts.drop_unused();
        self.clusters.drop_unused();
        self.assignments.drop_unused();
        self.outbound.drop_unused();
        self.inbound.drop_unused();
        self.gateway.drop_unused();
    }

    /// Returns how many translations are remembered.
    pub(super) fn len(&self) -> usize {
        let listeners = self.outbound.len() + self.inbound.len() + self.gateway.len();
        self.clusters.len() + self.assignments.len() + listeners + self.virtual_hosts.len() + self.tables.len()
    }

    /// Returns the counters.
    pub(super) fn translations(&self) -> &Translations {
        &self.translations
    }

    fn virtual_host(&mut self, input: VirtualHostInput) -> Arc<CheckedVirtualHost> {
        self.virtual_hosts.get(input, |input| Arc::new(checked::virtual_host(route::virtual_host(input))))
    }
}

impl Shared for Encoded {
    fn is_held(&self) -> bool {
        self.resource.as_ref().is_some_and(Shared::is_held) || self.unfit.first().is_some_and(Shared::is_held)
    }
}
