//! Where objects are written, so that a finding about what an object means can still name its file.

use std::collections::HashMap;

use crate::api::{Diagnostic, Location, ObjectKey};

/// File and document of each object that came from a file.
#[derive(Debug, Default)]
pub struct Places(HashMap<ObjectKey, Location>);

impl Places {
    /// Takes news: an object is written there now, or nowhere any more.
    pub fn note(&mut self, news: impl IntoIterator<Item = (ObjectKey, Option<Location>)>) {
        for (key, location) in news {
            match location {
                Some(location) => self.0.insert(key, location),
                None => self.0.remove(&key),
            };
        }
    }

    /// The finding with the place of its object, unless it names one already.
    pub fn locate(&self, mut finding: Diagnostic) -> Diagnostic {
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
    fn a_finding_gets_the_place_of_its_object() {
        let key = ObjectKey { cluster: "c".into(), kind: Kind::Gateway, namespace: "shop".into(), name: "public".into() };
        let at = |document| Location { file: "g.yaml".into(), document };
        let finding = Diagnostic::warning("spec", "doubtful").of(&key);
        let mut places = Places::default();
        places.note([(key.clone(), Some(at(2)))]);
        assert_eq!(places.locate(finding.clone()).location, Some(at(2)));
        assert_eq!(places.locate(finding.clone().at(&at(7))).location, Some(at(7)));
        places.note([(key, None)]);
        assert_eq!(places.locate(finding).location, None);
    }
}
