//! The corpus as one list, read in a child process: a crash or a hang belongs to the case that it happened in, and no case
//! may take more time, memory, handles or maps than its file justifies.

use super::corpus::{self, Case, Expect};
use super::{models, visit};
use crate::harness::skip;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use vkllm::chat::{ChatError, ChatTemplate, Message, RenderOptions};
use vkllm::gguf::{Gguf, GgufError};
use vkllm::text::TextError;
use vkllm::{
    Device, DeviceOptions, Error, Model, ModelFile, ModelOptions, SamplerOptions, Selector, Session,
};

const TIME: Duration = Duration::from_millis(50);
/// For rendering a template that works until it is stopped: instructions and output have limits of their own.
const TEMPLATE_TIME: Duration = Duration::from_millis(100);
const TEMPLATE_HEAP: u64 = 16 << 20;
/// No line for so long is a hang.
const HANG: Duration = Duration::from_secs(60);
const FILE: &str = "case.gguf";

/// How a case ended: the error's kind and text, or nothing.
type Ending = Option<(String, String)>;

/// How far a file of a case has to be read.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// By the parser.
    Parse,
    /// As a model, its vocabulary and its template; then, if all of it is accepted, a token is computed.
    Model,
    /// As `Model`; numbers that are none may be an error.
    Attack,
    /// Cut short between opening and loading.
    Cut,
}

/// What a case is made of.
enum Source {
    Bytes(Vec<u8>),
    /// Makes something in a folder and returns its path; `None` where it cannot be made.
    Path(fn(&Path) -> Option<PathBuf>),
}

struct Entry {
    name: String,
    source: Source,
    expect: Expect,
    way: Way,
}

fn socket(folder: &Path) -> Option<PathBuf> {
    let path = folder.join("socket");
    #[cfg(unix)]
    std::os::unix::net::UnixListener::bind(&path).ok()?;
    path.exists().then_some(path)
}

fn pipe(folder: &Path) -> Option<PathBuf> {
    let path = folder.join("pipe");
    Command::new("mkfifo").arg(&path).status().ok()?.success().then_some(path)
}

/// Numbers of the corpus that have one case: what is no regular file, and a file that loses its end.
fn special() -> Vec<Entry> {
    let refuse = |name: &str, source, way, kind, parts: &[&str]| Entry {
        name: name.into(),
        source,
        way,
        expect: Expect::Refuse(kind, parts.iter().map(|part| (*part).to_owned()).collect()),
    };
    let path = |name: &str, make, says: &str| {
        let parts = ["found ", says, "allowed is a regular file"];
        refuse(name, Source::Path(make), Way::Parse, "NotRegularFile", &parts)
    };
    let whole = super::tiny::Tiny::new().build().finish();
    vec![
        path("14 a folder", |folder| Some(folder.to_owned()), "a directory"),
        path("14 a pipe", pipe, "a pipe"),
        path("14 a socket", socket, "a socket"),
        path(
            "14 a device",
            |_| Path::new("/dev/zero").exists().then(|| "/dev/zero".into()),
            "a character device",
        ),
        refuse(
            "14 a process's memory",
            Source::Path(|_| Path::new("/proc/self/mem").exists().then(|| "/proc/self/mem".into())),
            Way::Parse,
            "NotGguf",
            &["byte 0", "an empty file"],
        ),
        refuse(
            "67 cut short after opening",
            Source::Bytes(whole),
            Way::Cut,
            "Truncated",
            &["byte ", "only "],
        ),
    ]
}

/// The whole list.
fn entries() -> Vec<Entry> {
    let from = |way| {
        move |case: Case| Entry {
            name: case.name,
            source: Source::Bytes(case.bytes),
            expect: case.expect,
            way,
        }
    };
    let parsed = corpus::cases().into_iter().map(from(Way::Parse));
    let whole = models::cases().into_iter().map(from(Way::Model));
    parsed.chain(special()).chain(whole).chain(models::attacks().into_iter().map(from(Way::Attack))).collect()
}

