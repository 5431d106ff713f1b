//! The tokens of CEL.

use std::fmt;

/// A token.
#[derive(Debug)]
pub(super) enum Token {
    /// A name or a keyword.
    Word(String),
    /// A whole number without sign.
    Int(u128),
    /// A text, as it means.
    Text(String),
    /// Numbers of other types, and bytes.
    OtherLiteral,
    /// An operator or a bracket.
    Symbol(&'static str),
}

/// Those of two characters stand first.
const SYMBOLS: &[&str] =
    &["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}"];

type Result<T> = std::result::Result<T, String>;

/// Returns the tokens of an expression.
pub(super) fn tokens(expression: &str) -> Result<Vec<Token>> {
    let mut found = Vec::new();
    let mut rest = skip_space(expression);
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            'a'..='z' | 'A'..='Z' | '_' => word_or_text(rest)?,
            '"' | '\'' => text(rest, false, false)?,
            '0'..='9' => number(rest)?,
            '.' if rest[1..].starts_with(|next: char| next.is_ascii_digit()) => number(rest)?,
            _ => symbol(rest)?,
        };
        found.push(token);
        rest = skip_space(after);
    }
    Ok(found)
}

/// Skips white space and comments.
fn skip_space(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
        match rest.strip_prefix("//") {
            Some(comment) => rest = comment.split_once('\n').map_or("", |(_, after)| after),
            None => return rest,
        }
    }
}

fn symbol(text: &str) -> Result<(Token, &str)> {
    let known = SYMBOLS.iter().find_map(|symbol| Some((Token::Symbol(symbol), text.strip_prefix(symbol)?)));
    known.ok_or_else(|| format!("has {:?}, which the language does not know", text.chars().next().unwrap_or_default()))
}

fn word_or_text(from: &str) -> Result<(Token, &str)> {
    let end = from.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(from.len());
    let (word, after) = from.split_at(end);
    if after.starts_with(['"', '\'']) {
        match word.to_ascii_lowercase().as_str() {
            "r" => return text(after, true, false),
            "b" => return text(after, false, true),
            "br" => return text(after, true, true),
            _ => {}
        }
    }
    Ok((Token::Word(word.to_owned()), after))
}

fn number(text: &str) -> Result<(Token, &str)> {
    let (token, after) = match text.strip_prefix("0x") {
        Some(digits) if digits.starts_with(|digit: char| digit.is_ascii_hexdigit()) => {
            let (digits, after) = digits_of(digits, |digit| digit.is_ascii_hexdigit());
            (int(digits, 16), after)
        }
        _ => decimal(text),
    };
    match (token, after.strip_prefix(['u', 'U'])) {
        (Token::Int(number), Some(_)) if number > u64::MAX.into() => Err("has a number that is too large".to_owned()),
        (Token::Int(_), Some(after)) => Ok((Token::OtherLiteral, after)),
        (token, _) => Ok((token, after)),
    }
}

fn decimal(text: &str) -> (Token, &str) {
    let is_digit = |digit: char| digit.is_ascii_digit();
    let (whole, mut rest) = digits_of(text, is_digit);
    let mut is_float = false;
    if let Some(after) = rest.strip_prefix('.').filter(|after| after.starts_with(is_digit)) {
        (is_float, rest) = (true, digits_of(after, is_digit).1);
    }
    let exponent = rest.strip_prefix(['e', 'E']).map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    if let Some(digits) = exponent.filter(|digits| digits.starts_with(is_digit)) {
        (is_float, rest) = (true, digits_of(digits, is_digit).1);
    }
    if is_float { (Token::OtherLiteral, rest) } else { (int(whole, 10), rest) }
}

fn int(digits: &str, radix: u32) -> Token {
    Token::Int(u128::from_str_radix(digits, radix).unwrap_or(u128::MAX))
}

fn digits_of(text: &str, is_digit: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !is_digit(letter)).unwrap_or(text.len()))
}

/// Reads a text, or bytes, from its first quotation mark on.
fn text(from: &str, is_raw: bool, is_bytes: bool) -> Result<(Token, &str)> {
    let quotes = ["\"\"\"", "'''", "\"", "'"];
    let quote = quotes.into_iter().find(|quote| from.starts_with(quote)).unwrap_or("\"");
    let mut rest = &from[quote.len()..];
    let mut meant = String::new();
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            return Ok((if is_bytes { Token::OtherLiteral } else { Token::Text(meant) }, after));
        }
        let mut letters = rest.chars();
        match letters.next() {
            Some('\\') if !is_raw => {
                let (letter, after) = escaped(letters.as_str(), is_bytes).ok_or("has a \\ in a text that escapes nothing")?;
                meant.push(letter);
                rest = after;
            }
            Some('\n' | '\r') if quote.len() == 1 => return Err("has a text that its line does not end".to_owned()),
            Some(letter) => {
                meant.push(letter);
                rest = letters.as_str();
            }
            None => return Err("has a text without an end".to_owned()),
        }
    }
}

/// Returns the letter that an escape sequence stands for, without its backslash, and what comes behind.
fn escaped(text: &str, is_bytes: bool) -> Option<(char, &str)> {
    let first = text.chars().next()?;
    let (digits, radix, from) = match first {
        'x' | 'X' => (2, 16, 1),
        'u' if !is_bytes => (4, 16, 1),
        'U' if !is_bytes => (8, 16, 1),
        '0'..='3' => (3, 8, 0),
        _ => {
            let plain = [('a', '\x07'), ('b', '\x08'), ('f', '\x0c'), ('n', '\n'), ('r', '\r'), ('t', '\t'), ('v', '\x0b')];
            let known = plain.into_iter().find(|(name, _)| *name == first).map(|(_, letter)| letter);
            let itself = "\"'\\?`".contains(first).then_some(first);
            return Some((known.or(itself)?, &text[first.len_utf8()..]));
        }
    };
    let number = text.get(from..from + digits).filter(|number| number.chars().all(|digit| digit.is_digit(radix)))?;
    let letter = char::from_u32(u32::from_str_radix(number, radix).ok()?)?;
    Some((letter, &text[from + digits..]))
}

// As it is written.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(_) => f.write_str("a text"),
            Self::OtherLiteral => f.write_str("a number"),
            Self::Symbol(symbol) => f.write_str(symbol),
        }
    }
}
