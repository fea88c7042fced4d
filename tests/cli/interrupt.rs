//! Ctrl-C while text is generated.
#![cfg(unix)]

use std::io::Read;
use std::process::{Command, Stdio};

use super::command;

#[test]
fn ctrl_c_keeps_what_was_printed() {
    let arguments = [
        "run",
        "--device",
        "reference",
        "-p",
        "Once upon a time",
        "-n",
        "-1",
        "-c",
        "4000",
        "--ignore-eos",
        "--temp",
        "0",
    ];
    let mut command = command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut text = vec![0; 40];
    stdout.read_exact(&mut text).expect("it tells a story");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
    stdout.read_to_end(&mut text).expect("the rest");
    let ended = child.wait_with_output().expect("it ends");
    let (text, err) = (String::from_utf8_lossy(&text), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(130), "{err}");
    assert!(text.starts_with("Once upon a time, there was"), "{text}");
    assert!(text.ends_with('\n'), "the shell's prompt begins a line of its own");
    assert!(!err.contains("panicked"), "{err}");
}
