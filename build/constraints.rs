//! Envoy's rules for fields, and where there are maps: for each message that has some, or leads to one that has, what they are.
//!
//! The rules are options of the fields (`validate.rules`); what they mean is described in `validate/validate.proto`. A rule
//! that is not known here ends the build: after an update of envoy-types it is to be added, here and where rules are held.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
};

use prost_types::FileDescriptorSet;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};

const ANY: &str = "google.protobuf.Any";
const DURATION: &str = "google.protobuf.Duration";

/// What Envoy judges beside the rules, when it loads a message: message, field, how.
const JUDGED: &[(&str, &str, &str)] = &[
    ("envoy.config.core.v3.CidrRange", "address_prefix", "Rule::IpAddress"),
    ("envoy.config.core.v3.HeaderValueOption", "header", "Rule::AddedHeader"),
    ("envoy.config.core.v3.Pipe", "path", "Rule::SocketPath"),
    ("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni", "Rule::ServerName"),
    ("envoy.type.matcher.v3.RegexMatcher", "regex", "Rule::Expression"),
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A message that is kept if it, or one that it leads to, has rules or maps.
#[derive(Default)]
struct Message {
    fields: Vec<Field>,
    /// Names and members of those `oneof`s of which one must be chosen.
    choices: Vec<(String, Vec<u32>)>,
}

struct Field {
    number: u32,
    name: String,
    form: Form,
    is_repeated: bool,
    is_map: bool,
    /// That it is not there breaks a rule.
    is_needed: bool,
    ignores_empty: bool,
    /// How many items a repeated field may have, and whether no two may be equal.
    count: Option<(u64, u64, bool)>,
    rules: Vec<String>,
}

enum Form {
    Scalar(&'static str),
    Duration,
    Any,
    Message(String),
    /// What is in it is not looked at.
    Opaque,
}

/// What the rules of one field say.
#[derive(Default)]
struct Said {
    rules: Vec<String>,
    /// Without a value a rule is broken: the default does not keep it.
    default_breaks: bool,
    ignores_empty: bool,
}

/// Returns the Rust source of the table `CONSTRAINTS`, sorted by message name; messages refer to each other by position. `envoy` is
/// an encoded set of descriptors with Envoy's rules; `own` has none.
pub(crate) fn generate(envoy: &[u8], own: FileDescriptorSet) -> Result<String> {
    let mut pool = DescriptorPool::decode(envoy)?;
    pool.add_file_descriptor_set(own)?;
    let options = Options::of(&pool)?;
    let mut messages = BTreeMap::new();
    for message in pool.all_messages().filter(|message| !message.is_map_entry()) {
        collect(&message, &options, &mut messages)?;
    }
    for (message, field, rule) in JUDGED {
        let fields = messages.get_mut(*message).map(|message| &mut message.fields).ok_or(*message)?;
        let field = fields.iter_mut().find(|known| known.name == *field).ok_or(*field)?;
        field.rules.push((*rule).to_owned());
    }
    Ok(source(&messages))
}

struct Options {
    of_field: ExtensionDescriptor,
    of_choice: ExtensionDescriptor,
}

impl Options {
    fn of(pool: &DescriptorPool) -> Result<Self> {
        let named = |name| pool.get_extension_by_name(name).ok_or(name);
        Ok(Self { of_field: named("validate.rules")?, of_choice: named("validate.required")? })
    }

    fn rules(&self, field: &FieldDescriptor) -> Result<DynamicMessage> {
        Ok(field.options().get_extension(&self.of_field).as_message().cloned().ok_or("rules are no message")?)
    }
}

fn collect(message: &MessageDescriptor, options: &Options, into: &mut BTreeMap<String, Message>) -> Result<()> {
    let mut collected = Message::default();
    for choice in message.oneofs() {
        let members: Vec<u32> = choice.fields().map(|field| field.number()).collect();
        if choice.options().get_extension(&options.of_choice).as_bool() == Some(true) {
            collected.choices.push((choice.name().to_owned(), members));
        }
    }
    for field in message.fields() {
        let rules = options.rules(&field)?;
        let field = read(&field, &rules, into).map_err(|why| format!("{}: {why}", field.full_name()))?;
        collected.fields.push(field);
    }
    collected.fields.sort_by_key(|field| field.number);
    into.insert(message.full_name().to_owned(), collected);
    Ok(())
}

fn read(field: &FieldDescriptor, rules: &DynamicMessage, into: &mut BTreeMap<String, Message>) -> Result<Field> {
    let mut read = Field {
        number: field.number(),
        name: field.name().to_owned(),
        form: form(field),
        is_repeated: field.is_list() || field.is_map(),
        is_map: field.is_map(),
        is_needed: false,
        ignores_empty: false,
        count: None,
        rules: Vec::new(),
    };
    let (mut keys, mut values) = (Said::default(), Said::default());
    for (kind, value) in rules.fields() {
        let rule = value.as_message().ok_or("no message")?;
        match kind.name() {
            "message" if is_set(rule, "skip") => read.form = Form::Opaque,
            "message" => read.is_needed |= is_set(rule, "required"),
            "repeated" | "map" => {
                let mut count = (0, u64::MAX, false);
                for (name, value) in rule.fields() {
                    match name.name() {
                        "min_items" | "min_pairs" => count.0 = value.as_u64().ok_or("no number")?,
                        "max_items" | "max_pairs" => count.1 = value.as_u64().ok_or("no number")?,
                        "unique" => count.2 = value.as_bool() == Some(true),
                        "items" | "values" => values = nested(value, field)?,
                        "keys" => keys = nested(value, field)?,
                        other => return Err(format!("unknown rule {other}").into()),
                    }
                }
                read.is_needed |= count.0 > 0;
                read.count = Some(count).filter(|(min, max, unique)| *min > 1 || *max < u64::MAX || *unique);
            }
            kind => {
                let said = said(kind, rule, field)?;
                read.is_needed |= is_set(rule, "required") || (said.default_breaks && !field.supports_presence());
                values = said;
            }
        }
    }
    if field.is_map() {
        // Each entry is a message, whose key and value have their defaults where they are not written.
        let Kind::Message(entry) = field.kind() else { return Err("a map without entries".into()) };
        let part = |field: FieldDescriptor, said: Said| single(&field, form(&field), said);
        let fields = vec![part(entry.map_entry_key_field(), keys), part(entry.map_entry_value_field(), values)];
        into.insert(entry.full_name().to_owned(), Message { fields, choices: Vec::new() });
        read.form = Form::Message(entry.full_name().to_owned());
    } else if let (Form::Message(wrapper), false) = (&read.form, values.rules.is_empty()) {
        // Rules for a number are for the number in its wrapper.
        let name = format!("{} in {wrapper}", field.full_name());
        let Kind::Message(wrapper) = field.kind() else { return Err("rules for a value at a message".into()) };
        let value = wrapper.get_field(1).ok_or("a wrapper without a value")?;
        // Its value is the field's: it has no name of its own.
        let value = Field { name: String::new(), ..single(&value, form(&value), values) };
        into.insert(name.clone(), Message { fields: vec![value], choices: Vec::new() });
        read.form = Form::Message(name);
    } else {
        read.ignores_empty = values.ignores_empty;
        read.rules = values.rules;
    }
    // Whoever is not chosen is not asked.
    read.is_needed &= field.containing_oneof().is_none();
    Ok(read)
}

/// Makes a field that has its default where it is not written.
fn single(field: &FieldDescriptor, form: Form, said: Said) -> Field {
    Field {
        number: field.number(),
        name: field.name().to_owned(),
        form,
        is_repeated: false,
        is_map: false,
        is_needed: said.default_breaks,
        ignores_empty: said.ignores_empty,
        count: None,
        rules: said.rules,
    }
}

fn form(field: &FieldDescriptor) -> Form {
    match field.kind() {
        Kind::Message(message) => match message.full_name() {
            DURATION => Form::Duration,
            ANY => Form::Any,
            name => Form::Message(name.to_owned()),
        },
        Kind::String => Form::Scalar("Text"),
        Kind::Bytes => Form::Scalar("Bytes"),
        Kind::Bool | Kind::Uint32 | Kind::Uint64 => Form::Scalar("Unsigned"),
        Kind::Int32 | Kind::Int64 | Kind::Enum(_) => Form::Scalar("Signed"),
        Kind::Double => Form::Scalar("Double"),
        Kind::Float => Form::Scalar("Float"),
        Kind::Sint32 | Kind::Sint64 | Kind::Fixed32 | Kind::Fixed64 | Kind::Sfixed32 | Kind::Sfixed64 => Form::Opaque,
    }
}

fn nested(rules: &Value, field: &FieldDescriptor) -> Result<Said> {
    let rules = rules.as_message().ok_or("no message")?;
    match rules.fields().next() {
        Some((kind, rule)) => said(kind.name(), rule.as_message().ok_or("no message")?, field),
        None => Ok(Said::default()),
    }
}

fn said(kind: &str, rule: &DynamicMessage, field: &FieldDescriptor) -> Result<Said> {
    let mut said = Said::default();
    match kind {
        "string" | "bytes" => text(kind, rule, &mut said)?,
        "uint32" | "uint64" => {
            let (min, max) = range(rule, |value| value.as_u32().map(i128::from).or(value.as_u64().map(i128::from)))?;
            let (min, max) = (min.unwrap_or(0), max.unwrap_or(u64::MAX.into()));
            in_order(min, max)?;
            said.add(format!("Rule::Unsigned {{ min: {min}, max: {max} }}"), min > 0);
        }
        "int32" | "int64" => {
            let (min, max) = range(rule, |value| value.as_i32().map(i128::from).or(value.as_i64().map(i128::from)))?;
            let (min, max) = (min.unwrap_or(i64::MIN.into()), max.unwrap_or(i64::MAX.into()));
            in_order(min, max)?;
            said.add(format!("Rule::Signed {{ min: {min}, max: {max} }}"), min > 0 || max < 0);
        }
        "double" | "float" => fraction(rule, &mut said)?,
        "bool" => {
            if rule.get_field_by_name("const").and_then(|value| value.as_bool()) != Some(true) {
                return Err("must not be true".into());
            }
            said.add("Rule::True".to_owned(), true);
        }
        "enum" => enumeration(rule, field, &mut said)?,
        "duration" => {
            let (min, max) = range(rule, nanoseconds)?;
            match (min, max) {
                (None, None) => {}
                // At most this, or at least that.
                (Some(that), Some(this)) if this < that => {
                    said.add(format!("Rule::NotBetween {{ this: {this}, that: {that} }}"), false);
                }
                _ => {
                    let (min, max) = (min.unwrap_or(i128::MIN), max.unwrap_or(i128::MAX));
                    said.add(format!("Rule::Time {{ min: {min}, max: {max} }}"), false);
                }
            }
        }
        "any" => {}
        other => return Err(format!("unknown rules {other}").into()),
    }
    said.ignores_empty = is_set(rule, "ignore_empty");
    said.default_breaks &= !said.ignores_empty;
    Ok(said)
}

fn text(kind: &str, rule: &DynamicMessage, said: &mut Said) -> Result<()> {
    let strict = rule.get_field_by_name("strict").and_then(|strict| strict.as_bool()) != Some(false);
    for (name, value) in rule.fields() {
        let number = || value.as_u64().ok_or("no number");
        let text = || value.as_str().ok_or("no text");
        match (kind, name.name()) {
            ("string", "min_len") => said.add(format!("Rule::MinLength({})", number()?), number()? > 0),
            ("string", "max_len") => said.add(format!("Rule::MaxLength({})", number()?), false),
            ("string", "min_bytes") | ("bytes", "min_len") => said.add(format!("Rule::MinBytes({})", number()?), number()? > 0),
            ("string", "max_bytes") | ("bytes", "max_len") => said.add(format!("Rule::MaxBytes({})", number()?), false),
            ("string", "prefix") => said.add(format!("Rule::Prefix({:?})", text()?), true),
            ("string", "suffix") => said.add(format!("Rule::Suffix({:?})", text()?), true),
            ("string", "pattern") => {
                let takes_nothing = text()?.starts_with("^$|") || text()?.ends_with("*$");
                said.add(format!("Rule::Pattern({:?})", text()?), !takes_nothing);
            }
            ("string", "well_known_regex") => match (value.as_enum_number(), strict) {
                (Some(1), true) => said.add("Rule::HeaderName".to_owned(), true),
                (Some(2), true) => said.add("Rule::HeaderValue".to_owned(), false),
                (Some(1 | 2), false) => said.add("Rule::OneLine".to_owned(), false),
                _ => return Err(format!("unknown expression {value:?}").into()),
            },
            ("string", "in") => {
                let known: Vec<&str> = value.as_list().unwrap_or_default().iter().filter_map(Value::as_str).collect();
                said.add(format!("Rule::OneOf(&{known:?})"), !known.contains(&""));
            }
            (_, "strict" | "ignore_empty") => {}
            (_, other) => return Err(format!("unknown rule {other}").into()),
        }
    }
    Ok(())
}

fn enumeration(rule: &DynamicMessage, field: &FieldDescriptor, said: &mut Said) -> Result<()> {
    for (name, value) in rule.fields() {
        match name.name() {
            "defined_only" => {
                let Kind::Enum(of) = field.kind() else { return Err("no enum".into()) };
                let known: BTreeSet<i32> = of.values().map(|value| value.number()).collect();
                said.add(format!("Rule::Defined(&{:?})", known.iter().collect::<Vec<_>>()), !known.contains(&0));
            }
            "not_in" => {
                let not: Vec<i32> = value.as_list().unwrap_or_default().iter().filter_map(Value::as_i32).collect();
                said.add(format!("Rule::NotIn(&{not:?})"), not.contains(&0));
            }
            other => return Err(format!("unknown rule {other}").into()),
        }
    }
    Ok(())
}

fn fraction(rule: &DynamicMessage, said: &mut Said) -> Result<()> {
    let (mut min, mut above, mut max, mut below) = (f64::MIN, false, f64::MAX, false);
    for (name, value) in rule.fields() {
        let number = || value.as_f64().or(value.as_f32().map(f64::from)).ok_or("no number");
        match name.name() {
            "gt" => (min, above) = (number()?, true),
            "gte" => min = number()?,
            "lt" => (max, below) = (number()?, true),
            "lte" => max = number()?,
            other => return Err(format!("unknown rule {other}").into()),
        }
    }
    let breaks = min > 0.0 || (above && min == 0.0) || max < 0.0 || (below && max == 0.0);
    said.add(format!("Rule::Fraction {{ min: {min:?}, above: {above}, max: {max:?}, below: {below} }}"), breaks);
    Ok(())
}

/// Returns the least and the greatest that is possible.
fn range(rule: &DynamicMessage, read: impl Fn(&Value) -> Option<i128>) -> Result<(Option<i128>, Option<i128>)> {
    let (mut min, mut max) = (None, None);
    for (name, value) in rule.fields() {
        let value = || read(value).ok_or("no number");
        match name.name() {
            "gt" => min = Some(value()? + 1),
            "gte" => min = Some(value()?),
            "lt" => max = Some(value()? - 1),
            "lte" => max = Some(value()?),
            "required" | "ignore_empty" => {}
            other => return Err(format!("unknown rule {other}").into()),
        }
    }
    Ok((min, max))
}

fn in_order(min: i128, max: i128) -> Result<()> {
    if min > max { Err("a range of what is not possible".into()) } else { Ok(()) }
}

fn nanoseconds(duration: &Value) -> Option<i128> {
    let duration = duration.as_message()?;
    let (seconds, nanos) = (duration.get_field_by_name("seconds")?, duration.get_field_by_name("nanos")?);
    Some(i128::from(seconds.as_i64()?) * 1_000_000_000 + i128::from(nanos.as_i32()?))
}

fn is_set(rule: &DynamicMessage, name: &str) -> bool {
    rule.get_field_by_name(name).and_then(|value| value.as_bool()) == Some(true)
}

fn source(messages: &BTreeMap<String, Message>) -> String {
    let kept = kept(messages);
    let position: BTreeMap<&str, usize> = kept.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let mut source = String::from("static CONSTRAINTS: &[MessageType] = &[\n");
    for name in &kept {
        message_source(name, &messages[*name], &position, &mut source);
    }
    source.push_str("];\n");
    source
}

fn message_source(name: &str, message: &Message, position: &BTreeMap<&str, usize>, source: &mut String) {
    let mut next_bit = 0;
    let mut bit = || {
        next_bit += 1;
        1u64 << (next_bit - 1)
    };
    let mut bits: BTreeMap<u32, u64> = BTreeMap::new();
    let _ = write!(source, "MessageType {{ name: {name:?}, choices: &[");
    for (choice, members) in &message.choices {
        let bit = bit();
        bits.extend(members.iter().map(|member| (*member, bit)));
        let _ = write!(source, "Choice {{ name: {choice:?}, bit: {bit} }},");
    }
    for field in message.fields.iter().filter(|field| field.is_needed) {
        bits.entry(field.number).or_insert_with(&mut bit);
    }
    let needed = bits.values().fold(0, |all, bit| all | bit);
    let relevant = |field: &&Field| bits.contains_key(&field.number) || field.is_told() || field.leads_on(position);
    let fields: Vec<&Field> = message.fields.iter().filter(relevant).collect();
    let mut index = vec![0; fields.last().map_or(0, |last| last.number as usize + 1)];
    for (at, field) in fields.iter().enumerate() {
        index[field.number as usize] = at + 1;
    }
    // With fewer items than that, no count can be wrong.
    let counted = |field: &&Field| {
        let (min, max, unique) = field.count?;
        Some(if min > 1 || matches!(field.form, Form::Scalar(_)) {
            1
        } else if unique {
            2
        } else {
            max + 1
        })
    };
    let counts = fields.iter().filter_map(counted).min().unwrap_or(u64::MAX);
    let _ = write!(source, "], needed: {needed}, counts: {counts}, index: &{index:?}, fields: &[");
    for field in fields {
        let form = match &field.form {
            Form::Scalar(form) => format!("Form::{form}"),
            Form::Duration => "Form::Duration".to_owned(),
            Form::Any => "Form::Any".to_owned(),
            Form::Message(to) => position.get(to.as_str()).map_or("Form::Opaque".to_owned(), |at| format!("Form::Message({at})")),
            Form::Opaque => "Form::Opaque".to_owned(),
        };
        let count = field.count.map(|(min, max, unique)| format!("Count {{ min: {min}, max: {max}, unique: {unique} }}"));
        let count = count.map_or("None".to_owned(), |count| format!("Some({count})"));
        let (name, number, bit) = (&field.name, field.number, bits.get(&field.number).copied().unwrap_or_default());
        let (is_repeated, is_map, ignores_empty, rules) = (field.is_repeated, field.is_map, field.ignores_empty, field.rules.join(", "));
        let _ = write!(
            source,
            "Field {{ number: {number}, name: {name:?}, form: {form}, is_repeated: {is_repeated}, is_map: {is_map}, bit: {bit}, \
             ignores_empty: {ignores_empty}, count: {count}, rules: &[{rules}] }},"
        );
    }
    source.push_str("] },\n");
}

/// Grows the set of messages with rules or maps by those that lead to one until nothing is added.
fn kept(messages: &BTreeMap<String, Message>) -> Vec<&str> {
    let is_told = |message: &Message| !message.choices.is_empty() || message.fields.iter().any(Field::is_told);
    let mut kept: BTreeMap<&str, usize> =
        messages.iter().filter(|(_, message)| is_told(message)).map(|(name, _)| (name.as_str(), 0)).collect();
    loop {
        let before = kept.len();
        for (name, message) in messages {
            if message.fields.iter().any(|field| field.leads_on(&kept)) {
                kept.insert(name, 0);
            }
        }
        if kept.len() == before {
            return kept.into_keys().collect();
        }
    }
}

impl Field {
    fn is_told(&self) -> bool {
        self.is_map || self.is_needed || self.count.is_some() || !self.rules.is_empty()
    }

    fn leads_on(&self, kept: &BTreeMap<&str, usize>) -> bool {
        match &self.form {
            Form::Any | Form::Duration => true,
            Form::Message(to) => kept.contains_key(to.as_str()),
            Form::Scalar(_) | Form::Opaque => false,
        }
    }
}

impl Said {
    fn add(&mut self, rule: String, default_breaks: bool) {
        self.rules.push(rule);
        self.default_breaks |= default_breaks;
    }
}
