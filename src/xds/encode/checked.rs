//! Encodes what Envoy takes. A message that it would refuse is left out, or the part of it in which the fault lies is closed:
//! a proxy is sent the resources of many objects together, and refuses them together.

use std::{collections::BTreeSet, iter, sync::Arc};

use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster,
    core::v3::TypedExtensionConfig,
    endpoint::v3::ClusterLoadAssignment,
    listener::v3::{FilterChain, Listener},
    route::v3::{RouteConfiguration, VirtualHost},
};
use prost::Message;
use smol_str::SmolStr;

use super::{
    canonical,
    constraints::{Step, Violation, violations},
    field_at::field_at,
    patch_report::PatchReport,
    unfit::{Part, Unfit},
};
use crate::{
    translate::{input::Built, listener, route},
    xds::resource::{EncodedVirtualHost, Resource},
};

/// Field numbers of `VirtualHost`.
const NAME: u32 = 1;
const DOMAINS: u32 = 2;

/// What came of a translated message.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The resource's name.
    pub name: SmolStr,
    /// What can be sent.
    pub resource: Option<Arc<Resource>>,
    /// What was left out or closed.
    pub unfit: Arc<[Arc<Unfit>]>,
    /// What came of patches, if there are some for it.
    pub report: Option<Arc<PatchReport>>,
}

/// What came of a virtual host.
#[derive(Clone, Debug)]
pub struct CheckedVirtualHost {
    /// What can be sent: the host, or what stands in for it.
    pub host: Option<Arc<EncodedVirtualHost>>,
    /// Why it is closed, if it is.
    pub unfit: Option<Arc<Unfit>>,
}

/// Encodes a cluster.
pub fn cluster(built: Built<Cluster>) -> Encoded {
    let (body, found) = canonical::checked(&built.message);
    match found.into_iter().next() {
        None => Encoded::sent(super::encoded_cluster(built, body), Vec::new()),
        Some(violation) => {
            let name = SmolStr::new(&built.message.name);
            let unfit = Unfit::new(Part::Cluster(name.clone()), violation, built.origins);
            Encoded::unsent(name, unfit)
        }
    }
}

/// Takes a load assignment that is encoded already, in canonical order. An endpoint with a fault is left out of it.
pub fn load_assignment(name: SmolStr, built: Built<Vec<u8>>) -> Encoded {
    let found = violations::<ClusterLoadAssignment>(&built.message);
    let at = |violation: &Violation| match violation.path[..] {
        [Step { name: "endpoints", index: Some(group) }, Step { name: "lb_endpoints", index: Some(at) }, ..] => Some((group, at)),
        _ => None,
    };
    let unfit: Option<BTreeSet<(usize, usize)>> = found.iter().map(at).collect();
    let Some(violation) = found.into_iter().next() else {
        return Encoded::sent(super::encoded_load_assignment(name, built), Vec::new());
    };
    match (unfit, ClusterLoadAssignment::decode(&built.message[..])) {
        (Some(unfit), Ok(mut message)) => {
            let part = Part::Endpoints { cluster: name.clone(), number: unfit.len() };
            let told = Unfit::new(part, violation, built.origins.clone());
            for (group, at) in unfit.into_iter().rev() {
                message.endpoints[group].lb_endpoints.remove(at);
            }
            let left = Built { message: canonical::canonical(&message), ..built };
            Encoded::sent(super::encoded_load_assignment(name, left), vec![Arc::new(told)])
        }
        _ => {
            let unfit = Unfit::new(Part::LoadAssignment(name.clone()), violation, built.origins);
            Encoded::unsent(name, unfit)
        }
    }
}

/// Encodes a listener. A filter chain with a fault is closed: without it, its connections would find another one.
pub fn listener(mut built: Built<Listener>) -> Encoded {
    let mut closed: Vec<Arc<Unfit>> = Vec::new();
    loop {
        let (body, found) = canonical::checked(&built.message);
        let name = built.message.name.clone();
        let at = found.first().and_then(|violation| violation.path.first()).copied();
        let chain = at.and_then(|at| chain(&mut built.message, at));
        match (found.into_iter().next(), chain) {
            (None, _) => return Encoded::sent(super::encoded_listener(built, body), closed),
            (Some(violation), Some(chain)) if closed.iter().all(|closed| closed.violation.path.first() != at.as_ref()) => {
                let part = Part::Chain { listener: name.into(), chain: chain.name.as_str().into() };
                *chain = listener::closed(chain);
                closed.push(Arc::new(Unfit::new(part, violation, built.origins.clone())));
            }
            (Some(violation), _) => {
                let unfit = Unfit::new(Part::Listener(name.as_str().into()), violation, built.origins);
                return Encoded::unsent(name.into(), unfit);
            }
        }
    }
}

