//! Keys for those who may have them: who that is, when it changes, and what is told about secrets that are not given.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use smol_str::SmolStr;
use tokio::{task, time};

use super::{
    Classes, Inner, State,
    secrets::{Given, Secrets, Trouble},
    users::Keys,
};
use crate::{
    api::{ConfigId, Diagnostic},
    mesh::{credential::Part, model::Caller},
    peer_text::PeerText,
    sparse_log::{MANY, SparseLog},
    visits::{Visit, Visited},
    xds::{node::Proven, secret_readers::Account},
};

/// How long a proxy that connects waits for the answer whether its account may read Secrets. Afterwards it has none until there is
/// one.
const ASKING: Duration = Duration::from_secs(5);
/// How often accounts are looked through for those to ask about again.
const LOOKING: Duration = Duration::from_secs(20);
/// The longest time between two looks at the time of day.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Classes {
    /// Waits until proxies are to be given other secrets though no object changed: time has passed, or somebody has gained or lost a
    /// right. [`prepare`](Self::prepare) then finds them.
    pub async fn secrets_due(&self) {
        loop {
            let at = self.0.next_validity.load(Ordering::Relaxed);
            let seconds = at.saturating_sub((self.0.clock)().as_second());
            let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST_WAIT);
            tokio::select! {
                () = self.0.answered.notified() => return,
                () = time::sleep(wait) => if (self.0.clock)().as_second() >= at {
                    return;
                },
            }
        }
    }

    /// Asks again and again who may read Secrets. Never ends.
    pub async fn keep_readers_known(&self) {
        loop {
            tokio::select! {
                () = self.0.to_ask.notified() => {}
                () = time::sleep(LOOKING) => {}
            }
            let inner = Arc::clone(&self.0);
            // Others may hold the state for as long as a view takes.
            let due = task::spawn_blocking(move || inner.accounts_due()).await.unwrap_or_default();
            for account in due {
                self.0.ask(account).await;
            }
        }
    }
}

impl Inner {
    /// Asks about the account of a proxy that is about to be attached, if its answer may count.
    pub(super) async fn introduce(&self, proven: &Proven) {
        if let Caller::Remote { cluster, .. } = proven.caller() {
            static ELSEWHERE: SparseLog = SparseLog::new(MANY);
            let proxy = PeerText::new(&proven.node().proxy.id);
            ELSEWHERE.write(|left_out| {
                tracing::info!(%proxy, %cluster, left_out, "a proxy of a remote cluster is given no Secrets: those of its cluster are not read");
            });
        }
        let account = Account::of(proven.caller()).filter(|account| self.known_readers.lock().is_due(account, Instant::now()));
        if let Some(account) = account {
            self.ask(account).await;
        }
    }

    /// Notes where there are keys to give, and until when they stay as they are.
    pub(super) fn follow_secrets(&self, secrets: &Secrets) {
        self.next_validity.store(secrets.next_change().unwrap_or(i64::MAX), Ordering::Relaxed);
        if self.known_readers.lock().note_namespaces(secrets.namespaces()) {
            self.to_ask.notify_one();
        }
    }

    /// Asks whether an account may read Secrets.
    pub(super) async fn ask(&self, account: Account) {
        let answer = time::timeout(ASKING, self.readers.may_read(&account)).await.unwrap_or_default();
        let (namespace, name) = (account.namespace.clone(), account.name.clone());
        if self.known_readers.lock().note(account, answer, Instant::now()) {
            tracing::info!(%namespace, service_account = %name, allowed = ?answer, "who may read Secrets has changed");
            self.answered.notify_one();
        }
    }

    /// Returns the accounts of connected proxies about which to ask.
    fn accounts_due(&self) -> Vec<Account> {
        let connected: BTreeSet<Account> = {
            let state = self.lock();
            state.proxies.values().visiting(Visited::Proxy).filter_map(|connected| connected.account.clone()).collect()
        };
        let (mut readers, now) = (self.known_readers.lock(), Instant::now());
        readers.forget_others(&connected, now);
        connected.into_iter().filter(|account| readers.is_due(account, now)).collect()
    }
}

impl State {
    /// Returns what is wrong with the secrets that a proxy asks for. `denied`: its account, if that may not read keys.
    pub(super) fn secret_findings(&self, keys: &Keys, namespace: &SmolStr, denied: Option<&Account>) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for (object, name) in self.groups.secrets(keys) {
            let denied = denied.filter(|_| name.part == Part::KeyPair);
            let told = match (self.secrets.trouble(namespace, name), denied) {
                (Some(Trouble { why, given }), _) => {
                    let meanwhile = match given {
                        Given::Nothing => "connections that need it are closed until it is good",
                        Given::LastGood => "the last good one is given",
                        Given::AsItIs => "it is given all the same, as there is no other",
                        Given::WithoutIt => "it is given without",
                    };
                    format!("{} {}/{} {why}: {meanwhile}", name.kind(), name.namespace_for(namespace), name.name)
                }
                (None, Some(Account { namespace, name: account })) => {
                    format!("service account {account} may not list Secrets of namespace {namespace}: its proxies are given no key")
                }
                (None, None) => continue,
            };
            let uses = self.world.secret_uses.get(&ConfigId::new(object.kind, &object.namespace, &object.name));
            let fields = uses.into_iter().flat_map(|uses| uses.iter()).filter(|used| used.name == *name);
            found.extend(fields.map(|used| Diagnostic::warning(used.field.clone(), told.clone()).of(object)));
        }
        found
    }
}
