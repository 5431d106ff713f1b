//! Logging for long-lived commands.

use std::io::{self, IsTerminal, Write, stderr};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::MakeWriter};

use crate::peer_text::{escaped, escaped_in_json};

/// Starts logging to stderr, in colours if it is a terminal, at `level`: `info`, `istiod_lite=debug,info`, or in istiod's form,
/// `default:info,ads:debug`.
///
/// # Errors
/// When `level` cannot be read.
pub(super) fn start(level: &str, json: bool) -> Result<(), ParseError> {
    let (level, unknown) = directives(level);
    // kube logs every request that fails; the caller logs once what it means.
    let quiet = if level.contains("kube_client") { "" } else { ",kube_client=off" };
    let filter = EnvFilter::builder().parse(format!("{level}{quiet}"))?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter);
    if json {
        logger.with_ansi(false).with_writer(Lines(Form::Json)).json().init();
    } else if stderr().is_terminal() {
        logger.with_ansi(true).with_writer(Lines(Form::Colours)).init();
    } else {
        logger.with_ansi(false).with_writer(Lines(Form::Text)).init();
    }
    if !unknown.is_empty() {
        tracing::warn!(scopes = unknown.join(","), "the log has no such scopes; write as istiod_lite::xds=debug,info");
    }
    Ok(())
}

/// Writes each entry as one line, whatever is in it: nobody whose words are logged can write a line that looks like ours.
#[derive(Clone, Copy, Debug)]
struct Lines(Form);

/// How entries are written.
#[derive(Clone, Copy, Debug)]
enum Form {
    Text,
    /// With the logger's colours, which escapes those of others.
    Colours,
    Json,
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Lines {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        stderr().lock().write_all(one_line(entry, self.0).as_bytes())?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

/// Returns an entry as one line.
fn one_line(entry: &[u8], form: Form) -> String {
    let text = String::from_utf8_lossy(entry);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let mut line = match form {
        Form::Text => escaped(text),
        Form::Colours => text.split('\u{1b}').map(escaped).collect::<Vec<_>>().join("\u{1b}"),
        Form::Json => escaped_in_json(text),
    };
    line.push('\n');
    line
}

/// Returns the level in the logger's form, and the scopes of istiod that we do not have. istiod's `default` and `all` mean
/// everything: as a target of the logger's, `default:info` would log nothing else.
fn directives(level: &str) -> (String, Vec<&str>) {
    let mut unknown = Vec::new();
    let mut kept = Vec::new();
    for part in level.split(',').map(str::trim) {
        match part.split_once(':').filter(|(_, level)| !level.starts_with(':') && !part.contains('=')) {
            Some(("default" | "all", level)) => kept.push(level_name(level)),
            Some((scope, _)) => unknown.push(scope),
            None => kept.push(level_name(part)),
        }
    }
    let level = if kept.is_empty() { "info".to_owned() } else { kept.join(",") };
    (level, unknown)
}

/// Translates istiod's names of levels into the logger's.
fn level_name(level: &str) -> &str {
    match level {
        "none" => "off",
        "fatal" => "error",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_whatever_it_says() {
        let forged = "INFO a: x\n2026-01-01 ERROR b: y\u{1b}[2J\u{9b}\n";
        assert_eq!(one_line(forged.as_bytes(), Form::Text), "INFO a: x\\n2026-01-01 ERROR b: y\\u{1b}[2J\\u{9b}\n");
        assert_eq!(one_line(b"\x1b[32mINFO\x1b[0m x\ny\n", Form::Colours), "\u{1b}[32mINFO\u{1b}[0m x\\ny\n");
    }

    #[test]
    fn an_entry_in_json_stays_json_and_has_nothing_hostile_in_it() {
        let said = "a\n\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2028}\u{feff}\"}\\";
        let entry = serde_json::json!({"message": said}).to_string() + "\n";
        let line = one_line(entry.as_bytes(), Form::Json);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["message"], said);
        assert!(line.trim_end().is_ascii() && !line.trim_end().contains(|c: char| c.is_control()), "{line:?}");
    }

    #[test]
    fn levels_of_istiod_are_understood() {
        for (written, expected, unknown) in [
            ("default:info", "info", &[][..]),
            ("default:info,ads:debug", "info", &["ads"][..]),
            ("ads:debug", "info", &["ads"][..]),
            ("all:none", "off", &[][..]),
            ("info", "info", &[][..]),
            ("istiod_lite::xds=debug,info", "istiod_lite::xds=debug,info", &[][..]),
            ("istiod_lite::xds", "istiod_lite::xds", &[][..]),
        ] {
            assert_eq!(directives(written), (expected.to_owned(), unknown.to_vec()), "{written}");
        }
    }
}