/// Encodes an extension configuration. One with a fault is left out.
pub fn extension_config(built: Built<TypedExtensionConfig>) -> Encoded {
    let (body, found) = canonical::checked(&built.message);
    match found.into_iter().next() {
        None => Encoded::sent(super::encoded_extension_config(built, body), Vec::new()),
        Some(violation) => {
            let name = SmolStr::new(&built.message.name);
            let unfit = Unfit::new(Part::ExtensionConfig(name.clone()), violation, built.origins);
            Encoded::unsent(name, unfit)
        }
    }
}

/// Takes an extension configuration that whoever stands between makes something else of before Envoy sees it.
pub fn rewritten_extension_config(built: Built<TypedExtensionConfig>) -> Encoded {
    Encoded::sent(super::extension_config(built), Vec::new())
}

/// Encodes one virtual host. One with a fault answers every request with 503: without it, its requests would find another one.
pub fn virtual_host(built: Built<VirtualHost>) -> CheckedVirtualHost {
    let (body, found) = canonical::checked(&built.message);
    let Some(violation) = found.into_iter().next() else {
        return CheckedVirtualHost { host: Some(Arc::new(super::encoded_virtual_host(built, &body))), unfit: None };
    };
    let part = Part::VirtualHost(built.message.name.as_str().into());
    let unfit = Some(Arc::new(Unfit::new(part, violation, built.origins.clone())));
    let closed = Built { message: route::closed(&built.message), clusters: Vec::new(), ..built };
    let (body, found) = canonical::checked(&closed.message);
    // No request can be for domains that Envoy does not take.
    CheckedVirtualHost { host: found.is_empty().then(|| Arc::new(super::encoded_virtual_host(closed, &body))), unfit }
}

/// Joins a route table from its own fields and virtual hosts.
pub fn route_configuration<'a>(header: &RouteConfiguration, hosts: impl IntoIterator<Item = &'a CheckedVirtualHost> + Clone) -> Encoded {
    let closed = hosts.clone().into_iter().filter_map(|host| host.unfit.clone()).collect();
    Encoded::sent(super::route_configuration(header, hosts.into_iter().filter_map(|host| host.host.clone())), closed)
}

/// Puts virtual hosts of the table before in the place of those that are closed. One with other domains stays closed: its own may be
/// another's by now.
pub fn keeping_virtual_hosts(made: Encoded, before: &Resource) -> Encoded {
    let Some(table) = &made.resource else { return made };
    let mut unfit = made.unfit.to_vec();
    let mut hosts = table.virtual_hosts.to_vec();
    for unfit in &mut unfit {
        let Part::VirtualHost(name) = &unfit.part else { continue };
        let Some(closed) = hosts.iter_mut().find(|host| fields(host, NAME).eq([name.as_bytes()])) else { continue };
        let same = |host: &EncodedVirtualHost, number| fields(host, number).eq(fields(closed, number));
        let known = before.virtual_hosts.iter().find(|host| same(host, NAME) && same(host, DOMAINS));
        // It may be closed itself.
        if let Some(known) = known.filter(|known| known.version != closed.version).cloned() {
            *closed = known;
            *unfit = Arc::new(Unfit { is_kept: true, ..Unfit::clone(unfit) });
        }
    }
    let table = super::with_virtual_hosts(table, hosts);
    Encoded { resource: Some(Arc::new(table)), unfit: unfit.into(), ..made }
}

/// Returns the texts of a field of a virtual host, in order.
fn fields(host: &EncodedVirtualHost, number: u32) -> impl Iterator<Item = &[u8]> {
    let message = host.message();
    let mut next = 0;
    let fields = iter::from_fn(move || {
        let field = field_at(message, next)?;
        next = field.end;
        Some(field)
    });
    fields.filter(move |field| field.number == number).map(move |field| &message[field.content..field.end])
}

