//! Asks a real Envoy about many cases at once, with the bootstrap that agents give theirs.
//!
//! Each proxy of each case gets addresses of its own in place of those that it was sent, so that listeners meet within a proxy
//! exactly where they would, and never across. What Envoy has once taken it is not asked again: only the addresses of such a
//! listener are held against the others, and those of listeners that it has taken together not even that.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    hash::{BuildHasher, RandomState},
    net::Ipv6Addr,
    path::PathBuf,
    process::Command,
};

use envoy_types::pb::{
    envoy::{
        config::{
            bootstrap::v3::{Bootstrap, bootstrap::StaticResources},
            cluster::v3::Cluster,
            core::v3::{Address, Pipe, SocketAddress, address, socket_address::PortSpecifier},
            listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
        },
        extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
    },
    google::protobuf::Any,
};
use prost::{Message, Name};

/// What is asked about.
pub(crate) trait Tried: Clone {
    /// Returns what each proxy is sent, as one bootstrap each.
    fn sent(&self) -> Vec<Bootstrap>;

    /// Returns the same without its part of that number, if it has so many.
    fn without(&self, part: usize) -> Option<Self>;
}

/// An Envoy to ask, and what it has taken so far.
pub(crate) struct Judge {
    envoy: PathBuf,
    hasher: RandomState,
    taken: HashSet<u64>,
    starts: usize,
}

/// What one Envoy is asked about.
#[derive(Default)]
struct Question {
    resources: StaticResources,
    /// What bootstraps say beside their resources.
    common: Bootstrap,
    /// What it has not been asked before.
    new: HashSet<u64>,
    /// The clusters that listeners may name.
    names: HashSet<String>,
}

impl Judge {
    pub(crate) fn new(envoy: PathBuf) -> Self {
        Self { envoy, hasher: RandomState::new(), taken: HashSet::new(), starts: 0 }
    }

    /// Returns how often Envoy was started.
    pub(crate) fn starts(&self) -> usize {
        self.starts
    }

    /// Returns the first cases that Envoy refuses.
    pub(crate) fn refused<T: Tried>(&mut self, cases: &[T], most: usize) -> Vec<T> {
        let sent: Vec<(&T, Vec<Bootstrap>)> = cases.iter().map(|case| (case, case.sent())).collect();
        self.refused_of(&sent, most)
    }

    /// Returns the case with as few of its parts as it takes to be refused, and what Envoy says of it.
    pub(crate) fn smallest<T: Tried>(&mut self, case: &T) -> (T, String) {
        let mut smallest = case.clone();
        let mut at = 0;
        while let Some(fewer) = smallest.without(at) {
            if self.reason(&fewer).is_some() { smallest = fewer } else { at += 1 }
        }
        let reason = self.reason(&smallest).unwrap_or_default();
        (smallest, reason)
    }

    fn refused_of<T: Tried>(&mut self, sent: &[(&T, Vec<Bootstrap>)], most: usize) -> Vec<T> {
        match (most, sent) {
            (0, _) | (_, []) => Vec::new(),
            _ if self.ask(sent.iter().flat_map(|(_, sent)| sent)).is_none() => Vec::new(),
            (_, [(only, _)]) => vec![(*only).clone()],
            (_, many) => {
                let (one, other) = many.split_at(many.len() / 2);
                let mut refused = self.refused_of(one, most);
                let left = most - refused.len();
                refused.extend(self.refused_of(other, left));
                refused
            }
        }
    }

    fn reason(&mut self, case: &impl Tried) -> Option<String> {
        self.ask(case.sent().iter())
    }

