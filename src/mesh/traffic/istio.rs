//! Converts what a DestinationRule (or a Sidecar, or MeshConfig) says of traffic.

use std::{collections::BTreeMap, sync::Arc};

use smol_str::SmolStr;

use super::{
    client_tls::{ClientCredentials, ClientFiles, ClientTls, TlsOrigination},
    connection_pool::{ConnectionPool, HttpSettings, TcpKeepalive, TcpSettings},
    destination_rule::{DestinationRule, Subset},
    load_balancer::{ConsistentHash, HashKey, HashTable, LoadBalancer},
    locality_lb::{Distribute, LocalityLb, LocalityPattern, PriorityLabel},
    outlier_detection::OutlierDetection,
    policy::{PortPolicy, TrafficPolicy},
};
use crate::{
    api::{Kind, istio},
    mesh::{
        credential,
        model::{Hostname, Visibility},
        unsupported,
    },
};

/// Converts a DestinationRule, for which the names that it writes are resolved already.
pub(in crate::mesh) fn destination_rule(written: &istio::DestinationRule, host: Hostname, export_to: Visibility) -> DestinationRule {
    let selects = written.workload_selector.is_some();
    let policy = |written: &Option<Arc<istio::TrafficPolicy>>| written.as_deref().map(|of| Arc::new(traffic_policy(of, selects)));
    let subset = |written: &istio::Subset| Subset {
        name: written.name.clone(),
        labels: Arc::new(written.labels.clone()),
        policy: policy(&written.traffic_policy),
    };
    DestinationRule {
        host,
        export_to,
        workload_selector: written.workload_selector.clone(),
        policy: policy(&written.traffic_policy),
        subsets: written.subsets.iter().map(subset).collect(),
    }
}

/// Converts a policy. `selects`: the rule selects its clients.
fn traffic_policy(written: &istio::TrafficPolicy, selects: bool) -> TrafficPolicy {
    let tls = |written: &Option<istio::ClientTls>| written.as_ref().map(|written| Arc::new(client_tls(written, selects)));
    let default = port_policy(&written.load_balancer, &written.connection_pool, &written.outlier_detection, tls(&written.tls));
    let port =
        |of: &istio::PortTrafficPolicy| (of.port, port_policy(&of.load_balancer, &of.connection_pool, &of.outlier_detection, tls(&of.tls)));
    TrafficPolicy::new(default, written.port_level_settings.iter().map(port))
}

/// Converts `connectionPool`.
pub(in crate::mesh) fn connection_pool(written: &istio::ConnectionPool) -> ConnectionPool {
    ConnectionPool {
        tcp: written.tcp.as_ref().map(tcp_settings).unwrap_or_default(),
        http: written.http.as_ref().map(http_settings).unwrap_or_default(),
    }
}

/// Converts `tcpKeepalive`.
pub(in crate::mesh) fn tcp_keepalive(written: &istio::TcpKeepalive) -> TcpKeepalive {
    TcpKeepalive { probes: positive(written.probes), time: written.time, interval: written.interval }
}

fn port_policy(
    load_balanced: &Option<istio::LoadBalancer>,
    pool: &Option<istio::ConnectionPool>,
    detection: &Option<istio::OutlierDetection>,
    tls: Option<Arc<ClientTls>>,
) -> PortPolicy {
    PortPolicy {
        load_balancer: load_balanced.as_ref().map(load_balancer).map(Arc::new),
        locality: load_balanced.as_ref().and_then(|written| written.locality.as_ref()).map(locality_lb).map(Arc::new),
        connection_pool: pool.as_ref().map(connection_pool).map(Arc::new),
        outlier_detection: detection.as_ref().map(outlier_detection).map(Arc::new),
        tls,
    }
}

fn load_balancer(written: &istio::LoadBalancer) -> LoadBalancer {
    match (written.simple, &written.consistent_hash) {
        (istio::SimpleLb::Passthrough, _) => LoadBalancer::Passthrough,
        (_, Some(hash)) => LoadBalancer::ConsistentHash(consistent_hash(hash)),
        (istio::SimpleLb::Unspecified | istio::SimpleLb::LeastRequest, None) => LoadBalancer::LeastRequest,
        (istio::SimpleLb::RoundRobin, None) => LoadBalancer::RoundRobin,
        (istio::SimpleLb::Random, None) => LoadBalancer::Random,
    }
}

/// Converts `localityLbSetting`.
pub(in crate::mesh) fn locality_lb(written: &istio::LocalityLb) -> LocalityLb {
    let split = |label: &SmolStr| label.split_once('=').map(|(name, value)| (SmolStr::new(name), SmolStr::new(value)));
    // Of a label that is there twice, once with a value, both have it, as with istiod.
    let values: BTreeMap<SmolStr, SmolStr> = written.failover_priority.iter().filter_map(split).collect();
    let priority = |label: &SmolStr| {
        let name = split(label).map_or_else(|| label.clone(), |(name, _)| name);
        PriorityLabel { value: values.get(&name).cloned(), name }
    };
    let distribute = |written: &istio::LocalityDistribute| Distribute {
        from: LocalityPattern::new(&written.from),
        to: written.to.iter().map(|(to, percent)| (LocalityPattern::new(to), *percent)).collect(),
    };
    LocalityLb {
        enabled: written.enabled.unwrap_or(true),
        distribute: written.distribute.iter().map(distribute).collect(),
        failover: written.failover.clone(),
        failover_priority: written.failover_priority.iter().map(priority).collect(),
    }
}

