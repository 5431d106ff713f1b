//! Checks expressions of CEL, as Envoy's filter of access logs takes them: it refuses every listener that has one which it cannot
//! parse, that calls a function which it does not have, or that stands too deep in itself.
//!
//! What is checked is the grammar of the language, the names of functions and how many arguments they have. Whether attributes exist
//! and operators fit their operands shows when a request comes; an expression that fails then logs nothing.

mod token;

use self::token::{Token, tokens};
use super::regex;

/// The error says what Envoy would not take.
type Result<T> = std::result::Result<T, String>;

/// How long an expression may be, in bytes.
const LONGEST: usize = 16 << 10;
/// How deep an expression may stand in itself for Envoy: operators on one another, and brackets within each other.
const DEEPEST: usize = 31;

/// Functions by name, with how many arguments they may have.
const FUNCTIONS: &[(&str, usize)] = &[
    ("bool", 1),
    ("bytes", 1),
    ("contains", 2),
    ("double", 1),
    ("duration", 1),
    ("dyn", 1),
    ("endsWith", 2),
    ("int", 1),
    ("matches", 2),
    ("size", 1),
    ("startsWith", 2),
    ("timestamp", 1),
    ("type", 1),
    ("uint", 1),
];
/// Methods by name, with the least and the most arguments that they may have.
const METHODS: &[(&str, usize, usize)] = &[
    ("contains", 1, 1),
    ("endsWith", 1, 1),
    ("getDate", 0, 1),
    ("getDayOfMonth", 0, 1),
    ("getDayOfWeek", 0, 1),
    ("getDayOfYear", 0, 1),
    ("getFullYear", 0, 1),
    ("getHours", 0, 1),
    ("getMilliseconds", 0, 1),
    ("getMinutes", 0, 1),
    ("getMonth", 0, 1),
    ("getSeconds", 0, 1),
    ("matches", 1, 1),
    ("size", 0, 0),
    ("startsWith", 1, 1),
];
/// Functions in the namespace `re`, with how many arguments they have.
const OF_RE: &[(&str, usize)] = &[("capture", 2), ("captureN", 2), ("extract", 3)];
/// Names that the language keeps for itself.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];
const RELATIONS: &[&str] = &["==", "!=", "<", "<=", ">", ">="];

/// Checks an expression.
pub(super) fn check(expression: &str) -> Result<()> {
    if expression.len() > LONGEST {
        return Err(format!("has {} bytes, more than the {LONGEST} that are possible", expression.len()));
    }
    let tokens = tokens(expression)?;
    let mut parser = Parser { tokens: &tokens, nesting: 0 };
    parser.expression()?;
    match parser.tokens.first() {
        None => Ok(()),
        Some(more) => Err(format!("has {more} where the expression is over")),
    }
}

struct Parser<'t> {
    /// Those that are still to be read.
    tokens: &'t [Token],
    /// How many brackets are open.
    nesting: usize,
}

/// What is known of a part of an expression.
#[derive(Default)]
struct Part {
    /// How many operators, calls and selections stand on one another.
    depth: usize,
    form: Form,
}

#[derive(Default)]
enum Form {
    /// A plain name.
    Name(String),
    /// A text that is written out.
    Text(String),
    /// A field of something.
    Selection,
    #[default]
    Other,
}

impl<'t> Parser<'t> {
    fn expression(&mut self) -> Result<Part> {
        self.nesting += 1;
        if self.nesting > DEEPEST {
            return Err(too_deep());
        }
        let condition = self.any_of()?;
        let whole = match self.takes("?") {
            false => condition,
            true => {
                let then = self.any_of()?;
                self.wants(":")?;
                let otherwise = self.expression()?;
                above(&[condition, then, otherwise])?
            }
        };
        self.nesting -= 1;
        Ok(whole)
    }

    fn any_of(&mut self) -> Result<Part> {
        self.balanced("||", |parser| parser.balanced("&&", Self::relation))
    }

    /// Reads operands of an operator whose order of evaluation is free: Envoy makes a balanced tree of them.
    fn balanced(&mut self, operator: &str, mut operand: impl FnMut(&mut Self) -> Result<Part>) -> Result<Part> {
        let first = operand(self)?;
        let (mut count, mut deepest) = (1_usize, first.depth);
        while self.takes(operator) {
            deepest = deepest.max(operand(self)?.depth);
            count += 1;
        }
        if count == 1 {
            return Ok(first);
        }
        let levels = count.next_power_of_two().ilog2() as usize;
        limited(deepest + levels)
    }

    fn relation(&mut self) -> Result<Part> {
        self.chain(|parser| parser.takes_any(RELATIONS) || parser.takes_word("in"), Self::sum)
    }

    fn sum(&mut self) -> Result<Part> {
        self.chain(|parser| parser.takes_any(&["+", "-"]), Self::product)
    }

