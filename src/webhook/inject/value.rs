//! Reads the texts of annotations as values. An error says what the text must be, and follows the text in a message.

use std::net::IpAddr;

use ipnet::IpNet;

/// The longest name of a network interface that the kernel allows.
const LONGEST_INTERFACE_NAME: usize = 15;

/// Formats a value for a message: in quotes, and cut if it is long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// Reads a text that is not empty.
pub(super) fn present(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Reads one of several words.
pub(super) fn one_of(text: &str, allowed: &[&str]) -> Result<String, String> {
    if allowed.contains(&text) { Ok(text.to_owned()) } else { Err(format!("must be one of {}", allowed.join(", "))) }
}

/// Reads a boolean in the forms of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Ok(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Reads a whole number of 0 or more.
pub(super) fn count(text: &str) -> Result<i32, String> {
    text.parse().ok().filter(|number| *number >= 0).ok_or_else(|| "must be a whole number".to_owned())
}

/// Reads a whole number of 1 or more.
pub(super) fn positive(text: &str) -> Result<i32, String> {
    count(text).ok().filter(|number| *number > 0).ok_or_else(|| "must be a whole number from 1".to_owned())
}

/// Reads a port number.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.trim().parse().map_err(|_| "must be a port number".to_owned())
}

/// Reads port numbers joined by commas.
pub(super) fn ports(text: &str) -> Result<String, String> {
    list(text, is_port).map_err(|part| format!("must be {}", not_ports(part)))
}

/// Reads port numbers joined by commas, or `*`.
pub(super) fn ports_or_all(text: &str) -> Result<String, String> {
    all_or(text, is_port, not_ports)
}

/// Reads address ranges joined by commas.
pub(super) fn ranges(text: &str) -> Result<String, String> {
    list(text, is_range).map_err(|part| format!("must be {}", not_ranges(part)))
}

/// Reads address ranges joined by commas, or `*`.
pub(super) fn ranges_or_all(text: &str) -> Result<String, String> {
    all_or(text, is_range, not_ranges)
}

/// Reads names of network interfaces joined by commas.
pub(super) fn interfaces(text: &str) -> Result<String, String> {
    let is_name = |part: &str| {
        let letters = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != '!';
        part.len() <= LONGEST_INTERFACE_NAME && part.chars().all(letters) && !part.starts_with('-')
    };
    list(text, is_name).map_err(|part| format!("must be names of network interfaces joined by commas; {} is none", shown(part)))
}

/// Reads `HOST:PORT`.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let right = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if right && !text.contains(char::is_whitespace) { Ok(text.to_owned()) } else { Err("must be HOST:PORT".to_owned()) }
}

/// Reads a Kubernetes quantity that is not negative: `100m`, `1.5`, `128Mi`, `1e3`.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    if is_quantity(text) { Ok(text.to_owned()) } else { Err("must be a quantity such as 100m, 0.5 or 128Mi".to_owned()) }
}

/// Returns a quantity as a number, to compare it with others.
pub(super) fn amount(text: &str) -> Option<f64> {
    const DECIMAL: [(&str, i32); 10] =
        [("", 0), ("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    const BINARY: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
    if !is_quantity(text) {
        return None;
    }
    let suffix_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(suffix_at);
    let power = |of: &[(&str, i32)]| of.iter().find(|(name, _)| *name == suffix).map(|(_, power)| *power);
    let number: f64 = number.parse().ok()?;
    match (power(&DECIMAL), power(&BINARY)) {
        (Some(decimal), _) => Some(number * 10f64.powi(decimal)),
        (None, Some(binary)) => Some(number * 2f64.powi(binary)),
        // With an exponent it is a number as Rust writes it.
        (None, None) => text.parse().ok(),
    }
}

fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let suffix_at = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(suffix_at);
    let digits = number.chars().filter(char::is_ascii_digit).count();
    digits > 0 && number.matches('.').count() <= 1 && is_suffix(suffix)
}

fn is_suffix(suffix: &str) -> bool {
    const UNITS: [&str; 16] = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let exponent = suffix.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    UNITS.contains(&suffix) || exponent.is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()))
}