fn variant(error: &dyn std::fmt::Debug) -> String {
    format!("{error:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

fn of_text(error: &TextError) -> String {
    match error {
        TextError::Gguf(inner) => variant(inner),
        TextError::File { problem, .. } => of_text(problem),
        other => variant(other),
    }
}

fn of_model(error: Error) -> (String, String) {
    let kind = match &error {
        Error::Gguf(inner) => variant(inner),
        Error::Text(inner) => of_text(inner),
        other => variant(other),
    };
    (kind, error.to_string())
}

fn of_chat(error: ChatError) -> (String, String) {
    let kind = match &error {
        ChatError::Gguf(inner) => variant(inner),
        other => variant(other),
    };
    (kind, error.to_string())
}

fn of_gguf(error: GgufError) -> (String, String) {
    (variant(&error), error.to_string())
}

/// Everything of a file that is read before a device is asked for memory.
fn read(path: &Path, way: Way) -> Result<Option<ModelFile>, (String, String)> {
    let gguf = Gguf::open(path).map_err(of_gguf)?;
    if way == Way::Parse {
        visit(&gguf);
        return Ok(None);
    }
    let file = ModelFile::new(gguf).map_err(of_model)?;
    let vocabulary = file.vocabulary().map_err(of_model)?;
    file.plan(reference().caps(), &options()).map_err(of_model)?;
    let template = ChatTemplate::from_gguf(&file.gguf, None, vocabulary.as_ref()).map_err(of_chat)?;
    if let Some(template) = template {
        template.render(&[Message::user("ab")], &RenderOptions::default()).map_err(of_chat)?;
    }
    Ok(Some(file))
}

fn reference() -> &'static Device {
    static DEVICE: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
    DEVICE.get_or_init(|| {
        let options = DeviceOptions { selector: Selector::Reference, ..DeviceOptions::default() };
        Device::open(&options).expect("the reference device is always there")
    })
}

fn options() -> ModelOptions {
    ModelOptions { context: Some(64), batch: 16, ..ModelOptions::default() }
}

/// A token behind a prompt of three, and every logit of them a number.
fn run(file: &ModelFile) -> Result<(), Error> {
    let model = Model::load(reference(), file, &options(), &|_, _| true)?;
    let last = file.config.vocab - 1;
    let mut session = Session::new(&model, SamplerOptions::greedy())?;
    for event in session.generate(&[0, last, last / 2], Default::default())?.take(2) {
        event?;
    }
    Ok(())
}

fn ending(path: &Path, way: Way) -> (Duration, u64, Ending) {
    let mut time = Duration::MAX;
    let (mut peak, mut result) = (0, Ok(None));
    // Of several tries the fastest counts: other processes take time too.
    for _ in 0..5 {
        let start = Instant::now();
        let mut read_file = Ok(None);
        peak = allocation_counter::measure(|| read_file = read(path, way)).bytes_max;
        time = time.min(start.elapsed());
        result = read_file;
        if time <= TIME {
            break;
        }
    }
    let end = match result {
        Ok(Some(file)) => {
            if way == Way::Cut {
                let cut = std::fs::OpenOptions::new().write(true).open(path);
                cut.and_then(|cut| cut.set_len(file.gguf.file_len() - 9_000)).expect("a shorter file");
            }
            run(&file).map_err(of_model).err()
        }
        Ok(None) => None,
        Err(error) => Some(error),
    };
    (time, peak, end)
}

/// Open handles and mapped files of this process, where it can tell.
fn held(path: &Path) -> (usize, usize) {
    let handles = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = path.to_string_lossy();
    (handles, maps.lines().filter(|line| line.ends_with(&*path)).count())
}

/// The child's part: reads a number and the path of a folder, and then the cases from that number on; prints a line when a
/// case begins and one when it ends. By itself it reads all of them.
#[test]
#[ignore = "started by every_file_of_the_corpus_ends_as_it_should, in a process of its own"]
fn child() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line");
    let own = tempfile::tempdir().expect("a temporary folder");
    let (from, folder) = match line.trim_end().split_once(' ') {
        Some((from, folder)) => (from.parse().expect("a number"), PathBuf::from(folder)),
        None => (0, own.path().to_owned()),
    };
    reference();
    let path = folder.join(FILE);
    for (index, entry) in entries().into_iter().enumerate().skip(from) {
        say(&format!("begin {index}"));
        let made = match &entry.source {
            Source::Bytes(bytes) => std::fs::write(&path, bytes).map(|()| path.clone()).ok(),
            Source::Path(make) => make(&folder),
        };
        let Some(made) = made else {
            say(&format!("skip {index}"));
            continue;
        };
        let before = held(&path);
        let (time, peak, end) = ending(&made, entry.way);
        let after = held(&path);
        let line = serde_json::json!([time.as_micros() as u64, peak, before == after, end]);
        say(&format!("end {index} {line}"));
    }
}

/// A line that nothing else of the test runner's output looks like.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{line}").and_then(|()| out.flush()).expect("somebody listens");
}

/// What a child said of a case; `None` where it died or hung, with how.
type Said = Result<Option<(u64, u64, bool, Ending)>, String>;