    fn product(&mut self) -> Result<Part> {
        self.chain(|parser| parser.takes_any(&["*", "/", "%"]), Self::unary)
    }

    /// Reads operands, each of which stands on all before it.
    fn chain(&mut self, operator: impl Fn(&mut Self) -> bool, operand: impl Fn(&mut Self) -> Result<Part>) -> Result<Part> {
        let mut whole = operand(self)?;
        while operator(self) {
            whole = above(&[whole, operand(self)?])?;
        }
        Ok(whole)
    }

    fn unary(&mut self) -> Result<Part> {
        let is_negated = self.takes("!");
        if is_negated {
            while self.takes("!") {}
            return above(&[self.member()?]);
        }
        let signs = std::iter::from_fn(|| self.takes("-").then_some(())).count();
        if signs == 0 {
            return self.member();
        }
        if let Some(Token::Int(number)) = self.tokens.first()
            && *number > 1 << 63
        {
            return Err("has a number that is too large".to_owned());
        }
        if signs == 1
            && let Some((Token::Int(number), rest)) = self.tokens.split_first()
            && *number == 1 << 63
        {
            self.tokens = rest;
            return self.followed(Part::default());
        }
        above(&[self.member()?])
    }

    fn member(&mut self) -> Result<Part> {
        let primary = self.primary()?;
        self.followed(primary)
    }

    /// Reads the selections, indices and calls behind something.
    fn followed(&mut self, mut part: Part) -> Result<Part> {
        loop {
            if self.takes("[") {
                let index = self.expression()?;
                self.wants("]")?;
                part = above(&[part, index])?;
            } else if self.takes(".") {
                let name = self.selector()?;
                part = match self.takes("(") {
                    true => self.method(part, &name)?,
                    false => Part { form: Form::Selection, ..above(&[part])? },
                };
            } else {
                return Ok(part);
            }
        }
    }

