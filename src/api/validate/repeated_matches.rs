//! Matches of a VirtualService that nothing reaches, because one before them takes the same: valid, but never meant.

use std::{collections::HashMap, fmt, hash::Hash};

use smol_str::{SmolStr, StrExt};

use super::Check;
use crate::{
    api::{
        Labels,
        findings::Path,
        istio::{HttpMatch, HttpRoute, L4Match, TcpRoute, TlsRoute},
    },
    patience::Patient,
};

impl Check<'_> {
    /// Warns of `http` matches that ask for the same as one before them.
    pub(super) fn repeated_http(self, routes: &[HttpRoute], at: &Path<'_>) {
        let mut taken = Taken::default();
        for (route, matched, found) in matches(routes, |route| &route.matches) {
            if let Some(first) = taken.take(request(found), Asked::of_http(found), Place(route, Some(matched))) {
                self.warning(
                    &at.index(route).field("match").index(matched),
                    format!("has no effect: http{first} takes the same requests first"),
                );
            }
        }
    }

    /// Warns of `tls` matches of which a server name is that of one before them: Envoy would refuse a listener with both.
    pub(super) fn repeated_tls(self, routes: &[TlsRoute], at: &Path<'_>) {
        let mut taken = Taken::default();
        for (route, matched, found) in matches(routes, |route| &route.matches) {
            let asked = Asked::of_l4(found);
            let names = || found.sni_hosts.iter().map(|name| (name.to_lowercase_smolstr(), found.destination_subnets.as_slice()));
            match names().find_map(|of| Some((taken.first(&of, asked)?, of.0))) {
                Some((first, name)) => {
                    let message = format!("has no effect: tls{first} takes connections for {name} first");
                    self.warning(&at.index(route).field("match").index(matched), message);
                }
                None => names().for_each(|of| _ = taken.take(of, asked, Place(route, Some(matched)))),
            }
        }
    }

    /// Warns of `tcp` routes and matches whose connections one before them takes.
    pub(super) fn repeated_tcp(self, routes: &[TcpRoute], at: &Path<'_>) {
        let mut taken = Taken::default();
        let everything = L4Match::default();
        let networks = |of: &L4Match| of.destination_subnets.clone();
        let all = routes.iter().enumerate().patiently().flat_map(|(route, of)| {
            let written = of.matches.iter().enumerate().map(move |(matched, found)| (Place(route, Some(matched)), found));
            written.chain(of.matches.is_empty().then_some((Place(route, None), &everything)))
        });
        for (place, found) in all {
            let asked = Asked::of_l4(found);
            let Some(first) = taken.first(&Vec::new(), asked).or_else(|| taken.take(networks(found), asked, place)) else { continue };
            let at = at.index(place.0);
            let message = format!("has no effect: tcp{first} takes the same connections first");
            match place.1 {
                Some(matched) => self.warning(&at.field("match").index(matched), message),
                None => self.warning(&at, message),
            }
        }
    }
}

/// What matches before take, and which of them was first.
struct Taken<'a, T> {
    /// By what they are for, which is numbered so that it is kept once.
    numbers: HashMap<T, usize>,
    first: HashMap<(usize, Asked<'a>), Place>,
}

/// A route of a list, and a match of it.
#[derive(Clone, Copy)]
struct Place(usize, Option<usize>);

/// What a match asks of the listener and of the client. That is known before there is a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Asked<'a> {
    port: Option<u16>,
    gateways: &'a [SmolStr],
    labels: Option<&'a Labels>,
    namespace: Option<&'a SmolStr>,
}

impl<T> Default for Taken<'_, T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), first: HashMap::new() }
    }
}

impl<'a, T: Eq + Hash> Taken<'a, T> {
    /// Takes what a match is for, unless one before it that asks for no more has it; returns the place of that one.
    fn take(&mut self, of: T, asked: Asked<'a>, place: Place) -> Option<Place> {
        let first = self.first(&of, asked);
        if first.is_none() {
            let next = self.numbers.len();
            let number = *self.numbers.entry(of).or_insert(next);
            self.first.insert((number, asked), place);
        }
        first
    }

    /// Returns the place of the match that has this and asks for no more.
    fn first(&self, of: &T, asked: Asked<'a>) -> Option<Place> {
        let number = *self.numbers.get(of)?;
        asked.wider().find_map(|wider| self.first.get(&(number, wider)).copied())
    }
}

impl<'a> Asked<'a> {
    fn of_http(found: &'a HttpMatch) -> Self {
        let HttpMatch { port, gateways, source_labels, source_namespace, .. } = found;
        Self::new(*port, gateways, source_labels, source_namespace.as_ref())
    }

    fn of_l4(found: &'a L4Match) -> Self {
        let L4Match { port, gateways, source_labels, source_namespace, .. } = found;
        Self::new(*port, gateways, source_labels, source_namespace.as_ref())
    }

    fn new(port: Option<u16>, gateways: &'a [SmolStr], labels: &'a Labels, namespace: Option<&'a SmolStr>) -> Self {
        Self { port, gateways, labels: Some(labels).filter(|labels| !labels.is_empty()), namespace }
    }

    /// Returns this, and what asks for less: a match that asks for that holds wherever this one does.
    fn wider(self) -> impl Iterator<Item = Self> {
        (0..16u8).map(move |without| Self {
            port: self.port.filter(|_| without & 1 == 0),
            gateways: if without & 2 == 0 { self.gateways } else { &[] },
            labels: self.labels.filter(|_| without & 4 == 0),
            namespace: self.namespace.filter(|_| without & 8 == 0),
        })
    }
}

/// Shows where a match stands in its list: `[0].match[1]`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(matched) => write!(f, "[{}].match[{matched}]", self.0),
            None => write!(f, "[{}]", self.0),
        }
    }
}

/// Returns every match of a list with its place.
fn matches<'a, R, M: 'a>(routes: &'a [R], of: impl Fn(&'a R) -> &'a Vec<M>) -> impl Iterator<Item = (usize, usize, &'a M)> {
    routes
        .iter()
        .enumerate()
        .patiently()
        .flat_map(move |(at, route)| of(route).iter().enumerate().map(move |(matched, found)| (at, matched, found)))
}

/// Returns what a match asks of requests. Names say nothing of them.
fn request(found: &HttpMatch) -> HttpMatch {
    HttpMatch {
        uri: found.uri.clone(),
        ignore_uri_case: found.ignore_uri_case,
        scheme: found.scheme.clone(),
        method: found.method.clone(),
        authority: found.authority.clone(),
        headers: found.headers.clone(),
        without_headers: found.without_headers.clone(),
        query_params: found.query_params.clone(),
        ..HttpMatch::default()
    }
}
