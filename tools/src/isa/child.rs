//! One simulated device is one process: a driver that dies takes only its own answers along. The child writes a JSON
//! line when it is open, before and after each pipeline; the parent reads them as far as they come.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use vkllm::{DeviceOptions, Inspector, Kernel, PipelineUse, Selector, pipelines};

use super::devices::{Device, Mesa};

/// Longest time for all pipelines of a device; the slowest driver takes a tenth on two idle cores.
const PATIENCE: Duration = Duration::from_secs(400);

/// What a device is asked.
#[derive(Clone)]
pub(super) struct Question {
    /// Part of a pipeline's name.
    pub(super) filter: String,
    /// Whether machine code is wanted.
    pub(super) texts: bool,
    /// Specialisation values other than the engine's.
    pub(super) set: Vec<(String, u32)>,
}

/// What became of a pipeline.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pipeline {
    /// Whether decode and verification use it.
    pub(crate) decode: bool,
    /// Why it was not compiled.
    pub(crate) error: Option<String>,
    /// In the driver's words.
    pub(crate) statistics: Vec<(String, f64)>,
    pub(crate) texts: Vec<(String, String)>,
}

/// All that a device said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// The device's own name.
    pub(crate) device: String,
    /// Version of Mesa, for example 25.0.7.
    pub(crate) version: String,
    pub(crate) pipelines: BTreeMap<String, Pipeline>,
}

/// A line of a child.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Open { device: String, driver: String },
    Begin(String),
    Done(String, Pipeline),
    End,
}

/// The child's part: compiles what the engine would use on the only device of the environment.
pub(super) fn answer(filter: &str, texts: bool, set: &[(String, u32)]) -> anyhow::Result<()> {
    let options = DeviceOptions { selector: Selector::Index(0), ..DeviceOptions::default() };
    let inspector = Inspector::open(&options)?;
    let caps = inspector.caps();
    let mut out = std::io::stdout().lock();
    let mut say = |line: &Line| -> anyhow::Result<()> {
        writeln!(out, "{}", serde_json::to_string(line)?)?;
        // A crash must not take what was said with it.
        out.flush().context("the parent does not listen")
    };
    say(&Line::Open { device: caps.name.clone(), driver: caps.driver.clone() })?;
    for used in pipelines(caps)? {
        // The filter speaks of the engine's own pipelines; what is set shows in the names of the answers.
        if !name_of(used.kernel, &used.specs, caps.subgroup).contains(filter) {
            continue;
        }
        let specs = specs_of(&used, set);
        let name = name_of(used.kernel, &specs, caps.subgroup);
        say(&Line::Begin(name.clone()))?;
        let mut pipeline = Pipeline { decode: used.decode, ..Pipeline::default() };
        match inspector.compile(used.kernel, &specs, texts) {
            Ok(executables) => {
                for executable in executables {
                    pipeline.statistics.extend(executable.statistics);
                    pipeline.texts.extend(executable.texts);
                }
            }
            Err(error) => pipeline.error = Some(error.to_string()),
        }
        say(&Line::Done(name, pipeline))?;
    }
    say(&Line::End)
}

/// A pipeline's values with the settings of the command line, where its kernel has the constant.
fn specs_of(used: &PipelineUse, set: &[(String, u32)]) -> Vec<(&'static str, u32)> {
    let mut specs = used.specs.clone();
    for (name, value) in set {
        if let Some(constant) = used.kernel.specs.iter().find(|constant| constant.name == name) {
            specs.retain(|(other, _)| other != name);
            specs.push((constant.name, *value));
        }
    }
    specs
}

