//! `vkllm chat` through a pipe: what was said stays, commands work, Ctrl-C ends an answer alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use super::{command, on_reference, scratch, vkllm_with};
use crate::models::data;

const ARGUMENTS: [&str; 8] = ["chat", "--device", "reference", "--activations", "float", "--temp", "0", "-n"];

fn chat(more: &[&str], input: &str) -> super::Said {
    vkllm_with(&[&ARGUMENTS[..], more].concat(), input.as_bytes())
}

#[test]
fn a_conversation_goes_on() {
    let said = chat(&["8", "--stats"], "Once upon a time\n and then\n");
    let lines: Vec<&str> = said.succeeds().out.lines().collect();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert!(lines[0].starts_with(", there was a little girl"), "{said:?}");
    assert_eq!(said.err.lines().filter(|line| line.starts_with("[8 tokens, ")).count(), 2, "{said:?}");
    // The whole conversation is the prompt of a run that ends the same way.
    let prompt = format!("Once upon a time{} and then", lines[0]);
    let again = on_reference(
        "run",
        &["--activations", "float", "--temp", "0", "-n", "8", "--no-display-prompt", "-p", &prompt],
    );
    assert_eq!(again.succeeds().out.trim_end(), lines[1], "{said:?}");
}

/// At a terminal: keys edit the line, the arrow brings an earlier one back, and nothing else is different.
#[cfg(unix)]
#[test]
fn a_conversation_at_a_terminal() {
    // A pseudo terminal from util-linux.
    if !Command::new("script").arg("--version").output().is_ok_and(|said| said.status.success()) {
        crate::harness::skip("the program `script` is not there; chat is not tried at a terminal");
        return;
    }
    let program = format!("{} {} 8 --no-history", env!("CARGO_BIN_EXE_vkllm"), ARGUMENTS.join(" "));
    let mut command = Command::new("script");
    command.args(["-qec", &program, "/dev/null"]).env("XDG_CACHE_HOME", scratch()).env("TERM", "xterm");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut keys = child.stdin.take();
    // Erases what was mistyped; clears; goes up over /clear to the first line.
    let mut lines = ["Once upon a tinx\x7f\x7fme\r", "/clear\r", "\x1b[A\x1b[A\r", "/quit\r"].into_iter();
    let (mut out, mut seen) = (Vec::new(), 0);
    let mut said = child.stdout.take().expect("piped");
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = said.read(&mut chunk) {
        out.extend_from_slice(&chunk[..count]);
        // The editor switches pasting as a whole on when it begins to listen; what is typed before may be dropped.
        let listens = String::from_utf8_lossy(&out).matches("\x1b[?2004h").count();
        while seen < listens {
            seen += 1;
            match lines.next() {
                Some(line) => {
                    keys.iter_mut().for_each(|keys| keys.write_all(line.as_bytes()).expect("it listens"))
                }
                None => keys = None,
            }
        }
    }
    let out = String::from_utf8_lossy(&out).into_owned();
    assert!(child.wait().expect("it ends").success(), "{out}");
    let once = chat(&["8"], "Once upon a time\n").out;
    assert_eq!(out.matches(once.trim_end()).count(), 2, "{out}");
    assert!(!out.contains("panicked"), "{out}");
}

#[test]
fn commands_change_the_conversation() {
    let file = scratch().join("chat.json");
    let path = file.to_str().expect("UTF-8");
    let once = chat(&["8"], "Once upon a time\n").out;
    let undone = chat(&["8"], "Tom and Sue\n/undo\nOnce upon a time\n");
    assert!(undone.succeeds().out.ends_with(&once), "{undone:?}");
    let retried = chat(&["8"], "Once upon a time\n/retry\n");
    assert_eq!(retried.succeeds().out, once.repeat(2));
    let cleared = chat(&["8"], "Tom and Sue\n/clear\nOnce upon a time\n");
    assert!(cleared.succeeds().out.ends_with(&once), "{cleared:?}");
    let saved = chat(&["8"], &format!("Once upon a time\n/save {path}\n and then\n"));
    let loaded = chat(&["8"], &format!("/load {path}\n and then\n"));
    assert!(
        saved.succeeds().out.ends_with(&loaded.succeeds().out) && !loaded.out.is_empty(),
        "{saved:?} {loaded:?}"
    );
    let blocks = chat(&["8"], "\"\"\"\nOnce upon\n a time\"\"\"\nOnce upon\\\n a time\n/undo\n/undo\n");
    let lines: Vec<&str> = blocks.succeeds().out.lines().collect();
    assert_eq!(lines.len(), 2, "{blocks:?}");
    let said = chat(&["8"], "/no\n/think\n/think loud\n/load /nowhere\n/help\n/quit\nOnce\n");
    assert_eq!(said.succeeds().out, "", "{said:?}");
    for words in ["no command /no", "did not think", "\"loud\"", "/nowhere: ", "/retry"] {
        assert!(said.err.contains(words), "{words}: {said:?}");
    }
}

/// A conversation that does not fit is told, and the one before it goes on.
#[test]
fn what_does_not_fit_is_taken_back() {
    let long = "a b c ".repeat(60);
    let said = chat(&["4", "-c", "64"], &format!("{long}\nOnce upon a time\n"));
    assert!(said.succeeds().err.contains("the prompt has"), "{said:?}");
    assert!(said.out.starts_with(", there was"), "{said:?}");
    let full = chat(&["-1", "-c", "24"], "Once upon a time\n");
    assert!(full.succeeds().err.contains("24 tokens is full"), "{full:?}");
}

#[test]
fn templates_are_chosen() {
    let path = data("chat/gemma.jinja");
    let gemma =
        chat(&["4", "--chat-template", path.to_str().expect("UTF-8")], "Hello\n/system Be brief.\nHello\n");
    assert_eq!(gemma.succeeds().out.lines().count(), 2, "{gemma:?}");
    let refused = chat(&["4", "--chat-template", "/nowhere.jinja"], "Hello\n");
    refused.refuses(2, &["/nowhere.jinja", "chatml", "plain"]);
    let file = scratch().join("broken.jinja");
    std::fs::write(&file, "one\n{% for %}").expect("a file in the target folder");
    chat(&["4", "--chat-template", file.to_str().expect("UTF-8")], "Hello\n").refuses(2, &["line 2"]);
    chat(&["4", "-m", "assets/stories260k.q8_0.gguf"], "Hello\n").refuses(2, &["no chat template"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer_alone() {
    let mut command = command(&[&ARGUMENTS[..], &["-1", "-c", "2000"]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    stdin.write_all(b"Once upon a time\n").expect("it listens");
    let mut begin = [0; 8];
    std::io::Read::read_exact(&mut out, &mut begin).expect("an answer begins");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
    let mut rest = String::new();
    out.read_line(&mut rest).expect("the line ends");
    stdin.write_all(b"/quit\n").expect("it still listens");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}
