//! `networking.istio.io EnvoyFilter`

use smol_str::SmolStr;

use super::PolicyTarget;
use crate::api::Labels;

/// `spec` of an EnvoyFilter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvoyFilter {
    /// `workloadSelector.labels` and `targetRefs`
    pub target: PolicyTarget,
    /// `priority`: filters of a lower one are applied first.
    pub priority: i32,
    /// `configPatches`
    pub patches: Vec<ConfigPatch>,
}

/// `configPatches[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigPatch {
    /// `applyTo`
    pub apply_to: ApplyTo,
    /// `match.context`
    pub context: PatchContext,
    /// `match.proxy.proxyVersion`
    pub proxy_version: SmolStr,
    /// `match.proxy.metadata`
    pub proxy_metadata: Labels,
    /// `match.listener`, `match.routeConfiguration` or `match.cluster`
    pub object: Option<ObjectMatch>,
    /// `patch.operation`
    pub operation: PatchOperation,
    /// `patch.value`
    pub value: Option<PatchValue>,
}

/// `applyTo`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ApplyTo {
    /// `LISTENER`
    #[default]
    Listener,
    /// `FILTER_CHAIN`
    FilterChain,
    /// `NETWORK_FILTER`
    NetworkFilter,
    /// `HTTP_FILTER`
    HttpFilter,
    /// `ROUTE_CONFIGURATION`
    RouteConfiguration,
    /// `VIRTUAL_HOST`
    VirtualHost,
    /// `HTTP_ROUTE`
    HttpRoute,
    /// `CLUSTER`
    Cluster,
    /// `EXTENSION_CONFIG`
    ExtensionConfig,
    /// `BOOTSTRAP`
    Bootstrap,
    /// `LISTENER_FILTER`
    ListenerFilter,
}

/// `match.context`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PatchContext {
    /// `ANY`
    #[default]
    Any,
    /// `SIDECAR_INBOUND`
    SidecarInbound,
    /// `SIDECAR_OUTBOUND`
    SidecarOutbound,
    /// `GATEWAY`
    Gateway,
    /// `WAYPOINT`
    Waypoint,
}

/// `patch.operation`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PatchOperation {
    /// `MERGE`
    #[default]
    Merge,
    /// `ADD`
    Add,
    /// `REMOVE`
    Remove,
    /// `INSERT_BEFORE`
    InsertBefore,
    /// `INSERT_AFTER`
    InsertAfter,
    /// `INSERT_FIRST`
    InsertFirst,
    /// `REPLACE`
    Replace,
}

/// `patch.value`
#[derive(Clone, Debug)]
pub struct PatchValue {
    /// As it is written, in the JSON that equal values have in common.
    written: Box<str>,
    /// The message that `applyTo` asks for, encoded; or why it is none, with the path of the field in the value.
    pub message: Result<Vec<u8>, ValueMistake>,
}

/// Why a value is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMistake {
    /// The path of the field in the value; empty for the value itself.
    pub path: SmolStr,
    /// What is wrong there.
    pub what: SmolStr,
}

/// What a patch is for. Empty texts and zeros match everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectMatch {
    /// `listener`
    Listener(ListenerMatch),
    /// `routeConfiguration`
    RouteConfiguration(RouteConfigurationMatch),
    /// `cluster`
    Cluster(ClusterMatch),
}

/// `match.listener`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerMatch {
    /// `name`
    pub name: SmolStr,
    /// `portNumber`
    pub port: u32,
    /// `listenerFilter`
    pub listener_filter: SmolStr,
    /// `filterChain`
    pub chain: Option<FilterChainMatch>,
}

/// `match.listener.filterChain`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// `name`
    pub name: SmolStr,
    /// `sni`
    pub sni: SmolStr,
    /// `transportProtocol`
    pub transport_protocol: SmolStr,
    /// `applicationProtocols`, separated by commas.
    pub application_protocols: SmolStr,
    /// `destinationPort`
    pub destination_port: u32,
    /// `filter.name`; `None` without a `filter`.
    pub filter: Option<SmolStr>,
    /// `filter.subFilter.name`; `None` without a `subFilter`.
    pub sub_filter: Option<SmolStr>,
}

