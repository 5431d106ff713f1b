//! Applies the patches of EnvoyFilters to what was made, and encodes it again. A patch that cannot be applied, or that would make
//! Envoy refuse the resource, is found here and left out alone.

mod rules;
mod table;

use std::{collections::BTreeSet, sync::Arc};

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use prost::{Message, Name};
use smol_str::{SmolStr, format_smolstr};

use super::{
    canonical,
    checked::Encoded,
    constraints::violations_of,
    patch_report::{PatchFault, PatchReport},
    standing_in::or_before,
};
use crate::{
    mesh::{
        by_ptr::ByPtr,
        envoy_filter::Patch,
        model::{Flavour, Origin},
        policy::envoy_filter::Patches,
    },
    translate::{
        input::Built,
        patch::{self, Failure, Patched},
    },
    xds::{resource::Resource, resource_type::ResourceType},
};

pub use self::table::{PatchedHeader, PatchedHost, TablePatching, header, hosts, reported, virtual_host};

/// What proxies have that patches may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// The build of Envoy.
    pub flavour: Flavour,
    /// The names of the extension configurations that they are given.
    pub extensions: Arc<BTreeSet<SmolStr>>,
}

/// Applies patches to a cluster; `None`: they are for nothing in it.
pub fn cluster(base: &Encoded, patches: &Patches, having: &Capabilities) -> Option<Encoded> {
    let judged = Judged { run: patch::cluster, rules: rules::cluster, having };
    patched(base, patches, &judged, super::encoded_cluster)
}

/// Applies patches to a listener; `None`: they are for nothing in it.
pub fn listener(base: &Encoded, patches: &Patches, having: &Capabilities) -> Option<Encoded> {
    let judged = Judged { run: patch::listener, rules: rules::listener, having };
    patched(base, patches, &judged, super::encoded_listener)
}

/// Encodes the cluster that a patch adds.
pub fn added_cluster(patch: &ByPtr<Patch>, having: &Capabilities) -> Encoded {
    let adding = Adding { patch, having, kind: ResourceType::Cluster };
    added(&adding, rules::cluster, |cluster| &cluster.name, super::encoded_cluster)
}

/// Encodes the listener that a patch adds.
pub fn added_listener(patch: &ByPtr<Patch>, having: &Capabilities) -> Encoded {
    let adding = Adding { patch, having, kind: ResourceType::Listener };
    added(&adding, rules::listener, |listener| &listener.name, super::encoded_listener)
}

/// Encodes the extension configuration that a patch adds.
pub fn added_extension_config(patch: &ByPtr<Patch>, having: &Capabilities) -> Encoded {
    let adding = Adding { patch, having, kind: ResourceType::ExtensionConfig };
    added(&adding, |_: &TypedExtensionConfig| None, |config| &config.name, super::encoded_extension_config)
}

/// A patch that adds a resource of a type, and for whom.
struct Adding<'a> {
    patch: &'a ByPtr<Patch>,
    having: &'a Capabilities,
    kind: ResourceType,
}

/// How patches are applied to messages of one type, and what Envoy has against what comes of it.
struct Judged<'a, R, J> {
    run: R,
    rules: J,
    having: &'a Capabilities,
}

/// What patches made of a message.
struct Outcome<M> {
    /// The message and its encoding; `None`: it is removed.
    made: Option<(M, Vec<u8>)>,
    report: PatchReport,
}

fn patched<M, R, J>(
    base: &Encoded,
    patches: &Patches,
    judged: &Judged<'_, R, J>,
    encode: impl FnOnce(Built<M>, Vec<u8>) -> Resource,
) -> Option<Encoded>
where
    M: Message + Name + Default + Clone,
    R: Fn(M, &Patches) -> Patched<M>,
    J: Fn(&M) -> Option<String>,
{
    let resource = base.resource.as_ref()?;
    let message = M::decode(&resource.body[..]).ok()?;
    let Outcome { made, report } = judged.outcome(&message, &part(resource.kind, &resource.name), patches)?;
    let resource = match made {
        // What changed nothing leaves what there is.
        Some(_) if report.applied.is_empty() => base.resource.clone(),
        Some((message, body)) => Some(Arc::new(encode(built(message, resource, &report.applied), body))),
        None => None,
    };
    Some(Encoded { resource, report: Some(Arc::new(report)), ..base.clone() })
}