/// Lets children read cases `from` on until one dies; returns what was said of them.
fn listen(from: usize, folder: &Path, said: &mut Vec<Said>) {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["gguf::child::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child process");
    let line = format!("{from} {}\n", folder.display());
    child.stdin.take().expect("its input").write_all(line.as_bytes()).expect("it listens");
    let (send, lines) = channel();
    let out = BufReader::new(child.stdout.take().expect("its output"));
    let reader =
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
    let mut begun = false;
    let lost = loop {
        match lines.recv_timeout(HANG) {
            Ok(line) if line.starts_with("@begin") => begun = true,
            Ok(line) if line.starts_with("@skip") => {
                said.push(Ok(None));
                begun = false;
            }
            Ok(line) if line.starts_with("@end") => {
                let json = line.splitn(3, ' ').nth(2).unwrap_or_default();
                said.push(Ok(Some(serde_json::from_str(json).expect("what a child says"))));
                begun = false;
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                break "hung".to_owned();
            }
            Err(RecvTimeoutError::Disconnected) => break String::new(),
        }
    };
    let status = child.wait().expect("its end");
    let _ = reader.join();
    if begun {
        said.push(Err(format!("{lost} {status}")));
    } else {
        assert!(status.success(), "the child ended between cases: {lost} {status}");
    }
}

#[test]
fn every_file_of_the_corpus_ends_as_it_should() {
    let entries = entries();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut said = Vec::new();
    while said.len() < entries.len() {
        listen(said.len(), folder.path(), &mut said);
    }
    let mut wrong = Vec::new();
    let mut skipped = Vec::new();
    let mut slowest = (0, "");
    for (entry, said) in entries.iter().zip(&said) {
        let name = &entry.name;
        let (time, peak, clean, end) = match said {
            Err(how) => {
                wrong.push(format!("{name}: the process {how}"));
                continue;
            }
            Ok(None) => {
                skipped.push(name.as_str());
                continue;
            }
            Ok(Some(said)) => said,
        };
        let size = match &entry.source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Path(_) => 0,
        };
        match (&entry.expect, end) {
            (Expect::Accept, None) => {}
            (Expect::Accept, Some((kind, _))) if entry.way == Way::Attack && kind == "NotFinite" => {}
            (Expect::Accept, Some((kind, text))) => wrong.push(format!("{name}: refused, {kind}: {text}")),
            (Expect::Refuse(..), None) => wrong.push(format!("{name}: accepted")),
            (Expect::Refuse(expected, parts), Some((kind, text))) => {
                let missing = parts.iter().filter(|part| !text.contains(part.as_str()));
                wrong.extend(missing.map(|part| format!("{name}: no {part:?} in: {text}")));
                if !expected.is_empty() && kind != expected {
                    wrong.push(format!("{name}: {kind} instead of {expected}: {text}"));
                }
                if text.chars().any(char::is_control) || text.len() > 2_000 {
                    wrong.push(format!("{name}: not fit to print: {text:?}"));
                }
                // Refusing is quick, but for files that are larger than a case should be.
                slowest = slowest.max((*time, name));
                let heap = (1 << 20) + 4 * size;
                let (most, allowed) =
                    if name.starts_with("87 ") { (TEMPLATE_TIME, TEMPLATE_HEAP) } else { (TIME, heap) };
                if Duration::from_micros(*time) > most && size < 64 << 10 {
                    wrong.push(format!("{name}: {time} µs"));
                }
                if *peak > allowed {
                    wrong.push(format!("{name}: {peak} bytes of heap, allowed {allowed}"));
                }
            }
        }
        if !clean {
            wrong.push(format!("{name}: handles or maps were left behind"));
        }
    }
    for name in &skipped {
        skip(&format!("the corpus case {name:?} cannot be made here"));
    }
    println!("{} files, {} skipped; the slowest refusal: {slowest:?} µs", entries.len(), skipped.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_number_of_the_corpus_has_a_case() {
    let names = entries().into_iter().map(|entry| entry.name).filter(|name| !name.starts_with('D'));
    let with_case: std::collections::BTreeSet<u32> = names.flat_map(|name| corpus::numbers(&name)).collect();
    let without: Vec<u32> = (1..=88).filter(|number| !with_case.contains(number)).collect();
    assert!(without.is_empty(), "no case for {without:?}");
    assert_eq!(with_case.last(), Some(&88));
    for attack in ["D1 ", "D2 ", "D3 ", "D4 "] {
        assert!(models::attacks().iter().any(|case| case.name.starts_with(attack)), "no case for {attack}");
    }
}