    fn primary(&mut self) -> Result<Part> {
        let Some((first, rest)) = self.tokens.split_first() else { return Err("ends too early".to_owned()) };
        self.tokens = rest;
        match first {
            Token::Symbol("(") => {
                let inner = self.expression()?;
                self.wants(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => self.list("]", |parser| parser.expression()),
            Token::Symbol("{") => self.list("}", |parser| {
                let key = parser.expression()?;
                parser.wants(":")?;
                above(&[key, parser.expression()?])
            }),
            Token::Symbol(".") => match self.tokens.split_first() {
                Some((Token::Word(name), rest)) => {
                    self.tokens = rest;
                    self.named(name)
                }
                _ => Err("has a . that no name follows".to_owned()),
            },
            Token::Int(number) if *number >= 1 << 63 => Err("has a number that is too large".to_owned()),
            Token::Int(_) | Token::OtherLiteral => Ok(Part::default()),
            Token::Text(text) => Ok(Part { form: Form::Text(text.clone()), ..Part::default() }),
            Token::Word(name) if ["true", "false", "null"].contains(&name.as_str()) => Ok(Part::default()),
            Token::Word(name) => self.named(name),
            Token::Symbol(_) => Err(format!("has {first} where a value is needed")),
        }
    }

    fn named(&mut self, name: &str) -> Result<Part> {
        if RESERVED.contains(&name) || name == "in" {
            return Err(format!("has the word {name:?}, which the language keeps for itself"));
        }
        match self.takes("(") {
            true => self.function(name),
            false => Ok(Part { form: Form::Name(name.to_owned()), ..Part::default() }),
        }
    }

    fn function(&mut self, name: &str) -> Result<Part> {
        let arguments = self.arguments()?;
        if name == "has" {
            return match arguments.as_slice() {
                [Part { form: Form::Selection, .. }] => above(&arguments),
                _ => Err("has a has() of something else than a field, as in has(request.headers)".to_owned()),
            };
        }
        if !FUNCTIONS.contains(&(name, arguments.len())) {
            return Err(unknown(name, arguments.len()));
        }
        if name == "matches" {
            expression_is_good(&arguments[1])?;
        }
        above(&arguments)
    }

    fn method(&mut self, of: Part, name: &str) -> Result<Part> {
        let mut arguments = self.arguments()?;
        let count = arguments.len();
        let in_re = matches!(&of.form, Form::Name(space) if space == "re") && OF_RE.contains(&(name, count));
        if !in_re && !METHODS.iter().any(|(known, least, most)| *known == name && (*least..=*most).contains(&count)) {
            return Err(unknown(name, count));
        }
        match (in_re, arguments.as_slice()) {
            (true, [_, pattern, ..]) => expression_is_good(pattern)?,
            (false, [pattern]) if name == "matches" => expression_is_good(pattern)?,
            _ => {}
        }
        arguments.push(of);
        above(&arguments)
    }

    fn arguments(&mut self) -> Result<Vec<Part>> {
        let mut arguments = Vec::new();
        if self.takes(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.takes(")") {
                return Ok(arguments);
            }
            self.wants(",")?;
        }
    }

    /// Reads elements up to `end`, behind the last of which there may be a comma.
    fn list(&mut self, end: &str, mut element: impl FnMut(&mut Self) -> Result<Part>) -> Result<Part> {
        let mut elements = Vec::new();
        while !self.takes(end) {
            elements.push(element(self)?);
            if !self.takes(",") {
                self.wants(end)?;
                break;
            }
        }
        above(&elements)
    }

    fn selector(&mut self) -> Result<String> {
        match self.tokens.split_first() {
            Some((Token::Word(name), rest)) if !["in", "true", "false", "null"].contains(&name.as_str()) => {
                self.tokens = rest;
                Ok(name.clone())
            }
            _ => Err("has a . that no name follows".to_owned()),
        }
    }

    fn wants(&mut self, symbol: &str) -> Result<()> {
        if self.takes(symbol) {
            return Ok(());
        }
        let found = self.tokens.first().map_or("its end".to_owned(), ToString::to_string);
        Err(format!("has {found} where {symbol} is needed"))
    }

    fn takes_any(&mut self, symbols: &[&str]) -> bool {
        symbols.iter().any(|symbol| self.takes(symbol))
    }

    fn takes(&mut self, symbol: &str) -> bool {
        self.takes_if(|token| matches!(token, Token::Symbol(known) if *known == symbol))
    }

    fn takes_word(&mut self, word: &str) -> bool {
        self.takes_if(|token| matches!(token, Token::Word(known) if known == word))
    }

    fn takes_if(&mut self, is_wanted: impl Fn(&Token) -> bool) -> bool {
        let Some(rest) = self.tokens.split_first().filter(|(first, _)| is_wanted(first)).map(|(_, rest)| rest) else { return false };
        self.tokens = rest;
        true
    }
}

/// Returns what stands on these parts.
fn above(parts: &[Part]) -> Result<Part> {
    limited(parts.iter().map(|part| part.depth).max().unwrap_or_default() + 1)
}

fn limited(depth: usize) -> Result<Part> {
    if depth > DEEPEST { Err(too_deep()) } else { Ok(Part { depth, form: Form::Other }) }
}

fn too_deep() -> String {
    format!("has more than {DEEPEST} operators, selections or brackets on one another, which Envoy does not take")
}

fn unknown(name: &str, count: usize) -> String {
    let loops = ["all", "exists", "exists_one", "map", "filter"].contains(&name);
    match loops {
        true => format!("calls {name}, and Envoy has no loops over lists"),
        false => format!("calls {name} with {count} arguments, and Envoy has no such function"),
    }
}

/// Checks a regular expression that is written out: Envoy compiles it with the expression around it.
fn expression_is_good(pattern: &Part) -> Result<()> {
    match &pattern.form {
        Form::Text(text) => regex::check(text),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `tests/constraints/expressions.rs` holds the same lists against Envoy 1.38 and 1.40.
    #[test]
    fn what_envoy_takes_is_taken() {
        for good in include_str!("cel/good.txt").lines() {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused() {
        for bad in include_str!("cel/bad.txt").lines() {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("").is_err() && check(" ").is_err());
    }

    #[test]
    fn depth_is_bounded_as_in_envoy() {
        type Family = (&'static str, fn(usize) -> String);
        let families: [Family; 8] = [
            ("brackets", |depth| format!("{}1{}", "(".repeat(depth - 1), ")".repeat(depth - 1))),
            ("sums", |depth| format!("1{}", "+1".repeat(depth))),
            ("selections", |depth| format!("a{}", ".b".repeat(depth))),
            ("indices", |depth| format!("a{}", "[0]".repeat(depth))),
            ("lists", |depth| format!("{}1{}", "[".repeat(depth - 1), "]".repeat(depth - 1))),
            ("calls", |depth| format!("{}'a'{}", "size(".repeat(depth - 1), ")".repeat(depth - 1))),
            ("alternatives", |depth| format!("{}2", "true ? 1 : ".repeat(depth - 1))),
            ("sums of selections", |depth| format!("a{}{}", ".b".repeat(8), "+a".repeat(depth - 8))),
        ];
        for (name, family) in families {
            assert_eq!(check(&family(DEEPEST)), Ok(()), "{name}");
            assert_eq!(check(&family(DEEPEST + 1)), Err(too_deep()), "{name}");
        }
        assert_eq!(check(&format!("true{}", " && true".repeat(1000))), Ok(()));
        assert_eq!(check(&format!("{}true", "!".repeat(1000))), Ok(()));
        assert!(check(&"(".repeat(LONGEST)).is_err() && check(&"-".repeat(LONGEST)).is_err());
    }
}
