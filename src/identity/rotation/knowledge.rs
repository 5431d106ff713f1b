//! Who trusts which roots, as far as it is known, and whom a step of a rotation would break.
//!
//! The answer to a request for a certificate holds all roots that the caller trusts from then on (contract §4.1). So whoever was
//! answered since the roots changed trusts them, and whoever was not is asked for by name. Who verifies its peers with a bundle from the
//! control plane trusts what it has acknowledged of that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::stage::Need;
use crate::{
    identity::{ca::SigningCa, root_id::RootId},
    mesh::model::SpiffeId,
};

/// How long it may take from an answer until the proxy behind the agent uses it.
const IN_USE_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// How many callers are remembered: about 30 MB.
const REMEMBERED: usize = 1 << 16;
/// How often callers are forgotten whose certificates have expired, at most: that looks at all of them.
const SWEEP_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// Who asks for certificates, as far as callers can be told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// The namespace of its service account.
    pub namespace: SmolStr,
    /// Its service account.
    pub service_account: SmolStr,
    /// Where it calls from.
    pub address: IpAddr,
}

impl Holder {
    /// Returns who that is.
    pub fn new(identity: &SpiffeId, address: IpAddr) -> Self {
        let SpiffeId { namespace, service_account, .. } = identity;
        Self { namespace: namespace.clone(), service_account: service_account.clone(), address: address.to_canonical() }
    }
}

/// What a caller was told with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Who asked.
    pub holder: Holder,
    /// The root that its certificate chains to.
    pub issuer: RootId,
    /// The roots that it trusts.
    pub trusted: Arc<BTreeSet<RootId>>,
    /// When it was first told so.
    pub since: Timestamp,
    /// When it was last told so.
    pub last: Timestamp,
    /// When the last certificate that it got with this expires.
    pub until: Timestamp,
}

/// A proxy that is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Its name, as `pod.namespace`.
    pub proxy: SmolStr,
    /// By what its requests for certificates are recognized; `None` if it cannot be told.
    pub holder: Option<Holder>,
    /// The roots of the bundle that it verifies its peers with, as it acknowledged it last; `None`: it was sent none.
    #[serde(default)]
    pub acknowledged: Option<Arc<BTreeSet<RootId>>>,
}

/// What one control plane knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name of the process.
    pub instance: SmolStr,
    /// The serial number of the certificate that it signs with.
    pub signing: String,
    /// The roots that it hands out.
    pub roots: Arc<BTreeSet<RootId>>,
    /// The proxies that are connected to it.
    pub connected: Vec<Connected>,
    /// The proxies of pods that run, as far as the objects tell, whether or not they are connected.
    pub running: BTreeSet<SmolStr>,
    /// What it told whom.
    pub told: Vec<Told>,
}

/// A proxy that a step would break, or may break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Its name.
    pub proxy: SmolStr,
    /// Why.
    pub why: Why,
}

/// Why a step would break a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has not asked for a certificate, so nothing is known.
    Unknown,
    /// Its pod runs, and it is connected to nobody who was asked.
    Away,
    /// It was told last, at this time, to trust other roots.
    Distrusts(Timestamp),
    /// It was told just now, and may not use it yet.
    JustTold,
    /// It has not acknowledged a bundle with the other root.
    Unacknowledged,
    /// It holds a certificate under the root that would go.
    Holds(Timestamp),
}

/// What was told to whom since the process started.
#[derive(Debug)]
pub struct Record {
    known: Mutex<Known>,
    most: usize,
}

#[derive(Debug, Default)]
struct Known {
    told: HashMap<Holder, Vec<Told>>,
    /// When those whose certificates have expired were last forgotten.
    swept: Timestamp,
}

// === impl Record ===

impl Default for Record {
    fn default() -> Self {
        Self { known: Mutex::default(), most: REMEMBERED }
    }
}

impl Record {
    /// Remembers that a caller was given a certificate of this CA. When there are too many callers a new one is not remembered,
    /// so that its proxy counts as unknown.
    pub fn note(&self, holder: Holder, ca: &SigningCa, now: Timestamp, until: Timestamp) {
        let (issuer, trusted) = (ca.root_id().clone(), Arc::clone(ca.root_ids()));
        self.keep(Told { holder, issuer, trusted, since: now, last: now, until });
    }

