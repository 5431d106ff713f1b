//! Repetitions in an expression of RE2, which has limits of its own: none is repeated itself, nested counts multiply, and
//! Envoy refuses an expression whose program is too large.

use crate::common_bootstrap::LARGEST_REGEX_PROGRAM;

/// RE2's limit for `x{n}`, and for the product of such counts within each other.
const MOST_REPEATS: u64 = 1000;
/// How much a class of characters takes at most; a letter takes its bytes.
const CLASS: u64 = 10;

/// Checks an expression whose escapes are those of our compiler.
pub(super) fn check(regex: &str) -> Result<(), String> {
    let mut walk = Walk { rest: regex, outer: Vec::new(), group: Part::default(), atom: Part::default(), repetition: None };
    while let Some(letter) = walk.next() {
        walk.letter(letter)?;
    }
    walk.end_atom();
    match walk.group.size {
        size if size > LARGEST_REGEX_PROGRAM => Err(format!("is too large for Envoy ({size}, more than {LARGEST_REGEX_PROGRAM})")),
        _ => Ok(()),
    }
}

/// Returns whether what follows a brace makes it a count: `3}`, `3,}` or `3,5}`.
pub(super) fn begins_count(rest: &str) -> bool {
    count(rest).is_some()
}

/// A part of an expression.
#[derive(Clone, Copy, Default)]
struct Part {
    /// The largest product of counts in it.
    repeats: u64,
    size: u64,
}

/// How the last atom is repeated.
#[derive(Clone, Copy, PartialEq)]
enum Repetition {
    Greedy,
    Lazy,
}

struct Walk<'a> {
    rest: &'a str,
    /// The groups around this one.
    outer: Vec<Part>,
    group: Part,
    /// What a repetition would repeat.
    atom: Part,
    repetition: Option<Repetition>,
}

impl Walk<'_> {
    fn next(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(letter)
    }

    fn letter(&mut self, letter: char) -> Result<(), String> {
        match letter {
            '\\' => self.escape(),
            '[' => self.class(),
            '(' => self.open(),
            ')' => self.close(),
            '|' | '^' | '$' => self.end_atom(),
            '.' => self.begin_atom(CLASS),
            '?' if self.repetition == Some(Repetition::Greedy) => self.repetition = Some(Repetition::Lazy),
            '*' | '+' | '?' => return self.repeat(1),
            '{' => match count(self.rest) {
                Some((repeats, length)) => {
                    self.rest = &self.rest[length..];
                    return self.repeat(repeats);
                }
                None => self.begin_atom(1),
            },
            other => self.begin_atom(other.len_utf8() as u64),
        }
        Ok(())
    }

    fn begin_atom(&mut self, size: u64) {
        self.end_atom();
        self.atom = Part { repeats: 1, size };
    }

    fn end_atom(&mut self) {
        self.group.repeats = self.group.repeats.max(self.atom.repeats);
        self.group.size = self.group.size.saturating_add(self.atom.size);
        self.atom = Part::default();
        self.repetition = None;
    }

    fn repeat(&mut self, times: u64) -> Result<(), String> {
        if self.repetition.is_some() {
            return Err("a repetition cannot be repeated: use a group".to_owned());
        }
        self.repetition = Some(Repetition::Greedy);
        self.atom.repeats = self.atom.repeats.saturating_mul(times);
        self.atom.size = self.atom.size.saturating_mul(times.max(1)).saturating_add(1);
        if self.atom.repeats > MOST_REPEATS {
            return Err(format!("at most {MOST_REPEATS} repeats are possible, those of groups within each other multiplied"));
        }
        Ok(())
    }

    // What stands for a letter may be longer (`\x41`); its digits count as letters of their own.
    fn escape(&mut self) {
        self.next();
        self.begin_atom(CLASS);
    }

    // `[^]a]`: a bracket that comes first is a letter. `[[:alpha:]]` has brackets of its own.
    fn class(&mut self) {
        let inner = self.rest.strip_prefix('^').unwrap_or(self.rest);
        self.rest = inner.strip_prefix(']').unwrap_or(inner);
        while let Some(letter) = self.next() {
            match letter {
                ']' => break,
                '\\' => _ = self.next(),
                '[' if self.rest.starts_with(':') => self.rest = self.rest.split_once(":]").map_or("", |(_, after)| after),
                _ => {}
            }
        }
        self.begin_atom(CLASS);
    }

    fn open(&mut self) {
        self.end_atom();
        if let Some(flags) = self.rest.strip_prefix('?') {
            let end = flags.find([':', '>', ')']).unwrap_or(flags.len());
            let only_flags = flags[end..].starts_with(')');
            self.rest = flags.get(end + 1..).unwrap_or_default();
            if only_flags {
                return;
            }
        }
        self.outer.push(std::mem::take(&mut self.group));
    }

    fn close(&mut self) {
        self.end_atom();
        let Part { repeats, size } = self.group;
        self.group = self.outer.pop().unwrap_or_default();
        self.atom = Part { repeats: repeats.max(1), size: size.saturating_add(2) };
    }
}

/// Returns how often `3}`, `3,}` or `3,5}` repeats at least as RE2 counts it, and how long it is.
fn count(rest: &str) -> Option<(u64, usize)> {
    let (inner, _) = rest.split_once('}')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
    let (least, most) = inner.split_once(',').unwrap_or((inner, inner));
    let least = number(least).filter(|_| !least.is_empty())?;
    let most = if most.is_empty() { least } else { number(most)? };
    Some((least.max(most), inner.len() + 1))
}
