//! Pages about connected proxies.

use envoy_types::pb::{
    envoy::{
        admin::v3::UpdateFailureState,
        config::core::v3::Node,
        service::status::v3::{ClientConfig, ConfigStatus, client_config::GenericXdsConfig},
    },
    google::protobuf::{Any, Struct, Timestamp, Value as ProtoValue, value::Kind},
};
use jiff::Timestamp as Moment;
use prost::Name;
use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use super::{DebugState, PageRequest, Reply};
use crate::{
    mesh::{
        model::{Proxy, ProxyKind},
        scope::resolve_proxy,
    },
    xds::{
        dump,
        ledger::{ProxyStatus, TypeState},
        render,
        resource_type::ResourceType,
    },
};

pub(super) fn syncz(state: &DebugState, request: &PageRequest) -> Reply {
    let mut proxies = state.visible_proxies(&request.viewer);
    if let Some(namespace) = request.get("namespace") {
        proxies.retain(|proxy| proxy.node.proxy.namespace == namespace);
    }
    Reply::Json(proxies.iter().map(sync_status).collect())
}

pub(super) fn adsz(state: &DebugState, request: &PageRequest) -> Reply {
    let proxies = match request.get("proxyID") {
        None => state.visible_proxies(&request.viewer),
        Some(name) => match state.proxy(name, &request.viewer) {
            Some(proxy) => vec![proxy],
            None => return Reply::NotConnected,
        },
    };
    let clients: Vec<Value> = proxies.iter().map(client).collect();
    Reply::Json(json!({"totalClients": clients.len(), "clients": clients}))
}

pub(super) fn connections(state: &DebugState, request: &PageRequest) -> Reply {
    let clients: Vec<Value> = state.visible_proxies(&request.viewer).iter().map(connection).collect();
    Reply::Json(json!({"totalClients": clients.len(), "clients": clients}))
}

pub(super) fn config_dump(state: &DebugState, request: &PageRequest) -> Reply {
    let kinds: Vec<ResourceType> = request.get("types").map(kinds_named).unwrap_or_default();
    with_view(state, request, |view| {
        if !kinds.is_empty() {
            return resources(view, &kinds);
        }
        let sections = dump::sections(view, request.query.contains_key("include_eds"));
        json!({"configs": sections.iter().map(to_json).collect::<Vec<_>>()})
    })
}

pub(super) fn edsz(state: &DebugState, request: &PageRequest) -> Reply {
    with_view(state, request, |view| resources(view, &[ResourceType::Endpoint]))
}

pub(super) fn ecdsz(state: &DebugState, request: &PageRequest) -> Reply {
    with_view(state, request, |view| resources(view, &[ResourceType::ExtensionConfig]))
}

/// Shows the services behind each proxy, by the name of its connection.
pub(super) fn instancesz(state: &DebugState, request: &PageRequest) -> Reply {
    let world = state.world();
    let services = |proxy: &Proxy| -> Vec<String> {
        let keys = proxy.ips.iter().filter_map(|ip| world.services_at.get(ip)).flat_map(|keys| keys.iter());
        keys.map(|key| key.hostname.to_string()).collect()
    };
    let proxies = state.visible_proxies(&request.viewer);
    let found = proxies.iter().map(|proxy| (proxy.connection.to_string(), json!(services(&resolve_proxy(&world, &proxy.node.proxy)))));
    Reply::Json(Value::Object(found.collect()))
}

/// Returns what istioctl makes a row of its table of proxies from (contract §1.3).
pub(super) fn client_config(proxy: &ProxyStatus) -> Any {
    let about = &proxy.node.proxy;
    let metadata = [("CLUSTER_ID", &about.cluster), ("NAMESPACE", &about.namespace), ("ISTIO_VERSION", &proxy.node.istio_version)];
    let text = |text: &SmolStr| ProtoValue { kind: Some(Kind::StringValue(text.to_string())) };
    let fields = metadata.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.to_owned(), text(value)));
    let node = Node { id: proxy.id.to_string(), metadata: Some(Struct { fields: fields.collect() }), ..Node::default() };
    let mut types: Vec<_> = subscribed(proxy).map(|(kind, status)| generic_config(proxy, kind, status)).collect();
    types.sort_by(|a, b| a.type_url.cmp(&b.type_url));
    let message = ClientConfig { node: Some(node), generic_xds_configs: types, ..ClientConfig::default() };
    Any { type_url: ClientConfig::type_url(), value: prost::Message::encode_to_vec(&message) }
}

