//! What Envoy judges as a whole: the addresses of all listeners, and the chains of each.

use super::*;

fn service(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.12, selector: {{app: {name}}}, ports: [{ports}]}}\n"
    )
}

fn sidecar(spec: &str) -> String {
    format!("---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: shop}}\nspec: {{{spec}}}\n")
}

fn names(asked: &Asked) -> Vec<String> {
    asked.outbound().into_keys().collect()
}

#[test]
fn no_service_takes_a_port_of_the_proxy() {
    let ports = "{name: http-a, port: 15001}, {name: http-b, port: 15006}, {name: http-c, port: 15021}, {name: http-d, port: 15090}, \
                 {name: tcp, port: 15007}, {name: http, port: 80}";
    let asked = Asked::of(&(service("odd", ports) + &entry("bytes", 1, 15006, "TCP", "")));
    assert_eq!(names(&asked), ["0.0.0.0_80", "10.96.0.12_15007", "virtualOutbound"]);
    let outbound = "is the proxy's own for captured outbound traffic (proxyListenPort): there is no other listener on it; use another port";
    let inbound =
        "is the proxy's own for captured inbound traffic (proxyInboundListenPort): there is no other listener on it; use another port";
    let bootstrap = "is the proxy's own for readiness and metrics: there is no other listener on it; use another port";
    let mut expected = vec![
        format!("Service/shop/odd spec.ports: port 15001 {outbound}"),
        format!("ServiceEntry/shop/bytes spec.ports: port 15006 {inbound}"),
        format!("Service/shop/odd spec.ports: port 15006 {inbound}"),
        format!("Service/shop/odd spec.ports: port 15021 {bootstrap}"),
        format!("Service/shop/odd spec.ports: port 15090 {bootstrap}"),
    ];
    expected.sort();
    let mut refused = asked.refused();
    refused.sort();
    assert_eq!(refused, expected);
}

#[test]
fn the_settings_say_which_ports_are_the_proxys() {
    let mesh = MeshConfig { proxy_listen_port: 16001, proxy_inbound_listen_port: 16006, ..Default::default() };
    let mut asked =
        Asked::with(mesh, &service("odd", "{name: http-a, port: 15001}, {name: http-b, port: 16001}, {name: http-c, port: 15021}"));
    asked.ports.status = Some(16021);
    assert_eq!(names(&asked), ["0.0.0.0_15001", "0.0.0.0_15021", "virtualOutbound"]);
}

#[test]
fn a_sidecars_egress_takes_no_port_of_the_proxy() {
    let egress = "egress: [{port: {number: 15006, protocol: HTTP, name: h}, hosts: ['*/*']}, {port: {number: 82, protocol: HTTP, name: i}, \
                  bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}, {hosts: ['*/*']}], \
                  ingress: [{port: {number: 82, protocol: HTTP, name: j}, bind: 127.0.0.1, captureMode: NONE, defaultEndpoint: '127.0.0.1:8080'}, \
                  {port: {number: 15021, protocol: HTTP, name: k}, defaultEndpoint: '127.0.0.1:8080'}]";
    let ports = "{name: http-a, port: 15006}, {name: http-b, port: 82}, {name: http, port: 80}";
    let asked = Asked::of(&(service("odd", ports) + &sidecar(egress)));
    assert_eq!(names(&asked), ["0.0.0.0_80", "0.0.0.0_82", "virtualOutbound"]);
    let refused = asked.refused();
    assert!(refused.iter().any(|said| said.starts_with("Sidecar/shop/s spec.egress[0]: port 15006")), "{refused:?}");
    let held = "Sidecar/shop/s spec.egress[1]: port 82 is held by an ingress listener of the Sidecar";
    assert!(refused.iter().any(|said| said.starts_with(held)), "{refused:?}");
    let (listeners, refused) = asked.inbound_planned();
    assert_eq!(listeners.keys().collect::<Vec<_>>(), ["127.0.0.1_82", "virtualInbound"]);
    assert_eq!(refused.iter().map(|refused| refused.field.as_str()).collect::<Vec<_>>(), ["spec.ingress[1]"]);
}

