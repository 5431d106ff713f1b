//! Checks that Envoy can compile a regular expression (RE2), since it refuses a whole response for one that it cannot.

mod repetitions;

use super::Check;
use crate::api::findings::Path;

/// Istio's limit in bytes.
const LONGEST: usize = 1024;
/// The general categories of Unicode, and what stands for all letters.
const CATEGORIES: [&str; 38] = [
    "Any", "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No", "P", "Pc", "Pd",
    "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs", "Common",
];
/// The scripts in use today; RE2 knows those of the past too.
const SCRIPTS: [&str; 51] = [
    "Adlam",
    "Arabic",
    "Armenian",
    "Balinese",
    "Bengali",
    "Bopomofo",
    "Braille",
    "Buginese",
    "Canadian_Aboriginal",
    "Cham",
    "Cherokee",
    "Cyrillic",
    "Devanagari",
    "Ethiopic",
    "Georgian",
    "Greek",
    "Gujarati",
    "Gurmukhi",
    "Han",
    "Hangul",
    "Hebrew",
    "Hiragana",
    "Inherited",
    "Javanese",
    "Kannada",
    "Katakana",
    "Khmer",
    "Lao",
    "Latin",
    "Limbu",
    "Lisu",
    "Malayalam",
    "Meetei_Mayek",
    "Mongolian",
    "Myanmar",
    "New_Tai_Lue",
    "Nko",
    "Ol_Chiki",
    "Oriya",
    "Sinhala",
    "Sundanese",
    "Syriac",
    "Tagalog",
    "Tai_Le",
    "Tai_Tham",
    "Tamil",
    "Telugu",
    "Thaana",
    "Thai",
    "Tibetan",
    "Yi",
];

/// Where a letter stands to a class of letters, `[…]`. The first one in it, a `]` too, means itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Outside,
    Opened,
    Negated,
    Inside,
}

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

pub(super) fn check(regex: &str) -> Result<(), String> {
    let plain = without_classes(regex)?;
    flags(&plain)?;
    repetitions::check(&plain)?;
    regex_lite::Regex::new(&plain).map(drop).map_err(|error| error.to_string())
}

/// Handles the escapes of RE2: those that our compiler does not know are replaced by an equivalent in its grammar, and those that
/// RE2 does not know are refused.
fn without_classes(regex: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(regex.len());
    let mut letters = regex.chars();
    let mut class = Class::Outside;
    while let Some(letter) = letters.next() {
        let is_within = class != Class::Outside;
        if is_within && letter == '[' {
            if !named_class(&mut letters, &mut plain) {
                plain.push_str("\\[");
            }
            class = Class::Inside;
            continue;
        }
        class = class.after(letter);
        // A brace that begins no count is a letter to RE2.
        if letter == '{' && !repetitions::begins_count(letters.as_str()) {
            plain.push_str("\\{");
            continue;
        }
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            Some('p' | 'P') => {
                class_name(&mut letters)?;
                plain.push_str("\\w");
            }
            Some('x') if letters.as_str().starts_with('{') => plain.push_str(code(&mut letters)?),
            Some(escaped @ ('A' | 'b' | 'B' | 'C' | 'E' | 'Q' | 'z')) if is_within => {
                return Err(format!("\\{escaped} is not possible within [ and ]"));
            }
            Some('Q') => quoted(&mut letters, &mut plain),
            Some('C') => plain.push('.'),
            Some('0') => plain.push('0'),
            Some(escaped @ ('1'..='9')) => return Err(format!("\\{escaped}: references to groups are not possible")),
            Some(escaped) if escaped.is_ascii_alphanumeric() && !"AbBdDsSwWzafnrtvx".contains(escaped) => {
                return Err(format!("unknown escape \\{escaped}"));
            }
            Some(escaped @ ('<' | '>')) => plain.push(escaped),
            Some(escaped) => plain.extend(['\\', escaped]),
            None => return Err("ends with \\".to_owned()),
        }
    }
    Ok(plain)
}

impl Class {
    fn after(self, letter: char) -> Self {
        match (self, letter) {
            (Self::Outside, '[') => Self::Opened,
            (Self::Opened, '^') => Self::Negated,
            (Self::Outside, _) | (Self::Inside, ']') => Self::Outside,
            _ => Self::Inside,
        }
    }
}

// `[:alpha:]` within a class
fn named_class(letters: &mut std::str::Chars<'_>, plain: &mut String) -> bool {
    let rest = letters.as_str();
    let Some((name, after)) = rest.strip_prefix(':').and_then(|rest| rest.split_once(":]")) else { return false };
    plain.push_str(&format!("[:{name}:]"));
    *letters = after.chars();
    true
}

// `\pL`, `\p{Greek}` or `\p{^Greek}`
fn class_name(letters: &mut std::str::Chars<'_>) -> Result<(), String> {
    let rest = letters.as_str();
    let (name, length) = match rest.strip_prefix('{') {
        Some(inner) => {
            let (name, _) = inner.split_once('}').ok_or("\\p{ is not closed")?;
            (name.strip_prefix('^').unwrap_or(name), name.len() + 2)
        }
        None => {
            let letter = rest.chars().next().ok_or("\\p needs a class")?;
            (&rest[..letter.len_utf8()], letter.len_utf8())
        }
    };
    *letters = rest[length..].chars();
    match CATEGORIES.contains(&name) || SCRIPTS.contains(&name) {
        true => Ok(()),
        false => Err(format!("\\p knows no class {name:?}")),
    }
}

// `\x{41}`. Envoy matches bytes, and knows no letter that is more than one.
fn code(letters: &mut std::str::Chars<'_>) -> Result<&'static str, String> {
    let rest = letters.as_str();
    let (digits, after) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).ok_or("\\x{ is not closed")?;
    *letters = after.chars();
    match u32::from_str_radix(digits, 16) {
        Ok(code) if code <= 0xff => Ok("\\x41"),
        _ => Err(format!("\\x{{{digits}}} is no code from 0 to ff")),
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
        let name = after.strip_prefix("P<").or_else(|| after.strip_prefix('<')).and_then(|after| after.split_once('>'));
        if name.is_some_and(|(name, _)| !name.is_ascii()) {
            return Err("the name of a group must be ASCII".to_owned());
        }
        let named = name.is_some();
        let flags = after.split([')', ':']).next().unwrap_or_default();
        if !named && flags.chars().any(|flag| !"imsU-".contains(flag)) {
            return Err(format!("(?{flags} is not possible"));
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
            r"\x{fF}",
            r"\p{^Han}\p{Latin}",
            "/users/{id}",
            "a{2,3}?b*?",
            "(?:(?:a{10}){10}){10}",
            "a+(?i)B",
            "[^/*+{]{1000}",
            "[]a*]+",
            r"[^][:digit:]\d\n\.]\Q]\E\b",
            r"[[a]\z",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            r"\E.",
            r"\Qa\Eb\E",
            r"[\Q]\E]",
            r"[^]\E]",
            r"[[:alpha:]\b]",
            r"[\C]",
            "(",
            "[a",
            "*",
            "a**b",
            "a+?+",
            "a{2}{3}",
            "(a{30}|b){40}",
            "(?:a{2,}){501}",
            r"(?:\pL\pL\pL\pL){1000}",
            r"\pQ",
            r"\p{Nope}",
            "(?<é>x)",
            r"\x{2603}",
            r"\x{41",
            r"(a)\1",
            "(?=x)",
            "(?<!x)y",
            "(?x) a",
            "a{1001}",
            r"\u0041",
            r"\",
            r"\y",
            "a{3,2}",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
