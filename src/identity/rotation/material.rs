//! What stands in the folder or the Secret of a CA during a rotation, and what each step makes of it.
//!
//! The CA in use stands there as always, so that whoever knows nothing of rotations (istiod, say) does the right thing at every stage.
//! Beside it stand the next one (`next-…`) and, as soon as both roots are handed out, the one before (`previous-…`).
//! The stage is read from them: there is nothing else that could contradict it.

use jiff::Timestamp;

use super::{
    coverage::uncovered,
    parts::{CHAIN, Entries, NEXT, PARTS, PREVIOUS, ROOTS, SIGNING, UnreadablePart, joined, parts, write, write_in_use},
    stage::{Change, Move, Need, Stage, Step, Which},
};
use crate::identity::{
    ca::{LoadError, NEXT_CERTIFICATE, RevocationError, load_entries, root_above},
    certificate::Certificate,
    root_id::RootId,
};

/// The entry that is there while a rotation is on.
pub const NEXT_MARK: &str = NEXT_CERTIFICATE;

/// The mark of a CA that istiod made itself, whose root's key is not offline.
const GENERATED: &str = "istio-generated";

/// A CA with what stands beside it.
#[derive(Debug)]
pub struct Material {
    entries: Entries,
    stage: Stage,
    change: Change,
    /// The roots by which the steps are judged; both are the same while nothing is planned.
    old: Certificate,
    next: Certificate,
}

/// Why there is no such step.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The CA in use, or the next one, cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A part of a CA is missing or cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadablePart),
    /// No rotation is on.
    #[error("no rotation is on; `--plan FOLDER` begins one with the CA in that folder")]
    NothingPlanned,
    /// A rotation is on already.
    #[error("a rotation is on already ({0}); end it by --next or --abort first")]
    AlreadyPlanned(Stage),
    /// The next CA is the one in use.
    #[error("the next CA is the one in use")]
    SameCa,
    /// Proxies have lists of revoked certificates, and none of a CA that signs or is about to.
    #[error(
        "{0}. Proxies must have it before such certificates are shown: put it in beside the CA in use, give proxies two minutes to be told, and take the step then"
    )]
    Uncovered(RevocationError),
    /// The root that is in use has its key here.
    #[error("the CA in use is a root that a control plane made itself; put a CA of yours in its place, and restart")]
    Generated,
}

// === impl Material ===

impl Material {
    /// Reads how far a rotation is.
    ///
    /// # Errors
    /// When certificates are missing or cannot be read. Whether they can be used now is judged by each step.
    pub fn read(entries: Entries) -> Result<Self, MaterialError> {
        if entries.contains_key(GENERATED) {
            return Err(MaterialError::Generated);
        }
        let current = Ca::read(&entries, "")?;
        let next = entries.contains_key(NEXT_MARK).then(|| Ca::read(&entries, NEXT)).transpose()?;
        let Some(next) = next else {
            let (old, next) = (current.root.clone(), current.root);
            return Ok(Self { entries, stage: Stage::Settled, change: Change::Intermediate, old, next });
        };
        let trusts_next = current.roots.iter().any(|root| RootId::of(root) == RootId::of(&next.root));
        let has_previous = entries.contains_key(&format!("{PREVIOUS}ca-cert.pem"));
        let stage = match (current.signing == next.signing, has_previous && trusts_next) {
            (true, _) => Stage::Switched,
            (false, true) => Stage::Distributing,
            (false, false) => Stage::Planned,
        };
        let same_roots = ids(&current.roots) == ids(&next.roots);
        let change = if same_roots { Change::Intermediate } else { Change::Root };
        let old = if has_previous { Ca::read(&entries, PREVIOUS)?.root } else { current.root };
        Ok(Self { entries, stage, change, old, next: next.root })
    }

    /// Returns how far the rotation is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns what the rotation replaces.
    pub fn change(&self) -> Change {
        self.change
    }

    /// Returns the root of one of the two CAs.
    pub fn root(&self, which: Which) -> &Certificate {
        match which {
            Which::Old => &self.old,
            Which::Next => &self.next,
        }
    }

    /// Returns the root that a need is about.
    pub fn root_of(&self, need: Need) -> RootId {
        let (Need::Trust(which) | Need::Leave(which)) = need;
        RootId::of(self.root(which))
    }

