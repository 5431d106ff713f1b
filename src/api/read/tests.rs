use std::time::Duration;

use serde_json::json;

use super::*;
use crate::api::{
    istio::{Destination, PeerMtlsMode, RetryPolicy, RouteDestination, Share, StringMatch, VirtualService},
    kubernetes::PortRef,
};

fn read(text: &str) -> Parsed {
    let mut all = Parsed::default();
    for document in yaml::documents(text) {
        let parsed = parse(&yaml::document(document).unwrap(), &"Kubernetes".into());
        all.objects.extend(parsed.objects);
        all.refused.extend(parsed.refused);
        all.diagnostics.extend(parsed.diagnostics);
    }
    all
}

fn said(parsed: &Parsed) -> Vec<String> {
    parsed.diagnostics.iter().map(ToString::to_string).collect()
}

fn virtual_service(http: &str) -> Parsed {
    let http = http.replace('\n', "\n  ");
    read(&format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: shop}}\nspec:\n  hosts: [reviews]\n  {http}"
    ))
}

fn only_spec(parsed: &Parsed) -> VirtualService {
    assert_eq!(said(parsed), [""; 0]);
    match &parsed.objects[..] {
        [object] => match &object.spec {
            Spec::VirtualService(spec) => VirtualService::clone(spec),
            other => panic!("{other:?}"),
        },
        others => panic!("{others:?}"),
    }
}

#[test]
fn a_canary_is_read_whole() {
    let spec = only_spec(&virtual_service(
        r#"
http:
- name: canary
  match:
  - uri: {prefix: /api}
    headers: {x-user: {exact: jo}, end: {}}
    queryParams: {v: {regex: "[0-9]+"}}
  route:
  - destination: {host: reviews, subset: v1, port: {number: 9080}}
    weight: 90
  - destination: {host: reviews, subset: v2}
    weight: "10"
  timeout: 1.5s
  retries: {attempts: 3, per_try_timeout: 250ms, retryOn: "5xx,503"}
  mirror: {host: shadow}
  mirrorPercentage: {value: 0.5}
  fault: {delay: {fixedDelay: 5s, percentage: {value: 10}}, abort: {grpcStatus: UNAVAILABLE}}
"#,
    ));
    let route = &spec.http[0];
    assert_eq!(route.matches[0].uri, Some(StringMatch::Prefix("/api".into())));
    assert_eq!(route.matches[0].headers, [("end".into(), StringMatch::Present), ("x-user".into(), StringMatch::Exact("jo".into()))]);
    assert_eq!(
        route.route[1],
        RouteDestination {
            destination: Destination { host: "reviews".into(), subset: "v2".into(), port: None },
            weight: 10,
            headers: Default::default()
        }
    );
    assert_eq!(route.route[0].destination.port, Some(9080));
    assert_eq!(route.timeout, Some(Duration::from_millis(1500)));
    assert_eq!(
        route.retries,
        Some(RetryPolicy {
            attempts: 3,
            per_try_timeout: Some(Duration::from_millis(250)),
            retry_on: "5xx,503".into(),
            retry_remote_localities: None,
            retry_ignore_previous_hosts: None,
            backoff: None
        })
    );
    assert_eq!(route.mirrors[0].share, Share { numerator: 5_000, of_million: true });
    let fault = route.fault.as_ref().unwrap();
    assert_eq!(fault.delay, Some((Duration::from_secs(5), Share { numerator: 100_000, of_million: true })));
    assert_eq!(fault.abort, Some((crate::api::istio::AbortStatus::Grpc(14), Share { numerator: 0, of_million: false })));
}

#[test]
fn every_mistake_is_named_with_its_field() {
    let parsed = virtual_service(
        r#"
http:
- route:
  - destination: {host: reviews}
    weight: -5
  timeout: soon
  retry: {attempts: 1}
- redirect: {derivePort: FROM_NOWHERE, port: 80}
  name: 7
"#,
    );
    assert_eq!(
        said(&parsed),
        [
            "error: VirtualService/shop/reviews spec.http[0].route[0].weight: must not be negative, is -5",
            r#"error: VirtualService/shop/reviews spec.http[0].timeout: must be a duration such as 1.5s or 250ms, is "soon""#,
            "warning: VirtualService/shop/reviews spec.http[0].retry: unknown field: it has no effect",
            "error: VirtualService/shop/reviews spec.http[1].name: must be a string, is 7: put it in quotes",
            "error: VirtualService/shop/reviews spec.http[1].redirect: only one of port, derivePort may be set",
        ]
    );
    assert!(parsed.objects.is_empty());
    assert_eq!(parsed.refused.len(), 1);
}

