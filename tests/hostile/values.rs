//! Values that nobody should write: at the edges of what is possible, beyond them, and of forms that mean something elsewhere.

use harness::random::Random;
use serde_json::{Value, json};

use crate::fields::schema::Field;

const NUMBERS: [i64; 42] = [
    0,
    1,
    -1,
    2,
    3,
    7,
    16,
    99,
    100,
    101,
    199,
    200,
    204,
    299,
    300,
    304,
    308,
    399,
    599,
    600,
    999,
    1000,
    1023,
    1024,
    4099,
    9080,
    9443,
    15000,
    15001,
    15006,
    15021,
    15090,
    65535,
    65536,
    8_388_608,
    8_388_609,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    u32::MAX as i64 + 1,
    i64::MAX,
    i64::MIN,
];
const DECIMALS: [f64; 16] =
    [0.0, -0.0, 1.0, 0.5, 0.0001, 0.00001, 1e-320, 33.333_333, 99.9999, 99.99999, 100.0, 100.0001, -1.0, 1e15, 1e300, f64::MAX];
const NUMBERS_AS_TEXT: [&str; 12] =
    ["", "0", "-1", "+1", "1e3", "NaN", "Infinity", "-Infinity", "0x10", "18446744073709551615", "18446744073709551616", " 1"];
const LENGTHS: [usize; 16] = [1, 62, 63, 64, 107, 108, 253, 254, 255, 256, 1023, 1024, 1025, 16384, 16385, 70_000];
const DURATIONS: [&str; 30] = [
    "0s",
    "0",
    "1ns",
    "999us",
    "999999ns",
    "1us",
    "1ms",
    "1.5ms",
    "1s",
    "0.000000001s",
    "1.0000000001s",
    "24h",
    "8760h",
    "4294967295s",
    "4294967296s",
    "4294967295ms",
    "2147483648ms",
    "4194303s",
    "315576000000s",
    "9223372035s",
    "9223372036s",
    "9223372036.854775807s",
    "9223372036854ms",
    "2562047h",
    "2562048h",
    "18446744073709551615ns",
    "-1s",
    "1",
    "1d",
    "1h1h",
];
const PORTS: [&str; 8] = ["0", "1", "80", "15001", "15006", "65535", "65536", "http"];
const HOSTS: [&str; 34] = [
    "*",
    "*.",
    "*.*",
    "**",
    ".",
    "..",
    "a..b",
    "a.",
    "A.Example.COM",
    "a.example.com.",
    "a.example.com:80",
    "*.example.com",
    "*.EXAMPLE.com",
    "*example.com",
    "*-a.example.com",
    "a.*.example.com",
    "*.com",
    "xn--nxasmq6b.example",
    "bücher.example",
    "a_b.example.com",
    "-a.example.com",
    "10.1.0.3",
    "10.1.0.300",
    "0x7f.1",
    "[::1]",
    "::1",
    "localhost",
    "reviews",
    "reviews.shop.svc.cluster.local",
    "REVIEWS.shop.svc.cluster.local",
    "ratings.shop.svc.cluster.local.",
    "shop/reviews.shop.svc.cluster.local",
    "*/*",
    "~/*",
];
const ADDRESSES: [&str; 34] = [
    "0.0.0.0",
    "0.0.0.0/0",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "10.1.2.3/8",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/",
    "10.1.0.1",
    "010.1.0.1",
    "10.1.0.1%eth0",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.0.0.1:0",
    "0.0.0.0:65535",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::/0",
    "::1",
    "[::1]:80",
    "[::]:8080",
    "fe80::1",
    "fe80::1%lo",
    "::ffff:10.1.0.1",
    "::ffff:0:0/96",
    "::ffff:10.1.0.1/128",
    "2001:db8::/32",
    "2001:DB8::1",
    "2001:db8::/129",
    "1.2.3.4/24/24",
    "240.0.0.1",
    "240.0.0.0/4",
    "None",
];
const PATHS: [&str; 24] = [
    "/",
    "//",
    "/a/../b",
    "/a b",
    "/a?b=c",
    "/a#b",
    "/%",
    "/%2F",
    "/%00",
    "/{a}",
    "/{a=*}",
    "/{*}",
    "/*",
    "/**",
    "/a/*/b",
    "/ä",
    "a",
    "unix:///tmp/a",
    "unix://@a",
    "unix:///",
    "unix://",
    "unix://a/b",
    "/etc/cert.pem",
    "/dev/null",
];
const FORMATS: [&str; 44] = [
    "%",
    "%%",
    "%%%",
    "100%",
    "%X%",
    "%UNKNOWN(x)%",
    "%REQ()%",
    "%REQ(a)%",
    "%REQ(a?b)%",
    "%REQ(a?b?c)%",
    "%REQ(:path)%",
    "%REQ(a):5%",
    "%REQ(a):-1%",
    "%REQ(a):%",
    "%REQ(a b)%",
    "%REQ(ä)%",
    "%RESP(a):99999999999999999999%",
    "%2F%",
    "%START_TIME%",
    "%START_TIME(%s)%",
    "%START_TIME(%3f)%",
    "%START_TIME(%Y%%)%",
    "%START_TIME():3%",
    "%DYNAMIC_METADATA(a:b:c)%",
    "%DYNAMIC_METADATA()%",
    "%DYNAMIC_METADATA([\"a\"])%",
    "%FILTER_STATE(a:PLAIN)%",
    "%FILTER_STATE(a:b:c:d)%",
    "%UPSTREAM_METADATA([\"a\",\"b\"])%",
    "%UPSTREAM_METADATA(a)%",
    "%ENVIRONMENT(HOME)%",
    "%ENVIRONMENT()%",
    "%HOSTNAME%",
    "%HOSTNAME(a)%",
    "%DOWNSTREAM_PEER_CERT_V_START(%Y)%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(99999)%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(MASK_PREFIX_LEN=16)%",
    "%COMMON_DURATION(A:B:ms)%",
    "%CEL(a)%",
    "%TRACE_ID%",
    "%SERVICE%_%SERVICE_PORT%",
    "%PREFIX()%/x",
];
const REGEXES: [&str; 62] = [
    "",
    "*",
    ".*",
    "**",
    "a++",
    "a**",
    "x*{2}",
    "a{1000}",
    "a{1001}",
    "a{0}",
    "a{2,1}",
    "a{,5}",
    "a{",
    "a{1",
    "{",
    "}",
    "]",
    "[",
    "[]",
    "[^]",
    "[]a]",
    "[z-a]",
    "[a-\\d]",
    "[\\d-z]",
    "[[:alpha:]]",
    "[[:nope:]]",
    "[[:^alpha:]]",
    "[:alpha:]",
    "(",
    ")",
    "()",
    "(?:)",
    "(?i)a",
    "(?i-s:a)",
    "(?-)",
    "(?i--s)a",
    "(?x)a",
    "(?P<n>a)",
    "(?<n>a)",
    "(?P<n>a)(?P<n>b)",
    "(?P=n)",
    "(?P<1>a)",
    "(?#a)",
    "(?=a)",
    "(?>a)",
    "\\",
    "\\1",
    "\\0",
    "\\01",
    "\\x{10FFFF}",
    "\\x{110000}",
    "\\x",
    "\\xg",
    "\\p{Klingon}",
    "\\p{^Greek}",
    "\\pN",
    "\\Q]\\E",
    "[\\Q]\\E]",
    "\\Qa",
    "\\E",
    "\\C+",
    "\\b{2}\\B$^\\A\\z",
];
const BUILT: [&str; 16] = [
    "[a-z]{1000}",
    "(a|b)*",
    "\\pL{9}",
    "(x+x+)+y",
    "(?i)[^a]",
    "\\w",
    "\\x{263a}",
    "[^\\x00-\\x{10FFFF}]",
    "a?",
    "^",
    "$",
    "|",
    "(?:",
    ")",
    "ß",
    "{3}",
];
const LETTERS: [char; 18] = [
    '\0', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}', '\u{a0}', 'ä', '\u{200b}', '\u{202e}', '\u{fffd}', '😀', ' ', '"', '\'', ';', ',',
];
const NAMES: [&str; 26] = [
    "",
    " ",
    "a b",
    ":path",
    ":authority",
    ":nope",
    "host",
    "Host",
    "content-length",
    "x-envoy-original-path",
    "X-A",
    "x_a",
    "x:a",
    "@request.auth.claims.sub",
    "@request.auth.claims[a][b]",
    "null",
    "v1",
    "mesh",
    ".",
    "~",
    "a/b",
    "a|b",
    "outbound|80||a",
    "{}",
    "http",
    "istio-system",
];

