//! Reads the fields of a JSON document, and remembers which were read, so that unknown ones can be reported.
//!
//! It is as tolerant as proto3 JSON: `null` counts as absent, and `snake_case` as `camelCase`.

use std::{borrow::Cow, cell::Cell};

use serde_json::Value;

use crate::api::findings::{Findings, Path};

/// A value and its place in the document.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) path: Path<'a>,
    pub(super) findings: &'a Findings,
}

/// A type that can be read from a document. `None` means that the value is invalid, and a finding says why.
pub(super) trait Read: Sized {
    fn read(node: Node<'_>) -> Option<Self>;
}

/// The fields of one message.
pub(super) struct Fields<'a> {
    entries: Vec<FieldEntry<'a>>,
    path: Path<'a>,
    findings: &'a Findings,
}

struct FieldEntry<'a> {
    /// The name in `camelCase`.
    name: Cow<'a, str>,
    written: &'a str,
    value: &'a Value,
    used: Cell<bool>,
}

impl<'a> Node<'a> {
    /// Returns the fields of the value, which must be a map.
    pub(super) fn fields(self) -> Option<Fields<'a>> {
        let Value::Object(map) = self.value else {
            self.wrong("a map of fields");
            return None;
        };
        let entries: Vec<_> = map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| FieldEntry { name: camel_case(key), written: key, value, used: Cell::new(false) })
            .collect();
        Some(Fields { entries, path: self.path, findings: self.findings })
    }

    /// Reads the value as a message by `read`, and warns of the fields that `read` did not read. Returns `None` if the value is
    /// no map.
    pub(super) fn message<T>(self, read: impl FnOnce(&Fields<'a>) -> T) -> Option<T> {
        let fields = self.fields()?;
        let message = read(&fields);
        fields.finish();
        Some(message)
    }

    /// Reports that the value is of another type than `expected`.
    pub(super) fn wrong(&self, expected: &str) {
        let hint = match (expected, self.value) {
            ("a string", Value::Number(_) | Value::Bool(_)) => ": put it in quotes",
            _ => "",
        };
        self.error(format!("must be {expected}, is {}{hint}", describe(self.value)));
    }

    pub(super) fn error(&self, message: impl Into<String>) {
        self.findings.error(&self.path, message);
    }

    /// Reads the name or number of an enum. `allowed` holds names and values in the order of the numbers, which count from 0.
    pub(super) fn one_of<T: Copy>(&self, allowed: &[(&str, T)]) -> Option<T> {
        let numbered: Vec<_> = allowed.iter().zip(0..).map(|((name, value), number)| (*name, number, *value)).collect();
        self.one_of_numbered(&numbered)
    }

    /// Reads an enum as [`Self::one_of`] does, but with a number for each value.
    pub(super) fn one_of_numbered<T: Copy>(&self, allowed: &[(&str, i64, T)]) -> Option<T> {
        let found = match self.value {
            Value::String(text) => allowed.iter().find(|(name, ..)| name == text),
            Value::Number(number) => allowed.iter().find(|(_, of, _)| Some(*of) == number.as_i64()),
            _ => {
                self.wrong("the name of a value");
                return None;
            }
        };
        if found.is_none() {
            let names: Vec<_> = allowed.iter().map(|(name, ..)| *name).collect();
            self.error(format!("unknown value {}; known are {}", shown(self.value), names.join(", ")));
        }
        found.map(|(.., value)| *value)
    }
}

impl<'a> Fields<'a> {
    /// Reads a field. Returns the default of the type if the field is absent or invalid.
    pub(super) fn get<T: Read + Default>(&self, name: &'static str) -> T {
        self.opt(name).unwrap_or_default()
    }

    /// Reads a field. Returns `None` if the field is absent or invalid.
    pub(super) fn opt<T: Read>(&self, name: &'static str) -> Option<T> {
        let entry = self.take(name)?;
        T::read(Node { value: entry.value, path: self.path.field(entry.written), findings: self.findings })
    }

    /// Reads a field of which proto3 takes the default (zero, an empty text or list) for absent.
    pub(super) fn nonempty<T: Read + Default + PartialEq>(&self, name: &'static str) -> Option<T> {
        self.opt(name).filter(|value| *value != T::default())
    }

    /// Reads a field into `target`, which stays as it is if the field is absent or invalid.
    pub(super) fn set<T: Read>(&self, name: &'static str, target: &mut T) {
        if let Some(value) = self.opt(name) {
            *target = value;
        }
    }

