//! Text of models on terminals.

use std::io::IsTerminal;

use crate::Source;

/// Escapes control characters and changes of direction on a terminal, so that a model cannot steer it; newlines and tabs
/// stay. Pipes get text as it is.
pub(super) fn shown(text: &str, terminal: bool) -> String {
    if !terminal {
        return text.to_owned();
    }
    let steers = |c: char| {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() && !matches!(c, '\n' | '\t') || turns
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Switches between dim and plain letters, where the stream is a terminal that may have colours.
pub(super) fn dim(stream: &impl IsTerminal, on: bool) -> &'static str {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match (stream.is_terminal() && !plain, on) {
        (false, _) => "",
        (true, true) => "\u{1b}[2m",
        (true, false) => "\u{1b}[0m",
    }
}

/// Begins letters in the colour of who proposed a token: none for the target's own, green for a draft model's, cyan for
/// those from history. Ended by `dim(stream, false)`.
pub(super) fn source(stream: &impl IsTerminal, source: Source) -> &'static str {
    match (dim(stream, true).is_empty(), source) {
        (true, _) | (_, Source::Target) => "",
        (_, Source::Draft { method, .. }) if method.is_history() => "\u{1b}[36m",
        _ => "\u{1b}[32m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_steered() {
        assert_eq!(shown("a\u{1b}[2Jb\n\t\u{202e}é", true), "a\\u{1b}[2Jb\n\t\\u{202e}é");
        assert_eq!(shown("a\u{1b}[2Jb", false), "a\u{1b}[2Jb");
    }
}
