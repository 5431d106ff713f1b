//! Reads `extensionProviders` of MeshConfig. What one of them must not be refuses the MeshConfig, as Istio's validation does; where
//! Istio takes a provider and then denies what would be asked of it, it is not among those that there are.

pub(super) mod access_log;
mod tracer;

use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::{
    extension_provider::{ExtAuthz, ExtAuthzProtocol, ExtensionProvider, HttpCheck, Provider, ProviderService, RequestBody},
    validate::added_header,
};

/// The kinds that are not applied.
const WITHOUT_EFFECT: [&str; 6] = ["lightstep", "datadog", "stackdriver", "opencensus", "skywalking", "sds"];
/// The kinds that are.
const APPLIED: [&str; 9] = [
    "envoyExtAuthzHttp",
    "envoyExtAuthzGrpc",
    "envoyFileAccessLog",
    "envoyHttpAls",
    "envoyTcpAls",
    "envoyOtelAls",
    "zipkin",
    "opentelemetry",
    "prometheus",
];
const LONGEST_NAME: usize = 63;

/// The statuses that Envoy may be told to answer with.
const STATUSES: [std::ops::RangeInclusive<u16>; 12] =
    [100..=100, 200..=208, 226..=226, 300..=305, 307..=308, 400..=417, 421..=424, 426..=426, 428..=429, 431..=431, 500..=508, 510..=511];

/// Reads the whole list.
pub(super) fn providers(fields: &Fields<'_>) -> Vec<ExtensionProvider> {
    fields
        .with("extensionProviders", |node| {
            let read: Vec<ExtensionProvider> = Vec::read(node)?;
            let mut names: Vec<&SmolStr> = read.iter().map(|provider| &provider.name).collect();
            names.sort_unstable();
            if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                node.error(format!("has two of the name {:?}", twice[0]));
            }
            Some(read)
        })
        .unwrap_or_default()
}

impl Read for ExtensionProvider {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let name: SmolStr = fields.get("name");
            if name.is_empty() {
                fields.refuse("name", "is missing");
            }
            for kind in WITHOUT_EFFECT {
                fields.unsupported(kind);
            }
            fields.exclusive(&APPLIED);
            let provider = provider(fields, &name);
            Self { name, provider }
        })
    }
}

fn provider(fields: &Fields<'_>, name: &str) -> Option<Provider> {
    let other = |field: &'static str, read: fn(&Fields<'_>) -> Provider| fields.with(field, |node| node.message(read));
    ext_authz(fields, name)
        .or_else(|| other("envoyFileAccessLog", |fields| Provider::FileAccessLog(access_log::file(fields))))
        .or_else(|| other("envoyHttpAls", |fields| Provider::GrpcAccessLog(access_log::http_stream(fields))))
        .or_else(|| other("envoyTcpAls", |fields| Provider::GrpcAccessLog(access_log::tcp_stream(fields))))
        .or_else(|| other("envoyOtelAls", |fields| Provider::OtelAccessLog(access_log::otel(fields))))
        .or_else(|| other("zipkin", |fields| Provider::Zipkin(tracer::zipkin(fields))))
        .or_else(|| other("opentelemetry", |fields| Provider::OpenTelemetry(tracer::open_telemetry(fields))))
        .or_else(|| other("prometheus", |_| Provider::Prometheus))
}

fn ext_authz(fields: &Fields<'_>, name: &str) -> Option<Provider> {
    let http = fields.with("envoyExtAuthzHttp", |node| node.message(of_http)).flatten();
    let grpc = fields.with("envoyExtAuthzGrpc", |node| node.message(of_grpc)).flatten();
    let ext_authz = http.or(grpc)?;
    if !is_name(name) {
        fields.warn("name", format!("must have lowercase letters, digits and hyphens only, at most {LONGEST_NAME}: {DENIED}"));
        return None;
    }
    Some(Provider::ExtAuthz(ext_authz))
}

const DENIED: &str = "what a policy would ask of it is denied";

/// Returns whether the name can be part of the names of policies, by which proxies tell whom to ask.
fn is_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    letters && name.len() <= LONGEST_NAME && !name.starts_with('-') && !name.ends_with('-')
}

fn of_grpc(fields: &Fields<'_>) -> Option<ExtAuthz> {
    Some(of_either(fields, ExtAuthzProtocol::Grpc))
}

