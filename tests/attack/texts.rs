//! Text of others: hostile in every place where a peer or the author of an object or file can write some, and read again wherever text
//! comes out. Nothing there moves a cursor, forges a line, breaks a format, or is long.

mod identities;

use std::{fs, os::unix::ffi::OsStrExt, path::Path, process::Command, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{Locality, Node},
        service::discovery::v3::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
    },
    google::{
        protobuf::{Struct, Value as ProtobufValue, value::Kind},
        rpc,
    },
};
use harness::http_client::get_text;
use istiod_lite::xds::resource_type::ResourceType::Cluster;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use self::identities::write_identities;
use super::stage::{Stage, services};

/// What ends lines, moves cursors, turns and hides writing, and breaks JSON, HTML and labels of metrics.
const HOSTILE: &str = "a\n2026-01-01T00:00:00Z ERROR istiod_lite: FORGED\r\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{0}\u{7f}\u{85}\u{202e}\u{2066}\u{200b}\u{2028}\
                       \u{feff}\"} 1\nforged{a=\"b\"} 1\n</td><script>\\\\u0000\\";

/// The longest that a text of somebody else is shown.
const LONGEST: usize = 1100;

fn beginning(length: usize) -> String {
    HOSTILE.chars().take(length).collect()
}

fn long() -> String {
    format!("{HOSTILE}{}", "L".repeat(50_000))
}

#[tokio::test]
async fn hostile_text_does_nothing_wherever_it_comes_out() {
    for arguments in
        [&["--log_output_level", "debug,h2=off,hyper=off"][..], &["--log_as_json", "--log_output_level", "debug,h2=off,hyper=off"]]
    {
        let stage = Stage::of_mesh(&services(3), arguments).await;
        let config = stage.config();
        write_files(&config);
        write_nodes(&stage).await;
        write_requests(&stage).await;
        write_identities(&stage).await;
        let answers = write_reviews(&stage).await;
        sleep(Duration::from_secs(2)).await;
        answers.iter().for_each(|answer| json_is_harmless("an answer of a webhook", answer));
        pages_are_harmless(&stage).await;
        metrics_are_harmless(&get_text(stage.monitoring(), "/metrics").await.unwrap());
        log_is_harmless(&stage.log(), arguments[0] == "--log_as_json");
        terminal_is_harmless(&config);
    }
}

