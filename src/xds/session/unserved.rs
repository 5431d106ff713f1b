//! Types that are not served: they are answered, once for each thing asked, so that nobody waits.

use std::collections::BTreeMap;

use smol_str::{SmolStr, format_smolstr};

use super::Response;

/// More types than a client may make us remember.
const TYPES: usize = 32;
/// Reports about the proxy (contract §2.2), not subscriptions.
const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";
/// What pilot-agent resolves names by when it captures DNS. It is not ready before it has a table; with an empty one it
/// asks the resolvers of its pod for every name.
const NAME_TABLE: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

#[derive(Debug, Default)]
pub(crate) struct Unserved {
    asked: BTreeMap<String, Vec<String>>,
    due: Vec<Response>,
    nonce: u64,
}

impl Unserved {
    /// A delta request: names asked for are said to be gone.
    pub(super) fn on_delta(&mut self, type_url: String, names: Vec<String>, is_answer: bool) {
        if is_answer && names.is_empty() {
            return;
        }
        let removed = names.iter().filter(|name| *name != "*").map(Into::into).collect();
        self.answer(type_url, names, removed);
    }

    /// A state-of-the-world request: answered when it asks for something else than before.
    pub(super) fn on_sotw(&mut self, type_url: String, names: Vec<String>, is_answer: bool) {
        if !is_answer || self.asked.get(&type_url).is_some_and(|asked| *asked != names) {
            self.answer(type_url, names, Vec::new());
        }
    }

    pub(super) fn next(&mut self) -> Option<Response> {
        self.due.pop()
    }

    fn answer(&mut self, type_url: String, names: Vec<String>, removed: Vec<SmolStr>) {
        let known = self.asked.contains_key(&type_url) || self.asked.len() < TYPES;
        if type_url == HEALTH || !known {
            return;
        }
        self.nonce += 1;
        // Apart from the nonces of served types, which count on their own.
        let nonce = format_smolstr!("x{}", self.nonce);
        self.due.retain(|response| response.type_url != type_url || !response.removed.is_empty());
        let blank = type_url == NAME_TABLE;
        self.due.insert(0, Response { type_url: (&type_url).into(), nonce, version: "0".into(), blank, removed, ..Response::default() });
        self.asked.insert(type_url, names);
    }
}
