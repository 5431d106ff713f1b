//! Whether there is a list of revoked certificates of each CA of a rotation: proxies that have lists refuse every peer under a CA
//! without one.

use jiff::Timestamp;

use super::parts::{Entries, NEXT, PREVIOUS, parts, write};
use crate::identity::ca::{LoadError, REVOCATION_FILE, RevocationError, load_entries};

/// Returns why lists are of no use for a CA among these entries; `None` if there are no lists, or one of each.
pub(super) fn uncovered(entries: &Entries, now: Timestamp) -> Result<Option<RevocationError>, LoadError> {
    let Some(lists) = entries.get(REVOCATION_FILE) else { return Ok(None) };
    for parts in ["", NEXT, PREVIOUS].iter().filter_map(|prefix| parts(entries, prefix).ok()) {
        let mut one = Entries::from([(REVOCATION_FILE.to_owned(), lists.clone())]);
        write(&mut one, "", &parts);
        if let Some(error) = load_entries("the CA after this step", &one, now)?.unusable_revocation() {
            return Ok(Some(error.clone()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Root, now},
        *,
    };

    #[test]
    fn each_ca_needs_its_list() {
        let root = Root::new("old");
        let (mut entries, next) = (root.intermediate(), root.intermediate());
        let of_both = root.revocation_lists(&entries) + &root.revocation_lists(&next);
        entries.extend(next.iter().map(|(name, contents)| (format!("{NEXT}{name}"), contents.clone())));
        assert_eq!(uncovered(&entries, now()).unwrap(), None, "nobody has lists");
        let of_one = root.revocation_lists(&entries);
        entries.insert(REVOCATION_FILE.into(), of_one.into_bytes());
        assert!(matches!(uncovered(&entries, now()).unwrap(), Some(RevocationError::NotCovered { .. })));
        entries.insert(REVOCATION_FILE.into(), of_both.into_bytes());
        assert_eq!(uncovered(&entries, now()).unwrap(), None);
    }
}
