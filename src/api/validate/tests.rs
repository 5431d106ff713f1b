use crate::api::{Diagnostic, parse, yaml};

/// Returns what is said about a specification of a kind, without the name of the object.
fn said(kind: &str, spec: &str) -> Vec<String> {
    let group = if ["PeerAuthentication", "AuthorizationPolicy"].contains(&kind) { "security" } else { "networking" };
    let spec = spec.trim_end().replace('\n', "\n  ");
    let text = format!("apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: ns}}\nspec:\n  {spec}\n");
    let document = yaml::document(yaml::Document { lines_before: 0, text: &text }).unwrap();
    let parsed = parse(&document, &"Kubernetes".into());
    let refused = parsed.diagnostics.iter().any(|finding| finding.severity == crate::api::Severity::Error);
    assert_eq!(parsed.objects.is_empty(), refused, "an object is refused when, and only when, there is an error");
    let bare = |finding: &Diagnostic| match &finding.object {
        Some(object) => finding.to_string().replace(&format!("{object} "), ""),
        None => finding.to_string(),
    };
    parsed.diagnostics.iter().map(bare).collect()
}

fn table(kind: &str, rows: &[(&str, &[&str])]) {
    for (spec, expected) in rows {
        assert_eq!(said(kind, spec), *expected, "{spec}");
    }
}

const TO: &str = "route: [{destination: {host: a}}]";