/// Joins a patched message with what is known of the resource that it was, and of the patches.
fn built<M>(message: M, base: &Resource, applied: &Patches) -> Built<M> {
    let applied = applied.as_slice();
    let named = |kind| base.references_to(kind).cloned();
    Built {
        message,
        origins: base.origins.iter().chain(applied.iter().map(|patch| &patch.origin)).cloned().collect(),
        clusters: named(ResourceType::Cluster).chain(applied.iter().flat_map(|patch| patch.clusters.iter().cloned())).collect(),
        routes: named(ResourceType::Route).collect(),
        extensions: named(ResourceType::ExtensionConfig).chain(applied.iter().flat_map(|patch| patch.extensions.iter().cloned())).collect(),
    }
}

fn added<M: Message + Name + Default>(
    &Adding { patch, having, kind }: &Adding<'_>,
    rules: impl Fn(&M) -> Option<String>,
    name: impl Fn(&M) -> &str,
    encode: impl FnOnce(Built<M>, Vec<u8>) -> Resource,
) -> Encoded {
    let read = M::decode(&patch.value[..]).map_err(|error| error.to_string());
    let (named, judged) = match read {
        Ok(message) => {
            let judged = objection(patch, having).map_or_else(|| judge(&message, &rules), Err);
            (SmolStr::new(name(&message)), judged.map(|body| (message, body)))
        }
        Err(why) => (SmolStr::default(), Err(why)),
    };
    let one: Patches = [patch.clone()].into_iter().collect();
    match judged {
        Ok((message, body)) => {
            let origins: Vec<Origin> = vec![patch.origin.clone()];
            let resource = encode(
                Built { clusters: patch.clusters.clone(), extensions: patch.extensions.clone(), ..Built::new(message, origins) },
                body,
            );
            let report = PatchReport { applied: one, ..PatchReport::default() };
            Encoded { name: named, resource: Some(Arc::new(resource)), unfit: Arc::default(), report: Some(Arc::new(report)) }
        }
        Err(what) => {
            let faults = vec![PatchFault { patch: patch.clone(), part: part(kind, &named), what, instead: None }];
            let report = PatchReport { applied: one, faults, removes: true };
            Encoded { name: named, resource: None, unfit: Arc::default(), report: Some(Arc::new(report)) }
        }
    }
}

