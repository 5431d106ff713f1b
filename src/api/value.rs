//! Builds JSON values from texts within an allowance of memory.
//!
//! A value takes up to a hundred times the memory of its text: `{"a":0}` has 7 bytes, and as a value it takes 700. What a text
//! costs is therefore counted while it becomes a value, and not by its length.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor},
};
use serde_json::{Map, Value};

/// The most memory that the values of one document may take, in bytes: 20 bytes for each of the 1.5 MB that the largest object
/// of a cluster has. A VirtualService of 9,000 routes is within it.
pub const MOST_OF_DOCUMENT: usize = 32 << 20;

/// The memory that the values of a document may take. It is spent as they are built.
#[derive(Debug)]
pub struct Allowance {
    most: usize,
    left: Cell<usize>,
}

/// Reads a JSON text.
///
/// # Errors
/// When it is no JSON, or its values would take more than is left of the allowance.
pub fn from_json(text: &str, allowance: &Allowance) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = allowance.any(Syntax::Json).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// What a text is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    /// The last of two equal keys counts.
    Json,
    /// Equal keys are an error, keys may be numbers, and `<<` merges maps into its own.
    Yaml,
}

/// Reads any value.
#[derive(Clone, Copy)]
pub(crate) struct AnyValue<'b> {
    allowance: &'b Allowance,
    syntax: Syntax,
}

// What values take with the present `serde_json`, whose maps are B-trees with nodes for 11 entries, of which 6 are filled when keys
// come in order. Lists grow by doubling.
const OF_VALUE: usize = size_of::<Value>();
const OF_LIST: usize = 4 * OF_VALUE;
const OF_NODE: usize = 11 * (size_of::<String>() + OF_VALUE) + 24;
const OF_ENTRY: usize = OF_NODE / 6;

impl Allowance {
    /// Makes an allowance of so many bytes.
    pub fn new(most: usize) -> Self {
        Self { most, left: Cell::new(most) }
    }

    /// Returns how to read a value within what is left.
    pub(crate) fn any(&self, syntax: Syntax) -> AnyValue<'_> {
        AnyValue { allowance: self, syntax }
    }

    /// Spends what an element of a list takes beside its value: a list that grows is in memory twice.
    pub(crate) fn element<E: Error>(&self, is_first: bool) -> Result<(), E> {
        self.spend(if is_first { OF_LIST } else { OF_VALUE })
    }

    /// Spends what a text takes beside its value.
    pub(crate) fn text<E: Error>(&self, text: &str) -> Result<(), E> {
        self.spend(text.len())
    }

    /// Spends what an entry of a map takes beside its value.
    pub(crate) fn entry<E: Error>(&self, key: &str, is_first: bool) -> Result<(), E> {
        self.spend(key.len() + if is_first { OF_NODE } else { OF_ENTRY })
    }

    /// Spends what a value takes beside what is in it.
    pub(crate) fn value<E: Error>(&self) -> Result<(), E> {
        self.spend(OF_VALUE)
    }

    fn spend<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.unwrap_or_default());
        left.map(|_| ()).ok_or_else(|| E::custom(format_args!("{}", self.exceeded())))
    }

    /// Returns whether more was asked for than there was.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.left.get() == 0
    }

    /// Says that the allowance is exceeded.
    pub(crate) fn exceeded(&self) -> String {
        format!("has so many values that they take more than {} MB of memory, the most that is allowed: divide it", self.most >> 20)
    }
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.allowance.value()?;
        deserializer.deserialize_any(self)
    }
}

/// Writes what a visitor with an `allowance` does with values that hold no others.
macro_rules! visit_leaves {
    () => {
        fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<serde_json::Value, E> {
            self.allowance.text(value)?;
            Ok(serde_json::Value::String(value.to_owned()))
        }

        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<serde_json::Value, E> {
            Ok(serde_json::Value::Bool(value))
        }

        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }

        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<serde_json::Value, E> {
            Ok(value.into())
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<serde_json::Value, E> {
            Ok(serde_json::Value::Null)
        }
    };
}

