//! What becomes of a step that somebody wishes for: the decision, without an API server.

use jiff::Timestamp;

use crate::identity::rotation::{Entries, Material, MaterialError, Move, Objection, Report, Step, judge};

/// The most proxies that are named.
const NAMED: usize = 20;

/// A step that somebody wishes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// This one, whether or not it breaks proxies.
    Take { step: Step, force: bool },
    /// Something that is none.
    Unknown(String),
}

/// What becomes of a wish.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The entries after the step, if it is taken.
    pub(super) entries: Option<Entries>,
    /// What is said of it.
    pub(super) said: String,
    /// Whether the wish is over: taken, or never to be taken.
    pub(super) is_done: bool,
}

impl Wish {
    /// Reads a wish.
    pub(super) fn parse(text: &str) -> Self {
        let (word, force) = text.trim().strip_suffix('!').map_or((text.trim(), false), |word| (word, true));
        match word {
            "next" => Self::Take { step: Step::Next, force },
            "abort" => Self::Take { step: Step::Abort, force },
            _ => Self::Unknown(text.chars().take(40).collect()),
        }
    }
}

/// Decides what becomes of a wish. `reports` is what all control planes know of proxies, or why that is not known.
pub(super) fn outcome(
    material: Result<Material, MaterialError>,
    wish: Option<Wish>,
    reports: Result<Vec<Report>, String>,
    now: Timestamp,
) -> Outcome {
    let material = match material {
        Ok(material) => material,
        Err(error) => return Outcome { said: format!("refused: {error}"), is_done: true, ..Outcome::default() },
    };
    let stage = material.stage();
    let refused = |error: &MaterialError| Outcome { said: format!("{stage}; refused: {error}"), is_done: true, ..Outcome::default() };
    let (step, force) = match wish {
        None => return Outcome { said: stage.to_string(), ..Outcome::default() },
        Some(Wish::Unknown(text)) => {
            let said = format!("{stage}; refused: {text:?} is neither next nor abort, nor next! or abort! to break proxies by it");
            return Outcome { said, is_done: true, ..Outcome::default() };
        }
        Some(Wish::Take { step, force }) => (step, force),
    };
    let obstacle = match material.step(step) {
        Err(error) => return refused(&error),
        Ok(Move { need: None, .. }) => None,
        Ok(Move { need: Some(need), .. }) => {
            match reports.and_then(|reports| judge(&material, need, &reports, now).map_err(|error| error.to_string())) {
                Ok(objections) if objections.is_empty() => None,
                Ok(objections) => Some(named(&objections)),
                Err(error) => Some(error),
            }
        }
    };
    if let Some(obstacle) = obstacle.as_ref().filter(|_| !force) {
        return Outcome { said: format!("{stage}; waiting: {obstacle}"), ..Outcome::default() };
    }
    match material.after(step, now).and_then(|entries| Ok((Material::read(entries.clone())?.stage(), entries))) {
        Err(error) => refused(&error),
        Ok((stage, entries)) => {
            let broken = obstacle.map(|obstacle| format!("; forced although: {obstacle}")).unwrap_or_default();
            Outcome { entries: Some(entries), said: format!("{stage}{broken}"), is_done: true }
        }
    }
}

/// Returns whether what was said of the last wish still stands where nothing is wished for: why it was refused, or whom it broke. It
/// does until there is another stage.
pub(super) fn stands(said: &str, stage: &str) -> bool {
    said.strip_prefix(stage).is_some_and(|rest| ["; refused: ", "; forced although: "].iter().any(|mark| rest.starts_with(mark)))
}

