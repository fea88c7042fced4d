//! What goes to standard output when all is well.

use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use super::{STORIES, command, on_reference, scratch, vkllm, vkllm_with};
use crate::harness;

const GREEDY: [&str; 4] = ["--temp", "0", "--activations", "float"];

fn run(arguments: &[&str]) -> super::Said {
    on_reference("run", &[&GREEDY[..], arguments].concat())
}

#[test]
fn text_streams_to_standard_output() {
    let said = run(&["-p", "Once upon a time", "-n", "12"]);
    assert!(said.succeeds().out.starts_with("Once upon a time, there was a little girl"), "{said:?}");
    assert_eq!(said.err, "", "talk belongs to --stats");
    let said = run(&["-p", "Once upon a time", "-n", "12", "--no-display-prompt", "--stats"]);
    assert!(said.succeeds().out.starts_with(", there was a little girl"), "{said:?}");
    assert!(said.err.contains("tokens/s"), "{said:?}");
}

#[test]
fn a_prompt_from_standard_input_or_a_file() {
    let want = run(&["-p", "Tom and Sue", "-n", "8"]).out;
    let arguments = [&["run", "--device", "reference", "-n", "8"], &GREEDY[..]].concat();
    assert_eq!(vkllm_with(&arguments, b"Tom and Sue").succeeds().out, want);
    let path = scratch().join("prompt.txt");
    std::fs::write(&path, "Tom and Sue").expect("a file in the target folder");
    assert_eq!(run(&["-f", path.to_str().expect("UTF-8"), "-n", "8"]).succeeds().out, want);
}

#[test]
fn json_of_a_run() {
    let json = run(&["-p", "Once upon a time", "-n", "5", "--json"]).json();
    assert_eq!(json["tokens"].as_array().map(Vec::len), Some(5), "{json}");
    assert!(json["text"].as_str().is_some_and(|text| text.starts_with(", there")), "{json}");
    assert_eq!(json["finish"], "length");
    let ids = json["prompt_tokens"].as_array().expect("ids").iter().map(Value::to_string).collect::<Vec<_>>();
    let again = run(&["--tokens", &ids.join(","), "-n", "5", "--json"]).json();
    assert_eq!(again["tokens"], json["tokens"]);
    let none = run(&["-p", "a", "-n", "0", "--json"]).json();
    assert_eq!(none["tokens"].as_array().map(Vec::len), Some(0));
    let full = run(&["-p", "Once upon a time", "-n", "-1", "-c", "16", "--ignore-eos", "--json"]).json();
    assert_eq!(full["finish"], "context", "{full}");
}

#[test]
fn text_within_an_expression_a_grammar_or_a_schema() {
    let within = |option: &str, what: &str| {
        run(&["-p", "Once upon a time", "-n", "40", "--no-display-prompt", option, what])
    };
    assert!(["yes", "no"].contains(&within("--regex", "yes|no").succeeds().out.trim_end()));
    let lark = scratch().join("list.lark");
    std::fs::write(&lark, "start: \"cats\" | \"dogs\"").expect("a file in the target folder");
    assert_eq!(within("--grammar", lark.to_str().expect("UTF-8")).succeeds().out.trim_end().len(), 4);
    let json = within("--json-schema", r#"{"enum": [{"a": 1}]}"#);
    assert_eq!(json.succeeds().out.trim_end(), r#"{"a": 1}"#);
    let refused = within("--regex", "(");
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("the constraint on the text"), "{refused:?}");
}

#[test]
fn seeds_repeat_and_differ() {
    let told =
        |seed: &str| on_reference("run", &["-p", "Once", "-n", "24", "-s", seed]).succeeds().out.clone();
    assert_eq!(told("7"), told("7"));
    assert_ne!(told("7"), told("8"));
}

#[test]
fn tokens_and_their_json() {
    let lines = vkllm(&["tokenize", "-m", STORIES, "-p", "Once upon a time"]);
    let ids: Vec<u32> = lines.succeeds().out.lines().map(|line| line.parse().expect("an id")).collect();
    let json = vkllm(&["tokenize", "-m", STORIES, "-p", "Once upon a time", "--json"]).json();
    assert_eq!(json, serde_json::json!(ids));
    assert_eq!(ids[0], 1, "BOS");
    let bare = vkllm(&["tokenize", "-m", STORIES, "-p", "Once upon a time", "--json", "--no-bos"]).json();
    assert_eq!(bare, serde_json::json!(ids[1..]));
    let piped = vkllm_with(&["tokenize", "-m", STORIES, "--json"], b"Once upon a time").json();
    assert_eq!(piped, json);
}

#[test]
fn logits_are_a_numpy_file() {
    let path = scratch().join("logits.npy");
    let place = path.to_str().expect("UTF-8");
    on_reference("logits", &["-m", STORIES, "--tokens", "1,2,3", "-o", place]).succeeds();
    let bytes = std::fs::read(&path).expect("the file was written");
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"));
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(String::from_utf8_lossy(&bytes[10..header]).contains("'shape': (3, 512)"));
    assert_eq!(bytes.len() - header, 3 * 512 * 4);
}

#[test]
fn completions_help_and_version() {
    let script = vkllm(&["completions", "bash"]);
    assert!(script.succeeds().out.contains("complete -F"), "{script:?}");
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        assert!(vkllm(&["completions", shell]).succeeds().out.contains("vkllm"));
    }
    assert!(vkllm(&["--help"]).succeeds().out.contains("inspect"));
    let version = vkllm(&["--version"]);
    assert!(version.succeeds().out.contains(vkllm::SHADER_HASH), "{version:?}");
}