pub(crate) use visit_leaves;

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.syntax {
            Syntax::Json => "any valid JSON value",
            Syntax::Yaml => "any YAML value",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut merges = None;
        while let Some(key) = access.next_key::<Key>()? {
            let key = key.text()?;
            let merge = self.syntax == Syntax::Yaml && key == "<<";
            if self.syntax == Syntax::Yaml && (map.contains_key(&key) || merge && merges.is_some()) {
                return Err(A::Error::custom(format_args!("duplicate entry with key {key:?}")));
            }
            self.allowance.entry(&key, map.is_empty())?;
            let value = access.next_value_seed(self)?;
            if merge {
                merges = Some(value);
            } else {
                map.insert(key, value);
            }
        }
        if let Some(merges) = merges {
            merge(&mut map, merges).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = access.next_element_seed(self)? {
            self.allowance.element(list.is_empty())?;
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        let (tag, content) = access.variant::<String>()?;
        content.newtype_variant::<serde::de::IgnoredAny>()?;
        Err(A::Error::custom(format_args!("tag !{tag} is not read")))
    }

    visit_leaves!();
}

/// Adds the entries that `<<` names and the map itself does not have.
fn merge(map: &mut Map<String, Value>, merges: Value) -> Result<(), &'static str> {
    let merged = match merges {
        Value::Array(merged) => merged,
        one => vec![one],
    };
    for merged in merged {
        let Value::Object(merged) = merged else { return Err("key << must have a map or a list of maps") };
        for (key, value) in merged {
            map.entry(key).or_insert(value);
        }
    }
    Ok(())
}

/// A key as it is written. In YAML it may be something else than a text.
enum Key {
    Text(String),
    Other,
}

impl Key {
    fn text<E: Error>(self) -> Result<String, E> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Other => Err(E::custom("a key must be text, a number, true or false")),
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
        Ok(Key::Text(key.to_owned()))
    }

    fn visit_string<E: Error>(self, key: String) -> Result<Key, E> {
        Ok(Key::Text(key))
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<Key, E> {
        Ok(Key::Text(key.to_string()))
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<Key, E> {
        Ok(Key::Text(key.to_string()))
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<Key, E> {
        Ok(Key::Text(key.to_string()))
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<Key, E> {
        Ok(serde_json::Number::from_f64(key).map_or(Key::Other, |number| Key::Text(number.to_string())))
    }

    fn visit_unit<E: Error>(self) -> Result<Key, E> {
        Ok(Key::Other)
    }

    // What is in it is of no interest, but has to be passed.
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Key, A::Error> {
        while access.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
        Ok(Key::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Key, A::Error> {
        while access.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(Key::Other)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Key, A::Error> {
        access.variant::<String>()?.1.newtype_variant::<serde::de::IgnoredAny>()?;
        Ok(Key::Other)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str, most: usize) -> Result<Value, String> {
        from_json(text, &Allowance::new(most)).map_err(|error| error.to_string())
    }

    #[test]
    fn json_is_read_as_serde_json_reads_it() {
        let text = r#"{"a": [1, -1, 1.5, "x\u0000", null, true, {}], "b": {"c": 1, "c": 2}, "<<": 1}"#;
        assert_eq!(read(text, 1 << 20).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert!(read("{} {}", 1 << 20).unwrap_err().contains("trailing"));
        assert!(read(&"[".repeat(1_000), 1 << 20).unwrap_err().contains("recursion"));
    }

    // Whatever the shape: short texts, small maps, lists in lists, keys.
    #[test]
    fn what_takes_more_than_is_allowed_is_refused() {
        let many = |piece: &str| format!("[{}0]", format!("{piece},").repeat(20_000));
        let keys: Vec<String> = (0..20_000).map(|key| format!("\"{key}\":0")).collect();
        for text in [many("{\"\":0}"), many("{}"), many("[[]]"), many("\"\""), many("0"), format!("{{{}}}", keys.join(","))] {
            let error = read(&text, 1 << 20).unwrap_err();
            assert!(error.contains("has so many values that they take more than 1 MB of memory"), "{error}");
            assert!(read(&text, 32 << 20).is_ok());
        }
        assert_eq!(read("[{\"a\": \"b\"}]", 2_000), Ok(json!([{"a": "b"}])));
    }

    #[test]
    fn several_values_have_one_allowance() {
        let allowance = Allowance::new(3_000);
        let read: Vec<bool> = (0..4).map(|_| from_json("{\"a\": 0}", &allowance).is_ok()).collect();
        assert_eq!((read, allowance.is_exceeded()), (vec![true, true, true, true], false));
        assert!(from_json("{\"a\": 0}", &allowance).is_err() && allowance.is_exceeded());
    }
}
