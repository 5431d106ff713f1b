//! Functions say what they do: the comment on one begins with a verb ("Returns…", "Records…"). That is, its first word ends in
//! `s` and is not one of the nouns that such comments used to begin with.

use super::sources;

/// Words that end in `s`, but are not verbs, or begin a comment as nouns.
const NOT_VERBS: [&str; 22] = [
    "Addresses",
    "As",
    "Bytes",
    "Clusters",
    "Connections",
    "Contents",
    "Endpoints",
    "Gateways",
    "Hosts",
    "Is",
    "Its",
    "Labels",
    "Names",
    "Objects",
    "Pods",
    "Ports",
    "Proxies",
    "Routes",
    "Rules",
    "Services",
    "This",
    "Values",
];

#[test]
fn comments_on_functions_begin_with_a_verb() {
    let sources = sources::with_comments().unwrap();
    let found: Vec<String> = sources.iter().flat_map(|(path, text)| without_verb(path, text)).collect();
    assert!(found.is_empty(), "these do not begin with a verb:\n{}", found.join("\n"));
}

/// Checks that the test above can fail.
#[test]
fn a_comment_without_a_verb_is_found() {
    let begin = |comment: &str, item: &str| without_verb("a.rs", &format!("impl A {{\n    /// {comment}\n    /// more\n    {item}"));
    for function in ["fn f() {}", "pub(in crate::b) async fn f() {}", "#[must_use]\n    pub const fn f();"] {
        for comment in ["The name.", "Whether it is.", "`a` and b.", "Names of clusters.", "Envoy's port.", "return a name."] {
            assert_eq!(begin(comment, function), [format!("a.rs:2: {comment}")]);
        }
        assert_eq!(begin("Returns the name.", function), [""; 0]);
    }
    assert_eq!(begin("The name.", "pub name: String,"), [""; 0]);
}

/// Returns place and first line of each comment on a function that does not begin with a verb.
fn without_verb(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut comment = None;
    for (number, line) in text.lines().map(str::trim_start).enumerate() {
        if let Some(text) = line.strip_prefix("///") {
            comment.get_or_insert((number + 1, text.trim()));
        } else if !line.starts_with("#[")
            && let Some((number, first)) = comment.take()
            && is_function(line)
            && !begins_with_verb(first)
        {
            found.push(format!("{path}:{number}: {first}"));
        }
    }
    found
}

fn is_function(line: &str) -> bool {
    let is_qualifier = |word: &&str| word.starts_with("pub") || word.ends_with(')') || ["const", "async", "unsafe"].contains(word);
    line.split_whitespace().find(|word| !is_qualifier(word)) == Some("fn")
}

fn begins_with_verb(comment: &str) -> bool {
    let word = comment.split_whitespace().next().unwrap_or_default();
    let is_word = word.starts_with(|first: char| first.is_ascii_uppercase()) && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_word && word.ends_with('s') && !NOT_VERBS.contains(&word)
}