#[test]
fn an_unknown_field_does_not_keep_an_object_out() {
    let parsed =
        read("apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtsl: {mode: STRICT}}\n");
    assert_eq!(said(&parsed), ["warning: PeerAuthentication/default/a spec.mtsl: unknown field: it has no effect"]);
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.objects[0].version, "v1beta1");
}

#[test]
fn ports_of_a_peer_authentication_are_keys() {
    let parsed = read(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: b}\nspec:\n  selector: {matchLabels: {app: x}}\n  mtls: {mode: STRICT}\n  portLevelMtls: {9090: {mode: DISABLE}, '80': {mode: PERMISSIVE}}\n",
    );
    assert_eq!(said(&parsed), [""; 0]);
    let Spec::PeerAuthentication(spec) = &parsed.objects[0].spec else { panic!() };
    assert_eq!(spec.mode, PeerMtlsMode::Strict);
    assert_eq!(spec.port_level, [(80, PeerMtlsMode::Permissive), (9090, PeerMtlsMode::Disable)]);
}

#[test]
fn kinds_and_versions() {
    let parsed = read(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: networking.istio.io/v2\nkind: Gateway\nmetadata: {name: a}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\n---\nfoo: bar\n---\n- 1\n---\n",
    );
    assert_eq!(
        said(&parsed),
        [
            "warning: kind: Deployment (apps/v1) is not read: the document has no effect",
            "error: apiVersion networking.istio.io/v2: version v2 is unknown; known are v1, v1beta1, v1alpha3",
            "warning: kind: Gateway (gateway.networking.k8s.io/v1) is not read: the document has no effect",
            "error: apiVersion and kind are missing: this is no object",
            "error: apiVersion and kind are missing: this is no object",
        ]
    );
}

#[test]
fn a_list_holds_objects() {
    let parsed = read(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: }}}\n- {apiVersion: v1, kind: Service, metadata: {name: A}, spec: {ports: [{port: 0}]}}\n",
    );
    assert_eq!(parsed.objects[0].key.to_string(), "Namespace/shop");
    assert_eq!(parsed.objects[0].metadata.labels["a"], "");
    assert_eq!(
        said(&parsed),
        [
            r#"error: Service/default/A items[1].metadata.name: must be lower-case letters, digits, - and . (at most 253), is "A""#,
            "error: Service/default/A items[1].spec.ports[0].port: must be from 1 to 65535",
        ]
    );
}

#[test]
fn kubernetes_kinds() {
    let parsed = read(
        r#"
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop, creationTimestamp: "2024-01-02T03:04:05Z"}
spec:
  clusterIP: 10.0.0.1
  clusterIPs: [10.0.0.1, "fd00::1"]
  selector: {app: reviews}
  ports: [{name: http, port: 9080, targetPort: web, protocol: TCP, nodePort: 30000}]
---
apiVersion: v1
kind: Service
metadata: {name: stateful, namespace: shop}
spec: {clusterIP: None, publishNotReadyAddresses: true, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-1, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}, {name: none}]
endpoints:
- addresses: [10.1.0.1]
  targetRef: {kind: Pod, name: reviews-v1, namespace: shop}
  nodeName: n1
  conditions: {ready: false, serving: true, terminating: true}
- addresses: [10.1.0.2]
---
apiVersion: v1
kind: Pod
metadata:
  name: reviews-v1-abc-x
  namespace: shop
  labels: {pod-template-hash: abc}
  ownerReferences: [{kind: ReplicaSet, name: reviews-v1-abc, controller: true}]
spec:
  serviceAccountName: bookinfo
  nodeName: n1
  containers: [{name: c, ports: [{name: web, containerPort: 9080}, {containerPort: 1}]}]
  initContainers: [{name: once, ports: [{name: no, containerPort: 2}]}]
