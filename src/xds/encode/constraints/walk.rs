//! Goes through an encoded message, and through those in it, beside the table of rules.

use prost::encoding::WireType;
use rustc_hash::FxHashSet;

use super::{
    Step, Violation,
    rule::{self, Value},
    table::{Field, Form, MessageType, Rule, find, message_type},
};
use crate::xds::encode::{
    entries::{Entries, Unordered},
    field_at::{FieldAt, field_at, varint},
};

/// A walk, and what it has found so far.
#[derive(Default)]
pub(super) struct Walk<'a> {
    path: Vec<Entered<'a>>,
    pub(super) found: Vec<Violation>,
    /// Maps that are not in canonical order, those within others first.
    pub(super) unordered: Vec<Unordered>,
    /// How many fields it came by.
    pub(super) fields: usize,
}

/// A field that the walk is in. Which of a repeated field's items it is counts only when something is wrong there.
struct Entered<'a> {
    field: &'static Field,
    message: &'a [u8],
    start: usize,
}

/// Field numbers of `google.protobuf.Any`.
const TYPE_URL: u32 = 1;
const ANY_VALUE: u32 = 2;
/// Field numbers of `google.protobuf.Duration`.
const SECONDS: u32 = 1;
const NANOS: u32 = 2;
/// Field numbers of `envoy.config.core.v3.HeaderValue`.
const KEY: u32 = 1;
const HEADER_VALUE: u32 = 2;

impl<'a> Walk<'a> {
    /// Walks a message of the type at `at` in the table, which stands at `place` in the outermost one. Bytes that are no message
    /// are passed over.
    pub(super) fn message(&mut self, at: usize, bytes: &'a [u8], place: usize) {
        let kind = message_type(at);
        let (mut seen, mut next, mut items) = (0, 0, 0);
        let mut entries = Entries::default();
        while let Some(item) = field_at(bytes, next) {
            items += 1;
            let start = next;
            next = item.end;
            let Some(field) = known(kind, item.number) else { continue };
            seen |= field.bit;
            let content = &bytes[item.content..item.end];
            let entered = Entered { field, message: bytes, start };
            match field.form {
                Form::Opaque => {}
                Form::Message(inner) if item.wire == WireType::LengthDelimited => self.within(entered, |walk| {
                    walk.message(inner, content, place + item.content);
                    if let [Rule::AddedHeader] = field.rules {
                        walk.added_header(content);
                    }
                }),
                Form::Any => self.within(entered, |walk| walk.any(content, place + item.content)),
                _ => {
                    if let Some(what) = broken(field, item.wire, content) {
                        self.within(entered, |walk| walk.wrong(what));
                    }
                }
            }
            if field.is_map {
                self.unordered.extend(entries.add(item, bytes, place));
            }
        }
        self.unordered.extend(entries.end(bytes, place));
        self.fields += items;
        if kind.needed & !seen != 0 {
            self.missing(kind, kind.needed & !seen);
        }
        if items >= kind.counts {
            self.counts(kind, bytes);
        }
    }

    fn within(&mut self, entered: Entered<'a>, visit: impl FnOnce(&mut Self)) {
        self.path.push(entered);
        visit(self);
        self.path.pop();
    }

    fn any(&mut self, bytes: &'a [u8], place: usize) {
        let (mut url, mut content) = (&[][..], 0..0);
        each(bytes, |item| match item.number {
            TYPE_URL => url = &bytes[item.content..item.end],
            ANY_VALUE => content = item.content..item.end,
            _ => {}
        });
        let name = url.rsplit(|byte| *byte == b'/').next().and_then(|name| std::str::from_utf8(name).ok());
        if let Some(inner) = name.and_then(find) {
            self.message(inner, &bytes[content.clone()], place + content.start);
        }
    }

    fn added_header(&mut self, header: &[u8]) {
        let text = |number| {
            let content = field(header, number).map(|item| &header[item.content..item.end]);
            std::str::from_utf8(content.unwrap_or_default()).unwrap_or_default()
        };
        if let Some(what) = rule::added_header(text(KEY)).or_else(|| rule::header_format(text(HEADER_VALUE))) {
            self.wrong(what);
        }
    }

    fn missing(&mut self, kind: &MessageType, missing: u64) {
        for choice in kind.choices.iter().filter(|choice| choice.bit & missing != 0) {
            self.wrong_at(choice.name, "one must be chosen".to_owned());
        }
        let is_choice = |field: &&Field| kind.choices.iter().any(|choice| choice.bit == field.bit);
        for field in kind.fields.iter().filter(|field| field.bit & missing != 0 && !is_choice(field)) {
            let default = match field.form {
                Form::Text | Form::Bytes => Some(Value::Bytes(&[])),
                Form::Unsigned => Some(Value::Unsigned(0)),
                Form::Signed => Some(Value::Signed(0)),
                Form::Double | Form::Float => Some(Value::Fraction(0.0)),
                _ => None,
            };
            let default = default.filter(|_| !field.is_repeated);
            let what = default.and_then(|default| field.rules.iter().find_map(|rule| rule.broken_by(default)));
            self.wrong_at(field.name, what.unwrap_or_else(|| "is required".to_owned()));
        }
    }