#[test]
fn a_network_of_32_bits_is_one_address_in_one_family_only() {
    let network = |name: &str, created| entry(name, created, 5432, "TCP", ", addresses: ['2001:db8::/32']");
    let host = entry("host", 3, 5432, "TCP", ", addresses: ['2001:db8:1::1/128', 10.0.0.1/32]");
    let objects = (network("young", 2) + &network("old", 1) + &host).replace("resolution: DNS", "resolution: NONE");
    let asked = Asked::of(&objects).dual_stack();
    assert_eq!(names(&asked), ["0.0.0.0_5432", "10.0.0.1_5432", "2001:db8:1::1_5432", "virtualOutbound"]);
    let listener = &asked.outbound()["0.0.0.0_5432"];
    let range = json!({"prefix_ranges": [{"address_prefix": "2001:db8::", "prefix_len": 32}]});
    assert_eq!(chains(listener)[0], (range, "outbound|5432||old.example.com".to_owned()));
    let lost = "ServiceEntry/shop/young spec.ports: connections on port 5432 that this would take go where ServiceEntry/shop/old says, \
                which came first";
    assert_eq!(asked.refused(), [lost]);
}

#[test]
fn a_proxy_without_rights_binds_no_low_port() {
    let ports = entry("low", 1, 80, "HTTP", "") + &entry("high", 2, 8080, "HTTP", "");
    let sidecar =
        sidecar("ingress: [{port: {number: 81, protocol: HTTP, name: h}, defaultEndpoint: '127.0.0.1:8081'}], egress: [{hosts: ['*/*']}]");
    let asked = Asked::of(&(ports + &sidecar)).uncaptured();
    assert_eq!((names(&asked).len(), asked.inbound().len()), (2, 1));
    let asked = asked.unprivileged();
    assert_eq!(names(&asked), ["127.0.0.1_8080"]);
    let told = "port 80 gets no listener in proxies that may not bind ports below 1024";
    assert_eq!(asked.refused(), [format!("ServiceEntry/shop/low spec.ports: {told}")]);
    let (listeners, refused) = asked.inbound_planned();
    assert_eq!((listeners.len(), refused.iter().map(|refused| &refused.reason).collect::<Vec<_>>()), (0, vec![&Reason::Privileged(81)]));
    let mut captured = asked;
    captured.class.interception = Interception::Redirect;
    assert_eq!(names(&captured), ["0.0.0.0_80", "0.0.0.0_8080", "virtualOutbound"], "captured traffic needs no right");
}

#[test]
fn an_address_has_one_listener_whoever_asks_and_however_it_is_written() {
    let objects =
        entry("one", 1, 8000, "TCP", ", addresses: ['2001:DB8::1']") + &entry("two", 2, 8000, "TCP", ", addresses: ['2001:db8:0::1']");
    let asked = Asked::of(&objects).dual_stack();
    assert_eq!(names(&asked), ["2001:DB8::1_8000", "virtualOutbound"]);
    assert_eq!(asked.refused().len(), 1);
    let egress = sidecar("egress: [{port: {number: 8000, protocol: TCP, name: t}, bind: '::', hosts: ['*/*']}, {hosts: ['*/*']}]");
    let asked = Asked::of(&(entry("one", 1, 8000, "TCP", "") + &egress)).dual_stack();
    assert_eq!(names(&asked), ["0.0.0.0_8000", "::_8000", "virtualOutbound"]);
    let only = &asked.outbound()["0.0.0.0_8000"];
    assert_eq!(only.get("additional_addresses"), None, "the Sidecar's listener has the other address");
}

#[test]
fn a_tls_route_loses_the_names_that_another_has() {
    let route = |name: &str, hosts: &str, created: u32| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2024-01-01T00:00:{created:02}Z\"}}\n\
             spec: {{hosts: [{hosts}], tls: [{{match: [{{sniHosts: [{hosts}]}}], route: [{{destination: {{host: safe.example.com}}}}]}}]}}\n"
        )
    };
    let objects = entry("safe", 1, 8443, "TLS", "")
        + &route("first", "safe.example.com", 1)
        + &route("second", "'*.example.com', safe.example.com", 2);
    let objects = objects.replace("hosts: ['*.example.com', safe.example.com], tls", "hosts: ['*.example.com'], tls");
    let asked = Asked::of(&objects);
    let listener = &asked.outbound()["0.0.0.0_8443"];
    assert_eq!(chains(listener)[0].0, json!({"server_names": ["safe.example.com"]}));
    assert_eq!(listener["filter_chains"].as_array().unwrap().len(), 1);
    let lost = "VirtualService/shop/second spec.tls[0].match[0]: connections on port 8443 that this would take go where VirtualService/shop/first says, \
                which came first";
    assert_eq!(asked.refused(), [lost]);
}

