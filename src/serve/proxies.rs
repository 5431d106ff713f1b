//! What `/debug` shows of connected proxies.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::http::Proxies;
use crate::xds::{classes::Classes, ledger::Ledger, render, resource::ResourceType, view::View};

/// Joins the ledger (where each proxy stands) and the classes (what each is to have).
pub struct ConnectedProxies {
    /// Where proxies stand.
    pub ledger: Arc<Ledger>,
    /// What they are to have.
    pub classes: Arc<Classes>,
}

impl Proxies for ConnectedProxies {
    fn sync_status(&self) -> Value {
        let proxies = self.ledger.proxies();
        proxies
            .iter()
            .map(|proxy| {
                let rejected: Map<String, Value> = proxy
                    .rejected
                    .iter()
                    .map(|(kind, rejection)| {
                        let shown = json!({"error": rejection.error, "resources": rejection.resources, "objects": rejection.objects});
                        (kind.short().into(), shown)
                    })
                    .collect();
                json!({"proxy": proxy.id, "sent": proxy.wanted, "acked": proxy.current, "rejected": rejected})
            })
            .collect()
    }

    fn config_dump(&self, id: &str) -> Option<Value> {
        let views = self.classes.views_of(id);
        let dumps: Map<String, Value> = views.into_iter().map(|(id, view)| (id.to_string(), dump(&view))).collect();
        (!dumps.is_empty()).then_some(Value::Object(dumps))
    }
}

fn dump(view: &View) -> Value {
    let of_kind = |kind: ResourceType| {
        let resources: Map<String, Value> =
            view.iter(kind).map(|resource| (resource.name.to_string(), render::resource_to_json(resource))).collect();
        (kind.short().to_owned(), Value::Object(resources))
    };
    Value::Object(ResourceType::ALL.into_iter().map(of_kind).collect())
}
