//! Reads YAML as JSON values. Documents are separated before they are parsed, so that an error names its document.

use serde::Deserialize;
use serde_json::Value;

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
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut current = Document { lines_before: 0, text };
    let (mut start, mut at, mut separated) = (0, 0, false);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) {
            current.text = &text[start..at];
            if separated || !is_blank(current.text) {
                documents.push(current);
            }
            separated = true;
            // The rest of the line after `---` belongs to the document.
            start = at + "---".len();
            current.lines_before = line_number;
        }
        at += line.len();
    }
    current.text = &text[start..];
    documents.push(current);
    documents
}

/// Parses one YAML document. An empty one is `null`, keys that are numbers become texts, and duplicate keys are errors.
pub fn document(document: Document<'_>) -> Result<Value, Broken> {
    if is_blank(document.text) {
        return Ok(Value::Null);
    }
    if opens_too_much(document.text) {
        return Err(Broken(format!("has more than {MOST_OPEN_BRACKETS} brackets open at once")));
    }
    let parsed = serde_norway::Value::deserialize(serde_norway::Deserializer::from_str(document.text)).and_then(|mut value| {
        value.apply_merge()?;
        Ok(value)
    });
    match parsed {
        Ok(value) => json(value),
        Err(error) => Err(Broken(shift_lines(&error.to_string(), document.lines_before))),
    }
}

/// Parses a JSON text.
pub fn json_document(text: &str) -> Result<Value, Broken> {
    serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(|error| Broken(error.to_string()))
}

fn json(value: serde_norway::Value) -> Result<Value, Broken> {
    use serde_norway::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => json_number(&number),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(elements) => Value::Array(elements.into_iter().map(json).collect::<Result<_, _>>()?),
        Yaml::Mapping(mapping) => {
            let mut map = serde_json::Map::new();
            for (key, value) in mapping {
                let key = json_key(key)?;
                if map.contains_key(&key) {
                    return Err(Broken(format!("key {key:?} is given twice")));
                }
                map.insert(key, json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => return Err(Broken(format!("tag {} is not read", tagged.tag))),
    })
}

fn json_number(number: &serde_norway::Number) -> Value {
    let whole = number.as_u64().map(Value::from).or_else(|| number.as_i64().map(Value::from));
    whole.or_else(|| number.as_f64().map(Value::from)).unwrap_or_default()
}

fn json_key(key: serde_norway::Value) -> Result<String, Broken> {
    match json(key)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(Broken("a key must be text, a number, true or false".to_owned())),
    }
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
        assert_eq!(read("8: a\n'8': b\n")[0], Err("key \"8\" is given twice".to_owned()));
        assert_eq!(read("a: !x 1\n")[0], Err("tag !x is not read".to_owned()));
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
}
