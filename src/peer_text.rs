//! Text that others wrote, as it is shown: in logs, metrics, status, debug pages and on terminals.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use serde::{Serialize, Serializer};

/// The longest text that is shown, in bytes, the mark of what was cut included.
pub const LONGEST: usize = 1024;
/// Room for the mark.
const MARK: usize = 32;

/// Text of a peer. It has no characters that would end a line, move a cursor or turn the direction of writing, and is never
/// long: there is no way to make one otherwise.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerText(Arc<str>);

impl PeerText {
    /// Takes text as somebody else wrote it. What it makes is not changed by being taken again.
    pub fn new(text: &str) -> Self {
        if text.len() <= LONGEST && !text.chars().any(is_hostile) {
            return Self(text.into());
        }
        let mut shown = String::new();
        for char in text.chars() {
            let before = shown.len();
            push(&mut shown, char);
            if shown.len() > LONGEST - MARK {
                shown.truncate(before);
                shown.push_str(&format!("… ({} bytes)", text.len()));
                break;
            }
        }
        Self(shown.into())
    }
}

/// Returns a line of any length with what is hostile in it escaped.
pub fn escaped(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    line.chars().for_each(|char| push(&mut shown, char));
    shown
}

/// Returns JSON of any length with what is hostile in it escaped as JSON escapes it. It says what it said.
pub fn escaped_in_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for char in json.chars() {
        if is_hostile(char) {
            char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown.push_str(&format!("\\u{unit:04x}")));
        } else {
            shown.push(char);
        }
    }
    shown
}

fn push(shown: &mut String, char: char) {
    if is_hostile(char) { shown.extend(char.escape_default()) } else { shown.push(char) }
}

/// Returns whether a character does something to a line other than standing in it.
fn is_hostile(char: char) -> bool {
    let turns = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let hides = matches!(char, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}');
    char.is_control() || turns || hides || matches!(char, '\u{2028}' | '\u{2029}')
}

impl Deref for PeerText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for PeerText {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl From<&str> for PeerText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl PartialEq<str> for PeerText {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for PeerText {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl Serialize for PeerText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_writes_a_line_that_looks_like_ours() {
        let forged = "a.shop\n2026-01-01T00:00:00Z ERROR istiod_lite: \u{1b}[31mFAKE\r\t\u{202e}\u{2028}\u{9b}";
        let shown = r"a.shop\n2026-01-01T00:00:00Z ERROR istiod_lite: \u{1b}[31mFAKE\r\t\u{202e}\u{2028}\u{9b}";
        assert_eq!((&*PeerText::new(forged), escaped(forged).as_str()), (shown, shown));
        assert_eq!(PeerText::new("Zürich, 東京 \"ok\" \\n"), "Zürich, 東京 \"ok\" \\n", "what is harmless stays as it is");
    }

    #[test]
    fn what_is_long_is_cut_and_says_so() {
        let shown = PeerText::new(&"ü".repeat(15 << 20));
        assert!(shown.len() <= LONGEST && shown.ends_with("ü… (31457280 bytes)"), "{}", shown.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_written_is_one_short_line(text in "[\\s\\S]{0,1200}") {
            let shown = PeerText::new(&text);
            prop_assert!(shown.len() <= LONGEST && !shown.chars().any(is_hostile));
            prop_assert_eq!(PeerText::new(&shown), shown);
        }
    }
}
