//! What we hold against an encoded message, a real Envoy does too: fields of the messages that we send are made wrong by
//! reflection, one at a time, and Envoy refuses what our check refuses. And what istiod sends, our check takes.
//!
//! `CONSTRAINT_CASES` says how many Envoy is asked about, `CONSTRAINT_SEED` which. What our check takes and Envoy refuses is
//! printed; it is no failure, since Envoy judges more than a message by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod expressions;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
    rc::Rc,
    sync::LazyLock,
};

use harness::random::{Random, fresh_seed};
use istiod_lite::{proto, xds::encode::constraints};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value, prost::Message};

use super::{golden, oracle};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).unwrap());

const ANY: &str = "google.protobuf.Any";
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
/// The lists of resources in a bootstrap, with the type of each.
const RESOURCES: [(&str, &str); 2] = [("clusters", "envoy.config.cluster.v3.Cluster"), ("listeners", "envoy.config.listener.v3.Listener")];

/// Messages that Envoy does not read when it is only asked whether it would start: of the resolver, and of the retries of a request.
const READ_LATER: [&str; 2] = [
    "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
];

/// What every bootstrap has.
static FIRST: LazyLock<DynamicMessage> = LazyLock::new(|| bootstrap(&golden::features()[0]));

/// The cluster in it where proxies get their certificates.
static SDS: LazyLock<DynamicMessage> = LazyLock::new(|| {
    let bootstrap = &*FIRST;
    let resources = bootstrap.get_field_by_name("static_resources").unwrap();
    let clusters = resources.as_message().unwrap().get_field_by_name("clusters").unwrap();
    let mut clusters = clusters.as_list().unwrap().iter().filter_map(Value::as_message);
    clusters.find(|cluster| cluster.get_field_by_name("name").unwrap().as_str() == Some("sds-grpc")).unwrap().clone()
});

/// The way from a message into one that it holds.
#[derive(Clone)]
enum Step {
    Field(FieldDescriptor),
    Item(FieldDescriptor, usize),
    Entry(FieldDescriptor, MapKey),
    /// Into the message in an `Any`.
    Inside,
}

/// A resource in which one field is wrong.
struct Case {
    resource: DynamicMessage,
    /// As it was.
    before: Rc<DynamicMessage>,
    list: &'static str,
    /// The message type and the field, and what it was set to.
    change: String,
    /// What our check says of it.
    ours: Vec<String>,
}

/// The oracle case in which istiod sends what Envoy refuses.
const REFUSED: &str = "telemetry-timeouts";