fn routes(name: &str, created: u32, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2024-01-01T00:00:{created:02}Z\"}}\nspec: {{{spec}}}\n"
    )
}

const TO_SAFE: &str = "route: [{destination: {host: safe.example.com}}]";

#[test]
fn a_rule_that_comes_again_in_another_object_is_told() {
    let tls = |hosts: &str, more: &str| format!("hosts: [{hosts}], tls: [{{match: [{{sniHosts: [safe.example.com]}}], {TO_SAFE}}}]{more}");
    let first = routes("first", 1, &tls("safe.example.com", ""));
    let entry_of = |protocol: &str| entry("safe", 1, 8443, protocol, "");
    let second = tls("'*.example.com'", "");
    let lost = |at: &str| {
        format!(
            "VirtualService/shop/second {at}: connections on port 8443 that this would take go where VirtualService/shop/first says, which came first"
        )
    };
    let asked = Asked::of(&[entry_of("TLS"), first.clone(), routes("second", 2, &second)].concat());
    assert_eq!(asked.refused(), [lost("spec.tls[0].match[0]")]);
    let private = routes("first", 1, &tls("safe.example.com", ", exportTo: ['.']"));
    let asked = Asked::of(&[entry_of("TLS"), private, routes("second", 2, &second)].concat());
    assert_eq!(asked.refused(), Vec::<String>::new(), "an exception for one namespace is meant");

    let tcp = |hosts: &str| format!("hosts: [{hosts}], tcp: [{{{TO_SAFE}}}]");
    let asked =
        Asked::of(&[entry_of("TCP"), routes("first", 1, &tcp("safe.example.com")), routes("second", 2, &tcp("'*.example.com'"))].concat());
    assert_eq!(asked.refused(), [lost("spec.tcp[0]")]);
}

#[test]
fn of_matches_of_one_object_that_only_some_proxies_have_both_the_later_is_told() {
    let with = |labels: &str| format!("{{match: [{{sniHosts: [safe.example.com], sourceLabels: {{{labels}}}}}], {TO_SAFE}}}");
    let of = |labels: &[&str]| {
        let rules: Vec<String> = labels.iter().map(|labels| with(labels)).collect();
        let mut asked = Asked::of(
            &(entry("safe", 1, 8443, "TLS", "") + &routes("one", 1, &format!("hosts: [safe.example.com], tls: [{}]", rules.join(", ")))),
        );
        asked.class.labels = Arc::new([("app".into(), "app".into()), ("tier".into(), "web".into())].into_iter().collect());
        asked.refused()
    };
    assert_eq!(of(&["app: app", ""]), Vec::<String>::new(), "an exception for some workloads is meant");
    assert_eq!(of(&["app: app", "app: app"]), Vec::<String>::new(), "that is told of the object, whatever proxies there are");
    let lost = "VirtualService/shop/one spec.tls[1].match[0]: connections on port 8443 that this would take go where VirtualService/shop/one says, \
                which came first";
    assert_eq!(of(&["app: app", "tier: web"]), [lost]);
    assert_eq!(of(&["app: app", "", "tier: web"]), Vec::<String>::new(), "that is told of the object, too");
    assert_eq!(of(&["app: other", "tier: web"]), Vec::<String>::new());
}

