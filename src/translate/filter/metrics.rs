//! Istio's standard metrics of a stock Envoy: access loggers that count (`envoy.access_loggers.stats`) instead of the filter that only
//! Istio's proxy has. Names and tags are short; the agent makes Istio's of them when it is scraped ([`crate::metric_tags`]).
//!
//! All proxies of a class share the loggers, so nothing in them names a proxy.

use envoy_types::pb::envoy::{
    config::accesslog::v3::{AccessLog, AccessLogFilter, LogTypeFilter, access_log, access_log_filter::FilterSpecifier},
    data::accesslog::v3::AccessLogType,
    extensions::access_loggers::stats::v3::{
        Config,
        config::{Counter, Histogram, Stat, Tag, histogram::Unit},
    },
    r#type::v3::Scope,
};

use super::{
    Direction,
    peer_header::{METADATA_KEY, METADATA_NAMESPACE},
};
use crate::{
    mesh::{
        model::{MetricsPlan, StatsLogger},
        telemetry::SideTelemetry,
    },
    metric_tags::{DESTINATION, HOST, PEER, REQUEST, SCOPE, SERVICE, SOURCE, TCP},
    translate::wkt,
};

const LOGGER: &str = "envoy.access_loggers.stats";
/// By this name a scope is found again, whoever asks for it.
const SHARING_NAME: &str = "istio";
/// So much is counted at most by one proxy: whoever makes up names must not fill its memory. What is above is not counted.
const MOST_COUNTERS: u32 = 20_000;
const MOST_HISTOGRAMS: u32 = 3 * MOST_COUNTERS;

/// What a request is. The status of gRPC alone does not say it: a call that its client gave up has none.
const PROTOCOL: &str = concat!(
    "%CEL('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc') ",
    "? 'grpc' : 'http')%",
);
/// A logger of the end of a connection counts it as opened only if the one of its beginning did not: there was nobody to connect to.
const NEVER_CONNECTED: &str = "%CEL(has(upstream.local_address) ? 0 : 1)%";
/// The longest text of a workload that is read.
const LONGEST_PEER: usize = 512;

/// Returns the logger of requests, if they are reported there: of those metrics that Telemetry objects leave.
pub(super) fn of_requests(plan: MetricsPlan, direction: Direction, reports: &SideTelemetry) -> Option<AccessLog> {
    let side = Side::of(plan, direction)?;
    let tags = side.http_tags(direction);
    let stat = |name: &str| Some(Stat { name: name.into(), tags: tags.clone() });
    let bytes = |name, format| Histogram { stat: stat(name), unit: Unit::Bytes.into(), value_format: format };
    let config = Config {
        counters: vec![Counter { stat: stat("requests_total"), value_fixed: wkt::uint64(1), ..Default::default() }],
        histograms: vec![
            Histogram { stat: stat("request_duration_milliseconds"), unit: Unit::Milliseconds.into(), value_format: "%DURATION%".into() },
            bytes("request_bytes", "%DOWNSTREAM_WIRE_BYTES_RECEIVED%".into()),
            bytes("response_bytes", "%DOWNSTREAM_WIRE_BYTES_SENT%".into()),
        ],
        ..scoped(plan.logger)
    };
    kept(config, reports).map(|config| logger(&config, None))
}

/// Returns the loggers of connections that are not looked into. They need an entry for the moment at which a connection is passed on
/// as well as for its end.
pub(super) fn of_connections(plan: MetricsPlan, direction: Direction, reports: &SideTelemetry) -> Vec<AccessLog> {
    let Some(side) = Side::of(plan, direction) else { return Vec::new() };
    let tags = side.tcp_tags();
    let counter = |name: &str| Counter { stat: Some(Stat { name: name.into(), tags: tags.clone() }), ..Default::default() };
    let one = |name| Counter { value_fixed: wkt::uint64(1), ..counter(name) };
    let read = |name, format: &str| Counter { value_format: format.into(), ..counter(name) };
    let begun = Config { counters: vec![one("tcp_connections_opened_total")], ..scoped(plan.logger) };
    let ended = Config {
        counters: vec![
            read("tcp_connections_opened_total", NEVER_CONNECTED),
            one("tcp_connections_closed_total"),
            read("tcp_sent_bytes_total", "%DOWNSTREAM_WIRE_BYTES_SENT%"),
            read("tcp_received_bytes_total", "%DOWNSTREAM_WIRE_BYTES_RECEIVED%"),
        ],
        ..scoped(plan.logger)
    };
    let loggers = [(begun, AccessLogType::TcpUpstreamConnected), (ended, AccessLogType::TcpConnectionEnd)];
    loggers.into_iter().filter_map(|(config, entry)| Some(logger(&kept(config, reports)?, Some(entry)))).collect()
}

