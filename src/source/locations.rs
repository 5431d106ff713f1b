//! Remembers where objects are written, so that findings about them can name their file.

use std::collections::HashMap;

use crate::api::{Diagnostic, Location, ObjectKey};

/// The file and document of each object that comes from a file.
#[derive(Debug, Default)]
pub(crate) struct ObjectLocations(HashMap<ObjectKey, Location>);

impl ObjectLocations {
    /// Updates the locations of objects; `None` for those that are written nowhere any more.
    pub(crate) fn note(&mut self, changed: impl IntoIterator<Item = (ObjectKey, Option<Location>)>) {
        for (key, location) in changed {
            match location {
                Some(location) => self.0.insert(key, location),
                None => self.0.remove(&key),
            };
        }
    }

    /// Returns where an object is written.
    pub(crate) fn of(&self, object: &ObjectKey) -> Option<&Location> {
        self.0.get(object)
    }

    /// Adds the location of the finding's object, unless the finding has a location already.
    pub(crate) fn locate(&self, mut finding: Diagnostic) -> Diagnostic {
        if finding.location.is_none() {
            finding.location = finding.object.as_ref().and_then(|object| self.0.get(object)).cloned();
        }
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    #[test]
    fn a_finding_gets_the_location_of_its_object() {
        let key = ObjectKey { cluster: "c".into(), kind: Kind::Gateway, namespace: "shop".into(), name: "public".into() };
        let at = |document| Location { file: "g.yaml".into(), document };
        let finding = Diagnostic::warning("spec", "doubtful").of(&key);
        let mut locations = ObjectLocations::default();
        locations.note([(key.clone(), Some(at(2)))]);
        assert_eq!(locations.locate(finding.clone()).location, Some(at(2)));
        assert_eq!(locations.locate(finding.clone().at(&at(7))).location, Some(at(7)));
        locations.note([(key, None)]);
        assert_eq!(locations.locate(finding).location, None);
    }
}