impl Encoded {
    fn sent(resource: Resource, unfit: Vec<Arc<Unfit>>) -> Self {
        // All share one empty list.
        let unfit = if unfit.is_empty() { Arc::default() } else { unfit.into() };
        Self { name: resource.name.clone(), resource: Some(Arc::new(resource)), unfit, report: None }
    }

    fn unsent(name: SmolStr, unfit: Unfit) -> Self {
        Self { name, resource: None, unfit: Arc::new([Arc::new(unfit)]), report: None }
    }

    /// Returns whether there is none because a patch removes it.
    pub fn is_removed(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.removes)
    }
}

/// Returns the filter chain that a step from a listener leads into.
fn chain(listener: &mut Listener, step: Step) -> Option<&mut FilterChain> {
    match (step.name, step.index) {
        ("filter_chains", Some(index)) => listener.filter_chains.get_mut(index),
        ("default_filter_chain", _) => listener.default_filter_chain.as_mut(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::config::{
            core::v3::{Address, HeaderValue, HeaderValueOption, Pipe, address},
            endpoint::v3::{Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
            listener::v3::{Filter, FilterChainMatch},
        },
        google::protobuf::UInt32Value,
    };

    use super::*;
    use crate::{
        api::{Kind, ObjectKey},
        mesh::model::Origin,
        translate::route::closed,
    };

    fn origin(kind: Kind) -> Origin {
        let object = ObjectKey { cluster: "c".into(), kind, namespace: "shop".into(), name: "a".into() };
        Origin { object, generation: 0 }
    }

    fn built<M>(message: M) -> Built<M> {
        Built { clusters: vec!["b".into()], ..Built::new(message, [origin(Kind::Service), origin(Kind::VirtualService)]) }
    }

    fn with(domain: &str, format: &str) -> Built<VirtualHost> {
        let header = HeaderValue { key: "x".into(), value: format.into(), ..HeaderValue::default() };
        let option = HeaderValueOption { header: Some(header), ..HeaderValueOption::default() };
        built(VirtualHost {
            name: "a".into(),
            domains: vec![domain.into()],
            request_headers_to_add: vec![option],
            ..VirtualHost::default()
        })
    }

    fn listener_of(chains: [(u32, &str); 2]) -> Built<Listener> {
        let chain = |(port, filter): (u32, &str)| FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                destination_port: Some(UInt32Value { value: port }),
                ..FilterChainMatch::default()
            }),
            filters: vec![Filter { name: filter.into(), ..Filter::default() }],
            name: format!("to {port}"),
            ..FilterChain::default()
        };
        built(Listener { name: "l".into(), filter_chains: chains.map(chain).into(), ..Listener::default() })
    }

    #[test]
    fn a_virtual_host_with_a_fault_keeps_its_domains_and_answers_503() {
        let fit = virtual_host(with("a.example", "%PROTOCOL%"));
        assert!(fit.unfit.is_none() && fit.host.unwrap().clusters == ["b"]);

        let made = with("a.example", "%NOPE%");
        let closed = closed(&made.message);
        let unfit = virtual_host(made);
        let host = unfit.host.unwrap();
        assert_eq!(host.field, super::super::virtual_host(built(closed)).field);
        assert!(host.clusters.is_empty());
        let findings = unfit.unfit.unwrap().findings(false);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        let said = finding.to_string();
        assert!(
            said.starts_with("error: VirtualService/shop/a: Envoy refuses what is made of this (virtual host a, request_headers"),
            "{said}"
        );
        assert!(said.ends_with("requests for its domains get 503 until this is mended"), "{said}");

        // Nothing can ask for domains that Envoy does not take.
        assert!(virtual_host(with("a\n", "")).host.is_none());
    }

    #[test]
    fn a_virtual_host_that_was_good_stays_while_its_domains_are_the_same() {
        let table = |domain: &str, format: &str| {
            let header = RouteConfiguration { name: "80".into(), ..RouteConfiguration::default() };
            route_configuration(&header, [&virtual_host(with(domain, format))])
        };
        let version = |made: &Encoded| made.resource.as_ref().unwrap().version;
        let said = |made: &Encoded| made.unfit[0].findings(false)[0].message.clone();
        let good = table("a.example", "%PROTOCOL%");
        let kept = keeping_virtual_hosts(table("a.example", "%NOPE%"), good.resource.as_ref().unwrap());
        assert_eq!(version(&kept), version(&good));
        assert!(said(&kept).contains("keep what they had before"), "{}", said(&kept));
        // And so the next time.
        let again = keeping_virtual_hosts(table("a.example", "%NO%"), kept.resource.as_ref().unwrap());
        assert_eq!(version(&again), version(&good));

        let moved = keeping_virtual_hosts(table("b.example", "%NOPE%"), good.resource.as_ref().unwrap());
        assert_eq!(version(&moved), version(&table("b.example", "%NOPE%")));
        assert!(said(&moved).contains("get 503"), "{}", said(&moved));
        let closed = keeping_virtual_hosts(table("b.example", "%NO%"), moved.resource.as_ref().unwrap());
        assert!(said(&closed).contains("get 503"), "{}", said(&closed));
    }

    #[test]
    fn a_chain_with_a_fault_is_closed_and_the_others_stand() {
        assert!(listener(listener_of([(80, "x"), (81, "y")])).unfit.is_empty());

        let made = listener(listener_of([(80, "x"), (81, "")]));
        let sent = Listener::decode(&made.resource.unwrap().body[..]).unwrap();
        let [open, closed] = &sent.filter_chains[..] else { panic!("{sent:?}") };
        assert_eq!(open.filters[0].name, "x");
        assert_eq!((closed.filters[0].name.as_str(), &closed.name), ("envoy.filters.network.tcp_proxy", &"to 81".to_owned()));
        assert_eq!(closed.filter_chain_match.as_ref().unwrap().destination_port.unwrap().value, 81);
        assert_eq!(made.unfit[0].part, Part::Chain { listener: "l".into(), chain: "to 81".into() });

        // What it matches is wrong: nothing can stand in for it.
        let made = listener(listener_of([(80, "x"), (0, "y")]));
        assert!(made.resource.is_none());
        assert_eq!(made.unfit[0].part, Part::Listener("l".into()));
    }

    #[test]
    fn an_endpoint_with_a_fault_is_left_out_alone() {
        let endpoint = |path: &str| {
            let pipe = Address { address: Some(address::Address::Pipe(Pipe { path: path.into(), ..Pipe::default() })) };
            let identifier = HostIdentifier::Endpoint(Endpoint { address: Some(pipe), ..Endpoint::default() });
            LbEndpoint { host_identifier: Some(identifier), ..LbEndpoint::default() }
        };
        let long = "/".repeat(108);
        let locality = |paths: [&str; 3], priority| LocalityLbEndpoints {
            lb_endpoints: paths.map(endpoint).into(),
            priority,
            ..LocalityLbEndpoints::default()
        };
        let assignment = |endpoints| ClusterLoadAssignment { cluster_name: "c".into(), endpoints, ..ClusterLoadAssignment::default() };
        let encoded = |message: ClusterLoadAssignment| load_assignment("c".into(), built(message.encode_to_vec()));
        let made = encoded(assignment(vec![locality(["a", &long, "b"], 0), locality([&long, "c", &long], 1)]));
        let left = ClusterLoadAssignment::decode(&made.resource.unwrap().body[..]).unwrap();
        let of = |locality: &LocalityLbEndpoints| locality.lb_endpoints.clone();
        assert_eq!(of(&left.endpoints[0]), ["a", "b"].map(endpoint));
        assert_eq!(of(&left.endpoints[1]), ["c"].map(endpoint));
        assert_eq!(made.unfit[0].part, Part::Endpoints { cluster: "c".into(), number: 3 });

        // A priority is no endpoint's.
        assert!(encoded(assignment(vec![locality(["a", "b", "c"], 129)])).resource.is_none());
    }

    #[test]
    fn a_cluster_with_a_fault_is_left_out_and_said_at_who_made_it() {
        let made = cluster(Built::new(Cluster { name: "a".into(), lb_policy: 99, ..Cluster::default() }, [origin(Kind::Service)]));
        assert!(made.resource.is_none());
        let findings = made.unfit[0].findings(true);
        let said = findings[0].to_string();
        let expected = "error: Service/shop/a: Envoy refuses what is made of this (cluster a, lb_policy: 99 has no meaning): \
                        proxies keep what they had before until this is mended";
        assert_eq!(said, expected);
    }
}
