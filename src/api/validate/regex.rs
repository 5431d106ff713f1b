//! Checks that Envoy can compile a regular expression (RE2), since it refuses a whole response for one that it cannot.

use super::Check;
use crate::api::findings::Path;

/// Istio's limit in bytes.
const LONGEST: usize = 1024;
/// RE2's limit for `x{n}`.
const MOST_REPEATS: u32 = 1000;

impl Check<'_> {
    pub(super) fn regex(self, regex: &str, at: &Path<'_>) {
        if regex.is_empty() {
            self.error(at, "must not be empty");
        } else if regex.len() > LONGEST {
            self.error(at, format!("has {} bytes, more than the {LONGEST} that are possible", regex.len()));
        } else if let Err(why) = check(regex) {
            self.error(at, format!("is no RE2 expression: {why}"));
        }
    }
}

fn check(regex: &str) -> Result<(), String> {
    let plain = without_classes(regex)?;
    flags(&plain)?;
    repeats(&plain)?;
    regex_lite::Regex::new(&plain).map(drop).map_err(|error| error.to_string())
}

/// Handles the escapes of RE2: those that our compiler does not know are replaced by an equivalent in its grammar, and those that
/// RE2 does not know are refused.
fn without_classes(regex: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(regex.len());
    let mut letters = regex.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            Some('p' | 'P') => {
                class_name(&mut letters)?;
                plain.push_str("\\w");
            }
            Some('Q') => quoted(&mut letters, &mut plain),
            Some('C') => plain.push('.'),
            Some('0') => plain.push('0'),
            Some(escaped @ ('1'..='9')) => return Err(format!("\\{escaped}: references to groups are not possible")),
            Some(escaped) if escaped.is_ascii_alphanumeric() && !"AbBdDsSwWzafnrtvxE".contains(escaped) => {
                return Err(format!("unknown escape \\{escaped}"));
            }
            Some('E') => {}
            Some(escaped @ ('<' | '>')) => plain.push(escaped),
            Some(escaped) => plain.extend(['\\', escaped]),
            None => return Err("ends with \\".to_owned()),
        }
    }
    Ok(plain)
}

// `\pL` or `\p{Greek}`
fn class_name(letters: &mut std::str::Chars<'_>) -> Result<(), String> {
    match letters.next() {
        Some('{') => letters.any(|letter| letter == '}').then_some(()).ok_or_else(|| "\\p{ is not closed".to_owned()),
        Some(letter) if letter.is_ascii_uppercase() => Ok(()),
        _ => Err("\\p needs a class".to_owned()),
    }
}

// `\Q…\E`: everything in between is literal.
fn quoted(letters: &mut std::str::Chars<'_>, plain: &mut String) {
    let rest = letters.as_str();
    let (literal, after) = rest.split_once("\\E").unwrap_or((rest, ""));
    plain.push_str(&regex_lite::escape(literal));
    *letters = after.chars();
}

// `(?i)`, `(?i:…)`: RE2 knows i, m, s and U.
fn flags(regex: &str) -> Result<(), String> {
    for after in regex.split("(?").skip(1) {
        let named = after.starts_with("P<") || after.starts_with('<');
        let flags = after.split([')', ':']).next().unwrap_or_default();
        if !named && flags.chars().any(|flag| !"imsU-".contains(flag)) {
            return Err(format!("(?{flags} is not possible"));
        }
    }
    Ok(())
}

fn repeats(regex: &str) -> Result<(), String> {
    for after in regex.split('{').skip(1) {
        let Some((count, _)) = after.split_once('}') else { continue };
        if count.split(',').filter_map(|number| number.parse::<u32>().ok()).any(|number| number > MOST_REPEATS) {
            return Err(format!("{{{count}}}: at most {MOST_REPEATS} repeats are possible"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_takes() {
        for good in [
            ".*",
            "^/api/v[0-9]+(/.*)?$",
            r"\d+\.\d+",
            r"(?i)abc",
            r"(?P<name>x)",
            r"\p{Greek}+",
            r"\pN",
            r"\Q.*(\E",
            "a{3,1000}",
            r"\/x",
            "[[:alpha:]]+",
            r"[^\s/]+",
            "é+",
            r"\x41",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["(", "[a", "*", "a**b(", r"(a)\1", "(?=x)", "(?<!x)y", "(?x) a", "a{1001}", r"\u0041", r"\", r"\y", "a{3,2}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
