//! The command line: what was typed, what it means, and one file per command.

mod args;
mod audit;
mod bench;
mod chat;
mod devices;
mod doctor;
mod fetch;
mod inspect;
mod load;
mod logits;
mod pair;
mod perplexity;
mod repro;
mod run;
mod selftest;
mod show;
mod spec;
mod stats;
mod tokenize;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, Parser};

use crate::Error;
use args::{Cli, Command};
#[cfg(fuzzing)]
pub use bench::compare::compare_texts;

/// Exit codes: what was checked failed, the input or the command line is at fault, and the device is.
const CHECK: u8 = 1;
const INPUT: u8 = 2;
const DEVICE: u8 = 3;

/// What ended a command early.
#[derive(Debug)]
enum Failure {
    /// A sentence and the exit code.
    Told(String, u8),
    /// The reader of standard output went away: not our failure.
    Closed,
    /// Ctrl-C.
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if matches!(error, Error::Device(_) | Error::NotFinite { .. }) { DEVICE } else { INPUT };
        Failure::Told(error.to_string(), code)
    }
}

impl From<vkllm_runtime::Error> for Failure {
    fn from(error: vkllm_runtime::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<crate::gguf::GgufError> for Failure {
    fn from(error: crate::gguf::GgufError) -> Self {
        Error::from(error).into()
    }
}

impl From<crate::chat::ChatError> for Failure {
    fn from(error: crate::chat::ChatError) -> Self {
        input(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Told(format!("the output could not be written: {error}"), INPUT),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}

fn input(sentence: impl Into<String>) -> Failure {
    Failure::Told(sentence.into(), INPUT)
}

/// Options of several letters behind one dash, as llama.cpp's users type them.
fn spell_out(argument: OsString) -> OsString {
    match argument.to_str() {
        Some("-sys") => "--system".into(),
        Some("-md") => "--model-draft".into(),
        Some("-ub") => "--ubatch-size".into(),
        Some("-pg") => "--pg".into(),
        Some("-ctk") => "--cache-type-k".into(),
        Some("-ctv") => "--cache-type-v".into(),
        _ => argument,
    }
}

/// Sets a flag on Ctrl-C; a second one ends the program at once.
fn interrupt_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let installed = ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(error) = installed {
        tracing::warn!(%error, "Ctrl-C will end the program at once");
    }
    flag
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(std::env::args_os().map(spell_out)) {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own code is 2 for errors and 0 for help, as ours.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let filter = tracing_subscriber::EnvFilter::new(if cli.verbose {
        "vkllm=debug,vkllm_runtime=debug"
    } else {
        "warn"
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(load::colours())
        .init();
    match dispatch(&cli) {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Interrupted) => ExitCode::from(130),
        Err(Failure::Told(sentence, code)) => {
            let _ = writeln!(io::stderr(), "vkllm: {sentence}");
            ExitCode::from(code)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Spec(args) => pair::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Repro(args) => repro::run(args),
        Command::Selftest(args) => selftest::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "vkllm", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
    }
}
