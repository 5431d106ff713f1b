//! Patches of route tables, whose virtual hosts are patched one by one.

use std::{collections::BTreeSet, sync::Arc};

use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use prost::Message;
use smol_str::{SmolStr, format_smolstr};

use super::{Capabilities, Judged, Outcome};
use crate::{
    mesh::{by_ptr::ByPtr, envoy_filter::Patch, model::Origin, policy::envoy_filter::Patches},
    translate::{
        input::Built,
        patch::{self, TableIdentity},
    },
    xds::{
        encode::{
            checked::CheckedVirtualHost,
            patch_report::{PatchFault, PatchReport},
            standing_in::or_before,
        },
        resource::{EncodedVirtualHost, Resource},
    },
};

/// The patches for one route table, which are for it or for something in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TablePatching {
    /// Which table it is.
    pub table: TableIdentity,
    /// The patches.
    pub patches: Patches,
    /// What the proxies have that it is for.
    pub having: Capabilities,
}

/// What patches made of a table's own fields.
#[derive(Debug)]
pub struct PatchedHeader {
    /// The table without its virtual hosts.
    pub header: RouteConfiguration,
    /// The virtual hosts that patches bring, with these patches; those of the table's own fields first.
    pub brought: Vec<(Patches, Arc<CheckedVirtualHost>)>,
    /// What came of the patches.
    pub report: PatchReport,
}

/// What patches made of a virtual host.
#[derive(Debug)]
pub struct PatchedHost {
    /// The host; `None`: it is removed.
    pub host: Option<Arc<CheckedVirtualHost>>,
    /// Its domains, if they are others than before.
    pub domains: Option<Vec<String>>,
    /// What came of the patches.
    pub report: PatchReport,
}

/// Applies patches to a table's own fields.
pub fn header(base: &RouteConfiguration, of: &TablePatching) -> PatchedHeader {
    let part = part(of);
    let run = |message: RouteConfiguration, patches: &Patches| patch::route_configuration_header(message, &of.table, patches);
    let judged = Judged { run, rules: |_: &RouteConfiguration| None, having: &of.having };
    let (mut header, mut report) = match judged.outcome(base, &part, &of.patches) {
        Some(Outcome { made: Some((message, _)), report }) => (message, report),
        Some(Outcome { report, .. }) => (base.clone(), report),
        None => (base.clone(), PatchReport::default()),
    };
    let by: Vec<Origin> = report.applied.as_slice().iter().map(|patch| patch.origin.clone()).collect();
    let hosts = std::mem::take(&mut header.virtual_hosts);
    let merged = report.applied.clone();
    let mut brought: Vec<_> = hosts.into_iter().map(|host| (merged.clone(), encoded(host, by.clone(), Vec::new()))).collect();
    let add = |patches: &Patches| added_hosts(of, &part, patches);
    let (hosts, of_hosts) = or_before(add(&of.patches), &of.patches, add);
    brought.extend(hosts);
    report.absorb(&of_hosts);
    PatchedHeader { header, brought, report }
}

/// Returns the virtual hosts that patches add, each with its patch.
fn added_hosts(of: &TablePatching, part: &SmolStr, patches: &Patches) -> (Vec<(Patches, Arc<CheckedVirtualHost>)>, PatchReport) {
    let (mut hosts, mut report) = (Vec::new(), PatchReport::default());
    for patch in patches.as_slice() {
        let one: Patches = [patch.clone()].into_iter().collect();
        let run = |_: VirtualHost, patches: &Patches| patch::added_host(&of.table, patches);
        let judged = Judged { run, rules: |_: &VirtualHost| None, having: &of.having };
        let Some(Outcome { made, report: of_host }) = judged.newest(&VirtualHost::default(), part, &one) else { continue };
        if let Some((host, _)) = made {
            hosts.push((one, encoded(host, vec![patch.origin.clone()], patch.clusters.clone())));
        }
        report.absorb(&of_host);
    }
    (hosts, report)
}

/// Applies patches to a virtual host.
pub fn virtual_host(base: &Arc<CheckedVirtualHost>, of: &TablePatching) -> PatchedHost {
    let unchanged = |report| PatchedHost { host: Some(Arc::clone(base)), domains: None, report };
    let Some(sent) = &base.host else { return unchanged(PatchReport::default()) };
    let Ok(message) = VirtualHost::decode(sent.message()) else { return unchanged(PatchReport::default()) };
    let part = format_smolstr!("virtual host {} of {}", message.name, part(of));
    let run = |message: VirtualHost, patches: &Patches| patch::virtual_host(message, &of.table, patches);
    let judged = Judged { run, rules: |_: &VirtualHost| None, having: &of.having };
    match judged.outcome(&message, &part, &of.patches) {
        None => unchanged(PatchReport::default()),
        Some(Outcome { made: Some(_), report }) if report.applied.is_empty() => unchanged(report),
        Some(Outcome { made: None, report }) => PatchedHost { host: None, domains: None, report },
        Some(Outcome { made: Some((host, _)), report }) => {
            let domains = (host.domains != message.domains).then(|| host.domains.clone());
            let applied = report.applied.as_slice();
            let origins = sent.origins.iter().cloned().chain(applied.iter().map(|patch| patch.origin.clone())).collect();
            let clusters = sent.clusters.iter().cloned().chain(applied.iter().flat_map(|patch| patch.clusters.iter().cloned()));
            let host = CheckedVirtualHost { unfit: base.unfit.clone(), ..host_of(host, origins, clusters.collect()) };
            PatchedHost { host: Some(Arc::new(host)), domains, report }
        }
    }
}

