//! Who may be given keys: asked of somebody else, remembered for a while, and asked again.

use std::{
    collections::{BTreeSet, HashMap},
    future::ready,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use smol_str::SmolStr;

use crate::mesh::model::Caller;

/// How long a consent counts, and how long a refusal, before it is asked for again. A refusal is mostly a mistake that somebody is
/// about to mend.
const CONSENT: Duration = Duration::from_secs(300);
const REFUSAL: Duration = Duration::from_secs(60);

/// A service account, which its callers have proven to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// Its namespace.
    pub namespace: SmolStr,
    /// Its name.
    pub name: SmolStr,
}

/// Says who may read the Secrets of a namespace.
pub trait SecretReaders: Send + Sync {
    /// Returns whether an account may read the Secrets of its own namespace; `None`: nobody could say.
    fn may_read<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Option<bool>>;
}

/// Lets each account read the Secrets of its own namespace: where objects are files, there are no other rights.
#[derive(Clone, Copy, Debug)]
pub struct ByNamespace;

/// What is known about accounts.
#[derive(Debug, Default)]
pub(super) struct KnownReaders {
    known: HashMap<Account, Known>,
    /// The namespaces that have keys to give.
    namespaces: BTreeSet<SmolStr>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    allowed: bool,
    asked: Instant,
}

impl Account {
    /// Returns the account of our cluster that a caller has proven to be; `None`: it has proven nothing, or is in another cluster, where
    /// the account of these names is another.
    pub fn of(caller: &Caller) -> Option<Self> {
        match caller {
            Caller::Workload(identity) => Some(Self { namespace: identity.namespace.clone(), name: identity.service_account.clone() }),
            Caller::Anonymous | Caller::Remote { .. } => None,
        }
    }
}

impl SecretReaders for ByNamespace {
    fn may_read<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Option<bool>> {
        Box::pin(ready(Some(true)))
    }
}

impl KnownReaders {
    /// Returns whether the account is known to have the right.
    pub(super) fn may_read(&self, account: &Account) -> bool {
        self.known.get(account).is_some_and(|known| known.allowed)
    }

    /// Returns whether to ask: there are keys to give, and what is known is old, or nothing is.
    pub(super) fn is_due(&self, account: &Account, now: Instant) -> bool {
        let is_old = |known: &Known| now.duration_since(known.asked) >= if known.allowed { CONSENT } else { REFUSAL };
        self.namespaces.contains(&account.namespace) && self.known.get(account).is_none_or(is_old)
    }

    /// Notes an answer. Without one, what was known stays, and is asked for again. Returns whether that makes a difference.
    pub(super) fn note(&mut self, account: Account, answer: Option<bool>, now: Instant) -> bool {
        let Some(allowed) = answer else { return false };
        let before = self.known.insert(account, Known { allowed, asked: now });
        allowed != before.is_some_and(|known| known.allowed)
    }

    /// Notes which namespaces have keys to give; returns whether there are more than before.
    pub(super) fn note_namespaces(&mut self, namespaces: BTreeSet<SmolStr>) -> bool {
        let more = !namespaces.is_subset(&self.namespaces);
        self.namespaces = namespaces;
        more
    }

    /// Forgets the accounts that nobody connected has, and about whom nobody has asked for a while.
    pub(super) fn forget_others(&mut self, connected: &BTreeSet<Account>, now: Instant) {
        self.known.retain(|account, known| connected.contains(account) || now.duration_since(known.asked) < REFUSAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::model::SpiffeId;

    fn account(name: &str) -> Account {
        Account { namespace: "bank".into(), name: name.into() }
    }

    #[test]
    fn an_account_of_another_cluster_is_none_of_ours() {
        let identity = SpiffeId::parse("spiffe://td/ns/bank/sa/edge").unwrap();
        assert_eq!(Account::of(&Caller::Workload(identity.clone())), Some(account("edge")));
        assert_eq!(Account::of(&Caller::Remote { identity, cluster: "east".into() }), None);
        assert_eq!(Account::of(&Caller::Anonymous), None);
    }

    #[test]
    fn nobody_is_asked_about_where_there_is_nothing_to_give() {
        let (mut readers, now) = (KnownReaders::default(), Instant::now());
        assert!(!readers.is_due(&account("edge"), now));
        assert!(readers.note_namespaces(["bank".into()].into()) && readers.is_due(&account("edge"), now));
        assert!(!readers.note_namespaces(["bank".into()].into()));
    }

    #[test]
    fn a_refusal_is_asked_for_again_sooner_and_silence_changes_nothing() {
        let (mut readers, now) = (KnownReaders::default(), Instant::now());
        readers.note_namespaces(["bank".into()].into());
        assert!(!readers.may_read(&account("edge")), "nothing is known yet");
        assert!(readers.note(account("edge"), Some(true), now) && readers.may_read(&account("edge")));
        assert!(!readers.note(account("other"), Some(false), now));
        let later = now + REFUSAL;
        assert!(readers.is_due(&account("other"), later) && !readers.is_due(&account("edge"), later));
        assert!(readers.is_due(&account("edge"), now + CONSENT));
        assert!(!readers.note(account("edge"), None, later) && readers.may_read(&account("edge")), "stale beats empty");
        assert!(readers.note(account("edge"), Some(false), later) && !readers.may_read(&account("edge")));
        readers.forget_others(&[account("edge")].into(), later + REFUSAL);
        assert_eq!(readers.known.len(), 1);
    }
}
