//! The list of kinds: one entry each, from which everything that goes over kinds is made.
//!
//! `kinds!(define)` hands all entries to the macro `define!`. [`super::kind`] makes `Kind` and its facts of them,
//! [`super::object`] the typed content, [`super::read`] and [`super::validate`] find the reader and the checks.

macro_rules! kinds {
    ($define:ident) => {
        $define! {
            /// `v1 Namespace`
            Namespace {
                facts: core("namespaces").cluster_wide().meant_in("mesh/engine"),
            }
            /// `v1 Node`
            Node {
                facts: core("nodes").cluster_wide().meant_in("mesh/engine"),
            }
            /// `v1 Pod`
            Pod(kubernetes::Pod) {
                facts: core("pods").meant_in("mesh/engine"),
                read: pod,
            }
            /// `v1 Service`
            Service(kubernetes::Service) {
                facts: core("services").meant_in("mesh/engine"),
                read: spec,
                check: service,
            }
            /// `discovery.k8s.io EndpointSlice`
            EndpointSlice(kubernetes::EndpointSlice) {
                facts: core("endpointslices").of_group("discovery.k8s.io").meant_in("mesh/engine"),
                read: endpoint_slice,
                check: endpoint_slice,
            }
            /// `v1 Secret`
            Secret(kubernetes::Secret) {
                facts: core("secrets").meant_in("mesh/credential"),
                read: secret,
            }
            /// `v1 ConfigMap`: what peers are verified with. Of that with MeshConfig see there.
            ConfigMap(kubernetes::ConfigMap) {
                facts: core("configmaps").meant_in("mesh/credential"),
                read: config_map,
            }
            /// `networking.istio.io DestinationRule`
            DestinationRule(istio::DestinationRule) {
                facts: networking("destinationrules").meant_in("mesh/policy").shown(Shown {
                    short_name: Some("dr"),
                    columns: &[("Host", ".spec.host"), AGE],
                    purpose: "how a service is called: load balancing, connection pools, outlier detection, TLS, subsets",
                }),
                read: istio_spec,
                check: destination_rule,
            }
            /// `networking.istio.io EnvoyFilter`
            EnvoyFilter(istio::EnvoyFilter) {
                facts: networking_alpha("envoyfilters").meant_in("mesh/policy").shown(Shown {
                    short_name: None,
                    columns: &[AGE],
                    purpose: "changes of what proxies are sent, in Envoy's own words",
                }),
                read: istio_spec,
                check: envoy_filter,
            }
            /// `networking.istio.io Gateway`
            Gateway(istio::Gateway) {
                facts: networking("gateways").with_group_in_text().meant_in("mesh/scope").shown(Shown {
                    short_name: Some("gw"),
                    columns: &[AGE],
                    purpose: "ports and hosts that gateway pods serve",
                }),
                read: istio_spec,
                check: gateway,
            }
            /// `networking.istio.io ProxyConfig`
            ProxyConfig(istio::ProxyConfig) {
                facts: istio(NETWORKING, &["v1beta1"], "proxyconfigs").meant_in("mesh/policy").shown(Shown {
                    short_name: None,
                    columns: &[AGE],
                    purpose: "how proxies are started: threads, environment, image; for pods that are created from now on",
                }),
                read: istio_spec,
                check: proxy_config,
            }
            /// `networking.istio.io ServiceEntry`
            ServiceEntry(istio::ServiceEntry) {
                facts: networking("serviceentries").meant_in("mesh/engine").shown(Shown {
                    short_name: Some("se"),
                    columns: &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution"), AGE],
                    purpose: "services that Kubernetes does not know",
                }),
                read: istio_spec,
                check: service_entry,
            }
            /// `networking.istio.io Sidecar`
            Sidecar(istio::Sidecar) {
                facts: networking("sidecars").meant_in("mesh/scope").shown(Shown {
                    short_name: None,
                    columns: &[AGE],
                    purpose: "what sidecars are told of the mesh, and their own ports",
                }),
                read: istio_spec,
                check: sidecar,
            }
            /// `networking.istio.io VirtualService`
            VirtualService(istio::VirtualService) {
                facts: networking("virtualservices").meant_in("mesh/routing").shown(Shown {
                    short_name: Some("vs"),
                    columns: &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts"), AGE],
                    purpose: "where requests to a host go",
                }),
                read: istio_spec,
                check: virtual_service,
            }
            /// `networking.istio.io WorkloadEntry`
            WorkloadEntry(istio::WorkloadEntry) {
                facts: networking("workloadentries").meant_in("mesh/engine").shown(Shown {
                    short_name: Some("we"),
                    columns: &[AGE, ("Address", ".spec.address")],
                    purpose: "a workload that is no pod",
                }),
                read: istio_spec,
                check: workload_entry,
            }
            /// `security.istio.io PeerAuthentication`
            PeerAuthentication(istio::PeerAuthentication) {
                facts: security("peerauthentications").meant_in("mesh/policy").shown(Shown {
                    short_name: Some("pa"),
                    columns: &[("Mode", ".spec.mtls.mode"), AGE],
                    purpose: "whether workloads take mutual TLS, plain text or both",
                }),
                read: istio_spec,
                check: peer_authentication,
            }
            /// `security.istio.io AuthorizationPolicy`
            AuthorizationPolicy(istio::AuthorizationPolicy) {
                facts: security("authorizationpolicies").meant_in("mesh/policy").shown(Shown {
                    short_name: Some("ap"),
                    columns: &[("Action", ".spec.action"), AGE],
                    purpose: "who may send which requests to workloads",
                }),
                read: istio_spec,
                check: authorization_policy,
            }
            /// `security.istio.io RequestAuthentication`
            RequestAuthentication(istio::RequestAuthentication) {
                facts: security("requestauthentications").meant_in("mesh/policy").shown(Shown {
                    short_name: Some("ra"),
                    columns: &[AGE],
                    purpose: "which tokens of requests are trusted",
                }),
                read: istio_spec,
                check: request_authentication,
            }
            /// `telemetry.istio.io Telemetry`
            Telemetry(istio::Telemetry) {
                facts: telemetry("telemetries").meant_in("mesh/telemetry").shown(Shown {
                    short_name: Some("telemetry"),
                    columns: &[AGE],
                    purpose: "what proxies report: metrics, access logs and traces",
                }),
                read: istio_spec,
                check: telemetry,
            }
            /// `extensions.istio.io TrafficExtension`
            TrafficExtension(istio::TrafficExtension) {
                facts: extensions("trafficextensions").meant_in("mesh/extension").shown(Shown {
                    short_name: None,
                    columns: &[AGE],
                    purpose: "code of users' own that proxies run: WebAssembly, or a script in Lua",
                }),
                read: istio_spec,
                check: traffic_extension,
            }
            /// `extensions.istio.io WasmPlugin`
            WasmPlugin(istio::WasmPlugin) {
                facts: extensions("wasmplugins").meant_in("mesh/extension").shown(Shown {
                    short_name: None,
                    columns: &[AGE],
                    purpose: "WebAssembly that proxies run",
                }),
                read: istio_spec,
                check: wasm_plugin,
            }
            /// `istiod-lite.io RateLimitPolicy`
            RateLimitPolicy(rate_limit_policy::RateLimitPolicy) {
                facts: own("ratelimitpolicies").meant_in("mesh/rate_limit").shown(Shown {
                    short_name: None,
                    columns: &[AGE],
                    purpose: "how many requests workloads take",
                }),
                read: istio_spec,
                check: rate_limit_policy,
            }
            /// The mesh-wide settings (`MeshConfig`), which come from a file or a ConfigMap's key.
            MeshConfig(mesh_config::MeshConfig) {
                facts: part_of_another("mesh"),
                read: no_document,
            }
            /// The keys of an issuer of tokens, which are fetched from the URL that is its name.
            KeySet(key_set::KeySet) {
                facts: part_of_another("mesh/policy"),
                read: no_document,
            }
            /// The roots of a mesh: our own CA's, or those that are fetched from the URL that is its name.
            TrustBundle(trust_bundle::TrustBundle) {
                facts: part_of_another("mesh"),
                read: no_document,
            }
        }
    };
}

pub(super) use kinds;
