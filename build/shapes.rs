//! For each message that can hold a map or an `Any`, however deep: which of its fields lead there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

const ANY: &str = "google.protobuf.Any";

/// Where a field leads.
enum Leads {
    Message(String),
    Map { value: Option<String> },
}

/// Returns the Rust source of the table `SHAPES`, sorted by message name; messages refer to each other by position.
pub(crate) fn generate(set: &FileDescriptorSet) -> String {
    let mut messages = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            collect(file.package(), message, &mut messages);
        }
    }
    let kept = reaching_maps(&messages);
    let position: BTreeMap<&str, usize> = kept.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let mut source = String::from("static SHAPES: &[Shape] = &[\n");
    for name in &kept {
        let _ = write!(source, "Shape {{ name: {name:?}, is_any: {}, fields: &[", *name == ANY);
        for (number, leads) in &messages[*name] {
            let _ = match leads {
                Leads::Message(to) => match position.get(to.as_str()) {
                    Some(at) => write!(source, "({number}, Field::Message({at})),"),
                    None => Ok(()),
                },
                Leads::Map { value } => {
                    let at = value.as_deref().and_then(|to| position.get(to));
                    write!(source, "({number}, Field::Map({at:?})),")
                }
            };
        }
        source.push_str("] },\n");
    }
    source.push_str("];\n");
    source
}

fn collect(scope: &str, message: &DescriptorProto, into: &mut BTreeMap<String, Vec<(i32, Leads)>>) {
    let name = format!("{scope}.{}", message.name());
    let entries: BTreeMap<String, &DescriptorProto> = message
        .nested_type
        .iter()
        .filter(|nested| nested.options.as_ref().is_some_and(|options| options.map_entry()))
        .map(|nested| (format!(".{name}.{}", nested.name()), nested))
        .collect();
    let mut fields = Vec::new();
    for field in message.field.iter().filter(|field| field.r#type() == Type::Message) {
        let leads = match entries.get(field.type_name()) {
            Some(entry) => Leads::Map { value: entry.field.iter().find(|value| value.number() == 2).and_then(message_type) },
            None => Leads::Message(field.type_name().trim_start_matches('.').to_owned()),
        };
        fields.push((field.number(), leads));
    }
    fields.sort_by_key(|(number, _)| *number);
    for nested in &message.nested_type {
        collect(&name, nested, into);
    }
    into.insert(name, fields);
}

fn message_type(field: &prost_types::FieldDescriptorProto) -> Option<String> {
    (field.r#type() == Type::Message).then(|| field.type_name().trim_start_matches('.').to_owned())
}

/// Grows the set of messages that hold a map until nothing is added.
fn reaching_maps(messages: &BTreeMap<String, Vec<(i32, Leads)>>) -> Vec<&str> {
    let mut reaching: BTreeSet<&str> = BTreeSet::from([ANY]);
    loop {
        let before = reaching.len();
        for (name, fields) in messages {
            if fields.iter().any(|(_, leads)| match leads {
                Leads::Map { .. } => true,
                Leads::Message(to) => reaching.contains(to.as_str()),
            }) {
                reaching.insert(name);
            }
        }
        if reaching.len() == before {
            return reaching.into_iter().collect();
        }
    }
}