#[test]
fn of_services_that_declare_one_port_of_a_workload_differently_the_older_counts() {
    let of = |name: &str, port: &str, created: u32| {
        let metadata = format!("metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2024-01-01T00:00:{created:02}Z\"}}");
        service(name, port)
            .replace(&format!("metadata: {{name: {name}, namespace: shop}}"), &metadata)
            .replace(&format!("app: {name}"), "app: app")
    };
    let refused = |one: &str, other: &str| {
        let (_, refused) = Asked::of(&(of("old", one, 1) + &of("young", other, 2))).inbound_planned();
        refused.iter().map(|refused| format!("{} {}: {}", refused.origin.object, refused.field, refused.reason)).collect::<Vec<_>>()
    };
    let lost = |spoken: &str| {
        format!(
            "Service/shop/young spec.ports: workloads take {spoken} on their port 8080, as Service/shop/old declares, which came first: declare the same protocol"
        )
    };
    let port = |name: &str| format!("{{name: {name}, port: 80, targetPort: 8080}}");
    assert_eq!(refused(&port("http"), &port("tcp")), [lost("HTTP")]);
    assert_eq!(refused(&port("tcp"), &port("http")), [lost("TCP")]);
    assert_eq!(refused(&port("any"), &port("http")), [lost("what is sniffed")]);
    assert_eq!(refused(&port("http"), &port("grpc")), Vec::<String>::new(), "both are HTTP");
    assert_eq!(refused(&port("tcp"), &port("tls")), Vec::<String>::new());
}

const TERMINATES: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: ends, namespace: shop, creationTimestamp: \"2024-01-01T00:00:01Z\"}
spec:
  selector: {app: app}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example.net], tls: {mode: SIMPLE, serverCertificate: /a.pem, privateKey: /a.key}}
";

const PASSES: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: passes, namespace: shop, creationTimestamp: \"2024-01-01T00:00:02Z\"}
spec:
  selector: {app: app}
  servers:
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.example.net'], tls: {mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: raw, namespace: shop}
spec:
  hosts: ['*.example.net']
  gateways: [passes]
  tls:
  - {match: [{port: 443, sniHosts: [shop.example.net]}], route: [{destination: {host: app, port: {number: 81}}}]}
  - {match: [{port: 443, sniHosts: [raw.example.net]}], route: [{destination: {host: app, port: {number: 81}}}]}
";

fn told(plan: &GatewayPlan) -> Vec<String> {
    plan.refused.iter().map(|refused| format!("{} {}: {}", refused.origin.object, refused.field, refused.reason)).collect()
}

#[test]
fn a_name_is_terminated_or_passed_on_as_the_older_gateway_says() {
    let (plan, listeners) = Asked::of(&[MESH, TERMINATES, PASSES].concat()).gateway();
    let ends = |listeners: &BTreeMap<String, Value>| chains(&listeners["0.0.0.0_443"]).into_iter().map(|(_, end)| end).collect::<Vec<_>>();
    assert_eq!(ends(&listeners), ["rds https.443.https.ends.shop", "outbound|81||app.shop.svc.cluster.local"]);
    let lost = "VirtualService/shop/raw spec.tls[0].match[0]: connections on port 443 that this would take go where \
                Gateway.networking.istio.io/shop/ends says, which came first";
    assert_eq!(told(&plan), [lost]);

    let younger = TERMINATES.replace("00:00:01Z", "00:00:03Z");
    let (plan, listeners) = Asked::of(&[MESH, &younger, PASSES].concat()).gateway();
    assert_eq!(ends(&listeners), ["outbound|81||app.shop.svc.cluster.local", "outbound|81||app.shop.svc.cluster.local"]);
    assert!(plan.tables.is_empty(), "nothing serves it");
    assert!(
        told(&plan)[0].starts_with("Gateway.networking.istio.io/shop/ends spec.servers[0]: connections on port 443"),
        "{:?}",
        told(&plan)
    );
}

