//! Filter chains: what they match and what is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use envoy_types::pb::envoy::config::{
    core::v3::{CidrRange, TransportSocket},
    listener::v3::{Filter, FilterChain, FilterChainMatch},
};
use smol_str::SmolStr;

use crate::{
    mesh::model::Origin,
    translate::{filter::network, metadata::istio_config, naming::config_path, wkt},
};

/// ALPN names that the HTTP inspector sets for plaintext.
pub(crate) const PLAINTEXT_HTTP: [&str; 2] = ["http/1.1", "h2c"];
/// ALPN names of all mTLS between proxies of the mesh.
pub(crate) const MESH: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPN names of mTLS with HTTP inside.
pub(crate) const MESH_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPN names of mTLS with something else inside.
pub(crate) const MESH_TCP: [&str; 2] = ["istio-peer-exchange", "istio"];

/// The name of the chain for connections that no other chain of an outbound listener takes.
pub(crate) const PASSTHROUGH_CHAIN: &str = "PassthroughFilterChain";

/// Returns what stands in for a chain that cannot be sent: it takes the same connections, and closes them.
pub fn closed(chain: &FilterChain) -> FilterChain {
    FilterChain {
        name: chain.name.clone(),
        filter_chain_match: chain.filter_chain_match.clone(),
        filters: vec![network::black_hole()],
        ..FilterChain::default()
    }
}

/// What a chain of an outbound or gateway listener matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ChainMatch {
    /// SNI names; `*` stands for all.
    pub(crate) server_names: Vec<SmolStr>,
    /// `a.b.c.d/n`, or an address.
    pub(crate) prefix_ranges: Vec<SmolStr>,
    /// Plaintext HTTP, as sniffed.
    pub(crate) plaintext_http: bool,
    /// mTLS between proxies of the mesh, by its ALPN names (AUTO_PASSTHROUGH).
    pub(crate) mesh_tls: bool,
}

impl ChainMatch {
    /// Returns whether every connection matches.
    pub(crate) fn is_all(&self) -> bool {
        self.names().next().is_none() && self.ranges().next().is_none() && !self.plaintext_http && !self.mesh_tls
    }

    /// Returns whether Envoy would refuse a listener that has both: it does when one combination of name, network and
    /// protocol is of both. Nothing said is a value of its own, which no name or network meets.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        let protocols = |chain: &Self| (chain.plaintext_http, chain.mesh_tls);
        protocols(self) == protocols(other)
            && meet(&self.names().collect(), &other.names().collect())
            && meet(&self.ranges().collect(), &other.ranges().collect())
    }

    /// Returns the message; `None` when everything matches.
    pub(crate) fn message(&self) -> Option<FilterChainMatch> {
        if self.is_all() {
            return None;
        }
        let protocols: &[&str] = match (self.plaintext_http, self.mesh_tls) {
            (true, _) => &PLAINTEXT_HTTP,
            (_, true) => &MESH,
            _ => &[],
        };
        Some(FilterChainMatch {
            server_names: self.names().map(SmolStr::to_string).collect(),
            prefix_ranges: self.ranges().map(cidr_range).collect(),
            application_protocols: protocols.iter().map(|name| (*name).to_owned()).collect(),
            transport_protocol: if self.plaintext_http { "raw_buffer".into() } else { String::new() },
            ..Default::default()
        })
    }

    /// Returns a name that Envoy cannot match: of a server name it takes whole labels only as wildcards.
    pub(crate) fn partial_wildcard(&self) -> Option<&SmolStr> {
        self.names().find(|name| name.starts_with('*') && !name.starts_with("*."))
    }

    // A star among the names means that there is no condition on them. Envoy refuses a chain that says one name twice.
    fn names(&self) -> impl Iterator<Item = &SmolStr> {
        let all = self.server_names.iter().any(|name| name == "*");
        let mut seen = BTreeSet::new();
        self.server_names.iter().filter(move |name| !all && seen.insert(*name))
    }

    // Each network once, whatever host bits it is written with.
    fn ranges(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let mut seen = BTreeSet::new();
        let given = self.prefix_ranges.iter().filter_map(|range| cidr(range));
        given.filter(move |network| !network.0.is_unspecified() && seen.insert(*network))
    }
}

/// A server name and a network.
type Condition = (Option<SmolStr>, Option<(IpAddr, u8)>);

/// Finds chains that may conflict with one, so that not each is held against each.
#[derive(Default)]
pub(crate) struct ChainIndex {
    len: usize,
    /// Chains by each name and network; `None`: those that say nothing of it.
    by_condition: BTreeMap<Condition, Vec<usize>>,
}

impl ChainIndex {
    /// Adds the next chain: chains are numbered in the order in which they are added.
    pub(crate) fn add(&mut self, matcher: &ChainMatch) {
        for condition in conditions(matcher) {
            self.by_condition.entry(condition).or_default().push(self.len);
        }
        self.len += 1;
    }

    /// Returns the numbers of chains that share a name and a network with this one: whoever conflicts with it is among them. A
    /// number may come twice.
    pub(crate) fn candidates(&self, matcher: &ChainMatch) -> impl Iterator<Item = usize> {
        conditions(matcher).filter_map(|condition| self.by_condition.get(&condition)).flatten().copied()
    }
}