#[test]
fn what_istiod_sends_is_taken() {
    let (mut checked, mut refused) = (0, 0);
    for (case, proxy) in oracle::proxies() {
        let text = fs::read_to_string(oracle::cases().join(&case).join(format!("{proxy}.json"))).unwrap();
        let dump: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_str(&text).unwrap();
        for (kind, full_name) in [
            ("cds", "envoy.config.cluster.v3.Cluster"),
            ("eds", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
            ("lds", "envoy.config.listener.v3.Listener"),
            ("rds", "envoy.config.route.v3.RouteConfiguration"),
        ] {
            for (name, resource) in dump.get(kind).into_iter().flatten() {
                // A few have types that only Istio's proxy knows.
                let descriptor = POOL.get_message_by_name(full_name).unwrap();
                let Ok(message) = DynamicMessage::deserialize(descriptor, resource) else { continue };
                let found = constraints::violations_of(full_name, &message.encode_to_vec());
                assert!(found.is_empty() || case == REFUSED, "{case}/{proxy} {kind} {name}: {}", found[0]);
                checked += 1;
                refused += usize::from(!found.is_empty());
            }
        }
    }
    assert!(checked > 500, "only {checked} could be read");
    assert!(refused > 0, "nothing of {REFUSED} is refused");
}

#[test]
fn a_name_that_is_too_long_costs_its_cluster_alone() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/constraints/long-name.yaml");
    let translate = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
        command.args(["translate", "-f"]).arg(&file).args(["--proxy", "client.shop"]).args(arguments).output().unwrap()
    };
    let output = translate(&["--bootstrap", "-o", "json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let [rule, route] = lines[..] else { panic!("{said}") };
    assert!(rule.starts_with("error: DestinationRule/shop/long") && rule.contains("sni: has 258 bytes"), "{rule}");
    assert!(route.starts_with("warning: VirtualService/shop/long") && route.contains("spec.http[0]: Envoy refuses the cluster"), "{route}");

    let bootstrap = String::from_utf8(output.stdout).unwrap();
    assert!(bootstrap.contains("outbound|80|short|") && bootstrap.contains("outbound|80||"), "the others are there");
    let clusters = String::from_utf8(translate(&["--type", "cds"]).stdout).unwrap();
    assert!(!clusters.contains("name: outbound|80|this-is"), "{clusters}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.json");
    fs::write(&file, bootstrap).unwrap();
    let mut envoy = Command::new(harness::tools::envoy("1.40").unwrap());
    let output = envoy.args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn envoy_refuses_what_is_refused_here() {
    let seed = env::var("CONSTRAINT_SEED").ok().map_or_else(fresh_seed, |seed| seed.parse().unwrap());
    let most = env::var("CONSTRAINT_CASES").ok().map_or(100, |cases| cases.parse().unwrap());
    let envoy = harness::tools::envoy("1.40").unwrap();
    let mut cases = cases();
    let all = cases.len();
    let mut random = Random::seeded(seed);
    let (mut asked, mut wrong, mut more, mut taken) = (0, Vec::new(), Vec::new(), BTreeSet::new());
    while asked < most && !cases.is_empty() {
        let at = random.within(0..cases.len() as u64);
        let case = cases.swap_remove(usize::try_from(at).unwrap());
        asked += 1;
        if taken.insert(Rc::as_ptr(&case.before)) {
            refused(&envoy, case.list, &case.before).unwrap();
        }
        match (refused(&envoy, case.list, &case.resource), case.ours.first()) {
            (Err(why), None) => more.push(format!("{}: Envoy says {why}", case.change)),
            (Ok(()), Some(ours)) if !READ_LATER.iter().any(|message| case.change.starts_with(message)) => {
                wrong.push(format!("{}: {ours}", case.change));
            }
            _ => {}
        }
    }
    println!("constraints: {asked} of {all} cases of seed {seed}; {} are refused by Envoy alone", more.len());
    more.iter().for_each(|more| println!("  {more}"));
    assert!(wrong.is_empty(), "of seed {seed}, Envoy takes\n{}", wrong.join("\n"));
}

/// Makes every field of every type of message that the golden cases have wrong, once for each wrong value.
fn cases() -> Vec<Case> {
    let mut known = BTreeSet::new();
    let mut cases = Vec::new();
    for feature in golden::features() {
        let bootstrap = bootstrap(&feature);
        let resources = bootstrap.get_field_by_name("static_resources").unwrap();
        for (list, full_name) in RESOURCES {
            let resources = resources.as_message().unwrap().get_field_by_name(list).unwrap();
            // What the bootstrap has for itself is not sent.
            let sent = resources.as_list().unwrap().iter().filter_map(Value::as_message).filter(|resource| **resource != *SDS);
            for resource in sent {
                let before = Rc::new(resource.clone());
                each_message(resource, &mut Vec::new(), &mut |message, path| {
                    for field in message.descriptor().fields() {
                        if !known.insert(field.full_name().to_owned()) {
                            continue;
                        }
                        for (what, value) in wrong_values(message, &field) {
                            let mut changed = resource.clone();
                            change(&mut changed, path, &|message| match &value {
                                Some(value) => message.set_field(&field, value.clone()),
                                None => message.clear_field(&field),
                            });
                            let found = constraints::violations_of(full_name, &changed.encode_to_vec());
                            let ours = found.iter().map(ToString::to_string).collect();
                            let change = format!("{} {what}", field.full_name());
                            cases.push(Case { resource: changed, before: Rc::clone(&before), list, change, ours });
                        }
                    }
                });
            }
        }
    }
    cases
}

fn bootstrap(feature: &Path) -> DynamicMessage {
    let translated = golden::translate(feature, &["--bootstrap", "-o", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&translated).unwrap();
    DynamicMessage::deserialize(POOL.get_message_by_name(BOOTSTRAP).unwrap(), json).unwrap()
}

/// Returns values that a field may not like; `None`: it is not there. Fields that are not there and would take the place of others
/// are left alone.
fn wrong_values(message: &DynamicMessage, field: &FieldDescriptor) -> Vec<(String, Option<Value>)> {
    if field.is_map() || (!message.has_field(field) && field.containing_oneof().is_some()) {
        return Vec::new();
    }
    let listed = |(what, value): (String, Value)| (what, Some(if field.is_list() { Value::List(vec![value]) } else { value }));
    let mut values: Vec<_> = single_values(field).into_iter().map(listed).collect();
    if message.has_field(field) {
        values.push(("absent".to_owned(), None));
    }
    values
}

fn single_values(field: &FieldDescriptor) -> Vec<(String, Value)> {
    let named = |value: Value| (format!("{value:?}"), value);
    let message = |full_name: &str, fields: &[(&str, Value)]| {
        let mut message = DynamicMessage::new(POOL.get_message_by_name(full_name).unwrap());
        fields.iter().for_each(|(name, value)| message.set_field_by_name(name, value.clone()));
        Value::Message(message)
    };
    let duration = |seconds, nanos| {
        let fields = [("seconds", Value::I64(seconds)), ("nanos", Value::I32(nanos))];
        (format!("{seconds}s {nanos}ns"), message("google.protobuf.Duration", &fields))
    };
    match field.kind() {
        Kind::String => {
            let texts = ["", "a\nb", "a\0b"].map(str::to_owned).into_iter();
            let long = ("20,000 letters".to_owned(), Value::String("a".repeat(20_000)));
            texts.map(Value::String).map(named).chain([long]).collect()
        }
        Kind::Uint32 => [0, u32::MAX].map(Value::U32).map(named).into(),
        Kind::Uint64 => [0, u64::MAX].map(Value::U64).map(named).into(),
        Kind::Double => [-1.0, 1e9].map(Value::F64).map(named).into(),
        Kind::Float => [-1.0, 1e9].map(Value::F32).map(named).into(),
        Kind::Bool => [false, true].map(Value::Bool).map(named).into(),
        Kind::Enum(_) => vec![named(Value::EnumNumber(99))],
        Kind::Message(inner) => match inner.full_name() {
            "google.protobuf.Duration" => {
                [(0, 0), (-1, 0), (0, 1), (9_223_372_036, 0), (400_000_000_000, 0)].map(|(s, n)| duration(s, n)).into()
            }
            wrapper @ ("google.protobuf.UInt32Value" | "google.protobuf.UInt64Value" | "google.protobuf.DoubleValue") => {
                let inner = inner.get_field(1).unwrap();
                let wrapped = |(what, value): (String, Value)| (what, message(wrapper, &[("value", value)]));
                single_values(&inner).into_iter().map(wrapped).collect()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn each_message(message: &DynamicMessage, path: &mut Vec<Step>, visit: &mut impl FnMut(&DynamicMessage, &[Step])) {
    if message.descriptor().full_name() == ANY {
        let Some(inside) = opened(message) else { return };
        path.push(Step::Inside);
        each_message(&inside, path, visit);
        path.pop();
        return;
    }
    visit(message, path);
    for (field, value) in message.fields() {
        let mut enter = |step: Step, value: &Value| {
            if let Some(inner) = value.as_message() {
                path.push(step);
                each_message(inner, path, visit);
                path.pop();
            }
        };
        match value {
            Value::List(items) => items.iter().enumerate().for_each(|(at, item)| enter(Step::Item(field.clone(), at), item)),
            Value::Map(entries) => entries.iter().for_each(|(key, item)| enter(Step::Entry(field.clone(), key.clone()), item)),
            value => enter(Step::Field(field.clone()), value),
        }
    }
}

fn change(message: &mut DynamicMessage, path: &[Step], to: &dyn Fn(&mut DynamicMessage)) {
    let Some((step, rest)) = path.split_first() else { return to(message) };
    let value = match step {
        Step::Inside => {
            let mut inside = opened(message).unwrap();
            change(&mut inside, rest, to);
            return message.set_field_by_name("value", Value::Bytes(inside.encode_to_vec().into()));
        }
        Step::Field(field) => message.get_field_mut(field),
        Step::Item(field, at) => &mut message.get_field_mut(field).as_list_mut().unwrap()[*at],
        Step::Entry(field, key) => message.get_field_mut(field).as_map_mut().unwrap().get_mut(key).unwrap(),
    };
    change(value.as_message_mut().unwrap(), rest, to);
}

/// Returns the message in an `Any`, if its type is known.
fn opened(any: &DynamicMessage) -> Option<DynamicMessage> {
    let url = any.get_field_by_name("type_url")?;
    let descriptor = POOL.get_message_by_name(url.as_str()?.rsplit('/').next()?)?;
    DynamicMessage::decode(descriptor, any.get_field_by_name("value")?.as_bytes()?.clone()).ok()
}

/// Asks Envoy about a resource.
fn refused(envoy: &Path, list: &str, resource: &DynamicMessage) -> Result<(), String> {
    let mut bootstrap = DynamicMessage::new(POOL.get_message_by_name(BOOTSTRAP).unwrap());
    let mut resources = DynamicMessage::new(POOL.get_message_by_name("envoy.config.bootstrap.v3.Bootstrap.StaticResources").unwrap());
    resources.set_field_by_name("clusters", Value::List(vec![Value::Message(SDS.clone())]));
    resources.get_field_by_name_mut(list).unwrap().as_list_mut().unwrap().push(Value::Message(resource.clone()));
    bootstrap.set_field_by_name("static_resources", Value::Message(resources));
    bootstrap.set_field_by_name("layered_runtime", FIRST.get_field_by_name("layered_runtime").unwrap().into_owned());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.pb");
    fs::write(&file, bootstrap.encode_to_vec()).unwrap();
    let mut command = Command::new(envoy);
    command.args(["--mode", "validate", "-l", "error", "--service-node", "judge", "--service-cluster", "judge", "-c"]);
    let output = command.arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(said.lines().rfind(|line| line.contains("rror")).unwrap_or(&said).chars().take(300).collect()),
    }
}
