//! Reads YAML as JSON values. Documents are separated before they are parsed, so that an error names its document.

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::value::{Allowance, MOST_OF_DOCUMENT, Syntax, from_json};

/// Why a document cannot be read, with line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

/// One document of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'t> {
    /// The number of lines in the text before the document.
    pub lines_before: usize,
    /// The text of the document without its `---`.
    pub text: &'t str,
}

/// Separates a text at its `---` lines. Empty documents are counted, except one before the first `---`.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    each_document(text).collect()
}

/// Separates a text as [`documents`] does, one document after the other.
pub fn each_document(text: &str) -> impl Iterator<Item = Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n').enumerate();
    let (mut start, mut at, mut lines_before) = (0, 0, 0);
    let (mut separated, mut ended) = (false, false);
    std::iter::from_fn(move || {
        for (line_number, line) in lines.by_ref() {
            let line_start = at;
            at += line.len();
            if !is_separator(line) {
                continue;
            }
            let document = Document { lines_before, text: &text[start..line_start] };
            // The rest of the line after `---` belongs to the document.
            (start, lines_before) = (line_start + "---".len(), line_number);
            if std::mem::replace(&mut separated, true) || !is_blank(document.text) {
                return Some(document);
            }
        }
        let last = Document { lines_before, text: &text[start..] };
        (!std::mem::replace(&mut ended, true)).then_some(last)
    })
}

/// Parses one YAML document. An empty one is `null`, keys that are numbers become texts, and duplicate keys are errors. What has so
/// many values that they would take more than [`MOST_OF_DOCUMENT`] is refused.
pub fn document(document: Document<'_>) -> Result<Value, Broken> {
    if is_blank(document.text) {
        return Ok(Value::Null);
    }
    if opens_too_much(document.text) {
        return Err(Broken(format!("has more than {MOST_OPEN_BRACKETS} brackets open at once")));
    }
    if has_too_many_indicators(document.text) {
        return Err(Broken(format!("has more than {MOST_INDICATORS} entries of lists and maps: divide it into several documents")));
    }
    let allowance = Allowance::new(MOST_OF_DOCUMENT);
    let read = allowance.any(Syntax::Yaml).deserialize(serde_norway::Deserializer::from_str(document.text));
    read.map_err(|error| {
        Broken(if allowance.is_exceeded() { allowance.exceeded() } else { shift_lines(&error.to_string(), document.lines_before) })
    })
}

/// Parses a JSON text, within the same bound.
pub fn json_document(text: &str) -> Result<Value, Broken> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    from_json(text, &Allowance::new(MOST_OF_DOCUMENT)).map_err(|error| Broken(error.to_string()))
}

/// The most entries of lists and maps that a document is parsed with. The parser keeps up to four events of 130 bytes for each of
/// them before the first value is built.
const MOST_INDICATORS: usize = 200_000;

// Each entry needs an indicator of its own: `- `, `? `, `: `, a comma or an opening bracket. Those within strings are counted, too: to
// know better would be to parse.
fn has_too_many_indicators(text: &str) -> bool {
    let bytes = text.as_bytes();
    let follows = |at: usize| bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace);
    let is_indicator = |(at, byte): &(usize, &u8)| match byte {
        b',' | b'[' | b'{' => true,
        b'-' | b'?' | b':' => follows(*at),
        _ => false,
    };
    bytes.len() > MOST_INDICATORS && bytes.iter().enumerate().filter(is_indicator).nth(MOST_INDICATORS).is_some()
}

/// The parser refuses more than 128 levels of nesting, but notices late: each open bracket costs time for every token, and a
/// hundred thousand of them keep it busy for minutes.
const MOST_OPEN_BRACKETS: usize = 256;

// Brackets within strings are counted, too: no string has this many that are not closed.
fn opens_too_much(text: &str) -> bool {
    let mut open = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > MOST_OPEN_BRACKETS
    })
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Returns whether a text has only comments, directives and white space.
fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with(['#', '%']) || line == "...")
}