status: {phase: Running, podIP: 10.1.0.1}
"#,
    );
    assert_eq!(said(&parsed), [""; 0]);
    let [reviews, headless, outside, slice, pod] = &parsed.objects[..] else { panic!("{:?}", parsed.objects) };
    assert_eq!(reviews.metadata.created, 1_704_164_645);
    let Spec::Service(reviews) = &reviews.spec else { panic!() };
    assert_eq!(reviews.cluster_ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    assert_eq!(reviews.ports[0].target_port, Some(PortRef::Name("web".into())));
    let Spec::Service(headless) = &headless.spec else { panic!() };
    assert!(headless.headless && headless.cluster_ips.is_empty() && headless.publish_not_ready_addresses);
    assert_eq!(headless.ports[0].target_port, Some(PortRef::Number(8080)));
    let Spec::Service(outside) = &outside.spec else { panic!() };
    assert_eq!(outside.external_name.as_deref(), Some("example.com"));
    let Spec::EndpointSlice(slice) = &slice.spec else { panic!() };
    assert_eq!((slice.service.as_str(), &slice.ports[..]), ("reviews", &[("http".into(), 9080)][..]));
    let [leaving, ready] = &slice.endpoints[..] else { panic!() };
    assert!(!leaving.ready && leaving.serving && leaving.terminating);
    assert_eq!(leaving.pod, Some(("shop".into(), "reviews-v1".into())));
    assert!(ready.ready && ready.serving && !ready.terminating);
    let Spec::Pod(pod) = &pod.spec else { panic!() };
    assert_eq!((pod.owner.as_str(), pod.service_account.as_str(), pod.phase.as_str()), ("reviews-v1", "bookinfo", "Running"));
    assert_eq!(pod.ports[..], [("web".into(), 9080)]);
    assert_eq!(pod.ips.len(), 1);
}

#[test]
fn mesh_config_is_read_over_its_defaults() {
    let document = json!({"accessLogFile": "/dev/stdout", "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}, "connect_timeout": "3s",
        "rootNamespace": "", "pathNormalization": {"normalization": "NONE"}, "defaultProviders": {"accessLogging": ["envoy"], "metrics": ["prometheus"]}, "enableEnvoyAccessLogService": true, "meshMTLS": {}, "foo": 1});
    let parsed = parse_mesh_config(&document, &"Kubernetes".into());
    let Spec::MeshConfig(mesh) = &parsed.objects[0].spec else { panic!() };
    assert_eq!(
        **mesh,
        MeshConfig {
            access_log_file: "/dev/stdout".into(),
            outbound_traffic_policy: crate::api::istio::OutboundTrafficPolicy::RegistryOnly,
            connect_timeout: Duration::from_secs(3),
            path_normalization: crate::api::mesh_config::PathNormalization::None,
            default_providers: crate::api::mesh_config::DefaultProviders {
                metrics: vec!["prometheus".into()],
                access_logging: vec!["envoy".into()],
                ..Default::default()
            },
            ..MeshConfig::default()
        }
    );
    assert_eq!(
        said(&parsed),
        [
            "warning: MeshConfig/istio enableEnvoyAccessLogService: field enableEnvoyAccessLogService is not supported yet and has no effect",
            "warning: MeshConfig/istio foo: unknown field: it has no effect",
        ]
    );
}

#[test]
fn mesh_config_comes_in_a_config_map_too() {
    let parsed = read(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    trustDomain: example.org\n    enableAutoMtls: maybe\n",
    );
    assert_eq!(said(&parsed), [r#"error: MeshConfig/istio data.mesh.enableAutoMtls: must be true or false, is "maybe""#]);
    let parsed = read("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: 'trustDomain: example.org'}\n");
    let Spec::MeshConfig(mesh) = &parsed.objects[0].spec else { panic!() };
    assert_eq!(mesh.trust_domain, "example.org");
}

#[test]
fn what_would_stop_every_proxy_is_refused_in_mesh_config() {
    let said = |config: serde_json::Value| {
        let parsed = parse_mesh_config(&config, &"Kubernetes".into());
        parsed.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let log = |format: &str| serde_json::json!({"accessLogFile": "/dev/stdout", "accessLogFormat": format});
    assert_eq!(said(log("%REQ(:path)% %CEL(request.path)% %METADATA(ROUTE:a)%\n")), [""; 0]);
    let unknown = "error: MeshConfig/istio accessLogFormat: Envoy knows no command %NOPE%; a plain percent sign is written %%";
    assert_eq!(said(log("%NOPE%")), [unknown]);
    for (config, expected) in [
        (
            serde_json::json!({"proxyInboundListenPort": 15001}),
            "proxyInboundListenPort: must be another port: 15001 is that of proxyListenPort",
        ),
        (serde_json::json!({"proxyListenPort": 15090}), "proxyListenPort: must be another port: 15090 is that of the proxy's bootstrap"),
        (serde_json::json!({"proxyHttpPort": 15006}), "proxyHttpPort: must be another port: 15006 is that of proxyInboundListenPort"),
        (serde_json::json!({"accessLogFile": "x".repeat(256)}), "accessLogFile: must be the path of a file, such as /dev/stdout"),
    ] {
        assert_eq!(said(config), [format!("error: MeshConfig/istio {expected}")]);
    }
}
