//! Asking Kubernetes what a service account may read.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Semaphore;

/// How many reviews may be under way.
const CONCURRENT: usize = 16;

/// Asks for SubjectAccessReviews, a few at a time.
pub struct AccessReviews {
    api: Api<SubjectAccessReview>,
    permits: Semaphore,
}

// === impl AccessReviews ===

impl AccessReviews {
    /// Returns a client of the API server behind `client`.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), permits: Semaphore::new(CONCURRENT) }
    }

    /// Returns whether a service account may list the Secrets of its own namespace, which is what istiod asks about gateways.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn may_list_secrets(&self, namespace: &str, account: &str) -> Result<bool, kube::Error> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let answer = self.api.create(&PostParams::default(), &review(namespace, account)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn review(namespace: &str, account: &str) -> SubjectAccessReview {
    let attributes = ResourceAttributes {
        namespace: Some(namespace.to_owned()),
        verb: Some("list".to_owned()),
        resource: Some("secrets".to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(format!("system:serviceaccount:{namespace}:{account}")),
        // As the API server knows an account itself: rights may be bound to these groups.
        groups: Some(vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ]),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_about_one_account_in_its_own_namespace() {
        let spec = review("bank", "edge").spec;
        assert_eq!(spec.user.as_deref(), Some("system:serviceaccount:bank:edge"));
        assert!(spec.groups.unwrap().contains(&"system:serviceaccounts:bank".to_owned()));
        let about = spec.resource_attributes.unwrap();
        assert_eq!(
            (about.namespace.as_deref(), about.verb.as_deref(), about.resource.as_deref()),
            (Some("bank"), Some("list"), Some("secrets"))
        );
        assert_eq!((about.group, about.name), (None, None), "the core group; all of them, as with istiod");
    }
}
