//! Spellings of paths and hosts, and what they mean by what Istio documents: a model of its own, not Envoy's code.

use harness::random::Random;

/// `pathNormalization`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Normalization {
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

impl Normalization {
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Base, Self::MergeSlashes, Self::DecodeAndMergeSlashes];

    /// Returns how MeshConfig names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Base => "BASE",
            Self::MergeSlashes => "MERGE_SLASHES",
            Self::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
        }
    }

    /// Returns the path that a target means, without its query.
    pub(crate) fn of(self, target: &str) -> String {
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let path = match self {
            Self::None => return path,
            Self::DecodeAndMergeSlashes => path.replace("%2F", "/").replace("%2f", "/").replace("%5C", "/").replace("%5c", "/"),
            Self::Base | Self::MergeSlashes => path,
        };
        let plain = without_dots(&unescaped(&path.replace('\\', "/")));
        match self {
            Self::None | Self::Base => plain,
            Self::MergeSlashes | Self::DecodeAndMergeSlashes => merged(&plain),
        }
    }
}

/// Decodes escapes of unreserved letters (RFC 3986 §6.2.2.2).
fn unescaped(path: &str) -> String {
    let mut parts = path.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let letter = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(char::from);
        match letter.filter(|letter| letter.is_ascii_alphanumeric() || "-._~".contains(*letter)) {
            Some(letter) => plain.extend([letter].into_iter().chain(part[2..].chars())),
            None => plain.extend(['%'].into_iter().chain(part.chars())),
        }
    }
    plain
}

/// Takes dot segments away (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            plain => kept.push(plain),
        }
    }
    format!("/{}", kept.join("/"))
}

fn merged(path: &str) -> String {
    let mut merged = String::new();
    for letter in path.chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    merged
}

fn one_of<'a>(random: &mut Random, choices: &[&'a str]) -> &'a str {
    choices[random.within(0..choices.len() as u64) as usize]
}

/// Spells a path: now something like `/admin/keys`, now anything.
pub(crate) fn spelled_path(random: &mut Random) -> String {
    const SLASHES: [&str; 6] = ["/", "/", "//", "\\", "%2F", "%5c"];
    const NAMES: [&str; 9] = ["admin", "admin", "%61dmin", "ad%6Din", "%61%64%6d%69%6E", "Admin", "adm", "x", "%2561dmin"];
    const DOTS: [&str; 6] = [".", "..", "%2e", "%2E%2e", ".%2e", "..."];
    const TAILS: [&str; 7] = ["keys", "", "keys?a=/../..", "keys;v=1", "%20", "..", "%2e%2e/admin/x"];
    let mut path = String::from("/");
    for _ in 0..random.within(0..5) {
        path += match random.within(0..3) {
            0 => one_of(random, &SLASHES),
            1 => one_of(random, &NAMES),
            _ => one_of(random, &DOTS),
        };
        path += one_of(random, &SLASHES);
    }
    // The way back to the root, so that what follows is often covered.
    if random.within(0..2) == 0 {
        path += one_of(random, &["../../../../../../", "x/../../../../../../../", "%2e%2e/..\\../.%2E/../../"]);
    }
    path += one_of(random, &NAMES);
    path += one_of(random, &SLASHES);
    path + one_of(random, &TAILS)
}

/// Spells a host.
pub(crate) fn spelled_host(random: &mut Random, host: &str) -> String {
    let cased = host.chars().map(|letter| if random.within(0..2) == 0 { letter.to_ascii_uppercase() } else { letter });
    let mut spelled: String = cased.collect();
    spelled += one_of(random, &["", ".", ""]);
    spelled + one_of(random, &["", ":80", ":8080", ":443", ":0", ":65535"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_istio_documents() {
        let meanings = |path: &str| Normalization::ALL.map(|normalization| normalization.of(path)).join(" ");
        assert_eq!(meanings("/a/./b/../c?d=/../e"), "/a/./b/../c /a/c /a/c /a/c");
        assert_eq!(meanings("/%61%2e%2f/b"), "/%61%2e%2f/b /a.%2f/b /a.%2f/b /a./b");
        assert_eq!(meanings("/a//b\\c"), "/a//b\\c /a//b/c /a/b/c /a/b/c");
        assert_eq!(meanings("/../a/%2E%2e/b/.."), "/../a/%2E%2e/b/.. / / /");
        assert_eq!(meanings("/%2561%5C.."), "/%2561%5C.. /%2561%5C.. /%2561%5C.. /");
    }
}