    /// Returns why Envoy refuses what these proxies are sent.
    pub(crate) fn ask<'s>(&mut self, sent: impl Iterator<Item = &'s Bootstrap>) -> Option<String> {
        let mut question = Question::default();
        for (proxy, sent) in sent.enumerate() {
            self.add(proxy, sent, &mut question);
        }
        if question.new.is_empty() {
            return None;
        }
        let bootstrap = Bootstrap { static_resources: Some(question.resources), ..question.common };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bootstrap.pb");
        fs::write(&file, bootstrap.encode_to_vec()).unwrap();
        self.starts += 1;
        let mut envoy = Command::new(&self.envoy);
        envoy.args(["--mode", "validate", "-l", "error", "--service-node", "judge", "--service-cluster", "judge", "-c"]);
        let output = envoy.arg(&file).current_dir(folder.path()).output().unwrap();
        if output.status.success() {
            self.taken.extend(question.new);
            return None;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Some(said.lines().rfind(|line| line.contains("rror")).unwrap_or(&said).to_owned())
    }

    fn add(&self, proxy: usize, sent: &Bootstrap, question: &mut Question) {
        question.common = Bootstrap { node: None, static_resources: None, ..sent.clone() };
        let Some(sent) = &sent.static_resources else { return };
        for cluster in &sent.clusters {
            question.name(&cluster.name);
            let hash = self.hasher.hash_one(cluster.encode_to_vec());
            if !self.taken.contains(&hash) && question.new.insert(hash) {
                let name = format!("{}#{proxy}", cluster.name);
                question.resources.clusters.push(Cluster { name, ..cluster.clone() });
            }
        }
        let together: Vec<Vec<u8>> = sent.listeners.iter().map(Listener::encode_to_vec).collect();
        let hash = self.hasher.hash_one(together);
        if self.taken.contains(&hash) || !question.new.insert(hash) {
            return;
        }
        let mut addresses = Addresses { proxy, known: BTreeMap::new() };
        let own = [15021, 15090].map(|port| stand_in(&format!("bootstrap {port}"), at("0.0.0.0", port), Vec::new()));
        for listener in own.iter().chain(&sent.listeners) {
            // What is judged is what it is: where it is differs from proxy to proxy.
            let hash = self.hasher.hash_one((listener.encode_to_vec(), "listener"));
            let mut asked = if self.taken.contains(&hash) || !question.new.insert(hash) {
                let more = listener.additional_addresses.clone();
                Listener { bind_to_port: listener.bind_to_port, ..stand_in(&listener.name, listener.address.clone(), more) }
            } else {
                listener.clone()
            };
            asked.name = format!("{}#{proxy}", asked.name);
            let more = asked.additional_addresses.iter_mut().filter_map(|more| more.address.as_mut());
            asked.address.iter_mut().chain(more).for_each(|address| addresses.replace(address));
            question.resources.listeners.push(asked);
        }
    }
}

impl Question {
    /// Has a cluster of that name: tracers of Zipkin are refused whose cluster is not there already.
    fn name(&mut self, cluster: &str) {
        if self.names.insert(cluster.to_owned()) {
            let cluster = Cluster { name: cluster.to_owned(), ..Cluster::default() };
            self.resources.clusters.push(cluster);
        }
    }
}

/// The addresses of one proxy, and what stands for each.
struct Addresses {
    proxy: usize,
    known: BTreeMap<String, usize>,
}

impl Addresses {
    // What is no address is left for Envoy to refuse.
    fn replace(&mut self, address: &mut Address) {
        let proxy = u32::try_from(self.proxy).unwrap();
        match &mut address.address {
            Some(address::Address::SocketAddress(socket)) => {
                let Ok(ip) = socket.address.parse::<std::net::IpAddr>() else { return };
                let index = u32::try_from(self.index(ip.to_string())).unwrap();
                socket.address = Ipv6Addr::from(u128::from(proxy) << 32 | u128::from(index) | 0xfd00 << 112).to_string();
            }
            Some(address::Address::Pipe(pipe)) => {
                let index = self.index(pipe.path.clone());
                *pipe = Pipe { path: format!("/{proxy}/{index}"), ..Pipe::default() };
            }
            _ => {}
        }
    }

    fn index(&mut self, address: String) -> usize {
        let next = self.known.len();
        *self.known.entry(address).or_insert(next)
    }
}

fn at(ip: &str, port: u32) -> Option<Address> {
    let socket = SocketAddress { address: ip.to_owned(), port_specifier: Some(PortSpecifier::PortValue(port)), ..SocketAddress::default() };
    Some(Address { address: Some(address::Address::SocketAddress(socket)) })
}

fn stand_in(
    name: &str,
    address: Option<Address>,
    additional_addresses: Vec<envoy_types::pb::envoy::config::listener::v3::AdditionalAddress>,
) -> Listener {
    let proxy = TcpProxy {
        stat_prefix: "taken".to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster("taken".to_owned())),
        ..TcpProxy::default()
    };
    let config = Any { type_url: TcpProxy::type_url(), value: proxy.encode_to_vec() };
    let filter = Filter { name: "envoy.filters.network.tcp_proxy".to_owned(), config_type: Some(ConfigType::TypedConfig(config)) };
    let chain = FilterChain { filters: vec![filter], ..FilterChain::default() };
    Listener { name: name.to_owned(), address, additional_addresses, filter_chains: vec![chain], ..Listener::default() }
}
