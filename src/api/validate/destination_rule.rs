//! Rules for DestinationRule and TrafficPolicy.

use super::{
    Check,
    http_route::PSEUDO_HEADERS,
    repeated::repeated,
    text::{LONGEST_HEADER, is_dns_label, is_header_name},
};
use crate::api::{
    findings::Path,
    istio::{
        ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, H2UpgradePolicy, HashAlgorithm, HashKey, LoadBalancer, OutlierDetection,
        TrafficPolicy,
    },
};

/// Every port of the host has a cluster for each subset, and of a wildcard, every port of every service that it covers.
const MOST_SUBSETS: usize = 1000;
const MOST_SUBSETS_OF_WILDCARD: usize = 20;

// Envoy's limits.
const LARGEST_MAGLEV_TABLE: u64 = 5_000_011;
const LARGEST_RING: u64 = 8 << 20;
const LONGEST_SNI: usize = 255;

/// Begins the name of a ConfigMap.
const CONFIG_MAP: &str = "configmap://";

impl Check<'_> {
    pub(super) fn destination_rule(self, rule: &DestinationRule, at: &Path<'_>) {
        self.wildcard_host(&rule.host, &at.field("host"));
        if let Some(policy) = &rule.traffic_policy {
            self.traffic_policy(policy, &at.field("trafficPolicy"));
        }
        let subsets = at.field("subsets");
        let most = if rule.host.starts_with('*') { MOST_SUBSETS_OF_WILDCARD } else { MOST_SUBSETS };
        if rule.subsets.len() > most {
            let what = if rule.host.starts_with('*') { "a rule for a wildcard" } else { "a rule" };
            self.error(
                &subsets,
                format!(
                    "are {}, more than the {most} that {what} may have: each port of each service of the host gets as many clusters",
                    rule.subsets.len()
                ),
            );
        }
        let has_name_again = repeated(rule.subsets.iter().map(|subset| &subset.name));
        for ((index, subset), has_name_again) in rule.subsets.iter().enumerate().zip(has_name_again) {
            let at = subsets.index(index);
            if !is_dns_label(&subset.name) {
                self.error(&at.field("name"), format!("must be letters, digits and - (at most 63), is {:?}", subset.name));
            }
            if has_name_again {
                self.error(&at.field("name"), format!("{} is given twice", subset.name));
            }
            self.labels(&subset.labels, &at.field("labels"));
            if let Some(policy) = &subset.traffic_policy {
                self.traffic_policy(policy, &at.field("trafficPolicy"));
            }
        }
        self.locality_settings(rule, at);
        if rule.workload_selector.is_none() {
            self.secrets(rule.traffic_policy.as_deref(), &at.field("trafficPolicy"));
            for (index, subset) in rule.subsets.iter().enumerate() {
                self.secrets(subset.traffic_policy.as_deref(), &subsets.index(index).field("trafficPolicy"));
            }
        }
        let export_to = at.field("exportTo");
        self.export_to(&rule.export_to, false, &export_to);
        if let Some(selector) = &rule.workload_selector {
            self.selector(selector, &at.field("workloadSelector").field("matchLabels"));
            if rule.export_to.iter().any(|target| target != "." && *target != self.object.namespace) {
                self.error(&export_to, "a rule with a workloadSelector is for its own namespace only");
            }
        }
    }

    // All sidecars that see the rule would ask for the Secret, each in its own namespace.
    fn secrets(self, policy: Option<&TrafficPolicy>, at: &Path<'_>) {
        let Some(policy) = policy else { return };
        self.secret(policy.tls.as_ref(), &at.field("tls"));
        let ports = at.field("portLevelSettings");
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            self.secret(port.tls.as_ref(), &ports.index(index).field("tls"));
        }
    }

    fn secret(self, tls: Option<&ClientTls>, at: &Path<'_>) {
        let of_users = |tls: &&ClientTls| matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
        let needs_secret = |tls: &ClientTls| !tls.credential_name.is_empty() && !tls.credential_name.starts_with(CONFIG_MAP);
        if tls.filter(of_users).is_some_and(needs_secret) {
            self.warning(
                &at.field("credentialName"),
                "is for gateways only, and sidecars do not connect: they are given Secrets by a rule with workloadSelector",
            );
        }
    }

    fn traffic_policy(self, policy: &TrafficPolicy, at: &Path<'_>) {
        if *policy == TrafficPolicy::default() {
            self.warning(at, "says nothing");
        }
        self.pool(policy.connection_pool.as_ref(), &at.field("connectionPool"));
        self.balancer(policy.load_balancer.as_ref(), &at.field("loadBalancer"));
        self.outliers(policy.outlier_detection.as_ref(), &at.field("outlierDetection"));
        self.client_tls(policy.tls.as_ref(), &at.field("tls"));
        let ports = at.field("portLevelSettings");
        let has_port_again = repeated(policy.port_level_settings.iter().map(|settings| settings.port));
        for ((index, port), has_port_again) in policy.port_level_settings.iter().enumerate().zip(has_port_again) {
            let at = ports.index(index);
            if has_port_again {
                self.warning(&at.field("port"), format!("has no effect: port {} has settings already", port.port));
            }
            self.pool(port.connection_pool.as_ref(), &at.field("connectionPool"));
            self.balancer(port.load_balancer.as_ref(), &at.field("loadBalancer"));
            self.outliers(port.outlier_detection.as_ref(), &at.field("outlierDetection"));
            self.client_tls(port.tls.as_ref(), &at.field("tls"));
        }
    }

    pub(super) fn pool(self, pool: Option<&ConnectionPool>, at: &Path<'_>) {
        let Some(pool) = pool else { return };
        if pool.tcp.is_none() && pool.http.is_none() {
            self.error(at, "needs tcp or http");
        }
        if let Some(tcp) = &pool.tcp {
            let at = at.field("tcp");
            self.at_least_a_millisecond(tcp.connect_timeout, &at.field("connectTimeout"));
            self.at_least_a_millisecond(tcp.max_connection_duration, &at.field("maxConnectionDuration"));
            // Zero disables it.
            self.at_least_a_millisecond(tcp.idle_timeout.filter(|timeout| !timeout.is_zero()), &at.field("idleTimeout"));
            if let Some(keepalive) = &tcp.tcp_keepalive {
                let at = at.field("tcpKeepalive");
                self.at_least_a_millisecond(keepalive.time, &at.field("time"));
                self.at_least_a_millisecond(keepalive.interval, &at.field("interval"));
            }
        }
        if let Some(http) = &pool.http {
            let at = at.field("http");
            self.at_least_a_millisecond(http.idle_timeout, &at.field("idleTimeout"));
            if http.use_client_protocol && http.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
                self.error(&at.field("useClientProtocol"), "is not possible beside h2UpgradePolicy UPGRADE");
            }
        }
    }

    fn balancer(self, balancer: Option<&LoadBalancer>, at: &Path<'_>) {
        let Some(hash) = balancer.and_then(|balancer| balancer.consistent_hash.as_ref()) else { return };
        let at = at.field("consistentHash");
        if hash.key.is_none() {
            self.error(&at, "needs httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName");
        }
        self.hash_key(hash.key.as_ref(), &at);
        match hash.algorithm {
            HashAlgorithm::Maglev { table_size } if table_size >= LARGEST_MAGLEV_TABLE || !is_prime(table_size) => {
                self.error(
                    &at.field("maglev").field("tableSize"),
                    format!("must be a prime below {LARGEST_MAGLEV_TABLE}, is {table_size}"),
                );
            }
            HashAlgorithm::RingHash { minimum_ring_size } if minimum_ring_size > LARGEST_RING => {
                self.error(
                    &at.field("ringHash").field("minimumRingSize"),
                    format!("must be at most {LARGEST_RING}, is {minimum_ring_size}"),
                );
            }
            HashAlgorithm::Maglev { .. } | HashAlgorithm::RingHash { .. } => {}
        }
    }

    /// Checks what is hashed, which becomes a part of every route to the host.
    fn hash_key(self, key: Option<&HashKey>, at: &Path<'_>) {
        match key {
            Some(HashKey::HttpHeader(name)) if !is_header_name(name) && !PSEUDO_HEADERS.contains(&name.as_str()) => {
                self.error(&at.field("httpHeaderName"), format!("{name:?} is no name of a header"));
            }
            Some(HashKey::HttpQueryParameter(name)) => {
                let at = at.field("httpQueryParameterName");
                if name.is_empty() {
                    self.error(&at, "must not be empty");
                }
                self.one_line(name, &at);
            }
            Some(HashKey::HttpCookie { name, attributes, .. }) => {
                let at = at.field("httpCookie");
                if name.is_empty() {
                    self.error(&at.field("name"), "is missing");
                }
                let at = at.field("attributes");
                for (name, value) in attributes {
                    if name.is_empty() {
                        self.error(&at, "an attribute needs a name");
                    } else if name.len().max(value.len()) > LONGEST_HEADER {
                        self.error(&at.key(name), format!("must be at most {LONGEST_HEADER} bytes"));
                    }
                    self.one_line(name, &at.key(name));
                    self.one_line(value, &at.key(name));
                }
            }
            _ => {}
        }
    }

    fn outliers(self, detection: Option<&OutlierDetection>, at: &Path<'_>) {
        let Some(detection) = detection else { return };
        self.at_least_a_millisecond(detection.interval, &at.field("interval"));
        self.at_least_a_millisecond(detection.base_ejection_time, &at.field("baseEjectionTime"));
        for (name, percent) in [("maxEjectionPercent", detection.max_ejection_percent), ("minHealthPercent", detection.min_health_percent)]
        {
            if percent > 100 {
                self.error(&at.field(name), format!("must be from 0 to 100, is {percent}"));
            }
        }
        let local = detection.consecutive_local_origin_failures.is_some_and(|failures| failures > 0);
        if local && !detection.split_external_local_origin_errors {
            self.error(&at.field("consecutiveLocalOriginFailures"), "needs splitExternalLocalOriginErrors: true");
        }
    }

    fn client_tls(self, tls: Option<&ClientTls>, at: &Path<'_>) {
        let Some(tls) = tls else { return };
        // Envoy refuses a longer one, and the cluster with it.
        if tls.sni.len() > LONGEST_SNI {
            self.error(&at.field("sni"), format!("must be at most {LONGEST_SNI} bytes long, has {}", tls.sni.len()));
        }
        self.one_line(&tls.sni, &at.field("sni"));
        let namespace = &self.object.namespace;
        if let Some(path) = tls.credential_name.strip_prefix(CONFIG_MAP)
            && path.split_once('/').is_none_or(|(of, _)| *namespace != of)
        {
            let message = format!("must be a ConfigMap of the rule's own namespace ({CONFIG_MAP}{namespace}/NAME)");
            self.error(&at.field("credentialName"), message);
        }
        self.subject_alt_names(&tls.subject_alt_names, &at.field("subjectAltNames"));
        self.few_subject_alt_names(&tls.subject_alt_names, &at.field("subjectAltNames"));
        let files =
            [("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key), ("caCertificates", &tls.ca_certificates)];
        match tls.mode {
            ClientTlsMode::Mutual if tls.credential_name.is_empty() => {
                for (name, _) in files.into_iter().take(2).filter(|(_, file)| file.is_empty()) {
                    self.error(&at.field(name), "is missing: mode MUTUAL needs it, or a credentialName");
                }
            }
            ClientTlsMode::Mutual | ClientTlsMode::Simple if !tls.credential_name.is_empty() => {
                for (name, _) in files.into_iter().filter(|(_, file)| !file.is_empty()) {
                    self.error(&at.field(name), "is not possible beside credentialName");
                }
            }
            ClientTlsMode::IstioMutual => {
                let secret = ("credentialName", &tls.credential_name);
                for (name, _) in files.into_iter().chain([secret]).filter(|(_, given)| !given.is_empty()) {
                    self.warning(&at.field(name), "has no effect with mode ISTIO_MUTUAL: the mesh has its own certificates");
                }
            }
            ClientTlsMode::Disable | ClientTlsMode::Simple | ClientTlsMode::Mutual => {}
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor: u64| !number.is_multiple_of(divisor))
}