/// Returns a logger of what is reported of its metrics; `None`: nothing.
fn kept(mut config: Config, reports: &SideTelemetry) -> Option<Config> {
    let is_kept = |stat: &Option<Stat>| stat.as_ref().is_some_and(|stat| reports.counts(&stat.name));
    config.counters.retain(|counter| is_kept(&counter.stat));
    config.histograms.retain(|histogram| is_kept(&histogram.stat));
    (!config.counters.is_empty() || !config.histograms.is_empty()).then_some(config)
}

/// Returns a filter for the entries of one type.
pub(super) fn only(entry: AccessLogType) -> AccessLogFilter {
    let types = LogTypeFilter { types: vec![entry.into()], ..Default::default() };
    AccessLogFilter { filter_specifier: Some(FilterSpecifier::LogTypeFilter(types)) }
}

/// Who reports.
enum Side {
    Client,
    Server,
}

impl Side {
    fn of(plan: MetricsPlan, direction: Direction) -> Option<Self> {
        match direction {
            Direction::Outbound | Direction::Gateway => plan.client.then_some(Self::Client),
            Direction::Inbound => plan.server.then_some(Self::Server),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Client => SOURCE,
            Self::Server => DESTINATION,
        }
    }

    fn peer_identity(&self) -> &'static str {
        match self {
            Self::Client => "%UPSTREAM_PEER_URI_SAN%",
            Self::Server => "%DOWNSTREAM_PEER_URI_SAN%",
        }
    }

    fn http_tags(&self, direction: Direction) -> Vec<Tag> {
        let (name, identity) = (self.name(), self.peer_identity());
        let peer = match self {
            Self::Client => UPSTREAM_WORKLOAD.into(),
            Self::Server => format!("%DYNAMIC_METADATA({METADATA_NAMESPACE}:{METADATA_KEY}):{LONGEST_PEER}%"),
        };
        // Anybody may ask a gateway or a server for any host.
        let host = match direction {
            Direction::Outbound => coalesce(&[("CLUSTER_METADATA", Some("istio:host")), ("REQ", Some(":AUTHORITY"))]),
            Direction::Gateway | Direction::Inbound => CLUSTER_HOST.into(),
        };
        let service = [("CLUSTER_METADATA", Some("istio:service")), ("UPSTREAM_CLUSTER_RAW", None), ("ROUTE_NAME", None)];
        vec![
            tag(REQUEST, format!("{name};{PROTOCOL};%RESPONSE_FLAGS%;{identity};%RESPONSE_CODE%;%GRPC_STATUS_NUMBER%")),
            tag(PEER, peer),
            tag(SERVICE, coalesce(&service)),
            tag(HOST, host),
        ]
    }

    // What a client says of itself comes in a header of HTTP.
    fn tcp_tags(&self) -> Vec<Tag> {
        let (name, identity) = (self.name(), self.peer_identity());
        let service = [("CLUSTER_METADATA", Some("istio:service")), ("UPSTREAM_CLUSTER_RAW", None)];
        let request = tag(REQUEST, format!("{name};{TCP};%RESPONSE_FLAGS%;{identity}"));
        let peer = matches!(self, Self::Client).then(|| tag(PEER, UPSTREAM_WORKLOAD.into()));
        let service = [tag(SERVICE, coalesce(&service)), tag(HOST, CLUSTER_HOST.into())];
        std::iter::once(request).chain(peer).chain(service).collect()
    }
}

const UPSTREAM_WORKLOAD: &str = "%UPSTREAM_METADATA(istio:workload)%";
const CLUSTER_HOST: &str = "%CLUSTER_METADATA(istio:host)%";

fn tag(name: &str, value_format: String) -> Tag {
    Tag { name: name.into(), value_format, ..Default::default() }
}

