//! Who may read Secrets: the API server says so, and where objects are files, the namespace decides.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::settings::Settings;
use crate::{
    identity::authenticate::kubernetes::AccessReviews,
    xds::secret_readers::{Account, ByNamespace, SecretReaders},
};

/// Returns who says so for these settings.
pub(super) fn secret_readers(settings: &Settings) -> Arc<dyn SecretReaders> {
    match settings.source.api_server() {
        Some(server) => Arc::new(Reviewed(AccessReviews::new(server.client.clone()))),
        None => Arc::new(ByNamespace),
    }
}

struct Reviewed(AccessReviews);

impl SecretReaders for Reviewed {
    fn may_read<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Option<bool>> {
        Box::pin(async move {
            let answer = self.0.may_list_secrets(&account.namespace, &account.name).await;
            answer.inspect_err(|error| tracing::warn!(%error, ?account, "no SubjectAccessReview: what was known of it stays")).ok()
        })
    }
}
