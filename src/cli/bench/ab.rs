//! `vkllm bench ab`: two settings of environment and options, run in turns by this program, and compared. What drifts over
//! time, heat above all, meets both.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use clap::Parser;
use serde_json::Value;

use super::args::AbArgs;
use super::compare::compared;
use crate::cli::args::Cli;
use crate::cli::{Failure, input, interrupt_flag, spell_out};

/// What every run is told: one sample, and nothing measured that is not compared.
const FIXED: [&str; 7] = ["bench", "-o", "json", "-r", "1", "--no-ceilings", "--no-labels"];

/// One of the two.
#[derive(Debug, PartialEq)]
struct Leg {
    environment: Vec<(String, String)>,
    options: Vec<String>,
}

impl Leg {
    /// Words before the first option are NAME=VALUE.
    fn parse(option: &str, text: &str) -> Result<Self, Failure> {
        let mut leg = Leg { environment: Vec::new(), options: Vec::new() };
        for word in text.split_whitespace() {
            let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            match word.split_once('=') {
                _ if !leg.options.is_empty() || word.starts_with('-') => leg.options.push(word.to_owned()),
                Some((key, value)) if !key.is_empty() && key.chars().all(name) => {
                    leg.environment.push((key.to_owned(), value.to_owned()));
                }
                _ => {
                    return Err(input(format!(
                        "{option} has the word \"{word}\"; allowed are NAME=VALUE and then options of vkllm bench"
                    )));
                }
            }
        }
        Ok(leg)
    }

    /// What is typed, read as a run will read it, before anything runs.
    fn check(&self, common: &[String]) -> Result<(), Failure> {
        let words = ["vkllm"].into_iter().chain(FIXED);
        let words = words.chain(common.iter().chain(&self.options).map(String::as_str));
        let parsed = Cli::try_parse_from(words.map(|word| spell_out(word.into())));
        parsed.map(|_| ()).map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            input(format!("the setting {self}: {line}"))
        })
    }

    fn run(&self, common: &[String]) -> Result<Vec<Value>, Failure> {
        let program = std::env::current_exe().map_err(|e| input(format!("this program's file: {e}")))?;
        let output = Command::new(program)
            .args(FIXED)
            .args(common)
            .args(&self.options)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| input(format!("vkllm bench could not be started: {error}")))?;
        if !output.status.success() {
            let code = output.status.code().unwrap_or(i32::from(super::super::DEVICE));
            return Err(match code {
                130 => Failure::Interrupted,
                code => Failure::Told(format!("the setting {self} failed"), code.clamp(1, 255) as u8),
            });
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl std::fmt::Display for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = self.environment.iter().map(|(key, value)| format!("{key}={value}"));
        let words: Vec<String> = pairs.chain(self.options.iter().cloned()).collect();
        write!(f, "\"{}\"", words.join(" "))
    }
}

pub(super) fn run(args: &AbArgs) -> Result<(), Failure> {
    if args.repetitions == 0 {
        return Err(input("--repetitions is 0; allowed is 1 or more"));
    }
    let legs = [Leg::parse("--a", &args.a)?, Leg::parse("--b", &args.b)?];
    legs.iter().try_for_each(|leg| leg.check(&args.options))?;
    let stop = interrupt_flag();
    let watched = io::stderr().is_terminal();
    let mut rows: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
    'rounds: for round in 0..args.repetitions {
        // A B, B A, A B: neither is always the one on the warmer machine.
        for turn in [round % 2, 1 - round % 2] {
            if stop.load(Ordering::Relaxed) {
                break 'rounds;
            }
            if watched {
                writeln!(io::stderr(), "round {} of {}: {}", round + 1, args.repetitions, legs[turn])?;
            }
            match legs[turn].run(&args.options) {
                Ok(more) => rows[turn].extend(more),
                Err(Failure::Interrupted) => break 'rounds,
                Err(failure) => return Err(failure),
            }
        }
    }
    if rows.iter().any(Vec::is_empty) {
        return Err(Failure::Interrupted);
    }
    compared(&rows[0], &rows[1]).conclude(args.json, args.fail_above)?;
    if stop.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_environment_and_options() {
        let leg =
            Leg::parse("--a", "VK_DRIVER_FILES=/x.json RADV_DEBUG=nocache -ctk q8_0 --spec a:b=1").unwrap();
        assert_eq!(leg.environment.len(), 2);
        assert_eq!(leg.options, ["-ctk", "q8_0", "--spec", "a:b=1"]);
        assert_eq!(Leg::parse("--a", "").unwrap().options.len(), 0);
        assert!(Leg::parse("--a", "word").is_err() && Leg::parse("--a", "=x").is_err());
        assert!(leg.check(&["-m".into(), "m.gguf".into()]).is_ok());
        // Told already, and not known.
        assert!(leg.check(&["-r".into(), "3".into()]).is_err() && leg.check(&["--rowz".into()]).is_err());
    }
}