#[test]
fn devices_as_json() {
    if harness::device().is_none() {
        return;
    }
    let json = vkllm(&["devices", "--json"]).json();
    let list = json.as_array().expect("a list");
    assert!(!list.is_empty() && list.iter().all(|device| device["name"].is_string()), "{json}");
    assert!(vkllm(&["devices"]).succeeds().out.contains(list[0]["name"].as_str().expect("a name")));
}

/// Known architectures are shown with a plan; others are shown, and refused with a list of what is known.
#[test]
fn inspect_knows_what_can_run() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        harness::skip("../shared/golden is not there");
        return;
    };
    let (mut known, mut unknown) = (0, 0);
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "gguf")) {
        let said = vkllm(&["inspect", "-m", path.to_str().expect("UTF-8"), "--json"]);
        let json: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {path:?}"));
        let value = |key: &str| {
            let list = json["metadata"].as_array().expect("a list");
            list.iter().find(|entry| entry["key"] == key).map(|entry| entry["value"].to_string())
        };
        let architecture = value("general.architecture").expect("an architecture");
        let architecture = architecture.trim_matches(|c| c == '"' || c == '\\');
        if vkllm::ARCHITECTURES.iter().any(|known| known.name == architecture) {
            assert!(said.code == Some(0) && json["plan"]["total"].is_u64(), "{path:?}: {}", said.err);
            let bytes = |key: &str| json["plan"][key].as_u64().expect("bytes");
            let experts = value(&format!("{architecture}.expert_count")).is_some();
            assert!(bytes("active") > 0 && bytes("active") <= bytes("weights"), "{path:?}");
            let features = json["plan"]["features"].to_string();
            assert_eq!(features.contains("experts"), experts, "{path:?}: {features}");
            known += 1;
        } else {
            assert_eq!(said.code, Some(2), "{path:?}");
            assert!(said.err.contains(architecture), "{path:?}: {}", said.err);
            assert!(vkllm::ARCHITECTURES.iter().all(|known| said.err.contains(known.name)), "{}", said.err);
            unknown += 1;
        }
    }
    println!("{known} files can be run, {unknown} not");
    assert!(known >= 60, "only {known}");
}

/// Readers that stop early, as `head` does, are no failure.
#[test]
fn a_closed_pipe_is_quiet() {
    for arguments in [
        &["run", "--device", "reference", "-p", "Once", "-n", "400", "--temp", "0"][..],
        &["completions", "bash"],
        &["inspect", "-m", STORIES, "--tensors"],
        &["tokenize", "-m", STORIES, "-p", "a b c d e f g"],
    ] {
        let mut command = command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = child.stdout.take().expect("piped");
        let mut byte = [0];
        let _ = stdout.read(&mut byte);
        drop(stdout);
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{arguments:?}");
    }
}