    /// Reads a field by a function.
    pub(super) fn with<T>(&self, name: &str, read: impl FnOnce(Node<'_>) -> Option<T>) -> Option<T> {
        let entry = self.take(name)?;
        read(Node { value: entry.value, path: self.path.field(entry.written), findings: self.findings })
    }

    /// Reads the entries of a map whose keys are chosen by the user, sorted by key.
    pub(super) fn entries<T: Read>(&self, name: &'static str) -> Vec<(smol_str::SmolStr, T)> {
        self.with(name, entries).unwrap_or_default()
    }

    /// Returns whether the field is present.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// Reports an error if more than one of these fields is present (`oneof`).
    pub(super) fn exclusive(&self, names: &[&'static str]) {
        let written: Vec<_> = names.iter().copied().filter(|name| self.has(name)).collect();
        if written.len() > 1 {
            written.iter().for_each(|name| self.pass(name));
            self.error(format!("only one of {} may be set", written.join(", ")));
        }
    }

    /// Warns that the field has no effect here, although it is one of Istio's.
    pub(super) fn unsupported(&self, name: &'static str) {
        if let Some(entry) = self.take(name) {
            let message = format!("field {name} is not supported yet and has no effect");
            self.findings.warning(&self.path.field(entry.written), message);
        }
    }

    /// Marks a field as read that is read elsewhere.
    pub(super) fn pass(&self, name: &str) {
        self.take(name);
    }

    /// Reports an error about the message as a whole.
    pub(super) fn error(&self, message: impl Into<String>) {
        self.findings.error(&self.path, message);
    }

    /// Reports a warning about one field.
    pub(super) fn warn(&self, name: &str, message: impl Into<String>) {
        self.findings.warning(&self.path.field(name), message);
    }

    /// Reports an error about one field.
    pub(super) fn refuse(&self, name: &str, message: impl Into<String>) {
        self.findings.error(&self.path.field(name), message);
    }

    /// Warns of the fields that were not read. Istio's validation refuses them; here the rest of the object is still applied.
    pub(super) fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !entry.used.get()) {
            self.findings.warning(&self.path.field(entry.written), "unknown field: it has no effect");
        }
    }

    fn take(&self, name: &str) -> Option<&FieldEntry<'a>> {
        let mut found = self.entries.iter().filter(|entry| entry.name == name);
        let entry = found.next()?;
        if let Some(second) = found.next()
            && !second.used.replace(true)
        {
            self.findings.error(&self.path.field(second.written), format!("is the same field as {}, which is given too", entry.written));
        }
        entry.used.set(true);
        Some(entry)
    }
}

/// Reads a map whose keys are chosen by the user, sorted by key.
pub(super) fn entries<T: Read>(node: Node<'_>) -> Option<Vec<(smol_str::SmolStr, T)>> {
    let Value::Object(map) = node.value else {
        node.wrong("a map");
        return None;
    };
    if !node.findings.admit_list::<(smol_str::SmolStr, T)>(&node.path, map.len()) {
        return None;
    }
    let mut read: Vec<(smol_str::SmolStr, T)> = map
        .iter()
        .filter_map(|(key, value)| {
            let inner = Node { value, path: node.path.key(key), findings: node.findings };
            T::read(inner).map(|value| (key.into(), value))
        })
        .collect();
    read.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(read)
}

fn camel_case(key: &str) -> Cow<'_, str> {
    if !key.contains('_') {
        return Cow::Borrowed(key);
    }
    let mut camel = String::with_capacity(key.len());
    let mut upper = false;
    for letter in key.chars() {
        match letter {
            '_' => upper = true,
            _ if upper => {
                camel.push(letter.to_ascii_uppercase());
                upper = false;
            }
            _ => camel.push(letter),
        }
    }
    Cow::Owned(camel)
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => shown(value),
    }
}

/// Describes a value for a message. Long texts are cut, since messages are logged.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value, of: impl FnOnce(Fields<'_>)) -> Vec<String> {
        let findings = Findings::default();
        if let Some(fields) = (Node { value: &value, path: Path::Root, findings: &findings }).fields() {
            of(fields);
        }
        findings.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn snake_case_stands_for_camel_case() {
        let said = read(json!({"consecutive_5xx_errors": 3, "perTryTimeout": null}), |fields| {
            assert_eq!(fields.opt::<u32>("consecutive5xxErrors"), Some(3));
            assert_eq!(fields.opt::<u32>("perTryTimeout"), None);
            fields.finish();
        });
        assert_eq!(said, [""; 0]);
    }

    #[test]
    fn a_field_in_both_cases_is_refused() {
        let said = read(json!({"retry_on": "5xx", "retryOn": "reset"}), |fields| {
            fields.get::<smol_str::SmolStr>("retryOn");
            fields.finish();
        });
        assert_eq!(said, ["error: retry_on: is the same field as retryOn, which is given too"]);
    }

    #[test]
    fn what_nobody_read_is_named() {
        let said = read(json!({"a": {"b": 1}, "c": 2}), |fields| {
            fields.with("a", |node| node.fields().map(Fields::finish));
            fields.unsupported("c");
            fields.finish();
        });
        assert_eq!(said, ["warning: a.b: unknown field: it has no effect", "warning: c: field c is not supported yet and has no effect"]);
    }

    #[test]
    fn enums_come_by_name_or_number() {
        let modes = [("UNSET", 0), ("STRICT", 1)];
        let said = read(json!({"a": "STRICT", "b": 1, "c": "STRCT", "d": [], "e": 7}), |fields| {
            assert_eq!(fields.with("a", |node| node.one_of(&modes)), Some(1));
            assert_eq!(fields.with("b", |node| node.one_of(&modes)), Some(1));
            for wrong in ["c", "d", "e"] {
                assert_eq!(fields.with(wrong, |node| node.one_of(&modes)), None);
            }
        });
        assert_eq!(
            said,
            [
                r#"error: c: unknown value "STRCT"; known are UNSET, STRICT"#,
                "error: d: must be the name of a value, is a list",
                "error: e: unknown value 7; known are UNSET, STRICT",
            ]
        );
    }
}
