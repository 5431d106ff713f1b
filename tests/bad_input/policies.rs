//! AuthorizationPolicies that decide otherwise than they look.

use crate::cases::Case;

/// A workload that speaks no HTTP.
const STORE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: store, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: store}, ports: [{name: tcp, port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: store-1, namespace: shop, labels: {app: store}}
spec: {serviceAccountName: store}
status: {phase: Running, podIP: 10.0.0.7, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: store-a, namespace: shop, labels: {kubernetes.io/service-name: store}}
addressType: IPv4
ports: [{name: tcp, port: 6379}]
endpoints: [{addresses: [10.0.0.7], conditions: {ready: true}, targetRef: {kind: Pod, name: store-1, namespace: shop}}]
---
";

/// A client that takes no mTLS.
const PLAINTEXT: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: client, namespace: shop}
spec: {selector: {matchLabels: {app: client}}, mtls: {mode: DISABLE}}
---
";

/// Two servers that may be asked.
const PROVIDERS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: one, envoyExtAuthzGrpc: {service: reviews.shop.svc.cluster.local, port: 9080}}
    - {name: other, envoyExtAuthzGrpc: {service: ratings.shop.svc.cluster.local, port: 9080}}
---
";

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
}

fn of_client(more: &str) -> String {
    policy("p", &format!("selector: {{matchLabels: {{app: client}}}}{more}"))
}

fn of_store(more: &str) -> String {
    STORE.to_owned()
        + &policy("p", &format!("selector: {{matchLabels: {{app: store}}}}{more}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]"))
}

pub(crate) fn policies() -> Vec<Case> {
    let denied = "what a rule of this policy holds for is denied";
    let another = |policy: &str, document: usize, other: &str| {
        format!(
            "warning: AuthorizationPolicy/shop/{policy} (z.yaml, document {document}) spec.provider.name: workload shop/client-1 has another \
             provider by AuthorizationPolicy/shop/{other}, and without --multipleCustomAuthzProviders one workload can have one only: {denied}"
        )
    };
    vec![
        Case::new(
            "a policy that allows nothing",
            of_client(""),
            &["warning: AuthorizationPolicy/shop/p (z.yaml, document 1) spec.rules: are missing: the policy allows nothing, and every \
               request is denied"],
        ),
        Case::new(
            "a policy that denies nothing",
            of_client(", action: DENY"),
            &[
                "error: AuthorizationPolicy/shop/p (z.yaml, document 1) spec.rules: are missing, so that the policy is never triggered: add an \
               empty rule `{}` to have it triggered by every request",
            ],
        ),
        Case::new(
            "a policy for nobody",
            policy("p", "selector: {matchLabels: {app: cleint}}, action: DENY, rules: [{}]"),
            &["warning: AuthorizationPolicy/shop/p (z.yaml, document 1) spec.selector: no workload has the labels app=cleint: the policy \
               decides about nobody"],
        ),
        Case::new(
            "a policy that allows HTTP at a TCP port",
            of_store(""),
            &[
                "warning: AuthorizationPolicy/shop/p (z.yaml, document 4) spec.rules[0]: asks for what only HTTP requests have: at TCP ports, \
               such as 6379 of store.shop.svc.cluster.local, it allows nothing",
            ],
        ),
        Case::new(
            "a policy that denies HTTP at a TCP port",
            of_store(", action: DENY"),
            &[
                "warning: AuthorizationPolicy/shop/p (z.yaml, document 4) spec.rules[0]: names only what HTTP requests have: at TCP ports that \
               is ignored, and more is denied (name the ports that are meant)",
            ],
        ),
        Case::new(
            "a policy for identities that nobody proves",
            PLAINTEXT.to_owned()
                + &of_client(", action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/bank/sa/teller]}}]}]"),
            &[
                "warning: AuthorizationPolicy/shop/p (z.yaml, document 2) spec.rules[0]: asks for an identity, and PeerAuthentications with \
               mode DISABLE have nobody prove one to these workloads: it denies nothing",
            ],
        ),
        Case::new(
            "a policy that has nobody asked",
            of_client(", action: CUSTOM, provider: {name: guard}, rules: [{}]"),
            &[&format!(
                "warning: AuthorizationPolicy/shop/p (z.yaml, document 1) spec.provider.name: MeshConfig has no envoyExtAuthzHttp or \
                 envoyExtAuthzGrpc of this name in extensionProviders: {denied}"
            )],
        ),
        Case::new(
            "policies that have two asked",
            PROVIDERS.to_owned()
                + &policy("a", "selector: {matchLabels: {app: client}}, action: CUSTOM, provider: {name: one}, rules: [{}]")
                + "---\n"
                + &policy("b", "action: CUSTOM, provider: {name: other}, rules: [{to: [{operation: {ports: ['1']}}]}]"),
            &[&another("a", 2, "b"), &another("b", 3, "a")],
        ),
    ]
}
