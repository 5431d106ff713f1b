//! Tests that reading never panics, whatever is done to a valid document, and that an error always has a finding.

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::api::{Severity, parse, parse_mesh_config, yaml};

const VALID: &str = include_str!("valid.yaml");

#[test]
fn the_examples_are_valid() {
    for document in yaml::documents(VALID) {
        let parsed = parse(&yaml::document(document).unwrap(), &"Kubernetes".into());
        let errors: Vec<_> = parsed.diagnostics.iter().filter(|finding| finding.severity == Severity::Error).collect();
        assert!(errors.is_empty() && parsed.objects.len() == 1, "{errors:?}");
    }
}

#[test]
fn no_value_in_any_place_is_a_panic() {
    let documents: Vec<Value> = yaml::documents(VALID).into_iter().map(|document| yaml::document(document).unwrap()).collect();
    let odd = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[-+.0-9a-z%*/:()\\[\\]{}\\\\?]{0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!([null])),
        Just(json!({})),
        Just(json!({"": ""})),
        Just(json!("x".repeat(5000))),
    ];
    let mutation = (any::<Index>(), proptest::collection::vec((any::<Index>(), odd, 0..3u8), 1..4));
    TestRunner::default()
        .run(&mutation, |(which, changes)| {
            let mut document = documents[which.index(documents.len())].clone();
            for (place, odd, how) in changes {
                let count = places(&document);
                mutate(&mut document, &mut place.index(count), &odd, how);
            }
            let parsed = parse(&document, &"Kubernetes".into());
            for finding in &parsed.diagnostics {
                prop_assert!(!finding.message.is_empty() && finding.to_string().len() < 20_000);
            }
            let refused = parsed.diagnostics.iter().any(|finding| finding.severity == Severity::Error);
            prop_assert!(parsed.objects.is_empty() || parsed.objects.len() == 1 && !refused);
            prop_assert!(refused || !parsed.objects.is_empty() || !parsed.diagnostics.is_empty() || document.is_null());
            parse_mesh_config(&document, &"Kubernetes".into());
            Ok(())
        })
        .unwrap();
}

// Bytes cut out, doubled or overwritten, as by a disk or an editor.
#[test]
fn no_text_is_a_panic() {
    let change = (any::<Index>(), any::<Index>(), any::<u8>(), 0..3u8);
    TestRunner::default()
        .run(&proptest::collection::vec(change, 1..8), |changes| {
            let mut bytes = VALID.as_bytes().to_vec();
            for (at, length, byte, how) in changes {
                let start = at.index(bytes.len());
                let end = start + length.index(bytes.len() - start).min(40);
                match how {
                    0 => drop(bytes.drain(start..end)),
                    1 => bytes.extend_from_within(start..end),
                    _ => bytes[start] = byte,
                }
                if bytes.is_empty() {
                    bytes.push(b'a');
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            for document in yaml::documents(&text) {
                if let Ok(value) = yaml::document(document) {
                    parse(&value, &"Kubernetes".into());
                }
            }
            Ok(())
        })
        .unwrap();
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(elements) => elements.iter().map(places).sum(),
        Value::Object(map) => map.values().map(places).sum(),
        _ => 0,
    }
}

// Replaces, removes or surrounds the value at a place, counted in depth-first order.
fn mutate(value: &mut Value, place: &mut usize, odd: &Value, how: u8) {
    if *place == 0 {
        match how {
            0 => *value = odd.clone(),
            1 => *value = json!([value.take()]),
            _ => *value = json!({"extra": value.take(), "odd": odd}),
        }
        *place = usize::MAX;
        return;
    }
    *place -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(elements) => elements.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        mutate(child, place, odd, how);
        if *place == usize::MAX {
            return;
        }
    }
}
