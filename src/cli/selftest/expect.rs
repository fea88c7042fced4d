//! Expected failures: a file of lines `PATTERN # REASON`. A case that matches is expected to fail, and is reported
//! when it passes, so that the line can go.

use std::path::Path;

use regex_automata::meta::Regex;

use super::super::{Failure, input};

/// Patterns with reasons.
#[derive(Default)]
pub(super) struct Expectations(Vec<(Regex, String)>);

impl Expectations {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text =
            std::fs::read_to_string(path).map_err(|error| input(format!("{}: {error}", path.display())))?;
        Self::parse(&text).map_err(|what| input(format!("{}, {what}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut list = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: String| format!("line {}: {what}", index + 1);
            let parts = line.split_once('#').map(|(pattern, reason)| (pattern.trim(), reason.trim()));
            let Some((pattern, reason)) = parts.filter(|(_, reason)| !reason.is_empty()) else {
                return Err(wrong("there is no reason; a line is PATTERN # REASON".into()));
            };
            let regex = Regex::new(pattern)
                .map_err(|error| wrong(format!("\"{pattern}\" is no regular expression: {error}")))?;
            list.push((regex, reason.to_owned()));
        }
        Ok(Expectations(list))
    }

    /// Why a case is expected to fail, if it is.
    pub(super) fn reason(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(regex, _)| regex.is_match(name)).map(|(_, reason)| reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_patterns_with_reasons() {
        let list = Expectations::parse("# known\n\nlinear.*q4_k # driver 12\n^glu # why\n").ok();
        let list = list.expect("it parses");
        assert_eq!(list.reason("linear.strip.q4_k.q8 integers"), Some("driver 12"));
        assert_eq!(list.reason("glu.blocks bound"), Some("why"));
        assert_eq!(list.reason("embed glu"), None);
        let error = |text: &str| Expectations::parse(text).err().expect("refused");
        assert!(error("\nglu").starts_with("line 2: there is no reason"));
        assert!(error("glu #").contains("no reason"));
        assert!(error("( # x").contains("no regular expression"));
    }
}