fn of_http(fields: &Fields<'_>) -> Option<ExtAuthz> {
    let path_prefix: SmolStr = fields.get("pathPrefix");
    if !path_prefix.is_empty() && (!path_prefix.starts_with('/') || path_prefix.chars().any(char::is_control)) {
        fields.refuse("pathPrefix", format!("must be a path that begins with a slash, is {path_prefix:?}"));
    }
    let older: Vec<SmolStr> = fields.get("includeHeadersInCheck");
    let request_headers = fields.nonempty("includeRequestHeadersInCheck").unwrap_or(older);
    let check = HttpCheck {
        path_prefix,
        request_headers,
        additional_headers: fields.entries("includeAdditionalHeadersInCheck"),
        to_upstream_on_allow: fields.get("headersToUpstreamOnAllow"),
        to_downstream_on_deny: fields.get("headersToDownstreamOnDeny"),
        to_downstream_on_allow: fields.get("headersToDownstreamOnAllow"),
    };
    for (name, value) in &check.additional_headers {
        if let Err(why) = added_header(name, value) {
            fields.refuse("includeAdditionalHeadersInCheck", why);
        }
    }
    let everything = [
        ("includeRequestHeadersInCheck", &check.request_headers),
        ("headersToUpstreamOnAllow", &check.to_upstream_on_allow),
        ("headersToDownstreamOnDeny", &check.to_downstream_on_deny),
        ("headersToDownstreamOnAllow", &check.to_downstream_on_allow),
    ];
    let wildcard = everything.into_iter().find(|(_, patterns)| patterns.iter().any(|pattern| pattern == "*"));
    let read = of_either(fields, ExtAuthzProtocol::Http(check.clone()));
    match wildcard {
        None => Some(read),
        Some((name, _)) => {
            fields.warn(name, format!("\"*\" alone is not possible: write the beginning or the end of names; until then {DENIED}"));
            None
        }
    }
}

fn of_either(fields: &Fields<'_>, protocol: ExtAuthzProtocol) -> ExtAuthz {
    let ProviderService { service, port } = server(fields);
    ExtAuthz {
        service,
        port,
        timeout: fields.opt("timeout"),
        fail_open: fields.get("failOpen"),
        clear_route_cache: fields.get("clearRouteCache"),
        status_on_error: status(fields),
        body: fields.with("includeRequestBodyInCheck", |node| node.message(body)).flatten(),
        protocol,
    }
}

/// Reads `service` and `port`.
fn server(fields: &Fields<'_>) -> ProviderService {
    let read = ProviderService { service: fields.get("service"), port: fields.get("port") };
    if read.service.is_empty() {
        fields.refuse("service", "is missing: write the host of a service, or namespace/host");
    }
    if read.port == 0 {
        fields.refuse("port", "must be a port from 1 to 65535");
    }
    read
}

fn status(fields: &Fields<'_>) -> Option<u16> {
    let written: SmolStr = fields.nonempty("statusOnError")?;
    let status = written.parse().ok().filter(|status| STATUSES.iter().any(|known| known.contains(status)));
    if status.is_none() {
        fields.refuse("statusOnError", format!("must be a status of HTTP that Envoy knows, such as \"503\", is {written:?}"));
    }
    status
}

