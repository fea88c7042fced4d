//! Expected failures: a file of lines `PATTERN [@ DRIVER [>=VERSION] [<VERSION]] # REASON`. A case that matches, on a driver
//! whose name holds those words and whose version is in the range, is expected to fail, and is reported when it passes, so
//! that the line can go.

use std::path::Path;

use regex_automata::meta::Regex;

use super::super::{Failure, input};

/// Patterns with reasons.
#[derive(Default)]
pub(super) struct Expectations(Vec<(Regex, String)>);

impl Expectations {
    pub(super) fn read(path: &Path, driver: &str) -> Result<Self, Failure> {
        let text =
            std::fs::read_to_string(path).map_err(|error| input(format!("{}: {error}", path.display())))?;
        Self::parse(&text, driver).map_err(|what| input(format!("{}, {what}", path.display())))
    }

    fn parse(text: &str, driver: &str) -> Result<Self, String> {
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
            let (pattern, place) =
                pattern.split_once(" @ ").map_or((pattern, ""), |(p, place)| (p.trim(), place));
            if !is_here(place, driver).map_err(wrong)? {
                continue;
            }
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

/// Numbers of a version, as far as they are numbers.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

/// The first word that is a version, such as 25.0.7.
fn version_of(driver: &str) -> Option<Vec<u32>> {
    let mut words = driver.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit())).map(version)
}

/// Whether a driver is the one that a line means.
fn is_here(place: &str, driver: &str) -> Result<bool, String> {
    let mut here = true;
    let own = version_of(driver).unwrap_or_default();
    for word in place.split_whitespace() {
        let bound = |text: &str| {
            let wanted = version(text);
            if wanted.is_empty() { Err(format!("\"{text}\" is no version")) } else { Ok(wanted) }
        };
        here &= if let Some(least) = word.strip_prefix(">=") {
            own >= bound(least)?
        } else if let Some(end) = word.strip_prefix('<') {
            own < bound(end)?
        } else {
            driver.to_lowercase().contains(&word.to_lowercase())
        };
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_patterns_with_reasons() {
        let list = Expectations::parse("# known\n\nlinear.*q4_k # driver 12\n^glu # why\n", "").ok();
        let list = list.expect("it parses");
        assert_eq!(list.reason("linear.strip.q4_k.q8 integers"), Some("driver 12"));
        assert_eq!(list.reason("glu.blocks bound"), Some("why"));
        assert_eq!(list.reason("embed glu"), None);
        let error = |text: &str| Expectations::parse(text, "").err().expect("refused");
        assert!(error("\nglu").starts_with("line 2: there is no reason"));
        assert!(error("glu #").contains("no reason"));
        assert!(error("( # x").contains("no regular expression"));
    }

    #[test]
    fn drivers_have_versions() {
        let driver = "llvmpipe, Mesa 25.0.7 (LLVM 15.0.6)";
        for (place, here) in [
            ("llvmpipe", true),
            ("radv", false),
            ("mesa <25.1", true),
            ("Mesa <25.0.7", false),
            ("mesa >=25.0.7 <26", true),
            ("mesa >=25.1", false),
        ] {
            let list = Expectations::parse(&format!("glu @ {place} # why"), driver).expect("it parses");
            assert_eq!(list.reason("glu").is_some(), here, "{place}");
        }
        assert!(Expectations::parse("glu @ mesa <new # why", driver).is_err());
    }
}