    /// Returns the certificate that signs now, and the roots that are handed out.
    pub fn in_use(&self) -> Result<(Certificate, Vec<RootId>), MaterialError> {
        let current = Ca::read(&self.entries, "")?;
        Ok((current.signing.clone(), ids(&current.roots)))
    }

    /// Returns the entries.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Returns the entries with `next` as the next CA, which is in either form of a CA's folder.
    ///
    /// # Errors
    /// When a rotation is on already, or the control plane would refuse the next CA.
    pub fn plan(&self, next: &Entries, now: Timestamp) -> Result<Entries, MaterialError> {
        if self.stage != Stage::Settled {
            return Err(MaterialError::AlreadyPlanned(self.stage));
        }
        load_entries("the next CA", next, now)?;
        let read = Ca::read(next, "")?;
        if read.signing == Ca::read(&self.entries, "")?.signing {
            return Err(MaterialError::SameCa);
        }
        let mut planned = self.entries.clone();
        write(&mut planned, NEXT, &parts(next, "")?);
        Ok(planned)
    }

    /// Returns where a step leads.
    ///
    /// # Errors
    /// When no rotation is on.
    pub fn step(&self, step: Step) -> Result<Move, MaterialError> {
        self.stage.step(step, self.change).ok_or(MaterialError::NothingPlanned)
    }

    /// Returns the entries after a step. Whether it may be taken is for the caller to judge.
    ///
    /// # Errors
    /// When no rotation is on, or the control plane would refuse what comes out.
    pub fn after(&self, step: Step, now: Timestamp) -> Result<Entries, MaterialError> {
        let Move { to, signer, .. } = self.step(step)?;
        let next = parts(&self.entries, NEXT)?;
        let previous = match self.entries.contains_key(&format!("{PREVIOUS}ca-cert.pem")) {
            true => parts(&self.entries, PREVIOUS)?,
            false => parts(&self.entries, "")?,
        };
        let (used, other) = if signer == Which::Next { (&next, &previous) } else { (&previous, &next) };
        let mut used = used.clone();
        let mut after: Entries = self.entries.clone();
        if to == Stage::Settled {
            after.retain(|name, _| !name.starts_with(NEXT) && !name.starts_with(PREVIOUS));
        } else {
            write(&mut after, PREVIOUS, &previous);
            used[ROOTS] = joined(&used[ROOTS], &other[ROOTS]);
        }
        write_in_use(&mut after, &used);
        load_entries("the CA after this step", &after, now)?;
        // Whoever goes back to the start needs no list that was not there before.
        match uncovered(&after, now)? {
            Some(error) if step == Step::Next || to != Stage::Settled => Err(MaterialError::Uncovered(error)),
            _ => Ok(after),
        }
    }
}

/// What is read of one CA.
struct Ca {
    signing: Certificate,
    roots: Vec<Certificate>,
    root: Certificate,
}

impl Ca {
    fn read(entries: &Entries, prefix: &str) -> Result<Self, MaterialError> {
        let parts = parts(entries, prefix)?;
        let unreadable = |part: usize| UnreadablePart(format!("{prefix}{}", PARTS[part]));
        let certificates = |part: usize| Certificate::each_from_pem(&String::from_utf8_lossy(&parts[part])).0;
        let roots = certificates(ROOTS);
        let chain = [certificates(SIGNING), certificates(CHAIN)].concat();
        let signing = chain.first().cloned().ok_or_else(|| unreadable(SIGNING))?;
        let root = root_above(&signing, &chain, &roots).ok_or_else(|| unreadable(ROOTS))?;
        Ok(Self { signing, roots, root })
    }
}