/// Makes the line number of an error count from the start of the file instead of the document.
fn shift_lines(message: &str, by: usize) -> String {
    let mut shifted = String::with_capacity(message.len() + 8);
    for (index, part) in message.split(" line ").enumerate() {
        if index == 0 {
            shifted.push_str(part);
            continue;
        }
        let digits = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
        match part[..digits].parse::<usize>() {
            Ok(line) => shifted.push_str(&format!(" line {}{}", line.saturating_add(by), &part[digits..])),
            Err(_) => shifted.push_str(&format!(" line {part}")),
        }
    }
    shifted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Vec<Result<Value, String>> {
        documents(text).into_iter().map(|cut| document(cut).map_err(|broken| broken.to_string())).collect()
    }

    #[test]
    fn documents_are_cut_at_their_lines() {
        assert_eq!(read("a: 1\n---\nb: 2\n"), [Ok(json!({"a": 1})), Ok(json!({"b": 2}))]);
        assert_eq!(read("# hello\n---\na: 1\n"), [Ok(json!({"a": 1}))]);
        assert_eq!(read("---\n---\na: |\n  ---\n  x\n--- {b: 1}"), [Ok(Value::Null), Ok(json!({"a": "---\nx\n"})), Ok(json!({"b": 1}))]);
        assert_eq!(read(""), [Ok(Value::Null)]);
        assert_eq!(read("\u{feff}a: 1\r\n---\r\nb: 2\r\n"), [Ok(json!({"a": 1})), Ok(json!({"b": 2}))]);
        assert_eq!(read("----\n"), [Ok(json!("----"))]);
    }

    #[test]
    fn a_broken_document_names_the_line_of_the_file() {
        let read = read("a: 1\n---\nb:\n  - c\n  d: 1\n---\ne: 1\n");
        assert_eq!(read[0], Ok(json!({"a": 1})));
        assert_eq!(
            read[1].as_ref().unwrap_err(),
            "did not find expected '-' indicator at line 5 column 3, while parsing a block collection at line 4 column 3"
        );
        assert_eq!(read[2], Ok(json!({"e": 1})));
    }

    #[test]
    fn keys_are_texts_and_given_once() {
        assert_eq!(read("8080: a\ntrue: b\n"), [Ok(json!({"8080": "a", "true": "b"}))]);
        assert!(read("a: 1\nb: 2\na: 3\n")[0].as_ref().unwrap_err().contains("duplicate entry with key \"a\""));
        assert_eq!(read("8: a\n'8': b\n")[0], Err("duplicate entry with key \"8\"".to_owned()));
        assert!(read("a: !x 1\n")[0].as_ref().unwrap_err().contains("tag !x is not read"));
    }

    #[test]
    fn merge_keys_and_a_bomb_of_aliases() {
        assert_eq!(read("a: &a {x: 1}\nb: {<<: *a, y: 2}\n"), [Ok(json!({"a": {"x": 1}, "b": {"x": 1, "y": 2}}))]);
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![below; 9].join(", "));
        }
        assert!(read(&bomb)[0].as_ref().unwrap_err().contains("repetition limit"));
        // Without a bound the parser would take a day for this.
        let deep = "[".repeat(5_000_000);
        assert_eq!(read(&deep)[0], Err("has more than 256 brackets open at once".to_owned()));
        assert!(read(&("- ".repeat(10_000)))[0].is_err());
    }

    #[test]
    fn what_would_take_too_much_memory_is_refused() {
        let bound = "has more than 200000 entries of lists and maps: divide it into several documents";
        for piece in ["? ", "- ", "{a: b},", "[],", "k: v\n"] {
            let text = piece.repeat(200_001);
            for text in [text.clone(), format!("[{text}")] {
                assert_eq!(read(&text)[0].as_ref().unwrap_err(), bound, "{piece}");
            }
        }
        // One list, named many times.
        let list = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(1_000), "*a, ".repeat(1_000));
        assert!(read(&list)[0].as_ref().unwrap_err().contains("more than 32 MB of memory"));
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(1_000));
        assert!(read(&text)[0].as_ref().unwrap_err().contains("more than 32 MB of memory"));
        // Long texts are no entries.
        assert!(read(&format!("a: |\n  {}\n", "word - ".repeat(100_000)))[0].is_ok());
    }
}