#[test]
fn a_gateway_tells_what_of_its_routes_is_left_out() {
    let passes = PASSES.replace(
        "  - {match: [{port: 443, sniHosts: [raw",
        "  - {match: [{sniHosts: [other.example.net], destinationSubnets: [10.0.0.0/8]}, {sniHosts: [other.example.net]}], route: [{destination: {host: app, port: {number: 81}}}]}\n  - {match: [{port: 443, sniHosts: [raw",
    );
    let (plan, _) = Asked::of(&[MESH, &passes].concat()).gateway();
    let lost = "VirtualService/shop/raw spec.tls[1].match[1]: connections on port 443 that this would take go where VirtualService/shop/raw says, \
                which came first";
    assert_eq!(told(&plan), [lost]);

    let gateway = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: raw, namespace: shop}\n\
                   spec: {selector: {app: app}, servers: [{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}\n";
    let to_app = "route: [{destination: {host: app, port: {number: 81}}}]";
    let bound = |rules: &str| format!("hosts: ['a.example.net'], gateways: [raw], tcp: [{rules}]");
    let exception = bound(&format!("{{match: [{{port: 9000}}], {to_app}}}, {{{to_app}}}"));
    let (plan, _) = Asked::of(&[MESH, gateway, &routes("one", 1, &exception)].concat()).gateway();
    assert_eq!(told(&plan), Vec::<String>::new(), "the second is for other ports");
    let networks = bound(&format!("{{match: [{{destinationSubnets: [10.0.0.0/8]}}], {to_app}}}, {{{to_app}}}"));
    let younger = bound(&format!("{{{to_app}}}"));
    let (plan, _) = Asked::of(&[MESH, gateway, &routes("one", 1, &networks), &routes("two", 2, &younger)].concat()).gateway();
    let lost = |at: &str| {
        format!(
            "VirtualService/shop/{at}: connections on port 9000 that this would take go where VirtualService/shop/one says, which came first"
        )
    };
    assert_eq!(told(&plan), [lost("one spec.tcp[1]"), lost("two spec.tcp[0]")]);
}

#[test]
fn a_service_is_passed_on_once() {
    let passes = |name: &str, host: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{selector: {{app: app}}, servers: [{{port: {{number: 15443, name: tls, protocol: TLS}}, hosts: ['{host}'], tls: {{mode: AUTO_PASSTHROUGH}}}}]}}\n"
        )
    };
    let (plan, listeners) = Asked::of(&[MESH, &passes("a", "*.local"), &passes("b", "*.shop.svc.cluster.local")].concat()).gateway();
    let names: Vec<_> = chains(&listeners["0.0.0.0_15443"]).into_iter().map(|(matched, _)| matched["server_names"].to_string()).collect();
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), told(&plan).len()), (distinct.len(), 0), "both want the same of it");
}

#[test]
fn a_wildcard_is_not_passed_on() {
    let wide = entry("wide", 1, 80, "HTTP", "").replace(
        "hosts: [wide.example.com], resolution: DNS, location: MESH_EXTERNAL",
        "hosts: ['*.com'], resolution: NONE, location: MESH_INTERNAL",
    );
    let passes = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a, namespace: shop}\n\
                  spec: {selector: {app: app}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: AUTO_PASSTHROUGH}}]}\n";
    let (plan, listeners) = Asked::of(&[MESH, &wide, passes].concat()).gateway();
    assert!(chains(&listeners["0.0.0.0_15443"]).iter().all(|(matched, _)| !matched["server_names"].to_string().contains('*')));
    let told_to =
        "ServiceEntry/shop/wide spec.hosts: *.com cannot be reached through a server of mode AUTO_PASSTHROUGH: it is no single name";
    assert_eq!(told(&plan), [told_to]);
}

#[test]
fn a_wildcard_within_a_label_is_no_server_name() {
    let entry = |name: &str, host: &str, more: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{hosts: ['{host}'], ports: [{{number: 443, name: tls, protocol: TLS}}, {{number: 80, name: http, protocol: HTTP}}], {more}resolution: NONE}}\n"
        )
    };
    let asked = Asked::of(&(entry("part", "*-a.example.com", "") + &entry("whole", "*.example.org", "")));
    assert_eq!(names(&asked), ["0.0.0.0_443", "0.0.0.0_80", "virtualOutbound"]);
    let expected = "ServiceEntry/shop/part spec.ports: TLS connections for *-a.example.com on port 443 are not told from others: \
                    a wildcard in a server name is a whole label";
    assert_eq!(asked.refused(), [expected]);
    let alone = Asked::of(&entry("part", "*-a.example.com", ""));
    assert_eq!(names(&alone), ["0.0.0.0_80", "virtualOutbound"]);
    let addressed = Asked::of(&entry("part", "*-a.example.com", "addresses: [10.9.9.9], "));
    assert_eq!(names(&addressed), ["0.0.0.0_80", "10.9.9.9_443", "virtualOutbound"]);
    assert_eq!(addressed.refused(), Vec::<String>::new());
}