/// Returns a value for a field: of its type most times. `usual` are values that it is meant to have.
pub(super) fn value(field: &Field, usual: &[Value], random: &mut Random) -> Value {
    if random.within(0..24) == 0 {
        return [json!(null), json!([]), json!({}), json!(true), json!("")][index(5, random)].clone();
    }
    match field.of_type.as_str() {
        "boolean" => json!(random.within(0..2) == 0),
        "integer" => integer(random),
        "number" if random.within(0..4) > 0 => json!(pick(&DECIMALS, random)),
        "number" => integer(random),
        "enum" if random.within(0..8) > 0 => json!(field.values[index(field.values.len(), random)]),
        "any" if random.within(0..2) == 0 => integer(random),
        _ => {
            let usual: Vec<&str> = usual.iter().filter_map(Value::as_str).collect();
            json!(text(&field.path, &usual, random))
        }
    }
}

/// Returns a text, in half of the cases of a sort that means something where it stands.
pub(super) fn text(path: &str, usual: &[&str], random: &mut Random) -> String {
    if random.within(0..2) == 0
        && let Some(sort) = meant(path)
    {
        return sort(random);
    }
    match random.within(0..12) {
        0 => "x".repeat(pick(&LENGTHS, random)),
        1 => pick(&NUMBERS_AS_TEXT, random).to_owned(),
        2 => duration(random),
        3 => host(random),
        4 => address(random),
        5 => path_text(random),
        6 => format(random),
        7 => regex(random),
        8 => pick(&NAMES, random).to_owned(),
        9 => pick(&PORTS, random).to_owned(),
        10 => String::from_utf8_lossy(&(0..random.within(1..40)).map(|_| random.bits().to_le_bytes()[0]).collect::<Vec<u8>>()).into_owned(),
        _ => changed(usual, random),
    }
}

