//! Types that no view has content of: each request is answered once for each thing that it asks for, so that nobody
//! waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smol_str::{SmolStr, format_smolstr};
use xxhash_rust::xxh3::Xxh3;

use super::{
    protocol::{Protocol, Request},
    response::Response,
};
use crate::{
    visits::{Visit, Visited},
    xds::{
        bounds::{Excess, TYPES},
        resource_type::ResourceType,
        stand_in::stand_in,
    },
};

/// Reports about the proxy (contract §2.2), not subscriptions.
const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";

/// What was asked, and the answers that are due.
#[derive(Debug, Default)]
pub(super) struct Answers {
    types: BTreeMap<SmolStr, Asked>,
    /// The types of which an answer is due, the oldest first.
    due: VecDeque<SmolStr>,
    /// Counts the answers. The nonces of other types do not depend on them.
    nonce: u64,
}

/// What was asked of one type.
#[derive(Debug, Default)]
struct Asked {
    /// The hash of the names of the last request.
    names: u64,
    /// The answer that is due: one, however many requests there were.
    due: Option<Due>,
}

#[derive(Debug)]
struct Due {
    nonce: SmolStr,
    gone: BTreeSet<SmolStr>,
}

impl Answers {
    /// Takes a request. `most` is how many names of a type may be asked for.
    ///
    /// # Errors
    /// When the client asks for too many types, or for too many names of one.
    pub(super) fn receive<P: Protocol>(&mut self, request: &P::Request, most: usize) -> Result<(), Excess> {
        let type_url = request.type_url();
        if type_url == HEALTH {
            return Ok(());
        }
        let names = hash_of(request.names());
        let changed = self.types.get(type_url).map(|asked| asked.names != names);
        if changed.is_none() && self.types.len() >= TYPES {
            return Err(Excess::entries("type_url", TYPES));
        }
        if !P::wants_answer(request, changed) {
            return Ok(());
        }
        self.nonce += 1;
        let asked = self.types.entry(type_url.into()).or_default();
        asked.names = names;
        if asked.due.is_none() {
            self.due.push_back(type_url.into());
        }
        let due = asked.due.get_or_insert_with(|| Due { nonce: SmolStr::default(), gone: BTreeSet::new() });
        due.nonce = format_smolstr!("x{}", self.nonce);
        due.gone.extend(P::gone(request));
        if due.gone.len() > most { Err(Excess::names(P::NAMES, most)) } else { Ok(()) }
    }

    /// Returns the next answer.
    pub(super) fn next(&mut self) -> Option<Response> {
        let type_url = self.due.pop_front()?;
        let Due { nonce, gone } = self.types.get_mut(&type_url)?.due.take()?;
        let kind = ResourceType::from_type_url(&type_url);
        Some(Response {
            kind,
            nonce,
            version: "0".into(),
            resources: kind.and_then(|kind| stand_in(kind, "")).into_iter().collect(),
            removed: gone.into_iter().collect(),
            type_url,
        })
    }

    /// Returns how many names are in the answers that are due.
    pub(super) fn effort(&self) -> usize {
        self.due.iter().filter_map(|type_url| self.types.get(type_url)?.due.as_ref()).map(|due| due.gone.len()).sum()
    }
}

fn hash_of(names: &[String]) -> u64 {
    let mut hash = Xxh3::new();
    for name in names.iter().visiting(Visited::Name) {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

    use super::*;
    use crate::{visits::Visits, xds::session::Delta};

    fn request(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
        let resource_names_subscribe = names.iter().map(ToString::to_string).collect();
        DeltaDiscoveryRequest { type_url: type_url.into(), resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
    }

    #[test]
    fn what_is_due_of_a_type_is_one_answer() {
        let mut answers = Answers::default();
        for (type_url, names) in [("a", &["x", "*"][..]), ("b", &["z"]), ("a", &["y", "x"])] {
            answers.receive::<Delta>(&request(type_url, names), 10).unwrap();
        }
        let said: Vec<_> = std::iter::from_fn(|| answers.next()).map(|answer| (answer.type_url, answer.nonce, answer.removed)).collect();
        let names = |names: &[&str]| names.iter().copied().map(SmolStr::from).collect::<Vec<_>>();
        assert_eq!(said, [("a".into(), "x3".into(), names(&["x", "y"])), ("b".into(), "x2".into(), names(&["z"]))]);
        assert!(answers.next().is_none());
    }

    #[test]
    fn types_and_names_have_bounds() {
        let mut answers = Answers::default();
        for number in 0..TYPES {
            answers.receive::<Delta>(&request(&number.to_string(), &[]), 10).unwrap();
        }
        assert_eq!(answers.receive::<Delta>(&request("one more", &[]), 10), Err(Excess::entries("type_url", TYPES)));
        for name in ["a", "b", "a"] {
            answers.receive::<Delta>(&request("0", &[name]), 2).unwrap();
        }
        assert_eq!(answers.receive::<Delta>(&request("0", &["c"]), 2), Err(Excess::names("resource_names_subscribe", 2)));
    }

    #[test]
    fn twice_the_requests_cost_twice() {
        let cost = |count: usize| {
            let (mut answers, before) = (Answers::default(), Visits::of_this_thread());
            for number in 0..count {
                answers.receive::<Delta>(&request("a", &[&number.to_string()]), count).unwrap();
            }
            (Visits::of_this_thread() - before).names
        };
        assert_eq!(cost(2000), 2 * cost(1000));
    }
}
