//! What each field of a request makes us look at, made from Envoy's descriptors: twice as much of it at most about twice as much.

use std::time::Instant;

use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use super::{
    Delta, Protocol, Request, Session, Settings, Sotw,
    tests::{cluster, endpoint, listener, route, view},
};
use crate::{
    proto,
    visits::Visits,
    xds::{
        bounds::{Bounds, Field, Message, Most, measure},
        node::Node,
        resource_type::ResourceType::Endpoint,
    },
};

/// Returns the fields that may stand more than once, each with its path from the request.
fn repeated(message: &'static Message, descriptor: &MessageDescriptor) -> Vec<(Vec<&'static Field>, FieldDescriptor)> {
    let mut found = Vec::new();
    let (mut open, mut seen) = (vec![(Vec::new(), message, descriptor.clone())], Vec::new());
    while let Some((path, message, descriptor)) = open.pop() {
        if seen.contains(&descriptor.full_name().to_owned()) {
            continue;
        }
        seen.push(descriptor.full_name().to_owned());
        for field in descriptor.fields() {
            let row = message.fields.iter().find(|row| row.number == field.number()).unwrap();
            let path: Vec<_> = path.iter().copied().chain([row]).collect();
            if let (Some(within), Kind::Message(kind)) = (row.message, field.kind()) {
                open.push((path.clone(), within, kind));
            }
            if row.most != Most::Times(1) {
                found.push((path, field));
            }
        }
    }
    found
}

/// Returns a request with so many of a field.
fn request(path: &[&Field], field: &FieldDescriptor, count: usize) -> Vec<u8> {
    let Some((row, within)) = path.split_last() else { return Vec::new() };
    let one = |number: usize| match field.kind() {
        Kind::Message(_) if field.is_map() => delimited(row.number, &delimited(1, format!("entry-{number}").as_bytes())),
        Kind::Message(_) => delimited(row.number, &[]),
        _ => delimited(row.number, format!("entry-{number}").as_bytes()),
    };
    let many = (0..count).flat_map(one).collect();
    within.iter().rev().fold(many, |value: Vec<u8>, row| delimited(row.number, &value))
}

fn delimited(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

/// Does with a request what a stream does, and returns how many names that looks at.
fn cost<P: Protocol>(bytes: &[u8]) -> u64 {
    let before = Visits::of_this_thread();
    measure(P::MESSAGE, bytes, Bounds::default().unknown_names).unwrap();
    let type_url = delimited(if P::NAMES == "resource_names" { 4 } else { 2 }, Endpoint.type_url().as_bytes());
    let mut request = P::Request::decode(&[&type_url[..], bytes].concat()[..]).unwrap();
    if let Some(mut node) = request.take_node() {
        node.id = "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local".into();
        Node::parse(&node).unwrap();
    }
    let has = view(1, [cluster("a", 1), endpoint("a", 1), listener("l", 1, &["a"]), route("r", 1, &["a"])]);
    let mut session = Session::<P>::new(Settings::default(), Bounds::default(), has, &std::sync::Arc::default());
    session.on_request(request, Instant::now()).unwrap();
    while session.next(Instant::now()).is_some() {}
    session.take_events();
    (Visits::of_this_thread() - before).names
}

fn assert_each_is_linear<P: Protocol>(name: &str, least: usize) {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let fields = repeated(P::MESSAGE, &pool.get_message_by_name(&format!("envoy.service.discovery.v3.{name}")).unwrap());
    assert!(fields.len() >= least, "{}", fields.len());
    for (path, field) in fields {
        let most = match path.last().unwrap().most {
            Most::Times(times) => times,
            Most::Names => Bounds::default().unknown_names,
        };
        let (half, all) = (cost::<P>(&request(&path, &field, most / 2)), cost::<P>(&request(&path, &field, most)));
        let what = path.iter().map(|row| row.name).collect::<Vec<_>>().join(".");
        assert!(
            half as usize >= most / 2 && all * 10 <= half * 24,
            "{what}: {half} names looked at for {}, and {all} for {most}",
            most / 2
        );
    }
}

#[test]
fn twice_as_much_of_any_field_costs_about_twice_as_much() {
    assert_each_is_linear::<Delta>("DeltaDiscoveryRequest", 12);
    assert_each_is_linear::<Sotw>("DiscoveryRequest", 10);
}