type Sort = fn(&mut Random) -> String;

/// Returns the sort of texts that a field of this name means.
fn meant(path: &str) -> Option<Sort> {
    let lower = path.to_ascii_lowercase();
    let last = lower.rsplit('.').find(|part| *part != "*").unwrap_or_default().to_owned();
    let has = |words: &[&str]| words.iter().any(|word| last.contains(word));
    if last == "regex" || lower.ends_with("regexrewrite.match") {
        Some(regex)
    } else if lower.contains("headers.") && (last == "set" || last == "add") || has(&["format", "statname", "statprefix"]) {
        Some(format)
    } else if has(&["timeout", "interval", "duration", "maxage", "ttl", "ejectiontime", "delay", "backoff", "rate"]) || last == "time" {
        Some(duration)
    } else if has(&["host", "sni", "authority", "domain"]) {
        Some(host)
    } else if has(&["bind", "address", "subnet", "ip", "endpoint", "block"]) {
        Some(address)
    } else if has(&["uri", "path", "prefix", "exact", "certificate", "privatekey", "crl", "rewrite"]) {
        Some(path_text)
    } else {
        None
    }
}

fn integer(random: &mut Random) -> Value {
    match random.within(0..12) {
        0 => json!(pick(&NUMBERS_AS_TEXT, random)),
        1 => json!(u64::MAX),
        2 => json!(pick(&NUMBERS, random).to_string()),
        3 => json!(pick(&DECIMALS, random)),
        _ => json!(pick(&NUMBERS, random)),
    }
}

fn duration(random: &mut Random) -> String {
    match random.within(0..3) {
        0 => format!("{}{}", pick(&NUMBERS, random), pick(&["ns", "us", "µs", "ms", "s", "m", "h", ""], random)),
        _ => pick(&DURATIONS, random).to_owned(),
    }
}

fn host(random: &mut Random) -> String {
    match random.within(0..6) {
        0 => {
            let label = "a".repeat(pick(&[1, 62, 63, 64], random));
            vec![label; pick(&[1, 3, 4, 5, 127, 128, 129], random)].join(".")
        }
        1 => changed(&HOSTS, random),
        _ => pick(&HOSTS, random).to_owned(),
    }
}

fn address(random: &mut Random) -> String {
    pick(&ADDRESSES, random).to_owned()
}

fn path_text(random: &mut Random) -> String {
    match random.within(0..4) {
        0 => format!("{}{}", pick(&["/", "unix:///", "unix://@"], random), "p".repeat(pick(&LENGTHS, random))),
        1 => changed(&PATHS, random),
        _ => pick(&PATHS, random).to_owned(),
    }
}

fn format(random: &mut Random) -> String {
    match random.within(0..4) {
        0 => changed(&FORMATS, random),
        1 => format!("{}{}", pick(&FORMATS, random), pick(&FORMATS, random)),
        _ => pick(&FORMATS, random).to_owned(),
    }
}

fn regex(random: &mut Random) -> String {
    match random.within(0..4) {
        0 => changed(&REGEXES, random),
        1 => pick(&BUILT, random).repeat(pick(&[2, 3, 20, 90], random)),
        2 => (0..random.within(2..9)).map(|_| pick(&[&BUILT[..], &REGEXES[..]].concat(), random)).collect(),
        _ => pick(&REGEXES, random).to_owned(),
    }
}

/// Returns one of these texts with something done to it.
fn changed(usual: &[&str], random: &mut Random) -> String {
    let text = if usual.is_empty() { "walked" } else { usual[index(usual.len(), random)] };
    let letter = pick(&LETTERS, random);
    match random.within(0..8) {
        0 => text.to_ascii_uppercase(),
        1 => format!("{text}."),
        2 => format!("{letter}{text}"),
        3 => format!("{text}{letter}"),
        4 => {
            let letters: Vec<char> = text.chars().collect();
            let (before, after) = letters.split_at(letters.len() / 2);
            before.iter().chain([&letter]).chain(after).collect()
        }
        5 => text.repeat(pick(&[2, 10, 100, 1000], random)),
        6 => format!("{text}{}", "x".repeat(pick(&LENGTHS, random))),
        _ => format!("{letter}").repeat(pick(&LENGTHS, random).min(2000)),
    }
}

fn pick<T: Copy>(of: &[T], random: &mut Random) -> T {
    of[index(of.len(), random)]
}

fn index(length: usize, random: &mut Random) -> usize {
    usize::try_from(random.within(0..length as u64)).unwrap()
}