impl<R, J> Judged<'_, R, J> {
    /// Returns what the patches make of a message, or what their objects said before; `None` if none is for it.
    fn outcome<M>(&self, base: &M, part: &SmolStr, patches: &Patches) -> Option<Outcome<M>>
    where
        M: Message + Name + Clone,
        R: Fn(M, &Patches) -> Patched<M>,
        J: Fn(&M) -> Option<String>,
    {
        let of = |outcome: Outcome<M>| (outcome.made, outcome.report);
        // What none of them is for stays as it is.
        let unchanged = || (Some((base.clone(), Vec::new())), PatchReport::default());
        let newest = of(self.newest(base, part, patches)?);
        let (made, report) = or_before(newest, patches, |before| self.newest(base, part, before).map_or_else(unchanged, of));
        Some(Outcome { made, report })
    }

    fn newest<M>(&self, base: &M, part: &SmolStr, patches: &Patches) -> Option<Outcome<M>>
    where
        M: Message + Name + Clone,
        R: Fn(M, &Patches) -> Patched<M>,
        J: Fn(&M) -> Option<String>,
    {
        let run = |patches: &Patches| (self.run)(base.clone(), patches);
        let fault = |patch: &ByPtr<Patch>, what: String| PatchFault { patch: patch.clone(), part: part.clone(), what, instead: None };
        let first = run(patches);
        if first.applied.is_empty() && first.failures.is_empty() {
            return None;
        }
        let unknown = |patch: &ByPtr<Patch>| Some(fault(patch, objection(patch, self.having)?));
        let mut faults: Vec<PatchFault> = first.applied.as_slice().iter().filter_map(unknown).collect();
        let usable = patches.that(|patch| faults.iter().all(|fault| !std::ptr::eq(&*fault.patch.0, patch)));
        let all = if faults.is_empty() { first } else { run(&usable) };
        // What was refused before anybody patched it is nobody's fault here.
        let is_sound = (self.rules)(base).is_none();
        let rules = |message: &M| if is_sound { (self.rules)(message) } else { None };
        let (patched, body) = match all.judged(&rules) {
            Ok(body) => (all, body),
            Err(_) => {
                let concerned = usable.that(|patch| all.concerned(patch));
                let good = one_by_one(&concerned, |trial, patch| match run(trial).judged(&rules) {
                    Ok(_) => true,
                    Err(why) => {
                        faults.push(fault(patch, why));
                        false
                    }
                });
                let left = run(&good);
                let body = left.judged(&rules).unwrap_or_default();
                (left, body)
            }
        };
        faults.extend(patched.failures.into_iter().map(|Failure { patch, why }| fault(&patch, why)));
        let removes = patched.message.is_none();
        let made = patched.message.zip(body);
        Some(Outcome { made, report: PatchReport { applied: patched.applied, faults, removes } })
    }
}

impl<M: Message + Name> Patched<M> {
    /// Returns the encoding, unless Envoy would refuse it; `None` of what is removed.
    fn judged(&self, rules: &impl Fn(&M) -> Option<String>) -> Result<Option<Vec<u8>>, String> {
        self.message.as_ref().map(|message| judge(message, rules)).transpose()
    }
}

/// Adds patches one after the other, and keeps those with which a trial succeeds.
fn one_by_one(patches: &Patches, mut succeeds: impl FnMut(&Patches, &ByPtr<Patch>) -> bool) -> Patches {
    let mut good = Patches::default();
    for patch in patches.as_slice() {
        let trial: Patches = good.as_slice().iter().chain([patch]).cloned().collect();
        if succeeds(&trial, patch) {
            good = trial;
        }
    }
    good
}

fn judge<M: Message + Name>(message: &M, rules: &impl Fn(&M) -> Option<String>) -> Result<Vec<u8>, String> {
    let (body, found) = canonical::checked(message);
    match found.into_iter().next().map(|violation| violation.to_string()).or_else(|| rules(message)) {
        None => Ok(body),
        Some(why) => Err(why),
    }
}

/// Returns what is wrong with a patch, whatever it is applied to: it asks for what proxies do not have, or holds as JSON what Envoy would
/// refuse.
fn objection(patch: &Patch, having: &Capabilities) -> Option<String> {
    if let Some(missing) = patch.types_of_istio.first().filter(|_| having.flavour == Flavour::Stock) {
        return Some(format!("this Envoy has no extension of type {missing}"));
    }
    // Its listener would wait for it.
    if let Some(missing) = patch.extensions.iter().find(|name| !having.extensions.contains(*name)) {
        return Some(format!("no patch for these proxies adds an EXTENSION_CONFIG {missing:?}"));
    }
    let wrong = |(kind, encoded): &(SmolStr, Vec<u8>)| Some(format!("{kind}: {}", violations_of(kind, encoded).first()?));
    patch.structs.iter().find_map(wrong)
}

/// Returns how a resource is called in findings.
pub fn part(kind: ResourceType, name: &str) -> SmolStr {
    let noun = match kind {
        ResourceType::Cluster => "cluster",
        ResourceType::ExtensionConfig => "extension configuration",
        _ => "listener",
    };
    if name.is_empty() { format_smolstr!("the {noun} that it adds") } else { format_smolstr!("{noun} {name}") }
}