fn consistent_hash(written: &istio::ConsistentHash) -> ConsistentHash {
    let table = match written.algorithm {
        istio::HashAlgorithm::RingHash { minimum_ring_size } => HashTable::Ring { minimum_size: minimum_ring_size },
        istio::HashAlgorithm::Maglev { table_size } => HashTable::Maglev { size: (table_size > 0).then_some(table_size) },
    };
    ConsistentHash { key: written.key.as_ref().map(hash_key), table }
}

fn hash_key(written: &istio::HashKey) -> HashKey {
    match written {
        istio::HashKey::HttpHeader(name) => HashKey::HttpHeader(name.clone()),
        istio::HashKey::HttpCookie { name, path, ttl, attributes } => {
            HashKey::HttpCookie { name: name.clone(), path: path.clone(), ttl: *ttl, attributes: attributes.clone() }
        }
        istio::HashKey::SourceIp => HashKey::SourceIp,
        istio::HashKey::HttpQueryParameter(name) => HashKey::HttpQueryParameter(name.clone()),
    }
}

fn tcp_settings(written: &istio::TcpSettings) -> TcpSettings {
    TcpSettings {
        max_connections: positive(written.max_connections),
        connect_timeout: written.connect_timeout,
        keepalive: written.tcp_keepalive.as_ref().map(tcp_keepalive),
        max_connection_duration: written.max_connection_duration,
        idle_timeout: written.idle_timeout,
    }
}

fn http_settings(written: &istio::HttpSettings) -> HttpSettings {
    HttpSettings {
        max_pending_requests: positive(written.http1_max_pending_requests),
        max_requests: positive(written.http2_max_requests),
        max_requests_per_connection: positive(written.max_requests_per_connection),
        max_retries: positive(written.max_retries),
        idle_timeout: written.idle_timeout,
        h2_upgrade: match written.h2_upgrade_policy {
            istio::H2UpgradePolicy::Default => None,
            istio::H2UpgradePolicy::DoNotUpgrade => Some(false),
            istio::H2UpgradePolicy::Upgrade => Some(true),
        },
        use_client_protocol: written.use_client_protocol,
        max_concurrent_streams: positive(written.max_concurrent_streams),
    }
}

fn outlier_detection(written: &istio::OutlierDetection) -> OutlierDetection {
    OutlierDetection {
        split_external_local_origin_errors: written.split_external_local_origin_errors,
        consecutive_local_origin_failures: written.consecutive_local_origin_failures,
        consecutive_gateway_errors: written.consecutive_gateway_errors,
        consecutive_5xx_errors: written.consecutive_5xx_errors,
        interval: written.interval,
        base_ejection_time: written.base_ejection_time,
        max_ejection_percent: positive(written.max_ejection_percent),
        min_health_percent: written.min_health_percent,
    }
}

fn client_tls(written: &istio::ClientTls, selects: bool) -> ClientTls {
    let originate = |mutual| {
        ClientTls::Originate(TlsOrigination {
            sni: written.sni.clone(),
            subject_alt_names: written.subject_alt_names.clone(),
            mutual,
            insecure_skip_verify: written.insecure_skip_verify,
            credentials: client_credentials(written, selects),
        })
    };
    if written.refused || !unsupported::client_tls(written).is_empty() {
        return ClientTls::Unavailable;
    }
    match written.mode {
        istio::ClientTlsMode::Disable => ClientTls::Disable,
        istio::ClientTlsMode::Simple => originate(false),
        istio::ClientTlsMode::Mutual => originate(true),
        istio::ClientTlsMode::IstioMutual => ClientTls::IstioMutual {
            sni: written.sni.clone(),
            subject_alt_names: written.subject_alt_names.clone(),
            crl: written.ca_crl.clone(),
            insecure_skip_verify: written.insecure_skip_verify,
        },
    }
}

fn client_credentials(written: &istio::ClientTls, selects: bool) -> ClientCredentials {
    match credential::client_tls(written) {
        Some(Ok(certificate)) => {
            let trusted = certificate.roots();
            // What a ConfigMap holds is for everybody.
            let for_sidecars = selects || certificate.kind() == Kind::ConfigMap;
            ClientCredentials::Secret { certificate, trusted, crl: written.ca_crl.clone(), for_sidecars }
        }
        // One that names no Secret is unavailable.
        Some(Err(_)) | None => ClientCredentials::Files(ClientFiles {
            certificate: written.client_certificate.clone(),
            private_key: written.private_key.clone(),
            ca_certificates: written.ca_certificates.clone(),
            crl: written.ca_crl.clone(),
        }),
    }
}

