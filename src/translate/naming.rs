//! Names of resources, as Istio spells them (contract §3): a wire contract with istioctl and between meshes.

use std::net::IpAddr;

use smol_str::{SmolStr, format_smolstr};

use crate::mesh::model::{Hostname, Origin, Registry, Service, ServicePort};

/// The cluster that drops the traffic sent to it.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
/// Outbound traffic to its original destination.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// Inbound traffic to its original destination.
pub const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";

/// Returns `outbound|9080|v1|reviews.shop.svc.cluster.local`; an empty subset is none.
pub fn outbound_cluster(port: u16, subset: &str, host: &Hostname) -> SmolStr {
    format_smolstr!("outbound|{port}|{subset}|{host}")
}

/// Returns port, subset and host of what [`outbound_cluster`] named.
pub fn outbound_parts(cluster: &str) -> Option<(u16, &str, Hostname)> {
    let (port, rest) = cluster.strip_prefix("outbound|")?.split_once('|')?;
    let (subset, host) = rest.split_once('|')?;
    Some((port.parse().ok()?, subset, Hostname::new(host)))
}

/// Returns `inbound|8080||`
pub fn inbound_cluster(target_port: u16) -> SmolStr {
    format_smolstr!("inbound|{target_port}||")
}

/// Returns `outbound_.9080_.v1_.reviews.shop.svc.cluster.local`: cluster of an AUTO_PASSTHROUGH gateway, and the SNI of
/// in-mesh mTLS.
pub fn dns_srv(port: u16, subset: &str, host: &Hostname) -> SmolStr {
    format_smolstr!("outbound_.{port}_.{subset}_.{host}")
}

/// Returns `/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews`: how resources name the object that
/// made them (contract §3.1 Metadata). The version is always `v1`, whatever the object was written in.
pub fn config_path(origin: &Origin) -> SmolStr {
    let object = &origin.object;
    let (group, kind) = (object.kind.group(), kebab_case(object.kind.as_str()));
    format_smolstr!("/apis/{group}/v1/namespaces/{}/{kind}/{}", object.namespace, object.name)
}

// `VirtualService` → `virtual-service`
fn kebab_case(kind: &str) -> String {
    let mut words = String::with_capacity(kind.len() + 2);
    for (at, letter) in kind.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            words.push('-');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Returns the name of a cluster's (or a TCP proxy's) statistics by a pattern of MeshConfig (`outboundClusterStatName`,
/// `inboundClusterStatName`, contract §3.1); `None` when the pattern is empty.
pub fn statistics_name(pattern: &str, service: &Service, port: &ServicePort, subset: &str) -> Option<String> {
    if pattern.is_empty() {
        return None;
    }
    let short = match service.registry {
        Registry::Kubernetes => format!("{}.{}", service.name, service.namespace),
        Registry::External => service.hostname.to_string(),
    };
    Some(
        pattern
            .replace("%SERVICE%", &short)
            .replace("%SERVICE_NAME%", &service.name)
            .replace("%SERVICE_FQDN%", service.hostname.as_str())
            .replace("%SERVICE_PORT%", &port.number.to_string())
            .replace("%SERVICE_PORT_NAME%", &port.name)
            .replace("%SUBSET_NAME%", subset),
    )
}

/// Returns the other forms of a host: the absolute one, and those that the search path of the proxy's namespace makes valid.
/// `dns_domain` is `<namespace>.svc.<domain>`.
pub fn other_forms(host: &Hostname, dns_domain: &str) -> Vec<SmolStr> {
    let host = host.as_str();
    let mut forms = Vec::with_capacity(4);
    if host.parse::<IpAddr>().is_err() {
        forms.push(format_smolstr!("{host}."));
    }
    let Some((proxy_namespace, domain)) = dns_domain.split_once(".svc.") else { return forms };
    let Some(with_namespace) = host.strip_suffix(domain).and_then(|host| host.strip_suffix(".svc.")) else { return forms };
    let Some((name, namespace)) = with_namespace.split_once('.') else { return forms };
    let svc = format_smolstr!("{with_namespace}.svc");
    if namespace == proxy_namespace {
        forms.extend([name.into(), svc, with_namespace.into()]);
    } else {
        forms.extend([with_namespace.into(), svc]);
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Kind, ObjectKey};

    #[test]
    fn paths_name_the_object_in_the_api_servers_way() {
        let path = |kind, name: &str| {
            let object = ObjectKey { cluster: "Kubernetes".into(), kind, namespace: "shop".into(), name: name.into() };
            config_path(&Origin { object, generation: 3 })
        };
        let virtual_service = path(Kind::VirtualService, "reviews");
        assert_eq!(virtual_service, "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews");
        assert_eq!(path(Kind::Gateway, "public"), "/apis/networking.istio.io/v1/namespaces/shop/gateway/public");
    }

    #[test]
    fn short_forms_depend_on_the_namespace() {
        let host = Hostname::new("reviews.shop.svc.cluster.local");
        let own = other_forms(&host, "shop.svc.cluster.local");
        assert_eq!(own, ["reviews.shop.svc.cluster.local.", "reviews", "reviews.shop.svc", "reviews.shop"]);
        let other = other_forms(&host, "web.svc.cluster.local");
        assert_eq!(other, ["reviews.shop.svc.cluster.local.", "reviews.shop", "reviews.shop.svc"]);
        assert_eq!(other_forms(&Hostname::new("api.example.com"), "shop.svc.cluster.local"), ["api.example.com."]);
    }
}
