//! Measures a request on the wire, in one pass over its bytes and without keeping any.

use prost::encoding::{WireType, decode_key, decode_varint};

use super::{
    excess::Excess,
    fields::{Field, Message, Most, NESTED},
};
use crate::visits::{self, Visited};

/// How deep messages may be nested in a request. prost reads 100 levels; a value in metadata takes two.
const DEPTH: usize = 64;
/// More than the fields that any message here has.
const FIELDS: usize = 16;

/// Measures a request of that type, as it is encoded. `names` is how many of a type the stream may have.
///
/// # Errors
/// When it goes over a bound: names the field and the bound.
pub fn measure(request: &'static Message, bytes: &[u8], names: usize) -> Result<(), Excess> {
    Walk { names, nested: 0, path: Vec::new() }.message(request, bytes)
}

struct Walk {
    names: usize,
    nested: usize,
    path: Vec<&'static str>,
}

impl Walk {
    fn message(&mut self, message: &'static Message, bytes: &[u8]) -> Result<(), Excess> {
        if self.path.len() > DEPTH {
            return Err(Excess::depth(self.path[0].to_owned(), DEPTH));
        }
        let mut counts = [0; FIELDS];
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, wire_type) = decode_key(&mut rest).map_err(|_| self.malformed())?;
            let value = self.value(wire_type, &mut rest)?;
            // A newer Envoy may say more than we know. prost passes over it.
            let Some(index) = message.fields.iter().position(|field| field.number == number) else { continue };
            let field = &message.fields[index];
            counts[index] += 1;
            self.field(field, counts[index], value)?;
        }
        Ok(())
    }

    fn field(&mut self, field: &'static Field, count: usize, value: &[u8]) -> Result<(), Excess> {
        visits::count(Visited::Name, 1);
        match field.most {
            Most::Times(most) if count > most => return Err(Excess::entries(self.path_to(field), most)),
            Most::Names if count > self.names => return Err(Excess::names(self.path_to(field), self.names)),
            _ => {}
        }
        if value.len() > field.bytes.max(8) {
            return Err(Excess::length(self.path_to(field), field.bytes));
        }
        self.path.push(field.name);
        let within = field.message.map_or(Ok(()), |message| {
            // The entries of a map of names are bounded as names are.
            self.nested += usize::from(field.most != Most::Names);
            if self.nested > NESTED {
                return Err(Excess::entries(self.path[0].to_owned(), NESTED));
            }
            self.message(message, value)
        });
        self.path.pop();
        within
    }

    /// Takes a field's value; of numbers nothing that is measured.
    fn value<'a>(&self, wire_type: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], Excess> {
        let length = match wire_type {
            WireType::Varint => return decode_varint(rest).map(|_| &[][..]).map_err(|_| self.malformed()),
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => decode_varint(rest).map_err(|_| self.malformed())?,
            // Nothing that is spoken here has groups.
            WireType::StartGroup | WireType::EndGroup => return Err(self.malformed()),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len()).ok_or_else(|| self.malformed())?;
        let (value, after) = rest.split_at(length);
        *rest = after;
        Ok(value)
    }

    fn path_to(&self, field: &Field) -> String {
        self.path.iter().copied().chain([field.name]).collect::<Vec<_>>().join(".")
    }

    fn malformed(&self) -> Excess {
        Excess::form(if self.path.is_empty() { "request".to_owned() } else { self.path.join(".") })
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{
            config::core::v3::{Extension, Node},
            service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
        },
        google::protobuf::{ListValue, Struct, Value, value::Kind},
    };
    use prost::Message as _;
    use prost_reflect::{DescriptorPool, Kind as FieldKind, MessageDescriptor};

    use super::*;
    use crate::{
        proto,
        visits::Visits,
        xds::bounds::{DELTA_REQUEST, REQUEST},
    };

    fn refusal(request: &impl prost::Message) -> Option<String> {
        measure(&REQUEST, &request.encode_to_vec(), 100).err().map(|excess| excess.to_string())
    }

    fn said(metadata: Value) -> DiscoveryRequest {
        let metadata = Some(Struct { fields: [("A".to_owned(), metadata)].into() });
        DiscoveryRequest { node: Some(Node { metadata, ..Node::default() }), ..DiscoveryRequest::default() }
    }

    fn list(values: Vec<Value>) -> Value {
        Value { kind: Some(Kind::ListValue(ListValue { values })) }
    }

    #[test]
    fn what_goes_over_a_bound_is_named() {
        let names = |count: usize| DiscoveryRequest { resource_names: vec![String::new(); count], ..DiscoveryRequest::default() };
        assert_eq!(refusal(&names(100)), None);
        assert_eq!(refusal(&names(101)).unwrap(), "resource_names: at most 100 names of a type are served on a stream");
        let long = DiscoveryRequest { resource_names: vec!["x".repeat(4097)], ..DiscoveryRequest::default() };
        assert_eq!(refusal(&long).unwrap(), "resource_names: may have at most 4096 bytes");
        let deep = (0..40).fold(Value::default(), |value, _| list(vec![value]));
        assert_eq!(refusal(&said(deep)).unwrap(), "node: may be nested to at most 64 levels");
        let flat = (0..20).fold(Value::default(), |value, _| list(vec![value]));
        assert_eq!(refusal(&said(flat)), None);
        let many = list(vec![list(vec![Value::default(); 4000]); 20]);
        assert_eq!(refusal(&said(many)).unwrap(), "node: at most 32768 entries are read");
        let extension = Extension { type_urls: vec![String::new(); 257], ..Extension::default() };
        let node = Node { extensions: vec![extension], ..Node::default() };
        let extended = DiscoveryRequest { node: Some(node), ..DiscoveryRequest::default() };
        assert_eq!(refusal(&extended).unwrap(), "node.extensions.type_urls: at most 256 entries are read");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&[0x0b][..], &[0x1a, 0x05, 1], &[0xff; 11], &[0x12, 0x02, 0x0a, 0x05]] {
            assert_eq!(measure(&REQUEST, bytes, 1).unwrap_err().reason(), "form", "{bytes:?}");
        }
        assert_eq!(measure(&REQUEST, &[0xf8, 0x7f, 1], 1), Ok(()), "a field that is not known yet");
    }

    #[test]
    fn twice_the_request_costs_twice() {
        let cost = |count: usize| {
            let versions = (0..count).map(|n| (n.to_string(), "0123456789abcdef".to_owned())).collect();
            let request = DeltaDiscoveryRequest { initial_resource_versions: versions, ..DeltaDiscoveryRequest::default() };
            let before = Visits::of_this_thread();
            measure(&DELTA_REQUEST, &request.encode_to_vec(), count).unwrap();
            (Visits::of_this_thread() - before).names
        };
        assert_eq!(cost(2000), 2 * cost(1000));
    }

    // Addresses are the one message that is measured as a whole.
    fn assert_listed(message: &Message, descriptor: &MessageDescriptor, seen: &mut Vec<String>) {
        assert!(message.fields.len() <= FIELDS, "{}", descriptor.full_name());
        if seen.contains(&descriptor.full_name().to_owned()) {
            return;
        }
        seen.push(descriptor.full_name().to_owned());
        for field in descriptor.fields() {
            let row = message.fields.iter().find(|row| row.number == field.number());
            let row = row.unwrap_or_else(|| panic!("{} has no bound", field.full_name()));
            assert_eq!(row.name, field.name(), "{}", field.full_name());
            assert!(field.is_list() || field.is_map() || row.most == Most::Times(1), "{}", field.full_name());
            match (row.message, field.kind()) {
                (Some(row), FieldKind::Message(within)) => assert_listed(row, &within, seen),
                (None, FieldKind::Message(_)) => assert_eq!(descriptor.name(), "Address", "{}", field.full_name()),
                (None, _) => {}
                (Some(_), kind) => panic!("{} is {kind:?}", field.full_name()),
            }
        }
    }

    #[test]
    fn every_field_of_every_request_has_a_bound() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        let mut seen = Vec::new();
        for (message, name) in [(&REQUEST, "DiscoveryRequest"), (&DELTA_REQUEST, "DeltaDiscoveryRequest")] {
            let descriptor = pool.get_message_by_name(&format!("envoy.service.discovery.v3.{name}")).unwrap();
            assert_listed(message, &descriptor, &mut seen);
        }
        assert!(seen.len() > 15 && seen.contains(&"google.protobuf.Value".to_owned()), "{seen:?}");
    }
}