fn generic_config(proxy: &ProxyStatus, kind: ResourceType, status: &TypeState) -> GenericXdsConfig {
    let last_updated = status.sent_at.map(timestamp);
    let error_state = proxy.rejected.get(&kind).map(|rejection| UpdateFailureState {
        last_update_attempt: last_updated,
        details: rejection.error.to_string(),
        ..UpdateFailureState::default()
    });
    GenericXdsConfig {
        type_url: kind.type_url().into(),
        last_updated,
        config_status: config_status(proxy, kind, status).into(),
        error_state,
        ..GenericXdsConfig::default()
    }
}

fn config_status(proxy: &ProxyStatus, kind: ResourceType, status: &TypeState) -> ConfigStatus {
    match status {
        _ if proxy.rejected.contains_key(&kind) => ConfigStatus::Error,
        state if state.sent == 0 => ConfigStatus::NotSent,
        state if state.sent == state.acked => ConfigStatus::Synced,
        _ => ConfigStatus::Stale,
    }
}

fn sync_status(proxy: &ProxyStatus) -> Value {
    let mut shown = Map::new();
    let kind = match proxy.node.proxy.kind {
        ProxyKind::Sidecar => "sidecar",
        ProxyKind::Gateway => "router",
    };
    let texts = [
        ("cluster_id", proxy.node.proxy.cluster.as_str()),
        ("proxy", &proxy.id),
        ("proxy_type", kind),
        ("istio_version", &proxy.node.istio_version),
    ];
    shown.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key.to_owned(), json!(text))));
    let mut resources = Map::new();
    for (kind, status) in subscribed(proxy) {
        let word = kind.noun();
        for (what, nonce) in [("sent", status.sent), ("acked", status.acked)] {
            if nonce != 0 {
                shown.insert(format!("{word}_{what}"), json!(nonce.to_string()));
            }
        }
        resources.insert(kind.type_url().to_owned(), resource_status(proxy, kind, status));
    }
    shown.insert("resources".to_owned(), Value::Object(resources));
    // Not in istiod's page: how far the proxy is, and which objects of the user it refused.
    shown.insert("wanted_generation".to_owned(), json!(proxy.wanted));
    shown.insert("current_generation".to_owned(), json!(proxy.current));
    let refused = proxy.rejected.iter().map(|(kind, rejection)| {
        let objects: Vec<String> = rejection.origins.iter().map(|origin| origin.object.to_string()).collect();
        (kind.as_str().to_owned(), json!({"error": *rejection.error, "resources": rejection.resources, "objects": objects}))
    });
    shown.insert("refused".to_owned(), Value::Object(refused.collect()));
    Value::Object(shown)
}

fn resource_status(proxy: &ProxyStatus, kind: ResourceType, status: &TypeState) -> Value {
    let nonce = |nonce: u64| if nonce == 0 { String::new() } else { nonce.to_string() };
    let mut shown = json!({"sent": nonce(status.sent), "acked": nonce(status.acked)});
    if let Some(sent_at) = status.sent_at {
        shown["sentTime"] = json!(sent_at.to_string());
    }
    if let Some(rejection) = proxy.rejected.get(&kind) {
        shown["lastError"] = json!(*rejection.error);
    }
    shown
}

fn connection(proxy: &ProxyStatus) -> Value {
    let address = proxy.address.map(|address| address.to_string()).unwrap_or_default();
    json!({"connectionId": proxy.connection, "connectedAt": proxy.connected.to_string(), "address": address})
}

fn client(proxy: &ProxyStatus) -> Value {
    let about = &proxy.node.proxy;
    let mut shown = connection(proxy);
    shown["labels"] = json!(*about.labels);
    let ips: Vec<String> = about.ips.iter().map(ToString::to_string).collect();
    shown["metadata"] = json!({
        "NAMESPACE": about.namespace,
        "SERVICE_ACCOUNT": about.service_account,
        "CLUSTER_ID": about.cluster,
        "NETWORK": about.network,
        "NODE_NAME": about.node,
        "ISTIO_VERSION": proxy.node.istio_version,
        "INSTANCE_IPS": ips.join(","),
    });
    shown["locality"] = json!({"region": about.locality.region, "zone": about.locality.zone, "subZone": about.locality.subzone});
    shown["watches"] = Value::Object(subscribed(proxy).map(|(kind, _)| (kind.type_url().to_owned(), json!([]))).collect());
    shown
}