/// `match.routeConfiguration`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteConfigurationMatch {
    /// `name`
    pub name: SmolStr,
    /// `portNumber`
    pub port: u32,
    /// `portName`
    pub port_name: SmolStr,
    /// `gateway`: `namespace/name`.
    pub gateway: SmolStr,
    /// `vhost`
    pub host: Option<VirtualHostMatch>,
}

/// `match.routeConfiguration.vhost`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualHostMatch {
    /// `name`
    pub name: SmolStr,
    /// `domainName`
    pub domain: SmolStr,
    /// `route`
    pub route: Option<RouteMatch>,
}

/// `match.routeConfiguration.vhost.route`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// `name`
    pub name: SmolStr,
    /// `action`; `None`: any.
    pub action: Option<RouteAction>,
}

/// `match.routeConfiguration.vhost.route.action`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// `ROUTE`
    Route,
    /// `REDIRECT`
    Redirect,
    /// `DIRECT_RESPONSE`
    DirectResponse,
}

/// `match.cluster`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterMatch {
    /// `name`, beside which nothing else counts.
    pub name: SmolStr,
    /// `portNumber`
    pub port: u32,
    /// `service`
    pub service: SmolStr,
    /// `subset`
    pub subset: SmolStr,
}

impl ApplyTo {
    /// Returns the type of Envoy's messages that it stands for.
    pub fn message_type(self) -> &'static str {
        match self {
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::FilterChain => "envoy.config.listener.v3.FilterChain",
            Self::NetworkFilter => "envoy.config.listener.v3.Filter",
            Self::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
            Self::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
            Self::HttpRoute => "envoy.config.route.v3.Route",
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
            Self::Bootstrap => "envoy.config.bootstrap.v3.Bootstrap",
            Self::ListenerFilter => "envoy.config.listener.v3.ListenerFilter",
        }
    }

    /// Returns whether it is a listener or in one.
    pub fn is_of_listeners(self) -> bool {
        matches!(self, Self::Listener | Self::FilterChain | Self::NetworkFilter | Self::HttpFilter | Self::ListenerFilter)
    }

    /// Returns whether it is a route configuration or in one.
    pub fn is_of_routes(self) -> bool {
        matches!(self, Self::RouteConfiguration | Self::VirtualHost | Self::HttpRoute)
    }

    /// Returns whether an item can be put at a certain place among others.
    pub fn has_order(self) -> bool {
        matches!(self, Self::ListenerFilter | Self::NetworkFilter | Self::HttpFilter | Self::HttpRoute)
    }

    /// Returns whether an operation does anything to it.
    pub fn takes(self, operation: PatchOperation) -> bool {
        use PatchOperation::{Add, InsertAfter, InsertBefore, InsertFirst, Merge, Remove, Replace};
        match (self, operation) {
            // An agent merges it before its Envoy starts.
            (Self::Bootstrap, _) => false,
            (Self::RouteConfiguration, _) => operation == Merge,
            (Self::ExtensionConfig, Merge | Remove | Replace) => false,
            (_, Merge | Add | Remove | InsertAfter | InsertBefore | InsertFirst) => true,
            (_, Replace) => matches!(self, Self::ListenerFilter | Self::NetworkFilter | Self::HttpFilter | Self::VirtualHost),
        }
    }
}

impl PatchValue {
    /// Makes a value of what is written and what it means.
    pub(in crate::api) fn new(written: &serde_json::Value, message: Result<Vec<u8>, ValueMistake>) -> Self {
        Self { written: written.to_string().into(), message }
    }
}

// Encoded maps have no order of their own: equal values need not be equal bytes.
impl PartialEq for PatchValue {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written && self.message.is_ok() == other.message.is_ok()
    }
}

impl Eq for PatchValue {}