// In Istio's API zero says that a limit is not set.
fn positive(written: u32) -> Option<u32> {
    (written > 0).then_some(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::model::ProxyKind;

    #[test]
    fn zero_is_no_limit() {
        let written = istio::ConnectionPool {
            tcp: Some(istio::TcpSettings { max_connections: 7, ..Default::default() }),
            http: Some(istio::HttpSettings { h2_upgrade_policy: istio::H2UpgradePolicy::DoNotUpgrade, ..Default::default() }),
        };
        let pool = connection_pool(&written);
        assert_eq!((pool.tcp.max_connections, pool.http.max_requests, pool.http.h2_upgrade), (Some(7), None, Some(false)));
        assert_eq!(connection_pool(&istio::ConnectionPool::default()), ConnectionPool::default());
    }

    #[test]
    fn a_load_balancer_is_one_of_its_kinds() {
        let simple = |simple| load_balancer(&istio::LoadBalancer { simple, ..Default::default() });
        assert_eq!(simple(istio::SimpleLb::Unspecified), LoadBalancer::LeastRequest);
        assert_eq!(simple(istio::SimpleLb::Passthrough), LoadBalancer::Passthrough);
        let hash = istio::ConsistentHash {
            key: Some(istio::HashKey::HttpHeader("x-user".into())),
            algorithm: istio::HashAlgorithm::Maglev { table_size: 0 },
        };
        let balancer = load_balancer(&istio::LoadBalancer { consistent_hash: Some(hash), ..Default::default() });
        assert_eq!(balancer.hash_key(), Some(&HashKey::HttpHeader("x-user".into())));
        assert_eq!(balancer.consistent_hash().map(|hash| hash.table), Some(HashTable::Maglev { size: None }));
    }

    #[test]
    fn tls_that_cannot_be_had_is_no_plaintext() {
        let written = istio::ClientTls {
            mode: istio::ClientTlsMode::Mutual,
            client_certificate: "/cert".into(),
            private_key: "/key".into(),
            ..Default::default()
        };
        let credentials =
            |written: &istio::ClientTls| client_tls(written, false).origination().map(|origination| origination.credentials.clone());
        assert!(matches!(credentials(&written), Some(ClientCredentials::Files(files)) if files.certificate == "/cert"));
        let named = istio::ClientTls { credential_name: "sds://client".into(), ..written };
        assert_eq!(client_tls(&named, true), ClientTls::Unavailable);
        let of_mesh = client_tls(&istio::ClientTls { mode: istio::ClientTlsMode::IstioMutual, ..named.clone() }, false);
        assert!(matches!(of_mesh, ClientTls::IstioMutual { .. }), "the mesh has its own certificates");
        assert_eq!(client_tls(&istio::ClientTls { mode: istio::ClientTlsMode::Disable, ..named }, false), ClientTls::Disable);
    }

    #[test]
    fn sidecars_have_a_secret_only_by_a_rule_that_selects_them() {
        let mode = istio::ClientTlsMode::Mutual;
        let written = istio::ClientTls { mode, credential_name: "client".into(), ..Default::default() };
        let names = |selects, kind| client_tls(&written, selects).secrets(kind).into_iter().map(ToString::to_string).collect::<Vec<_>>();
        let both = ["kubernetes://client", "kubernetes://client-cacert"];
        assert_eq!(names(true, ProxyKind::Sidecar), both);
        assert_eq!(names(false, ProxyKind::Gateway), both);
        assert_eq!(names(false, ProxyKind::Sidecar), [""; 0]);
        assert!(!client_tls(&written, false).connects(ProxyKind::Sidecar), "rather than in plaintext");
        let blind = istio::ClientTls { insecure_skip_verify: true, ..written };
        assert_eq!(client_tls(&blind, true).secrets(ProxyKind::Gateway).len(), 1, "nothing is verified");
    }

    #[test]
    fn what_a_config_map_holds_is_for_all_sidecars() {
        let written = |mode| istio::ClientTls { mode, credential_name: "configmap://bank/roots".into(), ..istio::ClientTls::default() };
        let tls = client_tls(&written(istio::ClientTlsMode::Simple), false);
        let names = |kind| tls.secrets(kind).into_iter().map(ToString::to_string).collect::<Vec<_>>();
        for kind in [ProxyKind::Sidecar, ProxyKind::Gateway] {
            assert_eq!((tls.connects(kind), names(kind)), (true, vec!["configmap://bank/roots-cacert".to_owned()]));
        }
        assert_eq!(client_tls(&written(istio::ClientTlsMode::Mutual), true), ClientTls::Unavailable, "it has no key");
    }

    #[test]
    fn port_level_settings_stand_beside_the_policy() {
        let written = istio::TrafficPolicy {
            outlier_detection: Some(istio::OutlierDetection { min_health_percent: 5, ..Default::default() }),
            port_level_settings: vec![istio::PortTrafficPolicy { port: 81, ..Default::default() }],
            ..Default::default()
        };
        let policy = traffic_policy(&written, false);
        assert_eq!(policy.port(80).outlier_detection.as_ref().map(|detection| detection.min_health_percent), Some(5));
        assert_eq!(policy.port(81), PortPolicy::NONE);
    }
}
