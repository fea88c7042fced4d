//! The program as a new user meets it: what it prints, what it says when something is wrong, and its exit codes.

mod bench;
mod chat;
mod files;
mod interrupt;
mod names;
mod options;
mod output;
mod perplexity;
mod selftest;
mod spec;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The model that ships with the program.
pub const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/stories260k.q8_0.gguf");

/// A folder for what the program writes, and its pipeline cache.
pub fn scratch() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        std::fs::create_dir_all(&folder).expect("a folder in the target folder");
        folder
    })
}

/// What a run of the program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vkllm"));
    command.args(arguments).env("XDG_CACHE_HOME", scratch()).stdin(Stdio::null());
    command
}

impl Said {
    fn of(output: std::process::Output) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let said = Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!said.err.contains("panicked"), "the program panicked: {said:?}");
        said
    }

    /// One sentence on standard error, after warnings at most, nothing on standard output, and an exit code.
    #[track_caller]
    pub fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        let (warnings, sentence) = self.err.split_once("vkllm: ").unwrap_or_else(|| panic!("{self:?}"));
        assert!(warnings.lines().all(|line| line.starts_with(" WARN ")), "more than a sentence: {self:?}");
        assert_eq!(sentence.trim_end().lines().count(), 1, "more than a line: {self:?}");
        for word in words {
            assert!(sentence.contains(word), "\"{word}\" is not in: {self:?}");
        }
    }

    /// The command line itself was wrong.
    #[track_caller]
    pub fn refuses_usage(&self, words: &[&str]) {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "\"{word}\" is not in: {self:?}");
        }
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Said {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        self.succeeds();
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub fn vkllm(arguments: &[&str]) -> Said {
    Said::of(command(arguments).output().expect("the program starts"))
}

/// With text on standard input.
pub fn vkllm_with(arguments: &[&str], input: &[u8]) -> Said {
    let mut command = command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // A program that refuses early closes its end.
    let _ = child.stdin.take().expect("piped").write_all(input);
    Said::of(child.wait_with_output().expect("it ends"))
}

/// Runs on the CPU reference: no driver, no shaders to compile.
pub fn on_reference(command: &str, arguments: &[&str]) -> Said {
    vkllm(&[&[command, "--device", "reference"], arguments].concat())
}