/// Writes files and objects as their authors may.
fn write_files(config: &Path) {
    let name = |name: &[u8]| config.join(std::ffi::OsStr::from_bytes(name));
    let wrong = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: 5}\n";
    for file in [&b"x\n2026-01-01 ERROR FORGED\x1b[2J.yaml"[..], "\u{202e}\u{9b}\".yaml".as_bytes(), b"\xff\xfe.yaml", b"<b>{a=\"b\"}.yaml"]
    {
        fs::write(name(file), wrong).unwrap();
    }
    let text = long();
    let object = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": "shop", "labels": {"a": HOSTILE}, "annotations": {HOSTILE: text}});
        json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let route =
        json!({"route": [{"destination": {"host": HOSTILE, "subset": HOSTILE}}], "match": [{"uri": {"regex": format!("({HOSTILE}")}}]});
    let objects = [
        object("VirtualService", HOSTILE, json!({"hosts": ["svc-1"], "http": [{"route": [{"destination": {"host": "svc-1"}}]}]})),
        object("VirtualService", "fields", json!({"hosts": [HOSTILE, text], "http": [route], HOSTILE: 1, "gateways": [HOSTILE]})),
        object(
            "VirtualService",
            "doubtful",
            json!({"hosts": ["svc-2"], "gateways": ["gone"], "http": [{"route": [{"destination": {"host": "gone"}}]}]}),
        ),
        object(
            "ServiceEntry",
            "entry",
            json!({"hosts": [text], "ports": [{"number": 80, "name": HOSTILE, "protocol": HOSTILE}], "resolution": HOSTILE}),
        ),
        object("DestinationRule", "rule", json!({"host": HOSTILE, "subsets": [{"name": text, "labels": {HOSTILE: HOSTILE}}]})),
        object(
            "Gateway",
            "edge",
            json!({"selector": {HOSTILE: text}, "servers": [{"port": {"number": 80, "name": HOSTILE, "protocol": HOSTILE}, "hosts": [HOSTILE]}]}),
        ),
        json!({"apiVersion": HOSTILE, "kind": text, "metadata": {"name": HOSTILE}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": HOSTILE, "namespace": HOSTILE}, "spec": {"ports": [{"port": 80, "name": text}]}}),
    ];
    for (number, object) in objects.iter().enumerate() {
        fs::write(config.join(format!("hostile-{number}.json")), object.to_string()).unwrap();
    }
}

/// Connects as proxies that say hostile things of themselves, ask for hostile names and refuse in hostile words.
async fn write_nodes(stage: &Stage) {
    let (text, field) = (long(), |text: &str| ProtobufValue { kind: Some(Kind::StringValue(text.into())) });
    // Protobuf's texts have no invalid UTF-8: such a request is refused before anything is read of it.
    let hostile_id = format!("sidecar~10.9.9.8~{HOSTILE}.shop~shop.svc.cluster.local");
    for id in ["sidecar~10.9.9.9~mallory-1.shop~shop.svc.cluster.local", &hostile_id, HOSTILE, &text] {
        let metadata = ["NAMESPACE", "CLUSTER_ID", "ISTIO_VERSION", "SERVICE_ACCOUNT", "INSTANCE_IPS", "NODE_NAME", "MESH_ID"]
            .map(|name| (name.to_owned(), field(if name == "NAMESPACE" && id != HOSTILE { "shop" } else { HOSTILE })));
        let metadata = Struct { fields: metadata.into_iter().chain([(HOSTILE.to_owned(), field(&text[..3000]))]).collect() };
        let locality = Locality { region: HOSTILE.into(), zone: HOSTILE.into(), sub_zone: HOSTILE.into() };
        let node = Node {
            id: id.into(),
            cluster: HOSTILE.into(),
            user_agent_name: HOSTILE.into(),
            metadata: Some(metadata),
            locality: Some(locality),
            ..Node::default()
        };
        let channel = Channel::from_shared(format!("http://{}", stage.plain_grpc())).unwrap().connect().await.unwrap();
        let (requests, stream) = mpsc::channel(4);
        let names = vec![HOSTILE.to_owned(), "*".to_owned()];
        let first = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: Cluster.type_url().into(),
            resource_names_subscribe: names,
            ..Default::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let Ok(answers) = client.delta_aggregated_resources(ReceiverStream::new(stream)).await else { continue };
        let mut answers = answers.into_inner();
        let Ok(Ok(Some(response))) = timeout(Duration::from_secs(5), answers.message()).await else { continue };
        let error_detail = Some(rpc::Status { code: 13, message: format!("{HOSTILE}{text}"), ..Default::default() });
        let refusal =
            DeltaDiscoveryRequest { type_url: response.type_url, response_nonce: response.nonce, error_detail, ..Default::default() };
        requests.send(refusal).await.unwrap();
        // It stays connected for the pages.
        tokio::spawn(async move {
            let _requests = requests;
            while let Ok(Some(_)) = answers.message().await {}
        });
        sleep(Duration::from_millis(100)).await;
    }
}

/// Sends HTTP with hostile paths and headers, as they are and percent-encoded, and bytes that are none.
async fn write_requests(stage: &Stage) {
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for address in [stage.http(), stage.monitoring(), stage.plain_grpc(), stage.secure_grpc(), stage.webhooks()] {
        let path = format!("GET /debug/{encoded}?proxyID={encoded}&{encoded} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {encoded}\r\n\r\n");
        let raw = [b"GET /".as_slice(), HOSTILE.as_bytes(), b"\xff\xfe HTTP/1.1\r\nHost: \x1b[2J\r\nX: \x9b\r\n\r\n"].concat();
        for request in [path.as_bytes(), &raw, HOSTILE.as_bytes()] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(request).await;
            let mut answer = vec![0; 4096];
            let read = timeout(Duration::from_millis(300), stream.read(&mut answer)).await;
            let length = read.ok().and_then(Result::ok).unwrap_or_default();
            if answer.starts_with(b"HTTP/") {
                is_harmless("an answer of HTTP", &String::from_utf8_lossy(&answer[..length]).replace("\r\n", "\n"));
            }
        }
    }
}

/// Asks the webhooks in hostile words; returns their answers.
async fn write_reviews(stage: &Stage) -> Vec<String> {
    let review = |object: Value, kind: &str| {
        let resource = json!({"group": beginning(40), "version": beginning(40), "resource": kind});
        let request = json!({"uid": "u", "namespace": HOSTILE, "name": HOSTILE, "operation": "CREATE", "resource": resource, "object": object,
                             "userInfo": {"username": HOSTILE}});
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
    };
    let metadata = json!({"name": HOSTILE, "namespace": HOSTILE, "labels": {HOSTILE: HOSTILE}, "annotations": {"sidecar.istio.io/proxyCPU": long(), "proxy.istio.io/config": HOSTILE}});
    let object =
        |api_version: &str, kind: &str, spec: Value| json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec});
    let networking = "networking.istio.io/v1";
    let mut answers = Vec::new();
    for (path, object) in [
        ("/validate", object(networking, "VirtualService", json!({"hosts": [HOSTILE], HOSTILE: 1, "http": [{HOSTILE: 1}]}))),
        ("/validate", object(networking, "EnvoyFilter", json!({}))),
        ("/validate", object("security.istio.io/v1", "AuthorizationPolicy", json!({"rules": [], "action": HOSTILE}))),
        ("/validate", object(&beginning(80), HOSTILE, json!({}))),
        ("/inject", object("v1", "Pod", json!({"containers": [{"name": HOSTILE, "image": long()}]}))),
    ] {
        let (_, answer) = stage.good().post(path, review(object, "x")).await.unwrap();
        answers.push(answer);
    }
    for body in [HOSTILE.to_owned(), json!({"apiVersion": HOSTILE, "request": {"uid": "u"}}).to_string()] {
        let (_, answer) = stage.good().post("/validate", body).await.unwrap();
        is_harmless("a refusal of a webhook", &answer);
    }
    answers
}

