//! Reads a DestinationRule and its TrafficPolicy (contract §6.3).

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    fields::{Fields, Node, Read},
    virtual_service::port_selector,
};
use crate::api::{
    Labels,
    istio::{
        ClientTls, ClientTlsMode, ConnectionPool, ConsistentHash, DestinationRule, H2UpgradePolicy, HashAlgorithm, HashKey, HttpSettings,
        LoadBalancer, LocalityDistribute, LocalityLb, OutlierDetection, PortTrafficPolicy, SimpleLb, Subset, TcpKeepalive, TcpSettings,
        TrafficPolicy,
    },
};

impl Read for DestinationRule {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            host: fields.get("host"),
            traffic_policy: fields.opt("trafficPolicy").map(Arc::new),
            subsets: fields.get("subsets"),
            export_to: fields.get("exportTo"),
            workload_selector: fields.with("workloadSelector", match_labels),
        })
    }
}

/// Reads `{matchLabels: …}`.
pub(super) fn match_labels(node: Node<'_>) -> Option<Labels> {
    let fields = node.fields()?;
    let labels = fields.get("matchLabels");
    fields.finish();
    Some(labels)
}

impl Read for Subset {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let subset =
            Self { name: fields.get("name"), labels: fields.get("labels"), traffic_policy: fields.opt("trafficPolicy").map(Arc::new) };
        fields.finish();
        Some(subset)
    }
}

impl Read for TrafficPolicy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            for name in ["tunnel", "proxyProtocol", "retryBudget"] {
                fields.unsupported(name);
            }
            Self {
                load_balancer: fields.opt("loadBalancer"),
                connection_pool: fields.opt("connectionPool"),
                outlier_detection: fields.opt("outlierDetection"),
                tls: fields.opt("tls"),
                port_level_settings: fields.get("portLevelSettings"),
            }
        })
    }
}

impl Read for PortTrafficPolicy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if !fields.has("port") {
                fields.error("port is missing");
            }
            Self {
                port: fields.with("port", port_selector).unwrap_or_default(),
                load_balancer: fields.opt("loadBalancer"),
                connection_pool: fields.opt("connectionPool"),
                outlier_detection: fields.opt("outlierDetection"),
                tls: fields.opt("tls"),
            }
        })
    }
}

impl Read for LoadBalancer {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            for name in ["warmup", "warmupDurationSecs", "zoneAwareLbSetting"] {
                fields.unsupported(name);
            }
            fields.exclusive(&["simple", "consistentHash"]);
            Self {
                simple: fields.with("simple", simple).unwrap_or_default(),
                consistent_hash: fields.opt("consistentHash"),
                locality: fields.opt("localityLbSetting"),
            }
        })
    }
}

fn simple(node: Node<'_>) -> Option<SimpleLb> {
    node.one_of(&[
        ("UNSPECIFIED", SimpleLb::Unspecified),
        ("LEAST_CONN", SimpleLb::LeastRequest),
        ("RANDOM", SimpleLb::Random),
        ("PASSTHROUGH", SimpleLb::Passthrough),
        ("ROUND_ROBIN", SimpleLb::RoundRobin),
        ("LEAST_REQUEST", SimpleLb::LeastRequest),
    ])
}

impl Read for ConsistentHash {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        fields.exclusive(&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"]);
        fields.exclusive(&["ringHash", "maglev"]);
        let header = fields.opt("httpHeaderName").map(HashKey::HttpHeader);
        let cookie = fields.opt::<HashCookie>("httpCookie").map(|cookie| cookie.0);
        let source = fields.opt("useSourceIp").filter(|hashed: &bool| *hashed).map(|_| HashKey::SourceIp);
        let query = fields.opt("httpQueryParameterName").map(HashKey::HttpQueryParameter);
        let old_size = fields.opt("minimumRingSize").filter(|size: &u64| *size != 0);
        let ring = fields.with("ringHash", |node| sized(node, "minimumRingSize"));
        let maglev = fields.with("maglev", |node| sized(node, "tableSize"));
        fields.finish();
        Some(Self {
            key: header.or(cookie).or(source).or(query),
            algorithm: match maglev {
                Some(table_size) => HashAlgorithm::Maglev { table_size },
                None => HashAlgorithm::RingHash { minimum_ring_size: ring.filter(|size| *size != 0).or(old_size).unwrap_or(1024) },
            },
        })
    }
}

fn sized(node: Node<'_>, name: &'static str) -> Option<u64> {
    let fields = node.fields()?;
    let size = fields.get(name);
    fields.finish();
    Some(size)
}

struct HashCookie(HashKey);

impl Read for HashCookie {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        if !fields.has("name") {
            fields.error("name is missing");
        }
        let cookie = HashKey::HttpCookie {
            name: fields.get("name"),
            path: fields.get("path"),
            ttl: fields.opt("ttl"),
            attributes: fields.get::<Vec<NameValue>>("attributes").into_iter().map(|NameValue(name, value)| (name, value)).collect(),
        };
        fields.finish();
        Some(Self(cookie))
    }
}

struct NameValue(SmolStr, SmolStr);

