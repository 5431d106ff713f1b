//! Types that no view has content of: each request is answered once for each thing that it asks for, so that nobody
//! waits.

use std::collections::BTreeMap;

use smol_str::{SmolStr, format_smolstr};

use super::{
    protocol::{Protocol, Request},
    response::Response,
};
use crate::xds::{resource_type::ResourceType, stand_in::stand_in};

/// How many types a client may make us remember.
const TYPES: usize = 32;
/// Reports about the proxy (contract §2.2), not subscriptions.
const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";

/// What was asked, and the answers that are due.
#[derive(Debug, Default)]
pub(super) struct Answers {
    asked: BTreeMap<SmolStr, Vec<String>>,
    due: Vec<Response>,
    /// Counts the answers. The nonces of other types do not depend on them.
    nonce: u64,
}

impl Answers {
    /// Takes a request.
    pub(super) fn receive<P: Protocol>(&mut self, request: &P::Request) {
        let type_url = request.type_url();
        let asked = self.asked.get(type_url);
        let is_too_much = asked.is_none() && self.asked.len() >= TYPES;
        if type_url == HEALTH || is_too_much || !P::wants_answer(request, asked.map(Vec::as_slice)) {
            return;
        }
        self.nonce += 1;
        let kind = ResourceType::from_type_url(type_url);
        let response = Response {
            kind,
            type_url: type_url.into(),
            nonce: format_smolstr!("x{}", self.nonce),
            version: "0".into(),
            resources: kind.and_then(|kind| stand_in(kind, "")).into_iter().collect(),
            removed: P::gone(request),
        };
        self.due.retain(|due| due.type_url != type_url || !due.removed.is_empty());
        self.due.insert(0, response);
        self.asked.insert(type_url.into(), request.names().to_vec());
    }

    /// Returns the next answer.
    pub(super) fn next(&mut self) -> Option<Response> {
        self.due.pop()
    }
}