    /// Counts the items of the fields that have a rule for that.
    fn counts(&mut self, kind: &'static MessageType, bytes: &[u8]) {
        for (field, count) in kind.fields.iter().filter_map(|field| Some((field, field.count.as_ref()?))) {
            let items = items(field, bytes);
            if !items.is_empty() && items.len() < count.min {
                self.wrong_at(field.name, format!("must have {} items or more, has {}", count.min, items.len()));
            } else if items.len() as u64 > count.max {
                self.wrong_at(field.name, format!("must have {} items or fewer, has {}", count.max, items.len()));
            } else if count.unique && items.iter().collect::<FxHashSet<_>>().len() < items.len() {
                self.wrong_at(field.name, "must not have an item twice".to_owned());
            }
        }
    }

    fn wrong_at(&mut self, name: &'static str, what: String) {
        self.wrong(what);
        if let Some(violation) = self.found.last_mut().filter(|_| !name.is_empty()) {
            violation.path.push(Step { name, index: None });
        }
    }

    fn wrong(&mut self, what: String) {
        let path = self.path.iter().filter(|entered| !entered.field.name.is_empty()).map(Entered::step).collect();
        self.found.push(Violation { path, what });
    }
}

impl Entered<'_> {
    fn step(&self) -> Step {
        let before = || {
            let mut index = 0;
            each(&self.message[..self.start], |item| index += usize::from(item.number == self.field.number));
            index
        };
        Step { name: self.field.name, index: self.field.is_repeated.then(before) }
    }
}

/// Returns what is wrong with the value of a field that holds no message.
fn broken(field: &Field, wire: WireType, content: &[u8]) -> Option<String> {
    match (field.form, wire) {
        (Form::Duration, WireType::LengthDelimited) => match duration(content) {
            Ok(time) => broken_value(field, Value::Time(time)),
            Err(why) => Some(why),
        },
        (Form::Text | Form::Bytes, WireType::LengthDelimited) => broken_value(field, Value::Bytes(content)),
        // Numbers may stand one behind the other.
        (form, wire) => {
            let wire = if wire == WireType::LengthDelimited { packed_wire(form) } else { wire };
            let mut rest = content;
            while let Some(value) = number(form, wire, &mut rest) {
                if let Some(what) = broken_value(field, value) {
                    return Some(what);
                }
            }
            None
        }
    }
}

fn broken_value(field: &Field, value: Value<'_>) -> Option<String> {
    let is_empty = matches!(value, Value::Bytes([]) | Value::Unsigned(0) | Value::Signed(0));
    if field.ignores_empty && is_empty { None } else { field.rules.iter().find_map(|rule| rule.broken_by(value)) }
}

fn known(kind: &'static MessageType, number: u32) -> Option<&'static Field> {
    let place = kind.index.get(usize::try_from(number).ok()?)?.checked_sub(1)?;
    kind.fields.get(usize::from(place))
}

fn each(bytes: &[u8], mut visit: impl FnMut(FieldAt)) {
    let mut next = 0;
    while let Some(item) = field_at(bytes, next) {
        next = item.end;
        visit(item);
    }
}

fn field(bytes: &[u8], number: u32) -> Option<FieldAt> {
    let mut found = None;
    each(bytes, |item| found = if item.number == number { Some(item) } else { found });
    found
}

/// Returns the items of a repeated field, also where they are numbers that stand one behind the other.
fn items<'b>(field: &Field, bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let mut items = Vec::new();
    each(bytes, |item| {
        let content = &bytes[item.content..item.end];
        match (field.form, item.wire) {
            _ if item.number != field.number => {}
            (Form::Unsigned | Form::Signed | Form::Double | Form::Float, WireType::LengthDelimited) => {
                let mut rest = content;
                while !rest.is_empty() {
                    let before = rest;
                    let Some(_) = number(field.form, packed_wire(field.form), &mut rest) else { return };
                    items.push(&before[..before.len() - rest.len()]);
                }
            }
            _ => items.push(content),
        }
    });
    items
}

fn packed_wire(form: Form) -> WireType {
    match form {
        Form::Double => WireType::SixtyFourBit,
        Form::Float => WireType::ThirtyTwoBit,
        _ => WireType::Varint,
    }
}

fn number(form: Form, wire: WireType, bytes: &mut &[u8]) -> Option<Value<'static>> {
    match (form, wire) {
        (Form::Unsigned, WireType::Varint) => integer(bytes).map(Value::Unsigned),
        (Form::Signed, WireType::Varint) => integer(bytes).map(|number| Value::Signed(number.cast_signed())),
        (Form::Double, WireType::SixtyFourBit) => taken(bytes).map(|bytes| Value::Fraction(f64::from_le_bytes(bytes))),
        (Form::Float, WireType::ThirtyTwoBit) => taken(bytes).map(|bytes| Value::Fraction(f32::from_le_bytes(bytes).into())),
        _ => None,
    }
}

fn integer(bytes: &mut &[u8]) -> Option<u64> {
    let (number, end) = varint(bytes, 0)?;
    *bytes = &bytes[end..];
    Some(number)
}

fn taken<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn duration(bytes: &[u8]) -> Result<i128, String> {
    let (mut seconds, mut nanos) = (0, 0);
    each(bytes, |item| {
        let number = || varint(bytes, item.content).map_or(0, |(number, _)| number.cast_signed());
        match item.number {
            SECONDS => seconds = number(),
            NANOS => nanos = number(),
            _ => {}
        }
    });
    rule::duration(seconds, nanos)
}