    fn keep(&self, told: Told) {
        let mut known = self.known.lock();
        if known.told.len() >= self.most && !known.told.contains_key(&told.holder) {
            known.sweep(told.last);
            if known.told.len() >= self.most {
                return;
            }
        }
        let held = known.told.entry(told.holder.clone()).or_default();
        held.retain(|held| held.until > told.last);
        let same = held.iter().position(|held| (&held.issuer, &held.trusted) == (&told.issuer, &told.trusted));
        let since = match same.map(|place| held.remove(place)) {
            // What came between ended what was told before.
            Some(before) if held.iter().all(|other| other.last <= before.since) => before.since,
            _ => told.last,
        };
        held.push(Told { since, ..told });
    }

    /// Returns what is known at `now`, the newest last for each caller.
    pub fn list(&self, now: Timestamp) -> Vec<Told> {
        let known = self.known.lock();
        known.told.values().flatten().filter(|told| told.until > now).cloned().collect()
    }
}

impl Known {
    /// Forgets callers whose certificates have expired, unless that was done a moment ago.
    fn sweep(&mut self, now: Timestamp) {
        if now.duration_since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.told.retain(|_, held| held.iter().any(|held| held.until > now));
        }
    }
}

/// Returns the proxies that do not meet the need with this root, sorted by name: those that are connected, and those of pods that run
/// without being connected. Whoever lost its control plane a moment ago is on its way to another one, with all that it trusts.
pub(super) fn objections(need: Need, root: &RootId, reports: &[Report], now: Timestamp) -> Vec<Objection> {
    let mut told: BTreeMap<&Holder, Vec<&Told>> = BTreeMap::new();
    for one in reports.iter().flat_map(|report| &report.told).filter(|told| told.until > now) {
        told.entry(&one.holder).or_default().push(one);
    }
    told.values_mut().for_each(|told| told.sort_by_key(|told| told.last));
    let connected: BTreeMap<&SmolStr, &Option<Holder>> =
        reports.iter().flat_map(|report| &report.connected).map(|connected| (&connected.proxy, &connected.holder)).collect();
    let mut sharing: BTreeMap<&Holder, usize> = BTreeMap::new();
    for holder in connected.values().filter_map(|holder| holder.as_ref()) {
        *sharing.entry(holder).or_default() += 1;
    }
    let running = reports.iter().flat_map(|report| &report.running).collect::<BTreeSet<_>>();
    let away = running.into_iter().filter(|proxy| !connected.contains_key(proxy));
    let away = away.map(|proxy| Objection { proxy: proxy.clone(), why: Why::Away });
    // A proxy on its way from one control plane to another may be connected to both.
    let mut bundles: BTreeMap<&SmolStr, Vec<&BTreeSet<RootId>>> = BTreeMap::new();
    for Connected { proxy, acknowledged, .. } in reports.iter().flat_map(|report| &report.connected) {
        acknowledged.iter().for_each(|bundle| bundles.entry(proxy).or_default().push(bundle));
    }
    let judged = connected.iter().filter_map(|(proxy, holder)| {
        if let (Need::Trust(_), Some(bundles)) = (need, bundles.get(proxy)) {
            let lacks = bundles.iter().any(|bundle| !bundle.contains(root));
            return lacks.then(|| Objection { proxy: SmolStr::clone(proxy), why: Why::Unacknowledged });
        }
        let told = holder.as_ref().and_then(|holder| told.get(holder)).map_or(&[][..], Vec::as_slice);
        let alone = holder.as_ref().is_some_and(|holder| sharing.get(holder) == Some(&1));
        judge(need, root, told, alone, now).map(|why| Objection { proxy: SmolStr::clone(proxy), why })
    });
    let mut all: Vec<Objection> = away.chain(judged).collect();
    all.sort_by(|a, b| a.proxy.cmp(&b.proxy));
    all
}

