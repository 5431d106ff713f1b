//! Resources by the input of their translation: each distinct input is translated and encoded once, and counted.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use prometheus_client::metrics::family::Family;

use super::memo::Memo;
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
    xds::{
        encode,
        resource::{EncodedVirtualHost, Resource},
    },
};

/// The memos of all kinds of resources.
#[derive(Debug)]
pub(super) struct ResourceCache {
    clusters: Memo<ClusterInput, Resource>,
    assignments: Memo<EndpointInput, Resource>,
    outbound: Memo<ListenerInput, Resource>,
    inbound: Memo<InboundInput, Vec<Arc<Resource>>>,
    gateway: Memo<GatewayListenerInput, Resource>,
    virtual_hosts: Memo<VirtualHostInput, EncodedVirtualHost>,
    tables: Memo<JoinedTable, Resource>,
    translations: Translations,
}

/// The input of a route table: its own fields and its virtual hosts. Each distinct one is joined once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct JoinedTable {
    header: Vec<u8>,
    hosts: Vec<ByPtr<EncodedVirtualHost>>,
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
    pub(super) fn cluster(&mut self, input: ClusterInput) -> Arc<Resource> {
        self.clusters.get(input, |input| encode::cluster(cluster::cluster(input)))
    }

    pub(super) fn assignment(&mut self, input: EndpointInput) -> Arc<Resource> {
        self.assignments.get(input, |input| encode::encoded_load_assignment(input.name().clone(), endpoint::load_assignment(input)))
    }

    pub(super) fn outbound_listener(&mut self, input: ListenerInput) -> Arc<Resource> {
        self.outbound.get(input, |input| encode::listener(outbound::listener(input)))
    }

    pub(super) fn inbound_listeners(&mut self, input: InboundInput) -> Vec<Arc<Resource>> {
        let make = |input: &InboundInput| inbound::listeners(input).into_iter().map(encode::listener).map(Arc::new).collect();
        self.inbound.get(input, make).to_vec()
    }

    pub(super) fn gateway_listener(&mut self, input: GatewayListenerInput) -> Arc<Resource> {
        self.gateway.get(input, |input| encode::listener(gateway::listener(input)))
    }

    pub(super) fn table(&mut self, table: RouteTable) -> Arc<Resource> {
        let header: RouteConfiguration = route::route_configuration_header(&table);
        let hosts = table.hosts.into_iter().map(|host| ByPtr(self.virtual_host(host))).collect();
        let joined = JoinedTable { header: encode::canonical(&header), hosts };
        self.tables.get(joined, |joined| encode::route_configuration(&header, joined.hosts.iter().map(|host| Arc::clone(&host.0))))
    }

    /// Returns the counters.
    pub(super) fn translations(&self) -> &Translations {
        &self.translations
    }

    fn virtual_host(&mut self, input: VirtualHostInput) -> Arc<EncodedVirtualHost> {
        self.virtual_hosts.get(input, |input| encode::virtual_host(route::virtual_host(input)))
    }
}