fn body(fields: &Fields<'_>) -> Option<RequestBody> {
    let read = RequestBody {
        max_bytes: fields.get("maxRequestBytes"),
        partial: fields.get("allowPartialMessage"),
        as_bytes: fields.get("packAsBytes"),
    };
    if read.max_bytes == 0 {
        fields.refuse("maxRequestBytes", "must be 1 or more");
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        findings::{Findings, Path},
        yaml,
    };

    fn read(text: &str) -> (Vec<ExtensionProvider>, Vec<String>) {
        let value = yaml::document(yaml::Document { lines_before: 0, text }).unwrap();
        let findings = Findings::default();
        let fields = Node { value: &value, path: Path::Root, findings: &findings }.fields().unwrap();
        let read = providers(&fields);
        fields.finish();
        (read, findings.into_vec().iter().map(ToString::to_string).collect())
    }

    fn said(provider: &str) -> Vec<String> {
        read(&format!("extensionProviders: [{provider}]")).1
    }

    #[test]
    fn each_field_is_read() {
        let (providers, said) = read(
            "extensionProviders: [{name: a-1, envoyExtAuthzHttp: {service: foo/a.foo.svc, port: 80, timeout: 5s, failOpen: true, \
             clearRouteCache: true, statusOnError: '503', includeRequestBodyInCheck: {maxRequestBytes: 7, allowPartialMessage: true, \
             packAsBytes: true}, pathPrefix: /check, includeHeadersInCheck: [old], includeRequestHeadersInCheck: [x-*], \
             includeAdditionalHeadersInCheck: {b: '2', a: '1'}, headersToUpstreamOnAllow: [up], headersToDownstreamOnDeny: ['*-deny'], \
             headersToDownstreamOnAllow: [down]}}, {name: b, envoyExtAuthzGrpc: {service: b.svc, port: 9000}}, {name: Z, datadog: {}}]",
        );
        assert_eq!(said, ["warning: extensionProviders[2].datadog: field datadog is not supported yet and has no effect"]);
        let [http, grpc, other] = &providers[..] else { panic!("{providers:?}") };
        let names = |names: &[&str]| names.iter().map(SmolStr::new).collect::<Vec<_>>();
        let expected = ExtAuthz {
            service: "foo/a.foo.svc".into(),
            port: 80,
            timeout: Some(std::time::Duration::from_secs(5)),
            fail_open: true,
            clear_route_cache: true,
            status_on_error: Some(503),
            body: Some(RequestBody { max_bytes: 7, partial: true, as_bytes: true }),
            protocol: ExtAuthzProtocol::Http(HttpCheck {
                path_prefix: "/check".into(),
                request_headers: names(&["x-*"]),
                additional_headers: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
                to_upstream_on_allow: names(&["up"]),
                to_downstream_on_deny: names(&["*-deny"]),
                to_downstream_on_allow: names(&["down"]),
            }),
        };
        assert_eq!(http.provider, Some(Provider::ExtAuthz(expected)));
        let Some(Provider::ExtAuthz(grpc)) = &grpc.provider else { panic!("{grpc:?}") };
        assert_eq!((&grpc.protocol, grpc.port), (&ExtAuthzProtocol::Grpc, 9000));
        assert_eq!(other.provider, None);
    }

    #[test]
    fn what_istio_refuses_is_refused() {
        for wrong in [
            "{envoyExtAuthzGrpc: {service: a.svc, port: 80}}",
            "{name: a, envoyExtAuthzGrpc: {port: 80}}",
            "{name: a, envoyExtAuthzGrpc: {service: a.svc}}",
            "{name: a, envoyExtAuthzGrpc: {service: a.svc, port: 0}}",
            "{name: a, envoyExtAuthzGrpc: {service: a.svc, port: 80, statusOnError: '0'}}",
            "{name: a, envoyExtAuthzGrpc: {service: a.svc, port: 80, statusOnError: '299'}}",
            "{name: a, envoyExtAuthzGrpc: {service: a.svc, port: 80, statusOnError: forbidden}}",
            "{name: a, envoyExtAuthzGrpc: {service: a.svc, port: 80, includeRequestBodyInCheck: {}}}",
            "{name: a, envoyExtAuthzHttp: {service: a.svc, port: 80, pathPrefix: check}}",
            r#"{name: a, envoyExtAuthzHttp: {service: a.svc, port: 80, includeAdditionalHeadersInCheck: {a: "b\r\nc: d"}}}"#,
            "{name: a, envoyExtAuthzHttp: {service: a.svc, port: 80, includeAdditionalHeadersInCheck: {'a b': c}}}",
            "{name: a, envoyExtAuthzHttp: {service: a.svc, port: 80, includeAdditionalHeadersInCheck: {a: '%B'}}}",
            "{name: a, envoyExtAuthzHttp: {service: a.svc, port: 80}, envoyExtAuthzGrpc: {service: a.svc, port: 80}}",
            "{name: a, prometheus: {}}, {name: a, envoyExtAuthzGrpc: {service: a.svc, port: 80}}",
        ] {
            let said = said(wrong);
            assert!(said.iter().any(|said| said.starts_with("error: extensionProviders")), "{wrong}: {said:?}");
        }
    }

    #[test]
    fn a_provider_that_cannot_be_asked_is_none() {
        for wrong in [
            "{name: A, envoyExtAuthzGrpc: {service: a.svc, port: 80}}",
            "{name: a-, envoyExtAuthzGrpc: {service: a.svc, port: 80}}",
            "{name: a, envoyExtAuthzHttp: {service: a.svc, port: 80, headersToUpstreamOnAllow: [x, '*']}}",
        ] {
            let (providers, said) = read(&format!("extensionProviders: [{wrong}]"));
            assert_eq!(providers[0].provider, None, "{wrong}");
            assert!(said[0].contains("what a policy would ask of it is denied"), "{said:?}");
        }
    }
}
