//! What is read of an object. The rest is passed over while the JSON is read and never becomes values: of a pod's 6 kB
//! some 500 bytes are left.

use std::fmt;

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// A shape of JSON: what of it is kept. A value of another type than its shape says is kept whole, so that its reader
/// can say what is wrong with it.
#[derive(Debug)]
pub(super) enum Keep {
    /// All of it.
    All,
    /// Of a map, these fields.
    Fields(&'static [(&'static str, Keep)]),
    /// Of a map, the entries whose key begins with one of these.
    Prefixes(&'static [&'static str]),
    /// Of a list, this of each element.
    Items(&'static Keep),
}

impl<'de> DeserializeSeed<'de> for &'static Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Keep::All => Value::deserialize(deserializer),
            _ => deserializer.deserialize_any(Pick(self)),
        }
    }
}

struct Pick(&'static Keep);

impl Pick {
    fn of_key(&self, key: &str) -> Option<&'static Keep> {
        match self.0 {
            Keep::Fields(fields) => fields.iter().find(|(name, _)| *name == key).map(|(_, keep)| keep),
            Keep::Prefixes(prefixes) => prefixes.iter().any(|prefix| key.starts_with(prefix)).then_some(&Keep::All),
            Keep::All | Keep::Items(_) => Some(&Keep::All),
        }
    }

    fn of_items(&self) -> &'static Keep {
        match self.0 {
            Keep::Items(keep) => keep,
            _ => &Keep::All,
        }
    }
}

impl<'de> Visitor<'de> for Pick {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = access.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.of_key(&key) {
                Some(keep) => _ = kept.insert(key.into_owned(), access.next_value_seed(keep)?),
                None => _ = access.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = access.next_element_seed(self.of_items())? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static POD: Keep = Keep::Fields(&[
        ("metadata", Keep::Fields(&[("name", Keep::All), ("annotations", Keep::Prefixes(&["istio.io/"]))])),
        ("containers", Keep::Items(&Keep::Fields(&[("ports", Keep::All)]))),
    ]);

    fn kept(text: &str) -> Value {
        (&POD).deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap()
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