async fn pages_are_harmless(stage: &Stage) {
    let list: Vec<String> = serde_json::from_str(&get_text(stage.http(), "/debug/list").await.unwrap()).unwrap();
    assert!(list.len() > 10, "{list:?}");
    for page in list {
        for query in ["", "?pretty", "?proxyID=mallory-1"] {
            let text = get_text(stage.http(), &format!("/debug/{page}{query}")).await.unwrap_or_default();
            is_harmless(&page, &text);
            // A page of one proxy says in a line that it wants one.
            if text.starts_with(['{', '[']) {
                serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{page}{query}: {error}: {text:.300}"));
            }
        }
    }
}

/// Checks each line by the grammar of Prometheus' text format, and that no text of a peer became a label.
fn metrics_are_harmless(metrics: &str) {
    is_harmless("/metrics", metrics);
    assert!(!metrics.contains("FORGED"), "somebody's text is a label");
    for line in metrics.lines().filter(|line| !line.starts_with("# HELP ") && !line.starts_with("# TYPE ") && *line != "# EOF") {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        assert!(value.parse::<f64>().is_ok(), "{line:?}");
        let name_end = series.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(series.len());
        let (name, labels) = series.split_at(name_end);
        assert!(!name.is_empty() && (labels.is_empty() || labels_are_right(labels)), "{line:?}");
    }
}

fn labels_are_right(labels: &str) -> bool {
    let Some(mut rest) = labels.strip_prefix('{') else { return false };
    while let Some((name, value)) = rest.split_once("=\"") {
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end.filter(|_| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) else { return false };
        rest = value[end + 1..].trim_start_matches(',');
    }
    rest == "}"
}

fn log_is_harmless(log: &str, is_json: bool) {
    is_harmless("the log", log);
    assert!(log.contains("FORGED"), "nothing hostile was logged at all: {log:.2000}");
    for line in log.lines() {
        let begins = line.split_once('T').is_some_and(|(date, _)| date.len() == 10 && date.starts_with("20"));
        match is_json {
            true => assert!(serde_json::from_str::<Value>(line).is_ok_and(|entry| entry["level"].is_string()), "{line:?}"),
            false => assert!(begins && !line.starts_with("2026-01-01T00:00:00Z ERROR istiod_lite: FORGED"), "{line:?}"),
        }
    }
}

fn terminal_is_harmless(config: &Path) {
    for arguments in [&["translate", "--proxy", "svc-0-0.shop", "-o", "json", "-f"][..], &["translate", "--proxy", HOSTILE_PROXY, "-f"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_istiod-lite")).args(arguments).arg(config).output().unwrap();
        // What a proxy is sent is as long as it is.
        holds_no_hostile_character("stdout of translate", &String::from_utf8_lossy(&output.stdout));
        is_harmless("stderr of translate", &String::from_utf8(output.stderr).unwrap());
    }
}

/// Arguments hold no NUL.
const HOSTILE_PROXY: &str = "a\n\u{1b}[2J\u{9b}\u{202e}.shop";

fn json_is_harmless(what: &str, text: &str) {
    let answer: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{what}: {error}: {text:.300}"));
    let said = [&answer["response"]["status"]["message"], &answer["response"]["warnings"]];
    for text in said.into_iter().flat_map(|said| said.as_array().map_or(vec![said], |all| all.iter().collect())).filter_map(Value::as_str) {
        is_harmless(what, text);
    }
}

fn is_harmless(what: &str, text: &str) {
    holds_no_hostile_character(what, text);
    let longest = text.split(|c| c != 'L').map(str::len).max().unwrap_or_default();
    assert!(longest <= LONGEST, "{what} has {longest} bytes of a long text");
}

fn holds_no_hostile_character(what: &str, text: &str) {
    let hides =
        |c: &char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}');
    if let Some((at, found)) = text.char_indices().find(|(_, c)| (c.is_control() && *c != '\n') || hides(c)) {
        let from = text[..at].char_indices().rev().nth(200).map_or(0, |(from, _)| from);
        panic!("{what} holds {found:?}: {:?}", &text[from..at]);
    }
}