/// The kernel's name and the values that are not the shader's defaults, in the shader's order.
fn name_of(kernel: &Kernel, specs: &[(&'static str, u32)], subgroup: u32) -> String {
    let mut name = kernel.name.to_owned();
    for (constant, value) in kernel.specs.iter().zip(kernel.spec_values(specs, subgroup)) {
        if value != constant.default {
            name += &format!(" {}={value}", constant.name);
        }
    }
    name
}

/// The parent's part: the answer of the first way that simulates the device.
///
/// Errors: a sentence that says why no way does.
pub(super) fn ask(mesa: &Mesa, device: &Device, question: &Question) -> Result<Answer, String> {
    let mut whys: Vec<String> = Vec::new();
    for way in device.ways {
        let answered = mesa.command(way).and_then(|mut command| {
            command.args(["isa", "--child", "--filter", &question.filter]);
            if question.texts {
                command.args(["--show", "machine code"]);
            }
            for (name, value) in &question.set {
                command.arg("--set").arg(format!("{name}={value}"));
            }
            listen(command)
        });
        match answered {
            Ok(answer) => return Ok(answer),
            Err(why) if whys.contains(&why) => {}
            Err(why) => whys.push(why),
        }
    }
    Err(whys.join("; "))
}

/// Runs a child. One that ends after it opened its device has answered, and what it did not live to say are errors.
fn listen(mut command: Command) -> Result<Answer, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("the child did not start: {error}"))?;
    let stdout = child.stdout.take().ok_or("the child has no output")?;
    let mut stderr = child.stderr.take().ok_or("the child has no messages")?;
    let lines = std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        // Drivers print to stdout too; only the child's own lines parse.
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect::<Vec<Line>>()
    });
    let messages = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let end = wait(&mut child);
    let lines = lines.join().map_err(|_| "a thread that read the child's output panicked")?;
    let messages = messages.join().unwrap_or_default();
    let last = messages.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    answer_of(lines, &format!("{end}: {last}"))
}

/// Waits for the end of a child, and says how it came.
fn wait(child: &mut Child) -> String {
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) if began.elapsed() > PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return format!("it took longer than {} s", PATIENCE.as_secs());
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return error.to_string(),
        }
    }
}

/// Joins the lines of a child; `end` is how it ended and its last words.
fn answer_of(lines: Vec<Line>, end: &str) -> Result<Answer, String> {
    let mut answer: Option<Answer> = None;
    let mut doing = String::new();
    let mut complete = false;
    for line in lines {
        match (line, &mut answer) {
            (Line::Open { device, driver }, answer) => {
                let version = version_of(&driver);
                *answer = Some(Answer { device, version, ..Answer::default() });
            }
            (Line::Begin(name), _) => doing = name,
            (Line::Done(name, pipeline), Some(answer)) => {
                answer.pipelines.insert(name, pipeline);
                doing.clear();
            }
            (Line::Done(..), None) => {}
            (Line::End, _) => complete = true,
        }
    }
    let mut answer = answer.ok_or_else(|| format!("it cannot be opened ({end})"))?;
    if !complete {
        // Whether the driver died on a pipeline or the engine has no kernel for the device: something is wrong.
        let name = if doing.is_empty() { "(the next pipeline)".to_owned() } else { doing };
        let error = Some(format!("the compiling process ended ({end})"));
        answer.pipelines.insert(name, Pipeline { decode: true, error, ..Pipeline::default() });
    }
    Ok(answer)
}

/// The version in a driver's description such as `radv Mesa 25.0.7-2~bpo12+1`; the whole description when there is none.
pub(super) fn version_of(driver: &str) -> String {
    let after = driver.rsplit_once("Mesa ").map_or(driver, |(_, rest)| rest);
    let version: String = after.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    if version.is_empty() { driver.replace(|c: char| !c.is_ascii_alphanumeric(), "-") } else { version }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Line {
        Line::Open { device: "AMD Radeon 890M".into(), driver: "radv Mesa 25.0.7-2~bpo12+1".into() }
    }

    fn done(name: &str) -> Line {
        Line::Done(name.into(), Pipeline::default())
    }

    #[test]
    fn a_complete_answer_has_no_errors() {
        let answer =
            answer_of(vec![open(), Line::Begin("a".into()), done("a"), Line::End], "exit 0").unwrap();
        assert_eq!(answer.version, "25.0.7");
        assert_eq!(answer.pipelines.len(), 1);
        assert!(answer.pipelines["a"].error.is_none());
    }

    #[test]
    fn a_crash_names_the_pipeline_it_happened_in() {
        let answer =
            answer_of(vec![open(), Line::Begin("a".into()), done("a"), Line::Begin("b".into())], "signal 6");
        let answer = answer.unwrap();
        assert!(answer.pipelines["b"].error.as_ref().unwrap().contains("signal 6"));
        let between = answer_of(vec![open(), done("a")], "exit 1: no kernel").unwrap();
        assert!(between.pipelines["(the next pipeline)"].error.is_some());
    }

    #[test]
    fn a_device_that_never_opened_is_no_answer() {
        assert!(answer_of(Vec::new(), "signal 6: unknown chip").unwrap_err().contains("unknown chip"));
    }

    #[test]
    fn versions_are_the_number_alone() {
        assert_eq!(version_of("NVK Mesa 26.2.6-1"), "26.2.6");
        assert_eq!(version_of("turnip Mesa driver Mesa 26.2.6-1"), "26.2.6");
        assert_eq!(version_of("some driver"), "some-driver");
    }
}