fn ids(roots: &[Certificate]) -> Vec<RootId> {
    let mut ids: Vec<RootId> = roots.iter().map(RootId::of).collect();
    ids.sort();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Root, now},
        *,
    };
    use crate::identity::ca::{CaHandle, OfferOutcome, REVOCATION_FILE};

    fn as_tls(ca: &Entries) -> Entries {
        [("tls.crt", "ca-cert.pem"), ("tls.key", "ca-key.pem"), ("ca.crt", "root-cert.pem")]
            .map(|(name, from)| (name.to_owned(), ca[from].clone()))
            .into()
    }

    fn read(entries: &Entries) -> Material {
        Material::read(entries.clone()).unwrap()
    }

    fn step(entries: &Entries, step: Step) -> Entries {
        read(entries).after(step, now()).unwrap()
    }

    fn roots(entries: &Entries) -> Vec<String> {
        let pem = String::from_utf8_lossy(entries.get("root-cert.pem").unwrap_or_else(|| &entries["ca.crt"])).into_owned();
        Certificate::all_from_pem(&pem).unwrap().into_iter().map(|root| root.subject).collect()
    }

    const OLD: &str = "O=Company, CN=old";
    const NEW: &str = "O=Company, CN=new";

    #[test]
    fn a_root_is_replaced_step_by_step_and_each_step_is_taken_over_by_a_running_control_plane() {
        let (old, new) = (Root::new("old"), Root::new("new").intermediate());
        for start in [old.intermediate(), as_tls(&old.intermediate())] {
            for next in [new.clone(), as_tls(&new)] {
                let handle = CaHandle::new(load_entries("a", &start, now()).unwrap());
                let take = |entries: &Entries| handle.offer(load_entries("a", entries, now()).unwrap()).unwrap();
                assert_eq!(read(&start).stage(), Stage::Settled);
                let planned = read(&start).plan(&next, now()).unwrap();
                assert_eq!(
                    (read(&planned).stage(), read(&planned).change(), roots(&planned)),
                    (Stage::Planned, Change::Root, vec![OLD.into()])
                );
                assert_eq!(take(&planned), OfferOutcome::Unchanged);

                let both = step(&planned, Step::Next);
                assert_eq!((read(&both).stage(), roots(&both)), (Stage::Distributing, vec![OLD.into(), NEW.into()]));
                assert_eq!(take(&both), OfferOutcome::Accepted);
                assert_eq!(handle.current().root().subject, OLD);

                let switched = step(&both, Step::Next);
                assert_eq!((read(&switched).stage(), roots(&switched)), (Stage::Switched, vec![NEW.into(), OLD.into()]));
                assert_eq!(take(&switched), OfferOutcome::Accepted);
                assert_eq!(handle.current().root().subject, NEW);

                let done = step(&switched, Step::Next);
                assert_eq!((read(&done).stage(), roots(&done)), (Stage::Settled, vec![NEW.into()]));
                assert_eq!(done.keys().collect::<Vec<_>>(), start.keys().collect::<Vec<_>>(), "nothing is left, in the form of before");
                assert_eq!(take(&done), OfferOutcome::Accepted);

                // Whoever starts at any stage finds a CA that it takes.
                for entries in [&planned, &both, &switched, &done] {
                    load_entries("a", entries, now()).unwrap();
                }
                assert!(handle.offer(load_entries("a", &start, now()).unwrap()).is_err(), "the rotation is over");
            }
        }
    }

    #[test]
    fn a_running_control_plane_leaves_out_no_step() {
        let start = Root::new("old").intermediate();
        let planned = read(&start).plan(&Root::new("new").intermediate(), now()).unwrap();
        let switched = step(&step(&planned, Step::Next), Step::Next);
        let handle = CaHandle::new(load_entries("a", &planned, now()).unwrap());
        let refused = handle.offer(load_entries("a", &switched, now()).unwrap()).unwrap_err();
        assert!(refused.to_string().contains("another root"), "{refused}");
    }

    #[test]
    fn each_step_is_taken_back_to_what_was_before() {
        let start = Root::new("old").intermediate();
        let planned = read(&start).plan(&Root::new("new").intermediate(), now()).unwrap();
        assert_eq!(step(&planned, Step::Abort), start);
        let both = step(&planned, Step::Next);
        assert_eq!(step(&both, Step::Abort), start);
        assert_eq!(step(&step(&both, Step::Next), Step::Abort), both);
    }

    #[test]
    fn the_needs_are_about_the_roots_of_the_two() {
        let (old, new) = (Root::new("old"), Root::new("new"));
        let planned = read(&old.intermediate()).plan(&new.intermediate(), now()).unwrap();
        let both = step(&planned, Step::Next);
        let material = read(&both);
        assert_eq!(material.root_of(Need::Trust(Which::Next)), RootId::of(&new.certificate));
        let material = read(&step(&both, Step::Next));
        assert_eq!(material.root_of(Need::Leave(Which::Old)), RootId::of(&old.certificate));
    }

    #[test]
    fn an_intermediate_of_the_same_root_is_taken_at_once() {
        let root = Root::new("old");
        let (start, next) = (root.intermediate(), root.intermediate());
        let planned = read(&start).plan(&next, now()).unwrap();
        assert_eq!((read(&planned).stage(), read(&planned).change()), (Stage::Planned, Change::Intermediate));
        assert_eq!(step(&planned, Step::Next), next);
        assert_eq!(step(&planned, Step::Abort), start);
    }

    #[test]
    fn a_step_that_was_cut_short_is_taken_again() {
        let start = Root::new("old").intermediate();
        let planned = read(&start).plan(&Root::new("new").intermediate(), now()).unwrap();
        let both = step(&planned, Step::Next);
        // The files of the one before were written, and the roots were not.
        let mut cut = both.clone();
        cut.insert("root-cert.pem".into(), start["root-cert.pem"].clone());
        assert_eq!(read(&cut).stage(), Stage::Planned);
        assert_eq!(step(&cut, Step::Next), both);
        // The key of the next one was written, and its certificate was not.
        let switched = step(&both, Step::Next);
        let mut cut = both.clone();
        cut.insert("ca-key.pem".into(), switched["ca-key.pem"].clone());
        assert_eq!(step(&cut, Step::Next), switched);
        // The roots of the end were written, and what stood beside was not removed.
        let done = step(&switched, Step::Next);
        let mut cut = switched.clone();
        cut.insert("root-cert.pem".into(), done["root-cert.pem"].clone());
        assert_eq!(step(&cut, Step::Next), done);
    }

    #[test]
    fn a_ca_signs_when_proxies_have_its_list_of_revoked_certificates() {
        let (old, new) = (Root::new("old"), Root::new("new"));
        let (mut start, next) = (old.intermediate(), new.intermediate());
        let (old_lists, new_lists) = (old.revocation_lists(&start), new.revocation_lists(&next));
        let with = |entries: &Entries, lists: &str| -> Entries {
            entries.clone().into_iter().chain([(REVOCATION_FILE.to_owned(), lists.as_bytes().to_vec())]).collect()
        };
        start = with(&start, &old_lists);
        let planned = read(&start).plan(&next, now()).unwrap();
        let refused = |entries: &Entries| read(entries).after(Step::Next, now()).unwrap_err().to_string();
        assert!(refused(&planned).contains("no list of O=Company, CN=signing"), "{}", refused(&planned));
        assert_eq!(step(&planned, Step::Abort), start);

        let both = step(&with(&planned, &(old_lists.clone() + &new_lists)), Step::Next);
        assert!(refused(&with(&both, &old_lists)).contains("no list of"), "it was there, and is gone");
        let switched = step(&both, Step::Next);
        assert_eq!(
            read(&step(&with(&switched, &new_lists), Step::Next)).stage(),
            Stage::Settled,
            "the end needs that of the next CA alone"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let root = Root::new("old");
        let start = root.intermediate();
        let new = Root::new("new");
        let refusal = |entries: &Entries, next: &Entries| read(entries).plan(next, now()).unwrap_err().to_string();
        assert_eq!(refusal(&start, &start), "the next CA is the one in use");
        assert!(read(&start).after(Step::Next, now()).unwrap_err().to_string().contains("no rotation is on"));
        let planned = read(&start).plan(&new.intermediate(), now()).unwrap();
        assert!(refusal(&planned, &new.intermediate()).contains("already (planned"));
        let mut with_root_key = new.intermediate();
        with_root_key.insert("notes".into(), new.key.to_pem().into_bytes());
        assert!(refusal(&start, &with_root_key).contains("root key"));
        let mut half = new.intermediate();
        half.remove("ca-key.pem");
        assert!(refusal(&start, &half).contains("ca-key.pem missing"));
        let mut generated = start.clone();
        generated.insert("istio-generated".into(), Vec::new());
        assert!(Material::read(generated).unwrap_err().to_string().contains("made itself"));
        let mut broken = planned;
        broken.insert("next-root-cert.pem".into(), b"nothing".to_vec());
        assert!(Material::read(broken).unwrap_err().to_string().contains("next-root-cert.pem cannot be read"));
    }
}
