//! Values that the checks once took and a real Envoy refused, each in the field where it was found: the checks refuse them now, or leave
//! the one part out, and Envoy takes what is left.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::case::Case;
use crate::{
    fields::{place, stage::Stage},
    judge::Judge,
};

/// A value, and the field of the walked object that it is put into; for the entry of a map also its key.
struct Known {
    kind: &'static str,
    path: &'static str,
    key: String,
    value: Value,
}

#[test]
fn envoy_takes_what_is_left_of_values_that_it_refused_once() {
    let all = known();
    let stages: BTreeMap<&str, Stage> = all.iter().map(|known| (known.kind, Stage::of(known.kind))).collect();
    let (mut made, mut refused) = (Vec::new(), 0);
    for (number, known) in (0..).zip(&all) {
        let case = known.case(number, &stages[known.kind]);
        let told = case.told();
        // Otherwise it is the test that is wrong about a field.
        assert!(!told.iter().any(|told| told.contains("unknown field")), "{told:?}\n{case}");
        refused += usize::from(!told.is_empty());
        made.extend(case.made());
    }
    println!("{} values: the checks refuse {refused}, and take {} wholly or in part", all.len(), made.len());
    let mut judge = Judge::new(harness::tools::envoy("1.40").unwrap());
    let mut found = String::new();
    for made in judge.refused(&made, made.len()) {
        let (smallest, reason) = judge.smallest(&made);
        found += &format!("# {reason}\n{}\n", smallest.case);
    }
    assert!(found.is_empty(), "Envoy refuses\n{found}");
    assert!(refused * 3 > all.len() * 2, "{refused} of {}", all.len());
}

impl Known {
    fn case<'s>(&self, number: u64, stage: &'s Stage) -> Case<'s> {
        let mut object = stage.object.clone();
        stage.prepare(&mut object, self.path);
        place::put(&mut object, self.path, &self.key, self.value.clone());
        Case { number, fields: [format!("{} {}", self.kind, self.path)].into(), object, stage }
    }
}

fn known() -> Vec<Known> {
    let mut all = Vec::new();
    let mut add = |kind, path, values: Vec<Value>| {
        all.extend(values.into_iter().map(|value| Known { kind, path, key: "x-a".into(), value }));
    };
    let long = |length: usize| json!("x".repeat(length));
    let classes = "[a-z]{1000}".repeat(90);
    let regexes = ["a++", "**", "x*{2}", r"\x{10FFFF}", r"\p{Klingon}", r"[\Q]\E]", r"\E.", &classes, "a{1000}"].map(Value::from).to_vec();
    add("VirtualService", "spec.http[].match[].uri.regex", regexes.clone());
    add("VirtualService", "spec.http[].match[].headers.*.regex", regexes);
    let formats = ["%X%", "%UNKNOWN(x)%", "%REQ()%", "%REQ(a?b?c)%", "%2F%", "%"].map(Value::from);
    let formats = [formats.to_vec(), vec![long(16_385)]].concat();
    add("VirtualService", "spec.http[].headers.request.set.*", formats.clone());
    add("VirtualService", "spec.http[].headers.response.add.*", formats);
    add("VirtualService", "spec.http[].rewrite.uri", vec![json!("/\r\na"), json!("/\0")]);
    add("VirtualService", "spec.http[].rewrite.uriRegexRewrite", ["\n", "\0"].map(|to| json!({"match": "/a", "rewrite": to})).to_vec());
    add("VirtualService", "spec.http[].directResponse.status", [600, 199, 999].map(Value::from).to_vec());
    let durations = ["9223372036s", "2562048h"].map(Value::from).to_vec();
    for path in ["spec.http[].timeout", "spec.http[].fault.delay.fixedDelay", "spec.http[].corsPolicy.maxAge"] {
        add("VirtualService", path, durations.clone());
    }
    for path in [
        "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
        "spec.trafficPolicy.connectionPool.http.idleTimeout",
        "spec.trafficPolicy.outlierDetection.interval",
        "spec.trafficPolicy.outlierDetection.baseEjectionTime",
    ] {
        add("DestinationRule", path, durations.clone());
    }
    let names = ["", "a\r\nb", "a\0"].map(Value::from).to_vec();
    for name in ["httpHeaderName", "httpQueryParameterName"] {
        add("DestinationRule", "spec.trafficPolicy.loadBalancer.consistentHash", names.iter().map(|of| json!({ name: of })).collect());
    }
    let tls = |more: Value| {
        let mut tls = json!({"mode": "SIMPLE"});
        tls.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        tls
    };
    let server_names = [long(256), long(300), json!("a\0b")].map(|sni| tls(json!({ "sni": sni })));
    let mutual = json!({"mode": "ISTIO_MUTUAL", "subjectAltNames": [""]});
    add("DestinationRule", "spec.trafficPolicy.tls", [server_names.to_vec(), vec![mutual]].concat());
    let sockets = [format!("unix:///{}", "a".repeat(120)), "unix:///a\0b".to_owned()];
    add("ServiceEntry", "spec.endpoints[].address", sockets.iter().cloned().map(Value::from).collect());
    let ingress = |path: &String| json!({"port": {"number": 9080, "name": "http", "protocol": "HTTP"}, "defaultEndpoint": path});
    add("Sidecar", "spec.ingress[]", sockets.iter().map(ingress).collect());
    let passed =
        |host: &str| json!({"port": {"number": 443, "name": "tls", "protocol": "TLS"}, "hosts": [host], "tls": {"mode": "PASSTHROUGH"}});
    add("Gateway", "spec.servers", vec![json!([passed("shop.example.com"), passed("Shop.Example.COM")])]);
    let own = |port: u16| json!([{"name": "http", "port": port}]);
    add("Service", "spec.ports", [15001, 15006, 15021, 15090].map(own).to_vec());
    let of_entry = |number: u16| json!([{"number": number, "name": "http", "protocol": "HTTP"}]);
    add("ServiceEntry", "spec.ports", [15001, 15006].map(of_entry).to_vec());
    all.push(Known { kind: "VirtualService", path: "spec.http[].headers.request.set.*", key: "a".repeat(16_385), value: json!("a") });
    all.push(Known { kind: "VirtualService", path: "spec.http[].match[].queryParams.*.exact", key: "a".repeat(1_025), value: json!("a") });
    all
}
