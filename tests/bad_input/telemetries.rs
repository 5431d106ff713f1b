//! Telemetry objects by which less is reported than it looks.

use crate::cases::Case;

fn telemetry(spec: &str) -> String {
    format!("apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: t, namespace: shop}}\nspec: {{{spec}}}\n")
}

pub(crate) fn telemetries() -> Vec<Case> {
    let said = |finding: &str, of: &str| format!("{finding}: Telemetry/shop/t (z.yaml, document 1) {of}");
    vec![
        Case::new(
            "a Telemetry for nobody",
            telemetry("selector: {matchLabels: {app: cleint}}, accessLogging: [{providers: [{name: envoy}]}]"),
            &[&said("warning", "spec.selector: no workload of namespace shop has the labels app=cleint: it has no effect")],
        ),
        Case::new(
            "a Telemetry that reports to nobody",
            telemetry("accessLogging: [{providers: [{name: stdout}]}]"),
            &[&said(
                "warning",
                "spec.accessLogging[0].providers[0].name: MeshConfig has no provider of this name in extensionProviders: it has no effect",
            )],
        ),
        Case::new(
            "a Telemetry with half an expression",
            telemetry("accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code >='}}]"),
            &[&said("error", "spec.accessLogging[0].filter.expression: ends too early")],
        ),
        Case::new(
            "a Telemetry that samples more than everything",
            telemetry("tracing: [{providers: [{name: envoy}], randomSamplingPercentage: 101}]"),
            &[&said("error", "spec.tracing[0].randomSamplingPercentage: must be from 0 to 100")],
        ),
    ]
}
