//! Rules for the annotation `istio.io/dry-run`, which has a policy tried without having it decide.

use crate::api::{
    Object, Spec,
    findings::{Findings, Path},
    istio::{AuthorizationAction, DRY_RUN, is_dry_run},
};

pub(super) fn check(object: &Object, findings: &Findings) {
    let value = object.metadata.annotations.get(DRY_RUN).filter(|_| object.key.kind.is_configuration());
    let Some(value) = value else { return };
    let wrong = match &object.spec {
        Spec::AuthorizationPolicy(policy) => match policy.action {
            AuthorizationAction::Allow | AuthorizationAction::Deny if is_dry_run(value).is_some() => return,
            AuthorizationAction::Allow | AuthorizationAction::Deny => format!("must be \"true\" or \"false\", is {value:?}"),
            AuthorizationAction::Audit | AuthorizationAction::Custom => "is possible with actions ALLOW and DENY only".to_owned(),
        },
        _ => "is possible for AuthorizationPolicies only: remove it".to_owned(),
    };
    let metadata = Path::Root.field("metadata");
    findings.error(&metadata.field("annotations").key(DRY_RUN), wrong);
}
