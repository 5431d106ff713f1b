//! What one rule says of one value.

use std::{net::IpAddr, sync::LazyLock};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::table::Rule;
use crate::api;

/// The value of a field as it stands on the wire.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    Unsigned(u64),
    Signed(i64),
    Fraction(f64),
    /// A duration in nanoseconds.
    Time(i128),
}

/// Envoy counts durations in nanoseconds of 64 bits, less a second.
const LONGEST: i128 = 9_223_372_035;
const NANOSECONDS: i128 = 1_000_000_000;
/// How long the name of a server is in TLS at most.
const LONGEST_SERVER_NAME: usize = 255;
/// How long the path of a Unix socket is at most, without the NUL at its end.
const LONGEST_SOCKET_PATH: usize = 107;

impl Rule {
    /// Returns what is wrong with a value, as it goes on after the name of the field; `None` if nothing is.
    pub(super) fn broken_by(&self, value: Value<'_>) -> Option<String> {
        match (self, value) {
            (_, Value::Bytes(bytes)) => self.broken_by_bytes(bytes),
            (Self::Unsigned { min, max }, Value::Unsigned(number)) => outside(number, *min, *max),
            (Self::Signed { min, max }, Value::Signed(number)) => outside(number, *min, *max),
            (Self::True, Value::Unsigned(0)) => Some("must be true".to_owned()),
            (Self::Fraction { min, above, max, below }, Value::Fraction(number)) => {
                let too_low = number < *min || (*above && number <= *min);
                let too_high = number > *max || (*below && number >= *max);
                (too_low || too_high).then(|| format!("{number} is not between {min} and {max}"))
            }
            (Self::Defined(known), Value::Signed(number)) => {
                known.iter().all(|known| i64::from(*known) != number).then(|| format!("{number} has no meaning"))
            }
            (Self::NotIn(not), Value::Signed(number)) => {
                not.iter().any(|not| i64::from(*not) == number).then(|| format!("must not be {number}"))
            }
            (Self::NotBetween { this, that }, Value::Time(time)) => {
                (time > *this && time < *that).then(|| format!("must be {} or less, or {} or more", seconds(*this), seconds(*that)))
            }
            (Self::Time { min, max }, Value::Time(time)) if time < *min || time > *max => {
                let bounds = match (*min > i128::MIN, *max < i128::MAX) {
                    (true, true) => format!("from {} to {}", seconds(*min), seconds(*max)),
                    (true, false) => format!("{} or more", seconds(*min)),
                    _ => format!("{} or less", seconds(*max)),
                };
                Some(format!("must be {bounds}, is {}", seconds(time)))
            }
            _ => None,
        }
    }

    fn broken_by_bytes(&self, bytes: &[u8]) -> Option<String> {
        let text = || String::from_utf8_lossy(bytes);
        match self {
            Self::MinLength(1) | Self::MinBytes(1) => bytes.is_empty().then(|| "must not be empty".to_owned()),
            Self::MinLength(min) => (text().chars().count() < *min).then(|| format!("must have {min} characters or more")),
            Self::MaxLength(max) => {
                (bytes.len() > *max && text().chars().count() > *max).then(|| format!("must have {max} characters or fewer"))
            }
            Self::MinBytes(min) => (bytes.len() < *min).then(|| format!("must have {min} bytes or more")),
            Self::MaxBytes(max) => too_long(bytes, *max),
            Self::Prefix(prefix) => (!bytes.starts_with(prefix.as_bytes())).then(|| format!("must begin with {prefix}")),
            Self::Suffix(suffix) => (!bytes.ends_with(suffix.as_bytes())).then(|| format!("must end with {suffix}")),
            Self::Pattern(pattern) => (!matches(pattern, &text())).then(|| format!("must match {pattern}, is {:?}", text())),
            Self::OneOf(known) => {
                known.iter().all(|known| known.as_bytes() != bytes).then(|| format!("must be one of {}", known.join(", ")))
            }
            Self::HeaderName => (!is_header_name(bytes)).then(|| format!("{:?} is no name of a header", text())),
            Self::HeaderValue => bytes.iter().any(|byte| is_control(*byte)).then(|| "has control characters".to_owned()),
            Self::OneLine => bytes.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r')).then(|| "must be one line".to_owned()),
            Self::Expression => api::re2(&text()).err().map(|why| format!("is no RE2 expression: {why}")),
            Self::IpAddress => text().parse::<IpAddr>().is_err().then(|| format!("must be an IP address, is {:?}", text())),
            Self::ServerName => {
                let nul = || bytes.contains(&0).then(|| "has a NUL byte".to_owned());
                too_long(bytes, LONGEST_SERVER_NAME).or_else(nul)
            }
            Self::SocketPath => {
                // `@` stands for the NUL byte that names in no folder begin with.
                let nul = || bytes.contains(&0).then(|| "has a NUL byte".to_owned());
                too_long(bytes, LONGEST_SOCKET_PATH).or_else(nul)
            }
            _ => None,
        }
    }
}

/// Returns what is wrong with a duration wherever it stands: Envoy takes none that is negative or that it cannot count.
pub(super) fn duration(seconds: i64, nanos: i64) -> Result<i128, String> {
    if seconds < 0 || nanos < 0 {
        return Err("must not be negative".to_owned());
    }
    let (seconds, nanos) = (i128::from(seconds), i128::from(nanos));
    if seconds > LONGEST {
        return Err(format!("must be at most {LONGEST}s, is {seconds}s"));
    }
    Ok(seconds * NANOSECONDS + nanos)
}

/// Returns what is wrong with the format of a header that is added.
pub(super) fn header_format(value: &str) -> Option<String> {
    api::header_format(value).err()
}

/// Returns what is wrong with the name of a header that is added.
pub(super) fn added_header(name: &str) -> Option<String> {
    (name.starts_with(':') || name.eq_ignore_ascii_case("host")).then(|| format!("{name} cannot be changed here"))
}

fn seconds(time: i128) -> String {
    format!("{}s", time as f64 / 1e9)
}

fn outside<T: PartialOrd + std::fmt::Display>(number: T, min: T, max: T) -> Option<String> {
    (number < min || number > max).then(|| format!("must be from {min} to {max}, is {number}"))
}

fn too_long(bytes: &[u8], max: usize) -> Option<String> {
    (bytes.len() > max).then(|| format!("has {} bytes, more than the {max} that are possible", bytes.len()))
}

// RFC 9110's token, with a colon in front for those of HTTP/2; commas, as Envoy's rule takes them.
fn is_header_name(name: &[u8]) -> bool {
    let name = name.strip_prefix(b":").unwrap_or(name);
    let in_rule = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(byte);
    !name.is_empty() && name.iter().all(in_rule)
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Returns whether all of a text matches one of the few patterns in Envoy's rules, which are compiled once.
fn matches(pattern: &'static str, text: &str) -> bool {
    static COMPILED: LazyLock<Mutex<FxHashMap<&str, Option<regex_lite::Regex>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock();
    let compile = || regex_lite::Regex::new(&format!("^(?:{pattern})$")).ok();
    // What our compiler does not know is passed over.
    compiled.entry(pattern).or_insert_with(compile).as_ref().is_none_or(|compiled| compiled.is_match(text))
}
