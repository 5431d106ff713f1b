//! Translation remembered by its input, and counted.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use super::memo::Memo;
use crate::{
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
        encode::{self, EncodedVirtualHost},
        resource::Resource,
    },
};

/// All memos of this process.
#[derive(Debug, Default)]
pub(super) struct Translator {
    clusters: Memo<ClusterInput, Resource>,
    assignments: Memo<EndpointInput, Resource>,
    outbound: Memo<ListenerInput, Resource>,
    inbound: Memo<InboundInput, Vec<Arc<Resource>>>,
    gateway: Memo<GatewayListenerInput, Resource>,
    virtual_hosts: Memo<VirtualHostInput, EncodedVirtualHost>,
    tables: Memo<JoinedTable, Resource>,
}

/// A route table is its own fields and the virtual hosts in it; each distinct one is joined once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct JoinedTable {
    header: Vec<u8>,
    hosts: Vec<ByPtr<EncodedVirtualHost>>,
}

/// How many translations were done since the beginning, by what was translated.
pub(super) type Counts = [(&'static str, u64); 5];

impl Translator {
    pub(super) fn cluster(&mut self, input: &ClusterInput) -> Arc<Resource> {
        self.clusters.get(input, |input| encode::cluster(cluster::cluster(input)))
    }

    pub(super) fn assignment(&mut self, input: &EndpointInput) -> Arc<Resource> {
        self.assignments.get(input, |input| encode::load_assignment(endpoint::load_assignment(input)))
    }

    pub(super) fn outbound_listener(&mut self, input: &ListenerInput) -> Arc<Resource> {
        self.outbound.get(input, |input| encode::listener(outbound::listener(input)))
    }

    pub(super) fn inbound_listeners(&mut self, input: &InboundInput) -> Vec<Arc<Resource>> {
        let make = |input: &InboundInput| inbound::listeners(input).into_iter().map(encode::listener).map(Arc::new).collect();
        self.inbound.get(input, make).to_vec()
    }

    pub(super) fn gateway_listener(&mut self, input: &GatewayListenerInput) -> Arc<Resource> {
        self.gateway.get(input, |input| encode::listener(gateway::listener(input)))
    }

    pub(super) fn table(&mut self, table: &RouteTable) -> Arc<Resource> {
        let header: RouteConfiguration = route::route_configuration_header(table);
        let hosts = table.hosts.iter().map(|host| ByPtr(self.virtual_host(host))).collect();
        let joined = JoinedTable { header: encode::canonical(&header), hosts };
        self.tables.get(&joined, |joined| encode::route_configuration(&header, joined.hosts.iter().map(|host| &*host.0)))
    }

    pub(super) fn counts(&self) -> Counts {
        [
            ("cluster", self.clusters.made()),
            ("load_assignment", self.assignments.made()),
            ("listener", self.outbound.made() + self.inbound.made() + self.gateway.made()),
            ("virtual_host", self.virtual_hosts.made()),
            ("route_table", self.tables.made()),
        ]
    }

    fn virtual_host(&mut self, input: &VirtualHostInput) -> Arc<EncodedVirtualHost> {
        self.virtual_hosts.get(input, |input| encode::virtual_host(route::virtual_host(input)))
    }
}
