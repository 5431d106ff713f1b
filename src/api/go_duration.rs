//! Durations in the form of Go's `time.ParseDuration`, which Istio, Kubernetes and pilot-agent use.

use std::time::Duration;

/// Reads a duration such as `1h30m`, `1.5s`, `250ms` or `0`. Returns `None` if the text is none, is negative, or is longer
/// than 584 years.
///
/// The result is exact: `0.1s` are 100,000,000 ns, where a float would round. Durations of proto3 JSON (`1.5s`) are a part
/// of this form.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    while {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        total = total.checked_add(decimal(number, nanoseconds(unit)?)?)?;
        rest = after;
        !rest.is_empty()
    } {}
    Some(total)
}

fn nanoseconds(unit: &str) -> Option<u64> {
    match unit {
        "ns" => Some(1),
        "us" | "µs" | "μs" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

/// Returns a decimal number of units, cut to whole nanoseconds.
fn decimal(number: &str, unit: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(place.checked_mul(u64::from(digit - b'0'))?)?;
    }
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, millis) in [
            ("1.5s", 1_500),
            ("0s", 0),
            ("0", 0),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("2m0.5s", 120_500),
            (".5s", 500),
            ("+1s", 1_000),
            ("1h.5m", 3_630_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("0.1us"), Some(Duration::from_nanos(100)));
        for text in ["", "s", "1", "1.5", "-1s", "1 s", "1d", "1..5s", ".s", "1s1", "99999999999999h", "١s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