impl Read for NameValue {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let both = Self(fields.get("name"), fields.get("value"));
        fields.finish();
        Some(both)
    }
}

impl Read for LocalityLb {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            distribute: fields.get("distribute"),
            failover: fields.get::<Vec<Failover>>("failover").into_iter().map(|Failover(from, to)| (from, to)).collect(),
            failover_priority: fields.get("failoverPriority"),
            enabled: fields.opt("enabled"),
        })
    }
}

impl Read for LocalityDistribute {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { from: fields.get("from"), to: fields.entries("to") })
    }
}

struct Failover(SmolStr, SmolStr);

impl Read for Failover {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let both = Self(fields.get("from"), fields.get("to"));
        fields.finish();
        Some(both)
    }
}

impl Read for ConnectionPool {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { tcp: fields.opt("tcp"), http: fields.opt("http") })
    }
}

impl Read for TcpSettings {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            max_connections: count(fields, "maxConnections"),
            connect_timeout: fields.opt("connectTimeout"),
            tcp_keepalive: fields.opt("tcpKeepalive"),
            max_connection_duration: fields.opt("maxConnectionDuration"),
            idle_timeout: fields.opt("idleTimeout"),
        })
    }
}

impl Read for TcpKeepalive {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { probes: fields.get("probes"), time: fields.opt("time"), interval: fields.opt("interval") })
    }
}

impl Read for HttpSettings {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.unsupported("http2KeepAlive");
            let policies = [
                ("DEFAULT", H2UpgradePolicy::Default),
                ("DO_NOT_UPGRADE", H2UpgradePolicy::DoNotUpgrade),
                ("UPGRADE", H2UpgradePolicy::Upgrade),
            ];
            Self {
                http1_max_pending_requests: count(fields, "http1MaxPendingRequests"),
                http2_max_requests: count(fields, "http2MaxRequests"),
                max_requests_per_connection: count(fields, "maxRequestsPerConnection"),
                max_retries: count(fields, "maxRetries"),
                idle_timeout: fields.opt("idleTimeout"),
                h2_upgrade_policy: fields.with("h2UpgradePolicy", |node| node.one_of(&policies)).unwrap_or_default(),
                use_client_protocol: fields.get("useClientProtocol"),
                max_concurrent_streams: count(fields, "maxConcurrentStreams"),
            }
        })
    }
}

/// Reads a signed number that must not be negative.
fn count(fields: &Fields<'_>, name: &'static str) -> u32 {
    let number: i32 = fields.get(name);
    if number < 0 {
        fields.refuse(name, format!("must not be negative, is {number}"));
    }
    number.max(0).unsigned_abs()
}

impl Read for OutlierDetection {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.unsupported("outlierDetectionHttpErrorCodes");
            if fields.has("consecutiveErrors") {
                fields.opt::<i32>("consecutiveErrors");
                fields
                    .warn("consecutiveErrors", "has no effect (nor has it in Istio): use consecutive5xxErrors or consecutiveGatewayErrors");
            }
            Self {
                split_external_local_origin_errors: fields.get("splitExternalLocalOriginErrors"),
                consecutive_local_origin_failures: fields.opt("consecutiveLocalOriginFailures"),
                consecutive_gateway_errors: fields.opt("consecutiveGatewayErrors"),
                consecutive_5xx_errors: fields.opt("consecutive5xxErrors"),
                interval: fields.opt("interval"),
                base_ejection_time: fields.opt("baseEjectionTime"),
                max_ejection_percent: count(fields, "maxEjectionPercent"),
                min_health_percent: count(fields, "minHealthPercent"),
            }
        })
    }
}

impl Read for ClientTls {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            mode: fields.with("mode", client_tls_mode).unwrap_or_default(),
            sni: fields.get("sni"),
            subject_alt_names: fields.get("subjectAltNames"),
            client_certificate: fields.get("clientCertificate"),
            private_key: fields.get("privateKey"),
            ca_certificates: fields.get("caCertificates"),
            ca_crl: fields.get("caCrl"),
            credential_name: fields.get("credentialName"),
            insecure_skip_verify: fields.get("insecureSkipVerify"),
            checks_of_servers: checks_of_servers(fields),
            refused: false,
        })
    }
}

/// Reads `tls.mode` of a client.
pub(super) fn client_tls_mode(node: Node<'_>) -> Option<ClientTlsMode> {
    node.one_of(&[
        ("DISABLE", ClientTlsMode::Disable),
        ("SIMPLE", ClientTlsMode::Simple),
        ("MUTUAL", ClientTlsMode::Mutual),
        ("ISTIO_MUTUAL", ClientTlsMode::IstioMutual),
    ])
}

/// Returns those fields that Istio has at servers alone. Passed over as unknown, they would leave less verified than was
/// asked for.
fn checks_of_servers(fields: &Fields<'_>) -> Vec<&'static str> {
    let checks = ["verifyCertificateSpki", "verifyCertificateHash", "caCertCredentialName"];
    let given = checks.into_iter().filter(|name| fields.has(name));
    given.inspect(|name| fields.pass(name)).collect()
}
