//! Reads texts, numbers, durations, lists and maps as proto3 JSON (and its Go implementation) does.

use std::{net::IpAddr, time::Duration};

use serde_json::Value;
use smol_str::SmolStr;

use super::fields::{Node, Read, entries};
use crate::{
    api::{Labels, go_duration},
    patience::Patient,
};

impl Read for bool {
    fn read(node: Node<'_>) -> Option<Self> {
        let value = node.value.as_bool();
        if value.is_none() {
            node.wrong("true or false");
        }
        value
    }
}

impl Read for SmolStr {
    fn read(node: Node<'_>) -> Option<Self> {
        let value = node.value.as_str();
        if value.is_none() {
            node.wrong("a string");
        }
        value.map(Self::from)
    }
}

impl Read for u16 {
    fn read(node: Node<'_>) -> Option<Self> {
        whole(node, 0, i128::from(Self::MAX)).and_then(|number| number.try_into().ok())
    }
}

impl Read for u32 {
    fn read(node: Node<'_>) -> Option<Self> {
        whole(node, 0, i128::from(Self::MAX)).and_then(|number| number.try_into().ok())
    }
}

impl Read for i32 {
    fn read(node: Node<'_>) -> Option<Self> {
        whole(node, i128::from(Self::MIN), i128::from(Self::MAX)).and_then(|number| number.try_into().ok())
    }
}

impl Read for u64 {
    fn read(node: Node<'_>) -> Option<Self> {
        whole(node, 0, i128::from(Self::MAX)).and_then(|number| number.try_into().ok())
    }
}

impl Read for i64 {
    fn read(node: Node<'_>) -> Option<Self> {
        whole(node, i128::from(Self::MIN), i128::from(Self::MAX)).and_then(|number| number.try_into().ok())
    }
}

impl Read for f64 {
    fn read(node: Node<'_>) -> Option<Self> {
        let value = match node.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let value = value.filter(|number: &f64| number.is_finite());
        if value.is_none() {
            node.wrong("a number");
        }
        value
    }
}

/// The longest duration that Envoy takes: it counts nanoseconds in 63 bits, and the last second of these is not possible.
const LONGEST: Duration = Duration::new(i64::MAX as u64 / 1_000_000_000 - 1, 999_999_999);

impl Read for Duration {
    fn read(node: Node<'_>) -> Option<Self> {
        let Value::String(text) = node.value else {
            node.wrong("a duration such as 1.5s or 250ms");
            return None;
        };
        let value = go_duration::parse(text);
        if value.is_some_and(|duration| duration > LONGEST) {
            node.error(format!("must be at most 2562047h (292 years), is {text:?}"));
            return None;
        }
        if value.is_none() {
            let negative = text.starts_with('-') && go_duration::parse(&text[1..]).is_some();
            node.wrong(if negative { "a duration of zero or more" } else { "a duration such as 1.5s or 250ms" });
        }
        value
    }
}

impl Read for IpAddr {
    fn read(node: Node<'_>) -> Option<Self> {
        let value = node.value.as_str().and_then(|text| text.parse().ok());
        if value.is_none() {
            node.wrong("an IP address");
        }
        value
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: Node<'_>) -> Option<Self> {
        let Value::Array(elements) = node.value else {
            node.wrong("a list");
            return None;
        };
        if !node.findings.admit_list::<T>(&node.path, elements.len()) {
            return None;
        }
        let element = |(index, value)| T::read(Node { value, path: node.path.index(index), findings: node.findings });
        let mut read = Vec::with_capacity(elements.len());
        read.extend(elements.iter().enumerate().patiently().filter_map(element));
        Some(read)
    }
}

impl Read for Labels {
    fn read(node: Node<'_>) -> Option<Self> {
        entries(node).map(|entries| entries.into_iter().map(|(key, Text(value))| (key, value)).collect())
    }
}

/// A text that may be `null`, since the API server accepts `key:` without a value.
struct Text(SmolStr);

impl Read for Text {
    fn read(node: Node<'_>) -> Option<Self> {
        if node.value.is_null() { Some(Self(SmolStr::default())) } else { SmolStr::read(node).map(Self) }
    }
}

/// Reads a whole number, which may be written as a number (`3`, `3.0`) or as a text (`"3"`).
fn whole(node: Node<'_>, least: i128, most: i128) -> Option<i128> {
    let number = match node.value {
        Value::Number(number) => {
            let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            whole.or_else(|| number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15).map(|number| number as i128))
        }
        Value::String(text) => text.parse::<i64>().map(i128::from).or_else(|_| text.parse::<u64>().map(i128::from)).ok(),
        _ => None,
    };
    match number {
        Some(number) if (least..=most).contains(&number) => Some(number),
        Some(number) => {
            node.error(format!("must be from {least} to {most}, is {number}"));
            None
        }
        None => {
            node.wrong("a whole number");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::findings::{Findings, Path};

    fn read<T: Read>(value: Value) -> Result<T, String> {
        let findings = Findings::default();
        let read = T::read(Node { value: &value, path: Path::Root, findings: &findings });
        read.ok_or_else(|| findings.into_vec().remove(0).message)
    }

    #[test]
    fn durations() {
        assert_eq!(read::<Duration>("1h30m".into()), Ok(Duration::from_secs(5_400)));
        assert_eq!(read::<Duration>("-1s".into()).unwrap_err(), r#"must be a duration of zero or more, is "-1s""#);
        assert!(read::<Duration>("2562047h".into()).is_ok());
        assert!(read::<Duration>("9223372035.999999999s".into()).is_ok());
        assert!(read::<Duration>("9223372036s".into()).is_err());
        assert_eq!(read::<Duration>("9999999999s".into()).unwrap_err(), r#"must be at most 2562047h (292 years), is "9999999999s""#);
        assert_eq!(read::<Duration>(5.into()).unwrap_err(), "must be a duration such as 1.5s or 250ms, is 5");
    }

    #[test]
    fn numbers_come_as_texts_too() {
        assert_eq!(read::<u16>("8080".into()), Ok(8080));
        assert_eq!(read::<u16>(8080.0.into()), Ok(8080));
        assert_eq!(read::<i32>((-1).into()), Ok(-1));
        assert_eq!(read::<u64>(u64::MAX.into()), Ok(u64::MAX));
        assert_eq!(read::<f64>("0.1".into()), Ok(0.1));
        assert_eq!(read::<u16>(65536.into()), Err("must be from 0 to 65535, is 65536".to_owned()));
        assert_eq!(read::<u32>(1.5.into()), Err("must be a whole number, is 1.5".to_owned()));
        assert_eq!(read::<u32>(1e300.into()), Err("must be a whole number, is 1e+300".to_owned()));
        assert!(read::<f64>("NaN".into()).is_err());
    }

    #[test]
    fn lists_take_no_more_memory_than_is_allowed() {
        let read = |length: usize| read::<Vec<SmolStr>>(Value::Array(vec!["a".into(); length])).map(|read| read.len());
        assert_eq!(read(800_000), Ok(800_000));
        let error = "is too long with 900000 elements: the lists of an object may take 20 MB of memory; divide the object";
        assert_eq!(read(900_000), Err(error.to_owned()));
    }

    #[test]
    fn a_number_is_not_a_string() {
        assert_eq!(read::<SmolStr>(1.into()), Err("must be a string, is 1: put it in quotes".to_owned()));
        assert_eq!(read::<Vec<SmolStr>>("a".into()), Err(r#"must be a list, is "a""#.to_owned()));
    }
}