fn all_or(text: &str, is_right: impl Fn(&str) -> bool, expected: impl Fn(&str) -> String) -> Result<String, String> {
    if text.trim() == "*" { Ok("*".to_owned()) } else { list(text, is_right).map_err(|part| format!("must be *, or {}", expected(part))) }
}

fn is_port(part: &str) -> bool {
    part.parse::<u16>().is_ok()
}

/// Says what a list of ports is, and which part of the text is none.
fn not_ports(part: &str) -> String {
    format!("port numbers joined by commas; {} is none", shown(part))
}

fn is_range(part: &str) -> bool {
    part.parse::<IpNet>().is_ok()
}

/// Says what a list of address ranges is, and which part of the text is none.
fn not_ranges(part: &str) -> String {
    let hint = if part.parse::<IpAddr>().is_ok() { ": a single address ends in /32 (IPv6: /128)" } else { "" };
    format!("address ranges such as 10.0.0.0/8 joined by commas; {} is none{hint}", shown(part))
}

/// Returns the elements without blanks around them, joined by commas again. The error is the first element that is not
/// right. An empty text is an empty list.
fn list(text: &str, is_right: impl Fn(&str) -> bool) -> Result<String, &str> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    match parts[..] {
        [""] => Ok(String::new()),
        _ => match parts.iter().find(|part| part.is_empty() || !is_right(part)) {
            Some(wrong) => Err(*wrong),
            None => Ok(parts.join(",")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_as_kubernetes_writes_them() {
        for right in ["1", "0", "+1", "100m", "1.5", ".5", "5.", "128Mi", "1Gi", "1e3", "12E-2", "1E", "2k"] {
            assert!(is_quantity(right), "{right}");
        }
        for wrong in ["", "m", ".", "-1", "1GiB", "1 Gi", "1..5", "1e", "1e+", "0x1", "1mi", "١"] {
            assert!(!is_quantity(wrong), "{wrong}");
        }
    }

    #[test]
    fn quantities_are_compared_as_numbers() {
        let ascending = ["1n", "100m", "0.5", "1", "+2", "1e1", "1k", "1Ki", "128Mi", "1Gi", "2G", "1E", "1Ei", "1e30"];
        let amounts: Vec<f64> = ascending.iter().map(|text| amount(text).unwrap()).collect();
        assert!(amounts.is_sorted(), "{amounts:?}");
        assert_eq!((amount("500m"), amount("1024Ki"), amount("much")), (amount("0.5"), amount("1Mi"), None));
    }

    #[test]
    fn lists_lose_their_blanks() {
        assert_eq!(ports(" 80, 443 "), Ok("80,443".to_owned()));
        assert_eq!(ports(""), Ok(String::new()));
        assert_eq!(ports("80,"), Err(r#"must be port numbers joined by commas; "" is none"#.to_owned()));
        assert_eq!(ports_or_all("*"), Ok("*".to_owned()));
        assert_eq!(ports_or_all("80,*"), Err(r#"must be *, or port numbers joined by commas; "*" is none"#.to_owned()));
        assert_eq!(ranges_or_all(" * "), Ok("*".to_owned()));
        assert!(ranges_or_all("10.0.0.1").unwrap_err().starts_with("must be *, or address ranges such as 10.0.0.0/8"));
        assert_eq!(ranges("10.0.0.0/8, fd00::/8"), Ok("10.0.0.0/8,fd00::/8".to_owned()));
        assert!(ranges("10.0.0.1").unwrap_err().ends_with("ends in /32 (IPv6: /128)"));
        assert_eq!(interfaces("eth0,net1"), Ok("eth0,net1".to_owned()));
        assert!(interfaces("--dport").is_err() && interfaces("a-name-much-too-long").is_err());
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        assert_eq!(shown(&"ä".repeat(100)).chars().count(), 63);
    }
}