/// Judges what one proxy was told. Of several that cannot be told apart, whichever was told longest ago may be meant.
fn judge(need: Need, root: &RootId, told: &[&Told], alone: bool, now: Timestamp) -> Option<Why> {
    let Some(newest) = told.last() else { return Some(Why::Unknown) };
    let fits = |told: &Told| match need {
        Need::Trust(_) => told.trusted.contains(root),
        Need::Leave(_) => told.issuer != *root,
    };
    let why = |told: &Told| match need {
        Need::Trust(_) => Why::Distrusts(told.last),
        Need::Leave(_) => Why::Holds(told.until),
    };
    let in_use = |told: &Told| told.since.checked_add(IN_USE_AFTER).is_ok_and(|used| used <= now);
    if !fits(newest) {
        return Some(why(newest));
    }
    if !alone && let Some(other) = told.iter().find(|told| !fits(told)) {
        return Some(why(other));
    }
    (!in_use(newest)).then_some(Why::JustTold)
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.proxy)?;
        match &self.why {
            Why::Unknown => f.write_str("the control plane has not been asked for its certificate since it started"),
            Why::Away => f.write_str("its pod runs, but it is connected to none of the control planes that were asked"),
            Why::Distrusts(last) => write!(f, "was last told what to trust at {last}, and the other root was not among it"),
            Why::JustTold => f.write_str("was answered a moment ago, and may not use the answer yet"),
            Why::Unacknowledged => f.write_str("has not acknowledged the bundle with the other root"),
            Why::Holds(until) => write!(f, "holds a certificate under the root that would go, until {until}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stage::Which, *};

    const TRUST: Need = Need::Trust(Which::Next);
    const LEAVE: Need = Need::Leave(Which::Old);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn root(name: &str) -> RootId {
        RootId::named(name)
    }

    fn holder(account: &str, host: u8) -> Holder {
        Holder { namespace: "shop".into(), service_account: account.into(), address: IpAddr::from([10, 0, 0, host]) }
    }

    fn told(holder: Holder, issuer: &str, trusted: &[&str], when: i64, until: i64) -> Told {
        let trusted = Arc::new(trusted.iter().map(|name| root(name)).collect());
        Told { holder, issuer: root(issuer), trusted, since: at(when), last: at(when), until: at(until) }
    }

    fn connected(proxy: &str, holder: Holder) -> Connected {
        Connected { proxy: proxy.into(), holder: Some(holder), acknowledged: None }
    }

    fn report(connected: &[Connected], told: &[Told]) -> Report {
        let (connected, told) = (connected.to_vec(), told.to_vec());
        Report { instance: "istiod-1".into(), signing: "1".into(), roots: Arc::default(), connected, running: BTreeSet::new(), told }
    }

    fn whys(need: Need, name: &str, reports: &[Report], now: i64) -> Vec<(String, Why)> {
        objections(need, &root(name), reports, at(now)).into_iter().map(|Objection { proxy, why }| (proxy.to_string(), why)).collect()
    }

    #[test]
    fn whoever_was_told_of_both_roots_trusts_both() {
        let (a, b) = (holder("a", 1), holder("b", 2));
        let connected = [connected("a.shop", a.clone()), connected("b.shop", b.clone())];
        let mut all = vec![told(a.clone(), "old", &["old"], 10, 900), told(b, "old", &["old", "next"], 20, 900)];
        assert_eq!(whys(TRUST, "next", &[report(&connected, &all)], 100), [("a.shop".into(), Why::Distrusts(at(10)))]);
        all.push(told(a, "old", &["old", "next"], 99, 900));
        assert_eq!(whys(TRUST, "next", &[report(&connected, &all)], 100), [("a.shop".into(), Why::JustTold)]);
        assert_eq!(whys(TRUST, "next", &[report(&connected, &all)], 101), []);
    }

    #[test]
    fn what_was_acknowledged_counts_before_what_was_told() {
        let a = holder("a", 1);
        let with = |roots: &[&str]| Connected {
            acknowledged: Some(Arc::new(roots.iter().map(|name| root(name)).collect())),
            ..connected("a.shop", a.clone())
        };
        let old = [told(a.clone(), "old", &["old"], 10, 900)];
        let both = [told(a.clone(), "old", &["old", "next"], 10, 900)];
        assert_eq!(whys(TRUST, "next", &[report(&[with(&["old", "next"])], &old)], 100), []);
        assert_eq!(whys(TRUST, "next", &[report(&[with(&["old"])], &both)], 100), [("a.shop".into(), Why::Unacknowledged)]);
        // What it holds is known by what it was given alone.
        assert_eq!(whys(LEAVE, "old", &[report(&[with(&["next"])], &both)], 100), [("a.shop".into(), Why::Holds(at(900)))]);
    }

    #[test]
    fn who_never_asked_or_cannot_be_told_apart_is_unknown() {
        let connected = [connected("a.shop", holder("a", 1)), Connected { proxy: "b.shop".into(), holder: None, acknowledged: None }];
        let expired = told(holder("a", 1), "old", &["old", "next"], 10, 90);
        let all = whys(TRUST, "next", &[report(&connected, &[expired])], 100);
        assert_eq!(all, [("a.shop".into(), Why::Unknown), ("b.shop".into(), Why::Unknown)]);
    }

    #[test]
    fn a_root_is_dropped_when_nobody_holds_a_certificate_under_it() {
        let a = holder("a", 1);
        let connected = [connected("a.shop", a.clone())];
        let mut all = vec![told(a.clone(), "old", &["old", "next"], 10, 900)];
        assert_eq!(whys(LEAVE, "old", &[report(&connected, &all)], 100), [("a.shop".into(), Why::Holds(at(900)))]);
        all.push(told(a, "next", &["old", "next"], 50, 900));
        assert_eq!(whys(LEAVE, "old", &[report(&connected, &all)], 100), []);
    }

    #[test]
    fn of_proxies_that_share_identity_and_address_the_most_backward_counts() {
        let a = holder("a", 1);
        let connected = [connected("a-1.shop", a.clone()), connected("a-2.shop", a.clone())];
        let all = [told(a.clone(), "old", &["old"], 10, 200), told(a, "old", &["old", "next"], 50, 900)];
        let both = whys(TRUST, "next", &[report(&connected, &all)], 100);
        assert_eq!(both, [("a-1.shop".into(), Why::Distrusts(at(10))), ("a-2.shop".into(), Why::Distrusts(at(10)))]);
        assert_eq!(whys(TRUST, "next", &[report(&connected, &all)], 201), [], "what was told before has expired");
    }

    #[test]
    fn one_control_plane_knows_what_another_told() {
        let a = holder("a", 1);
        let here = report(&[connected("a.shop", a.clone())], &[]);
        let there = report(&[], &[told(a, "old", &["old", "next"], 10, 900)]);
        assert_eq!(whys(TRUST, "next", std::slice::from_ref(&here), 100), [("a.shop".into(), Why::Unknown)]);
        assert_eq!(whys(TRUST, "next", &[here, there], 100), []);
    }

    #[test]
    fn who_runs_and_is_connected_to_nobody_who_was_asked_is_waited_for() {
        let a = holder("a", 1);
        let all = [told(a.clone(), "old", &["old", "next"], 10, 900)];
        let here = Report { running: ["a.shop".into(), "b.shop".into()].into(), ..report(&[connected("a.shop", a)], &all) };
        assert_eq!(whys(TRUST, "next", std::slice::from_ref(&here), 100), [("b.shop".into(), Why::Away)]);
        // Nobody has come yet to whom has just started.
        let started = Report { connected: Vec::new(), told: Vec::new(), ..here.clone() };
        assert_eq!(whys(TRUST, "next", &[started], 100).len(), 2);
        let b = holder("b", 2);
        let there = report(&[connected("b.shop", b.clone())], &[told(b, "old", &["old", "next"], 10, 900)]);
        assert_eq!(whys(TRUST, "next", &[here, there], 100), []);
    }

    #[test]
    fn the_record_keeps_when_a_caller_was_first_told_the_same() {
        let record = Record::default();
        let a = holder("a", 1);
        for (trusted, when) in [(&["old"][..], 10), (&["old"], 20), (&["old", "next"], 30), (&["old", "next"], 40)] {
            record.keep(told(a.clone(), "old", trusted, when, when + 100));
        }
        let mut known = record.list(at(50));
        known.sort_by_key(|told| told.last);
        let times = |told: &Told| (told.since, told.last, told.until);
        assert_eq!(known.iter().map(times).collect::<Vec<_>>(), [(at(10), at(20), at(120)), (at(30), at(40), at(140))]);
        assert_eq!(record.list(at(125)).len(), 1, "expired ones say nothing");
    }

    #[test]
    fn the_record_is_bounded_and_who_is_not_in_it_is_unknown() {
        let record = Record { most: 2, ..Record::default() };
        for host in 1..=3 {
            record.keep(told(holder("a", host), "old", &["old"], 110, 150));
        }
        assert_eq!(record.list(at(120)).len(), 2);
        record.keep(told(holder("a", 4), "old", &["old"], 151, 300));
        assert_eq!(record.list(at(152)), [], "all were looked at less than a minute ago");
        record.keep(told(holder("a", 5), "old", &["old"], 170, 300));
        assert_eq!(record.list(at(180)).iter().map(|told| told.holder.clone()).collect::<Vec<_>>(), [holder("a", 5)]);
    }
}
