//! Reads only some fields of a JSON document. All others are skipped while the text is parsed and never become values: of
//! the 6 kB of a pod about 500 bytes are left.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::api::value::{Allowance, Syntax, visit_leaves};

/// The parts of a JSON value that are read. A value of another type than the mask expects is read as a whole, so that its
/// reader can say what is wrong with it.
#[derive(Debug)]
pub(super) enum FieldMask {
    /// The whole value.
    All,
    /// These fields of a map.
    Fields(&'static [(&'static str, FieldMask)]),
    /// The entries of a map with these keys, whole.
    Named(&'static [&'static str]),
    /// The entries of a map whose key begins with one of these.
    Prefixes(&'static [&'static str]),
    /// This part of each element of a list.
    Items(&'static FieldMask),
}

impl FieldMask {
    /// Reads what the mask shows of a JSON text, within an allowance of memory.
    ///
    /// # Errors
    /// When the text is no JSON, or what is shown of it would take more than is left of the allowance.
    pub(super) fn read(&'static self, text: &str, allowance: &Allowance) -> Result<Value, serde_json::Error> {
        Masked { mask: self, allowance }.deserialize(&mut serde_json::Deserializer::from_str(text))
    }
}

#[derive(Clone, Copy)]
struct Masked<'b> {
    mask: &'static FieldMask,
    allowance: &'b Allowance,
}

impl<'de> DeserializeSeed<'de> for Masked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if matches!(self.mask, FieldMask::All) {
            return self.allowance.any(Syntax::Json).deserialize(deserializer);
        }
        self.allowance.value()?;
        deserializer.deserialize_any(self)
    }
}

impl Masked<'_> {
    fn of_key(self, key: &str) -> Option<Self> {
        let mask = match self.mask {
            FieldMask::Fields(fields) => fields.iter().find(|(name, _)| *name == key).map(|(_, mask)| mask),
            FieldMask::Named(names) => names.contains(&key).then_some(&FieldMask::All),
            FieldMask::Prefixes(prefixes) => prefixes.iter().any(|prefix| key.starts_with(prefix)).then_some(&FieldMask::All),
            FieldMask::All | FieldMask::Items(_) => Some(&FieldMask::All),
        };
        mask.map(|mask| Self { mask, ..self })
    }

    fn of_items(self) -> Self {
        let mask = match self.mask {
            FieldMask::Items(mask) => mask,
            _ => &FieldMask::All,
        };
        Self { mask, ..self }
    }
}

impl<'de> Visitor<'de> for Masked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = access.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.of_key(&key) {
                Some(masked) => {
                    self.allowance.entry(&key, kept.is_empty())?;
                    kept.insert(key.into_owned(), access.next_value_seed(masked)?);
                }
                None => _ = access.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = access.next_element_seed(self.of_items())? {
            self.allowance.element(kept.is_empty())?;
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    visit_leaves!();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static POD: FieldMask = FieldMask::Fields(&[
        ("metadata", FieldMask::Fields(&[("name", FieldMask::All), ("annotations", FieldMask::Prefixes(&["istio.io/"]))])),
        ("containers", FieldMask::Items(&FieldMask::Fields(&[("ports", FieldMask::All)]))),
    ]);

    fn kept(text: &str) -> Value {
        POD.read(text, &Allowance::new(1 << 20)).unwrap()
    }

    #[test]
    fn only_what_is_read_is_left() {
        let text = r#"{
            "kind": "Pod", "status": {"conditions": [1e999999]},
            "metadata": {"name": "a\u0062", "uid": 5, "annotations": {"istio.io/rev": "x", "other": "y"}},
            "containers": [{"env": [{}], "ports": [{"name": "http"}]}, {}]
        }"#;
        let expected = json!({
            "metadata": {"name": "ab", "annotations": {"istio.io/rev": "x"}},
            "containers": [{"ports": [{"name": "http"}]}, {}],
        });
        assert_eq!(kept(text), expected);
    }

    #[test]
    fn what_has_another_shape_is_left_for_its_reader() {
        let text = r#"{"metadata": [true, null, -1, 1.5], "containers": {"a": "b"}}"#;
        assert_eq!(kept(text), json!({"metadata": [true, null, -1, 1.5], "containers": {"a": "b"}}));
    }
}