/// Returns the virtual hosts of a table: those that were patched, and those that patches bring. One that would have a domain of
/// another one stays as it was, or away.
pub fn hosts(
    base: &[Arc<CheckedVirtualHost>],
    patched: &[Arc<PatchedHost>],
    header: &PatchedHeader,
    of: &TablePatching,
) -> (Vec<ByPtr<CheckedVirtualHost>>, PatchReport) {
    let mut report = PatchReport::default();
    report.absorb(&header.report);
    patched.iter().for_each(|host| report.absorb(&host.report));
    let is_plain = header.brought.is_empty() && patched.iter().all(|host| host.domains.is_none());
    let of_base = || base.iter().zip(patched).filter(|(_, patched)| patched.host.is_some());
    if is_plain {
        return (of_base().filter_map(|(_, patched)| patched.host.as_ref()).map(ByPtr::from).collect(), report);
    }
    let mut taken: BTreeSet<String> = of_base().flat_map(|(base, _)| domains(base)).collect();
    let mut kept: Vec<ByPtr<CheckedVirtualHost>> = Vec::new();
    let mut refuse = |patches: &Patches, domain: &str| {
        let fault = |patch: &ByPtr<Patch>| PatchFault {
            patch: patch.clone(),
            part: part(of),
            what: format!("another virtual host has the domain {domain:?}"),
            instead: None,
        };
        report.faults.extend(patches.as_slice().iter().map(fault));
    };
    for (base, patched) in of_base() {
        let own: BTreeSet<String> = domains(base).collect();
        let new: Vec<String> = patched.domains.iter().flatten().map(|domain| domain.to_ascii_lowercase()).collect();
        let twice = repeated(&new).or_else(|| new.iter().find(|domain| taken.contains(*domain) && !own.contains(*domain)));
        match (twice, &patched.host) {
            (None, Some(host)) => {
                taken.extend(new.iter().cloned());
                kept.push(host.into());
            }
            (Some(domain), _) => {
                refuse(&patched.report.applied, domain);
                kept.push(base.into());
            }
            (None, None) => {}
        }
    }
    for (by, host) in &header.brought {
        let new: Vec<String> = domains(host).collect();
        match repeated(&new).or_else(|| new.iter().find(|domain| taken.contains(*domain))) {
            Some(domain) => refuse(by, domain),
            None => {
                taken.extend(new.iter().cloned());
                kept.push(host.into());
            }
        }
    }
    (kept, report)
}

/// Adds what came of the patches to a table that is joined.
pub fn reported(table: &Arc<Resource>, report: &PatchReport) -> Arc<Resource> {
    let by = report.applied.as_slice().iter().map(|patch| &patch.origin);
    let origins: Vec<Origin> = table.origins.iter().chain(by).cloned().collect();
    Arc::new(Resource { origins: crate::xds::encode::sorted(origins), ..Resource::clone(table) })
}

fn encoded(host: VirtualHost, origins: Vec<Origin>, clusters: Vec<SmolStr>) -> Arc<CheckedVirtualHost> {
    Arc::new(host_of(host, origins, clusters))
}

fn host_of(message: VirtualHost, origins: Vec<Origin>, clusters: Vec<SmolStr>) -> CheckedVirtualHost {
    let host: EncodedVirtualHost = crate::xds::encode::virtual_host(Built { clusters, ..Built::new(message, origins) });
    CheckedVirtualHost { host: Some(Arc::new(host)), unfit: None }
}

/// Returns the domains of a host, as Envoy compares them.
fn domains(host: &CheckedVirtualHost) -> impl Iterator<Item = String> {
    let message = host.host.as_ref().and_then(|host| VirtualHost::decode(host.message()).ok());
    message.unwrap_or_default().domains.into_iter().map(|domain| domain.to_ascii_lowercase())
}

fn repeated(domains: &[String]) -> Option<&String> {
    let mut known = BTreeSet::new();
    domains.iter().find(|domain| !known.insert(*domain))
}

fn part(of: &TablePatching) -> SmolStr {
    format_smolstr!("route configuration {}", of.table.name)
}