fn with_view(state: &DebugState, request: &PageRequest, show: impl FnOnce(&crate::xds::view::View) -> Value) -> Reply {
    let Some(name) = request.get("proxyID") else { return Reply::NoProxyNamed };
    let view = state.proxy(name, &request.viewer).and_then(|proxy| state.classes.view_of(&proxy.id));
    view.map_or(Reply::NotConnected, |view| Reply::Json(show(&view)))
}

fn resources(view: &crate::xds::view::View, kinds: &[ResourceType]) -> Value {
    let found = kinds.iter().flat_map(|kind| dump::resources(view, *kind));
    json!({"configs": found.map(|any| to_json(&any)).collect::<Vec<_>>()})
}

fn kinds_named(types: &str) -> Vec<ResourceType> {
    ResourceType::in_views().filter(|kind| types.split(',').any(|name| name == kind.as_str())).collect()
}

fn to_json(any: &Any) -> Value {
    render::to_json_any(&any.type_url, &any.value)
}

fn subscribed(proxy: &ProxyStatus) -> impl Iterator<Item = (ResourceType, &TypeState)> {
    proxy.types.iter().filter(|(_, status)| status.subscribed)
}

fn timestamp(moment: Moment) -> Timestamp {
    Timestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        api::{Kind as ObjectKind, ObjectKey},
        mesh::model::Origin,
        xds::{ledger::Rejection, node::Node as ProxyNode, per_type::PerType},
    };

    fn proxy(states: PerType<TypeState>) -> ProxyStatus {
        let about = Proxy { namespace: "shop".into(), cluster: "Kubernetes".into(), ..Proxy::new(ProxyKind::Sidecar, "client.shop") };
        let node = ProxyNode { istio_version: "1.30.3".into(), ..ProxyNode::from(Arc::new(about)) };
        ProxyStatus {
            id: "client.shop".into(),
            connection: "client.shop-7".into(),
            node: Arc::new(node),
            proven: true,
            identity: None,
            address: None,
            connected: Moment::UNIX_EPOCH,
            types: states,
            wanted: 3,
            current: 2,
            rejected: BTreeMap::new(),
        }
    }

    fn state(sent: u64, acked: u64) -> TypeState {
        TypeState { subscribed: true, sent, acked, sent_at: (sent > 0).then_some(Moment::UNIX_EPOCH) }
    }

    fn statuses(proxy: &ProxyStatus) -> Vec<(String, ConfigStatus)> {
        let message = <ClientConfig as prost::Message>::decode(&client_config(proxy).value[..]).unwrap();
        let short = |url: &str| url.rsplit('.').next().unwrap().to_owned();
        message.generic_xds_configs.iter().map(|config| (short(&config.type_url), config.config_status())).collect()
    }

    #[test]
    fn each_type_is_as_far_as_its_answers() {
        let mut proxy = proxy(PerType::from_fn(|kind| match kind {
            ResourceType::Cluster => state(4, 4),
            ResourceType::Endpoint => state(5, 2),
            ResourceType::Listener => state(0, 0),
            _ => TypeState::default(),
        }));
        let expected = [
            ("Cluster".to_owned(), ConfigStatus::Synced),
            ("ClusterLoadAssignment".to_owned(), ConfigStatus::Stale),
            ("Listener".to_owned(), ConfigStatus::NotSent),
        ];
        assert_eq!(statuses(&proxy), expected, "routes were not asked for");
        let object = ObjectKey { cluster: "Kubernetes".into(), kind: ObjectKind::Gateway, namespace: "shop".into(), name: "g".into() };
        let origins = Arc::new([Origin { object, generation: 1 }]);
        let rejection = Rejection { error: "no such filter".into(), resources: vec!["l".into()], origins, found: true };
        proxy.rejected.insert(ResourceType::Cluster, rejection);
        assert_eq!(statuses(&proxy)[0].1, ConfigStatus::Error);
        let shown = sync_status(&proxy);
        assert_eq!((&shown["cluster_sent"], &shown["cluster_acked"], &shown["endpoint_acked"]), (&json!("4"), &json!("4"), &json!("2")));
        assert_eq!((&shown["listener_sent"], &shown["istio_version"]), (&Value::Null, &json!("1.30.3")));
        assert_eq!(shown["resources"][ResourceType::Cluster.type_url()]["lastError"], "no such filter");
        assert_eq!(shown["refused"]["cds"]["objects"], json!(["Gateway.networking.istio.io/shop/g"]));
    }
}