#[test]
fn virtual_services() {
    let route = |settings: &str| format!("hosts: [a]\nhttp:\n- {{{TO}, {settings}}}");
    let rows: &[(&str, &[&str])] = &[
        (&route("timeout: 0s"), &[]),
        (&route("timeout: 10us"), &["error: spec.http[0].timeout: must be 1ms or more"]),
        (
            &route("redirect: {redirectCode: 200, uri: /x}"),
            &["error: spec.http[0].redirect.redirectCode: must be 301, 302, 303, 307 or 308, is 200"],
        ),
        (&route("redirect: {redirectCode: 0, uri: /x}"), &["error: spec.http[0]: only one of route, redirect may be set"]),
        (
            "hosts: [a]\nhttp: [{directResponse: {status: 600}}, {redirect: {uri: \"/a\\nb\", authority: \"a\\r\"}}]",
            &[
                "error: spec.http[0].directResponse.status: must be from 200 to 599, is 600",
                "error: spec.http[1].redirect.uri: must be one line",
                "error: spec.http[1].redirect.authority: must be one line",
            ],
        ),
        (
            &route("rewrite: {uriRegexRewrite: {match: a, rewrite: \"b\\n\"}}, fault: {abort: {httpStatus: 600}}"),
            &[
                "error: spec.http[0].rewrite.uriRegexRewrite.rewrite: must be one line",
                "error: spec.http[0].fault.abort.httpStatus: must be from 200 to 599, is 600",
            ],
        ),
        (
            &route("match: [{queryParams: {'': {exact: x}}}]"),
            &[r#"error: spec.http[0].match[0].queryParams[""]: a query parameter needs a name of at most 1024 bytes"#],
        ),
        (
            &route(&format!("headers: {{request: {{set: {{a: {}}}}}}}", "x".repeat(16385))),
            &[r#"error: spec.http[0].headers.request.set["a"]: has 16385 bytes, more than the 16384 that are possible"#],
        ),
        (
            &{
                let headers = |prefix: &str| (0..501).map(|n| format!("{prefix}{n}: x")).collect::<Vec<_>>().join(", ");
                let of_destination = format!("route: [{{destination: {{host: a}}, headers: {{request: {{add: {{{}}}}}}}}}]", headers("a"));
                format!("hosts: [a]\nhttp: [{{{of_destination}, headers: {{request: {{set: {{{}}}}}}}}}]", headers("b"))
            },
            &["error: spec.http[0]: sets or adds more than the 1000 headers that are possible"],
        ),
        (
            &route("retries: {attempts: -1, retryOn: '5xx,503,nonsense'}"),
            &[
                "error: spec.http[0].retries.attempts: must not be negative, is -1",
                r#"error: spec.http[0].retries.retryOn: unknown condition "nonsense""#,
            ],
        ),
        (
            &route("retries: {attempts: 0, perTryTimeout: 1s}"),
            &["error: spec.http[0].retries.attempts: is 0, which means no retries: other settings are not possible then"],
        ),
        (&route("retries: {attempts: 0}"), &[]),
        (&route("match: [{uri: {prefix: ''}}]"), &[]),
        (&route("match: [{method: {prefix: ''}}]"), &["error: spec.http[0].match[0].method.prefix: must not be empty"]),
        (&route("match: [{headers: {a: {regex: '*'}}}]"), &[]),
        (
            &route("match: [{uri: {regex: '(?=x)'}}]"),
            &["error: spec.http[0].match[0].uri.regex: is no RE2 expression: (?=x is not possible"],
        ),
        (
            &route("match: [{headers: {'a b': {exact: x}}, sourceNamespace: A_B}]"),
            &[
                r#"error: spec.http[0].match[0].headers["a b"]: is no name of a header"#,
                r#"error: spec.http[0].match[0].sourceNamespace: "A_B" is no namespace"#,
            ],
        ),
        (
            &route("headers: {request: {set: {':path': x, host: h}, add: {b: '50%'}}, response: {remove: [Host]}}"),
            &[
                r#"error: spec.http[0].headers.request.set[":path"]: ":path" is no name of a header that can be changed"#,
                r#"error: spec.http[0].headers.request.add["b"]: has a % that starts no command: a plain percent sign is written %%"#,
                "error: spec.http[0].headers.response.remove[0]: the authority cannot be changed here",
            ],
        ),
        (
            &route("rewrite: {authority: x}, headers: {request: {set: {host: y}}}"),
            &["error: spec.http[0]: the authority is set more than once"],
        ),
        (&route("rewrite: {}"), &["error: spec.http[0].rewrite: needs uri, uriRegexRewrite or authority"]),
        (
            &route("mirror: {host: b}, mirrors: [{destination: {host: c}}]"),
            &["error: spec.http[0]: only one of mirror, mirrors may be set"],
        ),
        (
            &route("mirror: {host: b}, mirrorPercentage: {value: 101}"),
            &["error: spec.http[0].mirrorPercentage.value: must be 0 or from 0.0001 to 100, is 101"],
        ),
        (&route("fault: {}"), &["error: spec.http[0].fault: needs delay or abort"]),
        (&route("fault: {abort: {httpStatus: 99}}"), &["error: spec.http[0].fault.abort.httpStatus: must be from 200 to 599, is 99"]),
        (
            &route("fault: {abort: {grpcStatus: SAD}}"),
            &[
                r#"error: spec.http[0].fault.abort.grpcStatus: unknown value "SAD"; known are OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED"#,
            ],
        ),
        (
            &route("corsPolicy: {allowOrigins: [{}], allowMethods: [get], maxAge: 1.5s}"),
            &[
                "error: spec.http[0].corsPolicy.allowOrigins[0]: must not be empty",
                r#"error: spec.http[0].corsPolicy.allowMethods[0]: unknown method "get""#,
                "error: spec.http[0].corsPolicy.maxAge: must be whole seconds, 1s or more",
            ],
        ),
        ("hosts: [a]", &["error: spec: needs http, tls or tcp"]),
        ("hosts: [a]\nhttp: [{}]", &["error: spec.http[0]: needs route, redirect, directResponse or delegate"]),
        (
            "hosts: [a]\nhttp: [{directResponse: {status: 100}, fault: {delay: {fixedDelay: 1s}}}]",
            &[
                "error: spec.http[0].fault: is not possible beside directResponse",
                "error: spec.http[0].directResponse.status: must be from 200 to 599, is 100",
            ],
        ),
        (
            "hosts: [a]\nhttp: [{route: [{destination: {host: a}, weight: 0}, {destination: {host: '*', subset: A_}}]}]",
            &[
                "error: spec.http[0].route: the weights of several destinations must not all be 0",
                r#"error: spec.http[0].route[1].destination.host: must be a host name, is "*""#,
                r#"error: spec.http[0].route[1].destination.subset: must be letters, digits and - (at most 63), is "A_""#,
            ],
        ),
        (
            "hosts: ['*', a.b, '*.b', A_]\ngateways: [g, ns/g/h]\nhttp: [{redirect: {uri: /x}}]\nexportTo: ['.', ns]",
            &[
                r#"error: spec.gateways[1]: must be mesh, name or namespace/name, is "ns/g/h""#,
                "error: spec.hosts[1]: a.b overlaps with *",
                "error: spec.hosts[2]: *.b overlaps with *",
                r#"error: spec.hosts[3]: must be a host name, perhaps with * as its first label, is "A_""#,
                "error: spec.exportTo[1]: ns is given twice",
            ],
        ),
        ("hosts: ['*']\nhttp: [{redirect: {uri: /x}}]", &["error: spec.hosts[0]: * is not possible in the mesh, only at gateways"]),
        (
            "gateways: [g]\nhttp: [{delegate: {name: d}}]",
            &[
                "error: spec.gateways: is not possible without hosts: the object is a delegate",
                "error: spec.http[0].delegate: a delegate cannot delegate",
            ],
        ),
        (
            &format!(
                "hosts: [a.b, '*-e.b']\ntls: [{{match: [{{sniHosts: [c.d, a.b, '*-e.b'], port: 443}}], {TO}}}, {{{TO}}}]\ntcp: [{{match: [{{destinationSubnets: [10.0.0.0/33]}}], {TO}}}]"
            ),
            &[
                "error: spec.tls[0].match[0].sniHosts[0]: c.d is not among the hosts of the object",
                r#"error: spec.tls[0].match[0].sniHosts[2]: must be a name, or a wildcard that is a whole label (*.example.com), is "*-e.b""#,
                "error: spec.tls[1].match: must not be empty",
                r#"error: spec.tcp[0].match[0].destinationSubnets[0]: must be an IP address or a network such as 10.0.0.0/8, is "10.0.0.0/33""#,
            ],
        ),
        (
            &format!(
                "hosts: [a]\nhttp: [{{match: [{{uri: {{exact: /x}}}}], {TO}}}, {{match: [{{name: n, uri: {{exact: /x}}}}], {TO}}}, {{{TO}}}, {{{TO}}}]"
            ),
            &["warning: spec.http[1].match[0]: has no effect: http[0].match[0] takes the same requests first"],
        ),
    ];
    table("VirtualService", rows);
}

#[test]
fn matches_that_come_again() {
    let http = |matches: &[&str]| {
        let routes: Vec<String> = matches.iter().map(|matched| format!("{{match: [{matched}], {TO}}}")).collect();
        format!("hosts: [a]\nhttp: [{}]", routes.join(", "))
    };
    let tls = |matches: &[&str]| http(matches).replace("http:", "tls:").replace("hosts: [a]", "hosts: [a, b, '*.c']");
    let tcp = |matches: &[&str]| http(matches).replace("http:", "tcp:");
    let rows: &[(&str, &[&str])] = &[
        (
            &http(&[
                "{uri: {exact: /x}}",
                "{uri: {exact: /x}, port: 80, sourceLabels: {app: b}}",
                "{uri: {exact: /y}, port: 80}",
                "{uri: {exact: /y}}",
            ]),
            &["warning: spec.http[1].match[0]: has no effect: http[0].match[0] takes the same requests first"],
        ),
        (
            &tls(&["{sniHosts: [a]}", "{sniHosts: [b, X.c]}, {sniHosts: [a]}", "{sniHosts: [x.c, a], port: 443}"]),
            &[
                "warning: spec.tls[1].match[1]: has no effect: tls[0].match[0] takes connections for a first",
                "warning: spec.tls[2].match[0]: has no effect: tls[1].match[0] takes connections for x.c first",
            ],
        ),
        // What asks for more makes an exception, and a match without effect takes nothing from those behind it.
        (&tls(&["{sniHosts: [a], sourceLabels: {app: x}}", "{sniHosts: [a]}"]), &[]),
        (&tls(&["{sniHosts: [a], port: 443}", "{sniHosts: [a], port: 444}", "{sniHosts: [a], destinationSubnets: [10.0.0.0/8]}"]), &[]),
        (
            &tls(&["{sniHosts: [a]}", "{sniHosts: [a, b]}", "{sniHosts: [b, b]}"]),
            &["warning: spec.tls[1].match[0]: has no effect: tls[0].match[0] takes connections for a first"],
        ),
        (
            &tcp(&[
                "{destinationSubnets: [10.0.0.0/8]}",
                "{destinationSubnets: [10.0.0.0/8], gateways: [mesh]}",
                "{sourceNamespace: a}",
                "{port: 80}",
                "{port: 80, sourceNamespace: b}",
                "",
            ]),
            &[
                "warning: spec.tcp[1].match[0]: has no effect: tcp[0].match[0] takes the same connections first",
                "warning: spec.tcp[4].match[0]: has no effect: tcp[3].match[0] takes the same connections first",
            ],
        ),
        (
            &tcp(&["", "{destinationSubnets: [10.0.0.0/8]}", ""]),
            &[
                "warning: spec.tcp[1].match[0]: has no effect: tcp[0] takes the same connections first",
                "warning: spec.tcp[2]: has no effect: tcp[0] takes the same connections first",
            ],
        ),
    ];
    table("VirtualService", rows);
}

#[test]
fn destination_rules() {
    let policy = |settings: &str| format!("host: a\ntrafficPolicy: {{{settings}}}");
    let rows: &[(&str, &[&str])] = &[
        (
            "host: a\nsubsets: [{name: v1, labels: {v: 1a}}, {name: v1}, {name: V_}]",
            &[
                "error: spec.subsets[1].name: v1 is given twice",
                r#"error: spec.subsets[2].name: must be letters, digits and - (at most 63), is "V_""#,
            ],
        ),
        (&policy("loadBalancer: {simple: ROUND_ROBIN}, tls: {mode: ISTIO_MUTUAL}"), &[]),
        (
            &policy("loadBalancer: {simple: FASTEST}"),
            &[
                r#"error: spec.trafficPolicy.loadBalancer.simple: unknown value "FASTEST"; known are UNSPECIFIED, LEAST_CONN, RANDOM, PASSTHROUGH, ROUND_ROBIN, LEAST_REQUEST"#,
            ],
        ),
        (
            &policy("loadBalancer: {consistentHash: {httpHeaderName: x}, localityLbSetting: {enabled: true}, warmup: {duration: 1s}}"),
            &[
                "warning: spec.trafficPolicy.loadBalancer.warmup: field warmup is not supported yet and has no effect",
                "warning: spec.trafficPolicy.loadBalancer.localityLbSetting: has no effect without outlierDetection, by which endpoints are \
                 found to have failed: all are used alike",
            ],
        ),
        (
            &policy(
                "connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s}, http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}",
            ),
            &["error: spec.trafficPolicy.connectionPool.tcp.maxConnections: must not be negative, is -1"],
        ),
        (
            &policy("connectionPool: {tcp: {connectTimeout: 0s}, http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}"),
            &[
                "error: spec.trafficPolicy.connectionPool.tcp.connectTimeout: must be 1ms or more",
                "error: spec.trafficPolicy.connectionPool.http.useClientProtocol: is not possible beside h2UpgradePolicy UPGRADE",
            ],
        ),
        (&policy("connectionPool: {}"), &["error: spec.trafficPolicy.connectionPool: needs tcp or http"]),
        (
            &policy("outlierDetection: {maxEjectionPercent: 101, consecutiveLocalOriginFailures: 1, interval: 0s}"),
            &[
                "error: spec.trafficPolicy.outlierDetection.interval: must be 1ms or more",
                "error: spec.trafficPolicy.outlierDetection.maxEjectionPercent: must be from 0 to 100, is 101",
                "error: spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures: needs splitExternalLocalOriginErrors: true",
            ],
        ),
        (
            &policy("tls: {mode: MUTUAL}"),
            &[
                "error: spec.trafficPolicy.tls.clientCertificate: is missing: mode MUTUAL needs it, or a credentialName",
                "error: spec.trafficPolicy.tls.privateKey: is missing: mode MUTUAL needs it, or a credentialName",
            ],
        ),
        (
            &policy("tls: {mode: SIMPLE, credentialName: c, caCertificates: /f}"),
            &[
                "error: spec.trafficPolicy.tls.caCertificates: is not possible beside credentialName",
                "warning: spec.trafficPolicy.tls.credentialName: is for gateways only, and sidecars do not connect: they are given Secrets by \
                 a rule with workloadSelector",
            ],
        ),
        (&policy("tls: {mode: SIMPLE, sni: x, subjectAltNames: [y], insecureSkipVerify: true}"), &[]),
        (&policy("tls: {mode: SIMPLE, credentialName: 'configmap://ns/roots'}"), &[]),
        (
            &policy("tls: {mode: SIMPLE, credentialName: 'configmap://bank/roots'}"),
            &["error: spec.trafficPolicy.tls.credentialName: must be a ConfigMap of the rule's own namespace (configmap://ns/NAME)"],
        ),
        (
            &policy("tls: {mode: SIMPLE, credentialName: 'configmap://roots'}"),
            &["error: spec.trafficPolicy.tls.credentialName: must be a ConfigMap of the rule's own namespace (configmap://ns/NAME)"],
        ),
        (
            &policy(&format!("tls: {{mode: SIMPLE, sni: {}}}", "a".repeat(256))),
            &["error: spec.trafficPolicy.tls.sni: must be at most 255 bytes long, has 256"],
        ),
        (
            &policy("portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}, {tls: {mode: DISABLE}}]"),
            &["error: spec.trafficPolicy.portLevelSettings[2]: port is missing"],
        ),
        (
            "host: a\nworkloadSelector: {matchLabels: {a: 'b*'}}\nexportTo: ['*']",
            &[
                r#"error: spec.workloadSelector.matchLabels["a"]: wildcards are not possible in selectors"#,
                "error: spec.exportTo: a rule with a workloadSelector is for its own namespace only",
            ],
        ),
        (
            "trafficPolicy: {tunnel: {}}",
            &[
                "warning: spec.trafficPolicy.tunnel: field tunnel is not supported yet and has no effect",
                r#"error: spec.host: must be a host name, perhaps with * as its first label, is """#,
                "warning: spec.trafficPolicy: says nothing",
            ],
        ),
    ];
    table("DestinationRule", rows);
}

#[test]
fn gateways() {
    let server = |settings: &str| format!("servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*'], {settings}}}]");
    let rows: &[(&str, &[&str])] = &[
        (
            "selector: {istio: ingressgateway}\nservers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a, ns/b, ./c, '*/*.d'], tls: {httpsRedirect: true}}]",
            &[],
        ),
        ("selector: {a: b}", &["error: spec.servers: must not be empty"]),
        (
            "servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*-a.b']}, \
             {port: {number: 443, name: b, protocol: TLS}, hosts: ['ns/*-a.b'], tls: {mode: PASSTHROUGH}}, \
             {port: {number: 444, name: c, protocol: TLS}, hosts: ['*-a.b'], tls: {mode: AUTO_PASSTHROUGH}}]",
            &[r#"error: spec.servers[1].hosts[0]: with TLS a wildcard must be a whole label (*.example.com), is "ns/*-a.b""#],
        ),
        (
            "servers: [{port: {number: 0, protocol: HTPP}, hosts: [A_/b], bind: x}]",
            &[
                r#"error: spec.servers[0].port.protocol: unknown protocol "HTPP"; known are HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, MONGO, REDIS, MYSQL, UDP"#,
                "error: spec.servers[0].port.name: is missing",
                "error: spec.servers[0].port.number: must be from 1 to 65535",
                r#"error: spec.servers[0].bind: must be an IP address, is "x""#,
                r#"error: spec.servers[0].hosts[0]: "A_" is no namespace"#,
            ],
        ),
        (&server("name: n"), &["error: spec.servers[0].tls: is missing: protocols HTTPS and TLS need it"]),
        (
            &server("tls: {mode: SIMPLE}"),
            &[
                "error: spec.servers[0].tls.serverCertificate: is missing, and so is credentialName",
                "error: spec.servers[0].tls.privateKey: is missing, and so is credentialName",
            ],
        ),
        (
            &server("tls: {mode: MUTUAL, serverCertificate: /a, privateKey: /b}"),
            &["error: spec.servers[0].tls.caCertificates: is missing: clients' certificates are held against it"],
        ),
        (&server("tls: {mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3}"), &[]),
        (
            &server("tls: {mode: ISTIO_MUTUAL, credentialName: c}"),
            &["error: spec.servers[0].tls: has certificates, which mode ISTIO_MUTUAL does not: the mesh has its own"],
        ),
        (
            &server("tls: {mode: SIMPEL, credentialName: c}"),
            &[
                r#"error: spec.servers[0].tls.mode: unknown value "SIMPEL"; known are PASSTHROUGH, SIMPLE, MUTUAL, AUTO_PASSTHROUGH, ISTIO_MUTUAL, OPTIONAL_MUTUAL"#,
            ],
        ),
        (
            &server("tls: {mode: SIMPLE, credentialName: c, insecureSkipVerify: true}"),
            &[
                "warning: spec.servers[0].tls.insecureSkipVerify: has no effect (nor has it in Istio): what clients present is verified as mode says",
            ],
        ),
        (
            &server(
                "tls: {mode: MUTUAL, tlsCertificates: [{serverCertificate: /a, privateKey: /b}, {serverCertificate: /c}], caCertificates: /d}",
            ),
            &["error: spec.servers[0].tls.tlsCertificates[1].privateKey: is missing"],
        ),
        (
            &server(
                "tls: {mode: MUTUAL, credentialName: c, verifyCertificateSpki: [NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=, NvqYIYSb]}",
            ),
            &["error: spec.servers[0].tls.verifyCertificateSpki[1]: must be the SHA-256 of a key in base64, is \"NvqYIYSb\""],
        ),
        (
            &server(
                "tls: {mode: MUTUAL, credentialName: c, verifyCertificateHash: [df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a, \
                 'DF:6f:f7:2f:e9:11:65:21:26:8f:6f:2d:d4:96:6f:51:df:47:98:83:fe:70:37:b3:9f:75:91:6a:c3:04:9d:1a', df6f, \
                 'df6:ff:72:fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049']}",
            ),
            &[
                "error: spec.servers[0].tls.verifyCertificateHash[2]: must be the SHA-256 of a certificate in hexadecimal digits, is \"df6f\"",
                "error: spec.servers[0].tls.verifyCertificateHash[3]: must be the SHA-256 of a certificate in hexadecimal digits, \
                 is \"df6:ff:72:fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049\"",
            ],
        ),
        (
            &server("tls: {mode: SIMPLE, credentialName: c, cipherSuites: [AES128-SHA, TLS_AES_128_GCM_SHA256, AES128-SHA, '!DES']}"),
            &[
                "warning: spec.servers[0].tls.cipherSuites[1]: \"TLS_AES_128_GCM_SHA256\" is no cipher suite that Envoy knows: it is left out",
                "warning: spec.servers[0].tls.cipherSuites[2]: AES128-SHA is given twice",
            ],
        ),
        (
            &server("tls: {mode: SIMPLE, credentialName: c, caCrl: /a}"),
            &["error: spec.servers[0].tls.caCrl: needs mode MUTUAL: in mode SIMPLE clients present no certificate"],
        ),
        (
            "servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: [x]}, {port: {number: 81, name: a, protocol: TCP}, hosts: [x], tls: {mode: PASSTHROUGH}}]",
            &[
                "error: spec.servers[1].tls: is possible for protocols HTTPS and TLS only",
                "error: spec.servers[1].port.name: a is given twice: port names must differ",
            ],
        ),
    ];
    table("Gateway", rows);
}

#[test]
fn sidecars() {
    let rows: &[(&str, &[&str])] = &[
        (
            "ingress: [{port: {number: 9080, protocol: HTTP, name: http}, bind: 127.0.1.2, captureMode: NONE, defaultEndpoint: 127.0.0.1:8080}]\negress: [{bind: 127.0.0.1, port: {number: 80, protocol: HTTP}, hosts: [./*]}, {hosts: ['*/*', ~/*]}]",
            &[],
        ),
        (
            "ingress: [{port: {number: 8443, protocol: HTTPS}, tls: {mode: SIMPLE, tlsCertificates: [{serverCertificate: /a, privateKey: /b}]}}]",
            &[
                "warning: spec.ingress[0].tls: field tls is not supported yet and has no effect",
                "error: spec.ingress[0].tls: httpsRedirect, credentialName(s), tlsCertificates and subjectAltNames are not possible at a sidecar",
            ],
        ),
        ("workloadSelector: {labels: {a: b}}", &["error: spec: needs ingress, egress, outboundTrafficPolicy or inboundConnectionPool"]),
        (
            "egress: [{hosts: [reviews]}, {hosts: []}]",
            &[
                r#"error: spec.egress[0].hosts[0]: must be namespace/host, is "reviews""#,
                "error: spec.egress[0].port: is missing: only the last listener may be without one",
                "error: spec.egress[1].hosts: must not be empty",
            ],
        ),
        (
            "ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: '10.0.0.1:80'}, {port: {number: 80}, defaultEndpoint: 'unix:///a/'}]",
            &[
                r#"error: spec.ingress[0].defaultEndpoint: must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix://PATH, is "10.0.0.1:80""#,
                r#"error: spec.ingress[1].defaultEndpoint: must be unix:// and an absolute path to a file, is "/a/""#,
                "error: spec.ingress[1].port.number: 80 is given twice",
            ],
        ),
        (
            "egress: [{port: {number: 0, protocol: HTTP}, hosts: [./*]}, {port: {number: 1}, bind: 'x', hosts: [./*]}, {port: {number: 1}, hosts: [./*]}]",
            &[
                "error: spec.egress[0].port.number: must be from 1 to 65535, or bind a Unix socket",
                r#"error: spec.egress[1].bind: must be an IP address, is "x""#,
                "error: spec.egress[2].port: another listener has the same port or socket",
            ],
        ),
    ];
    table("Sidecar", rows);
}

#[test]
fn service_entries() {
    let rows: &[(&str, &[&str])] = &[
        ("hosts: [a.com]\nports: [{number: 443, name: tls, protocol: TLS}]\nresolution: DNS\nlocation: MESH_EXTERNAL", &[]),
        (
            "hosts: ['*']\naddresses: [10.0.0.0/8]\nresolution: DNS",
            &[
                "error: spec.hosts[0]: * alone is not possible",
                "error: spec.addresses[0]: a network is possible with resolution NONE or STATIC only",
                "error: spec.hosts: must be names that DNS knows when there are no endpoints",
            ],
        ),
        (
            "hosts: [a, b]\nports: [{number: 1, name: x, protocol: TCP}, {number: 1, name: x}]\nresolution: STATIC\nendpoints: [{address: a.b, ports: {y: 1}}, {address: 'unix:///s'}]",
            &[
                "error: spec.hosts: several hosts need ports of HTTP or TLS: nothing else tells them apart",
                "error: spec.ports[1].name: x is given twice",
                "error: spec.ports[1].number: 1 is given twice",
                r#"error: spec.endpoints[0].address: must be an IP address with resolution STATIC, is "a.b""#,
                r#"error: spec.endpoints[0].ports["y"]: the ServiceEntry has no port of this name"#,
                "error: spec.endpoints[1].address: a Unix socket needs a ServiceEntry of exactly one port",
            ],
        ),
        (
            "hosts: [a]\nendpoints: [{address: 1.2.3.4}]\nworkloadSelector: {labels: {a: b}}\nexportTo: ['~', b]",
            &[
                "error: spec: only one of workloadSelector and endpoints may be set",
                "error: spec.endpoints: is not possible with resolution NONE",
                "error: spec.exportTo[0]: ~ excludes the others",
            ],
        ),
        (
            "hosts: [a]\nresolution: DNS_ROUND_ROBIN\nendpoints: [{address: a}, {address: b}]",
            &["error: spec.endpoints: must be one at most with resolution DNS_ROUND_ROBIN"],
        ),
        (
            "hosts: [a.b]\nresolution: DYNAMIC_DNS\naddresses: [1.2.3.4]",
            &[
                "error: spec.hosts[0]: must be a wildcard with resolution DYNAMIC_DNS",
                "error: spec.addresses: is not possible with resolution DYNAMIC_DNS",
            ],
        ),
        (
            "hosts: ['*.a.b']\nresolution: DYNAMIC_DNS\nports: [{number: 80, name: a, protocol: GRPC}, {number: 81, name: b, protocol: TCP}, \
             {number: 82, name: c, protocol: HTTPS}]",
            &[
                "error: spec.ports[1].protocol: must be HTTP, HTTP2, GRPC or TLS with resolution DYNAMIC_DNS: the host's name comes with \
                 the request",
                "error: spec.ports[2].protocol: must be HTTP, HTTP2, GRPC or TLS with resolution DYNAMIC_DNS: the host's name comes with \
                 the request",
            ],
        ),
    ];
    table("ServiceEntry", rows);
}

#[test]
fn peer_authentications_and_workload_entries() {
    table(
        "PeerAuthentication",
        &[
            ("portLevelMtls: {80: {mode: DISABLE}}", &["error: spec.portLevelMtls: needs a selector: ports are those of one workload"]),
            (
                "selector: {matchLabels: {a: b}}\nportLevelMtls: {0: {mode: DISABLE}, x: {}}",
                &[
                    r#"error: spec.portLevelMtls["0"]: must be a port from 1 to 65535"#,
                    r#"error: spec.portLevelMtls["x"]: must be a port from 1 to 65535"#,
                ],
            ),
            ("mtls: {mode: 3}", &[]),
        ],
    );
    table(
        "WorkloadEntry",
        &[
            ("address: 1.2.3.4\nports: {http: 8080}", &[]),
            ("ports: {http: 0}", &["error: spec.address: is missing", r#"error: spec.ports["http"]: must be from 1 to 65535"#]),
            (
                "address: a_b\nlabels: {x: 'a b'}",
                &[
                    r#"error: spec.address: must be an IP address or a host name, is "a_b""#,
                    r#"error: spec.labels["x"]: must be at most 63 letters, digits, -, _ and ., is "a b""#,
                ],
            ),
        ],
    );
}

#[test]
fn what_envoy_refuses_is_refused() {
    let policy = |settings: &str| format!("host: a\ntrafficPolicy: {{{settings}}}");
    table(
        "DestinationRule",
        &[
            (
                &policy(r#"tls: {mode: ISTIO_MUTUAL, sni: "a\0", subjectAltNames: ["", a, "b\n"]}"#),
                &[
                    "error: spec.trafficPolicy.tls.sni: must be one line",
                    "error: spec.trafficPolicy.tls.subjectAltNames[0]: must not be empty",
                    "error: spec.trafficPolicy.tls.subjectAltNames[2]: must be one line",
                ],
            ),
            (
                &policy(r#"loadBalancer: {consistentHash: {httpQueryParameterName: "a\rb"}}"#),
                &["error: spec.trafficPolicy.loadBalancer.consistentHash.httpQueryParameterName: must be one line"],
            ),
            (
                &policy("connectionPool: {tcp: {connectTimeout: 9223372036s}}"),
                &[r#"error: spec.trafficPolicy.connectionPool.tcp.connectTimeout: must be at most 2562047h (292 years), is "9223372036s""#],
            ),
        ],
    );
    let egress = |path: &str| format!("egress: [{{port: {{number: 0, protocol: HTTP, name: a}}, bind: 'unix:///{path}', hosts: ['*/*']}}]");
    let long = "error: spec.egress[0].bind: has 108 bytes, more than the 107 that are possible";
    table("Sidecar", &[(&egress(&"a".repeat(106)), &[]), (&egress(&"a".repeat(107)), &[long])]);
}

#[test]
fn what_would_be_multiplied_is_bounded() {
    let list = |count: usize, item: fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(", ");
    let hosts = list(500, |at| format!("h{at}"));
    let to = list(401, |at| format!("{{destination: {{host: d{at}}}, weight: 1}}"));
    let matches = list(500, |_| "{port: 80}".to_owned());
    let spec = format!("hosts: [h]\ntcp: [{{match: [{matches}], route: [{to}]}}]");
    let many = "error: spec.tcp[0]: matches times destinations make 200500, more than the 200000 that are possible: split it up";
    assert!(said("VirtualService", &spec).contains(&many.to_owned()));
    let subnets = list(401, |at| format!("10.0.{}.{}", at / 250, at % 250));
    let spec = format!(
        "hosts: [{hosts}]\ntls: [{{match: [{{sniHosts: [{hosts}], destinationSubnets: [{subnets}]}}], route: [{{destination: {{host: h}}}}]}}]"
    );
    let many = "error: spec.tls[0]: sniHosts times destinationSubnets make 200500, more than the 200000 that are possible: split it up";
    assert!(said("VirtualService", &spec).contains(&many.to_owned()));
    let sources = list(400, |at| format!("{{source: {{namespaces: [n{at}]}}}}"));
    let spec = format!("rules: [{{from: [{sources}], when: [{{key: source.namespace, values: [{}]}}]}}]", list(251, |at| format!("n{at}")));
    let many =
        "error: spec.rules[0]: from or to, times the values of when, make 100400, more than the 100000 that are possible: split it up";
    assert!(said("AuthorizationPolicy", &spec).contains(&many.to_owned()));
    let names = list(257, |at| format!("spiffe://cluster.local/ns/some-namespace/sa/some-account-{at:07}"));
    let many = "have 16448 bytes, more than the 16384 that are possible: each cluster has them all";
    let spec = format!("host: a\ntrafficPolicy: {{tls: {{mode: SIMPLE, subjectAltNames: [{names}]}}}}");
    assert!(said("DestinationRule", &spec).contains(&format!("error: spec.trafficPolicy.tls.subjectAltNames: {many}")));
    let spec = format!("hosts: [a]\nresolution: NONE\nports: [{{number: 80, name: a, protocol: HTTP}}]\nsubjectAltNames: [{names}]");
    assert!(said("ServiceEntry", &spec).contains(&format!("error: spec.subjectAltNames: {many}")));
    let ports = list(401, |at| format!("{{number: {}, name: n{at}, protocol: HTTP}}", at + 1));
    let spec = format!("hosts: [{hosts}]\nresolution: NONE\nports: [{ports}]");
    let many =
        "error: spec: hosts times ports times endpoints (or addresses) make 200500, more than the 200000 that are possible: split it up";
    let clusters = "error: spec: hosts times ports make 200500 clusters, more than the 40000 that are possible: split it up";
    let all = said("ServiceEntry", &spec);
    assert!(all.contains(&many.to_owned()) && all.contains(&clusters.to_owned()), "{all:?}");
    let names = list(401, |at| format!("n{at}"));
    let spec = format!("hosts: [{hosts}]\nresolution: NONE\nports: [{{number: 80, name: a, protocol: HTTP}}]\nexportTo: [{names}]");
    let many = "error: spec: hosts times subjectAltNames (or exportTo) make 200500, more than the 200000 that are possible: split it up";
    assert_eq!(said("ServiceEntry", &spec), [many]);
    for field in ["gateways", "exportTo"] {
        let many = format!("error: spec.hosts: hosts times {field} make 200500, more than the 200000 that are possible: split it up");
        assert_eq!(said("VirtualService", &format!("hosts: [{hosts}]\nhttp: [{{{TO}}}]\n{field}: [{names}]")), [many]);
    }
    let subsets = |count| list(count, |at| format!("{{name: n{at}, labels: {{a: b}}}}"));
    let each = "each port of each service of the host gets as many clusters";
    for (host, most, what) in [("a", 1000, "a rule"), ("'*.example.com'", 20, "a rule for a wildcard")] {
        let many = format!("error: spec.subsets: are {}, more than the {most} that {what} may have: {each}", most + 1);
        assert_eq!(said("DestinationRule", &format!("host: {host}\nsubsets: [{}]", subsets(most))), [""; 0]);
        assert_eq!(said("DestinationRule", &format!("host: {host}\nsubsets: [{}]", subsets(most + 1))), [many]);
    }
    let egress = list(1001, |at| format!("{{port: {{number: {}, protocol: HTTP, name: a}}, hosts: ['*/*']}}", at + 1));
    let many = "error: spec.egress: has 1001 listeners, more than the 1000 that are possible";
    assert_eq!(said("Sidecar", &format!("egress: [{egress}]")), [many]);
    let egress = list(51, |at| format!("{{port: {{number: 0, protocol: HTTP, name: a}}, bind: 'unix:///run/{at}', hosts: ['*/*']}}"));
    let many = "error: spec.egress: has 51 listeners at sockets, more than the 50 that are possible";
    assert_eq!(said("Sidecar", &format!("egress: [{egress}]")), [many]);
}