fn named(objections: &[Objection]) -> String {
    let mut all: Vec<String> = objections.iter().take(NAMED).map(ToString::to_string).collect();
    if let Some(more) = objections.len().checked_sub(NAMED).filter(|more| *more > 0) {
        all.push(format!("and {more} more"));
    }
    all.join("; ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::SignedDuration;

    use super::*;
    use crate::identity::{
        ca::{SigningCa, load_entries},
        rotation::{
            Connected, Holder, Record, Stage,
            fixture::{Root, now},
        },
    };

    fn read(entries: &Entries) -> Material {
        Material::read(entries.clone()).unwrap()
    }

    fn ca(entries: &Entries) -> SigningCa {
        load_entries("a", entries, now()).unwrap()
    }

    fn planned() -> Entries {
        read(&Root::new("old").intermediate()).plan(&Root::new("next").intermediate(), now()).unwrap()
    }

    fn wished(entries: &Entries, wish: &str, reports: Result<Vec<Report>, String>) -> Outcome {
        outcome(Ok(read(entries)), Some(Wish::parse(wish)), reports, now())
    }

    /// Returns what is known of one proxy that was given a certificate of one CA, while another is in use.
    fn report(in_use: &Entries, given: &Entries) -> Vec<Report> {
        let holder = Holder { namespace: "shop".into(), service_account: "cart".into(), address: [10, 0, 0, 1].into() };
        let record = Record::default();
        let ago = |seconds| now() - SignedDuration::from_secs(seconds);
        record.note(holder.clone(), &ca(given), ago(60), now() + SignedDuration::from_hours(1));
        let in_use = ca(in_use);
        let connected = vec![Connected { proxy: "cart-1.shop".into(), holder: Some(holder), acknowledged: None }];
        let (signing, roots) = (in_use.certificate().serial.clone(), in_use.root_ids().clone());
        vec![Report { instance: "istiod-1".into(), signing, roots, connected, running: BTreeSet::new(), told: record.list(now()) }]
    }

    #[test]
    fn a_wish_is_granted_when_it_breaks_nobody() {
        let planned = planned();
        let both = wished(&planned, "next", Err("not asked".into())).entries.expect("one root more breaks nobody");
        assert_eq!(read(&both).stage(), Stage::Distributing);

        let waiting = wished(&both, "next", Ok(report(&both, &planned)));
        assert_eq!((&waiting.entries, waiting.is_done), (&None, false));
        assert!(waiting.said.contains("waiting: cart-1.shop: was last told"), "{}", waiting.said);
        let switched = wished(&both, "next", Ok(report(&both, &both))).entries.unwrap();
        assert_eq!(read(&switched).stage(), Stage::Switched);

        let waiting = wished(&switched, "next", Ok(report(&switched, &both)));
        assert!(waiting.said.contains("waiting: cart-1.shop: holds a certificate"), "{}", waiting.said);
        let done = wished(&switched, "next", Ok(report(&switched, &switched)));
        assert!(done.is_done);
        assert_eq!(read(&done.entries.unwrap()).stage(), Stage::Settled);
    }

    #[test]
    fn whoever_insists_is_told_what_it_breaks() {
        let planned = planned();
        let both = wished(&planned, "next", Ok(Vec::new())).entries.unwrap();
        let forced = wished(&both, "next!", Ok(report(&both, &planned)));
        assert!(forced.is_done && forced.entries.is_some());
        assert!(forced.said.contains("forced although: cart-1.shop: was last told"), "{}", forced.said);
    }

    #[test]
    fn who_does_not_know_enough_grants_nothing() {
        let planned = planned();
        let both = wished(&planned, "next", Ok(Vec::new())).entries.unwrap();
        let unknown = wished(&both, "next", Err("istiod-2 does not say".into()));
        assert_eq!((unknown.entries, unknown.is_done), (None, false));
        assert!(unknown.said.contains("waiting: istiod-2 does not say"), "{}", unknown.said);
        // The control plane has not seen the last step.
        let late = wished(&both, "next", Ok(report(&planned, &both)));
        assert!(late.entries.is_none() && late.said.contains("istiod-1 has not taken over"), "{}", late.said);
    }

    #[test]
    fn what_makes_no_sense_is_refused_once() {
        let planned = planned();
        let settled = wished(&planned, "abort", Ok(Vec::new())).entries.unwrap();
        for (entries, wish, why) in [(&planned, "forward", "neither next nor abort"), (&settled, "next", "no rotation is on")] {
            let refused = wished(entries, wish, Ok(Vec::new()));
            assert!(refused.is_done && refused.entries.is_none() && refused.said.contains(why), "{}", refused.said);
            let quiet = outcome(Ok(read(entries)), None, Ok(Vec::new()), now());
            assert!(stands(&refused.said, &quiet.said), "whoever wished it has not read it yet: {}", refused.said);
        }
        let quiet = outcome(Ok(read(&planned)), None, Ok(Vec::new()), now());
        let waiting = format!("{}; waiting: cart-1.shop", quiet.said);
        assert!(!stands(&waiting, &quiet.said), "nothing is waited for that nobody wishes any more");
        assert!(!stands("distributing; refused: no", &quiet.said) && !stands("refused: no", &quiet.said));
        assert_eq!((quiet.entries, quiet.is_done), (None, false));
        assert!(quiet.said.starts_with("planned"), "{}", quiet.said);
    }
}