/// Returns each combination of name and network.
fn conditions(matcher: &ChainMatch) -> impl Iterator<Item = Condition> {
    let unnamed = matcher.names().next().is_none().then_some(None);
    let names = matcher.names().cloned().map(Some).chain(unnamed);
    names.flat_map(|name| networks(matcher).map(move |network| (name.clone(), network)))
}

fn networks(matcher: &ChainMatch) -> impl Iterator<Item = Option<(IpAddr, u8)>> {
    let none = matcher.ranges().next().is_none().then_some(None);
    matcher.ranges().map(Some).chain(none)
}

fn meet<T: Ord>(one: &BTreeSet<T>, other: &BTreeSet<T>) -> bool {
    if one.is_empty() || other.is_empty() { one.len() == other.len() } else { !one.is_disjoint(other) }
}

/// Returns a chain of an outbound or gateway listener.
pub(crate) fn outgoing_chain(
    matcher: &ChainMatch,
    filters: Vec<Filter>,
    tls: Option<TransportSocket>,
    config: Option<&Origin>,
) -> FilterChain {
    FilterChain {
        filter_chain_match: matcher.message(),
        filters,
        transport_socket: tls,
        transport_socket_connect_timeout: Some(wkt::duration(Duration::from_secs(15))),
        metadata: config.map(|origin| istio_config(&config_path(origin))),
        ..Default::default()
    }
}

/// Returns the address and prefix length of a network: `10.0.0.0/8` → its first address and 8; a bare address has all its
/// bits.
pub(crate) fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, if address.is_ipv4() { 32 } else { 128 }));
    }
    let network = text.parse::<ipnet::IpNet>().ok()?;
    Some((network.network(), network.prefix_len()))
}

fn cidr_range((address, length): (IpAddr, u8)) -> CidrRange {
    CidrRange { address_prefix: address.to_string(), prefix_len: wkt::uint32(length.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_or_an_unspecified_network_is_no_condition() {
        let star = ChainMatch { server_names: vec!["a.b".into(), "*".into()], ..Default::default() };
        assert!(star.is_all() && star.message().is_none());
        let everywhere = ChainMatch { prefix_ranges: vec!["0.0.0.0/0".into()], ..Default::default() };
        assert!(everywhere.is_all());
    }

    #[test]
    fn chains_conflict_where_one_combination_is_of_both() {
        let chain = |names: &[&str], ranges: &[&str]| ChainMatch {
            server_names: names.iter().map(SmolStr::new).collect(),
            prefix_ranges: ranges.iter().map(SmolStr::new).collect(),
            ..Default::default()
        };
        let table = [
            (chain(&["a", "b"], &[]), chain(&["c", "b"], &[]), true),
            (chain(&["a"], &[]), chain(&["b"], &[]), false),
            (chain(&["a"], &[]), chain(&[], &[]), false),
            (chain(&["a", "*"], &[]), chain(&[], &[]), true),
            (chain(&[], &["1.2.3.4/8"]), chain(&[], &["10.0.0.0/8", "1.0.0.0/8"]), true),
            (chain(&["a"], &["10.0.0.0/8"]), chain(&["a"], &["11.0.0.0/8"]), false),
            (chain(&["a"], &["10.0.0.0/8"]), chain(&["a"], &[]), false),
            (chain(&[], &["0.0.0.0/0"]), chain(&[], &[]), true),
        ];
        for (one, other, expected) in table {
            assert_eq!((one.conflicts_with(&other), other.conflicts_with(&one)), (expected, expected), "{one:?} {other:?}");
            let mut index = ChainIndex::default();
            index.add(&one);
            assert_eq!(index.candidates(&other).any(|at| at == 0 && one.conflicts_with(&other)), expected, "{one:?} {other:?}");
        }
        let sniffed = ChainMatch { plaintext_http: true, ..Default::default() };
        assert!(sniffed.conflicts_with(&sniffed.clone()) && !sniffed.conflicts_with(&ChainMatch::default()));
    }

    #[test]
    fn a_chain_is_held_only_against_those_that_share_something() {
        let of = |name: Option<&str>, range: &str| ChainMatch {
            server_names: name.into_iter().map(SmolStr::new).collect(),
            prefix_ranges: vec![range.into()],
            ..Default::default()
        };
        let mut index = ChainIndex::default();
        for at in 0..100 {
            index.add(&of(Some(&format!("{at}.example.com")), "10.0.0.0/8"));
            index.add(&of(None, &format!("10.0.{at}.0/24")));
        }
        assert_eq!(index.candidates(&of(Some("7.example.com"), "10.0.0.0/8")).collect::<Vec<_>>(), [14]);
        assert_eq!(index.candidates(&of(None, "10.0.7.0/24")).collect::<Vec<_>>(), [15]);
    }

    #[test]
    fn a_name_or_network_is_sent_once() {
        let twice = ChainMatch {
            server_names: vec!["a".into(), "b".into(), "a".into()],
            prefix_ranges: vec!["10.0.0.0/8".into(), "10.1.0.0/8".into()],
            ..Default::default()
        };
        let message = twice.message().unwrap();
        assert_eq!(message.server_names, ["a", "b"]);
        assert_eq!(message.prefix_ranges.len(), 1);
    }
}
