//! Checks ProxyConfig.

use super::Check;
use crate::api::{findings::Path, istio::ProxyConfig};

impl Check<'_> {
    pub(super) fn proxy_config(self, config: &ProxyConfig, at: &Path<'_>) {
        let Some(selector) = &config.selector else { return };
        let at = at.field("selector");
        self.selector(selector, &at.field("matchLabels"));
        if selector.is_empty() {
            self.warning(&at, "has no labels: it selects all workloads");
        }
    }
}