/// Returns what prints the first of several commands that has something to print.
fn coalesce(commands: &[(&str, Option<&str>)]) -> String {
    let operator = |(command, parameter): &(&str, Option<&str>)| match parameter {
        Some(parameter) => format!(r#"{{"command":"{command}","param":"{parameter}"}}"#),
        None => format!(r#"{{"command":"{command}"}}"#),
    };
    let operators = commands.iter().map(operator).collect::<Vec<_>>().join(",");
    format!(r#"%COALESCE({{"operators":[{operators}]}})%"#)
}

// Envoy 1.40 has another field for the prefix, and takes the one of before.
#[allow(deprecated)]
fn scoped(logger: StatsLogger) -> Config {
    match logger {
        StatsLogger::Prefix => Config { stat_prefix: SCOPE.into(), ..Default::default() },
        StatsLogger::SharedScope => {
            let scope = Scope {
                prefix: SCOPE.into(),
                sharing_name: SHARING_NAME.into(),
                max_counters: wkt::uint32(MOST_COUNTERS),
                max_histograms: wkt::uint32(MOST_HISTOGRAMS),
                ..Default::default()
            };
            Config { stats_scope: Some(scope), ..Default::default() }
        }
    }
}

fn logger(config: &Config, entry: Option<AccessLogType>) -> AccessLog {
    AccessLog { name: LOGGER.into(), filter: entry.map(only), config_type: Some(access_log::ConfigType::TypedConfig(wkt::any(config))) }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::mesh::telemetry::{MetricOverride, ReportedMetrics};

    const ALL: MetricsPlan = MetricsPlan { client: true, server: true, peers: true, logger: StatsLogger::SharedScope };

    fn of_requests(plan: MetricsPlan, direction: Direction) -> Option<AccessLog> {
        super::of_requests(plan, direction, &without(&[]))
    }

    fn of_connections(plan: MetricsPlan, direction: Direction) -> Vec<AccessLog> {
        super::of_connections(plan, direction, &without(&[]))
    }

    fn without(disabled: &[&str]) -> SideTelemetry {
        let off = MetricOverride { disabled: true, ..MetricOverride::default() };
        let overrides = disabled.iter().map(|name| ((*name).into(), off.clone())).collect();
        let metrics = vec![ReportedMetrics { overrides, reporting_interval: None }];
        SideTelemetry { metrics, ..SideTelemetry::default() }
    }

    #[test]
    fn what_telemetry_takes_away_is_not_counted() {
        let direction = Direction::Inbound;
        assert!(super::of_requests(ALL, direction, &SideTelemetry::default()).is_none());
        assert!(super::of_connections(ALL, direction, &SideTelemetry::default()).is_empty());
        let config = decoded(&super::of_requests(ALL, direction, &without(&["REQUEST_COUNT", "REQUEST_SIZE"])).unwrap());
        assert_eq!((config.counters.len(), config.histograms.len()), (0, 2));
        let ended = &without(&["TCP_OPENED_CONNECTIONS"]);
        assert_eq!(super::of_connections(ALL, direction, ended).len(), 1);
    }

    fn decoded(log: &AccessLog) -> Config {
        let Some(access_log::ConfigType::TypedConfig(any)) = &log.config_type else { panic!("no configuration") };
        Config::decode(any.value.as_slice()).unwrap()
    }

    fn tags(log: &AccessLog) -> Vec<(String, String)> {
        let stat = decoded(log).counters.remove(0).stat.unwrap();
        stat.tags.into_iter().map(|tag| (tag.name, tag.value_format)).collect()
    }

    #[test]
    fn each_side_is_reported_where_it_is_asked_for() {
        let count = |plan| {
            [Direction::Outbound, Direction::Inbound, Direction::Gateway]
                .map(|direction| (of_requests(plan, direction).is_some(), of_connections(plan, direction).len()))
        };
        let (some, none) = ((true, 2), (false, 0));
        assert_eq!(count(MetricsPlan::default()), [none, none, none]);
        assert_eq!(count(MetricsPlan { server: false, ..ALL }), [some, none, some]);
        assert_eq!(count(MetricsPlan { client: false, ..ALL }), [none, some, none]);
    }

    #[test]
    fn only_a_sidecars_own_application_names_hosts() {
        let host = |direction| tags(&of_requests(ALL, direction).unwrap()).pop().unwrap().1;
        assert!(host(Direction::Outbound).contains(":AUTHORITY"));
        for direction in [Direction::Inbound, Direction::Gateway] {
            assert_eq!(host(direction), CLUSTER_HOST);
        }
    }

    #[test]
    fn all_metrics_of_a_logger_have_the_same_tags() {
        let config = decoded(&of_requests(ALL, Direction::Inbound).unwrap());
        let stats: Vec<Stat> = config.counters.into_iter().filter_map(|counter| counter.stat).collect();
        let others = config.histograms.into_iter().filter_map(|histogram| histogram.stat);
        assert!(others.chain(stats.iter().cloned()).all(|stat| stat.tags == stats[0].tags));
        let [begun, ended] = &of_connections(ALL, Direction::Inbound)[..] else { panic!("two loggers") };
        assert_eq!(tags(begun), tags(ended), "what is opened is closed under the same labels");
        assert!(tags(begun).iter().all(|(name, _)| name != PEER), "nothing tells a server's TCP of its client");
    }

    #[test]
    fn older_envoys_get_the_prefix_alone() {
        let of = |logger| decoded(&of_requests(MetricsPlan { logger, ..ALL }, Direction::Outbound).unwrap());
        assert!(of(StatsLogger::Prefix).stats_scope.is_none() && of(StatsLogger::SharedScope).stats_scope.is_some());
    }
}
