//! `vkllm selftest`: its outputs, its files and its exit codes.

use std::path::PathBuf;

use super::{command, scratch, vkllm};
use crate::harness;

/// Runs on the CPU reference, where meanings are compared with themselves.
fn on_reference(arguments: &[&str]) -> super::Said {
    vkllm(&[&["selftest", "--device", "reference"], arguments].concat())
}

fn file(name: &str, text: &str) -> String {
    let path = scratch().join(name);
    std::fs::write(&path, text).expect("a file in the target folder");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_table_of_what_passed() {
    let said = on_reference(&["--filter", "^gather", "--filter", "step_grid"]);
    let out = &said.succeeds().out;
    assert!(out.contains("gather.copy") && out.contains("step_grid.max") && !out.contains("linear"), "{out}");
    assert!(out.contains("0 failed, 0 skipped") && out.contains("seed 20260417"), "{out}");
    assert_eq!(said.err, "");
}

#[test]
fn json_of_every_case() {
    let json = on_reference(&["--filter", "^gather", "--seed", "7", "--json"]).json();
    let cases = json["cases"].as_array().expect("a list");
    assert!(!cases.is_empty() && json["seed"] == 7 && json["failed"] == 0, "{json}");
    assert_eq!(json["passed"].as_u64(), Some(cases.len() as u64));
    for case in cases {
        assert!(case["outcome"] == "passed" && case["op"] == "gather", "{case}");
        assert!(case["name"].as_str().is_some_and(|name| name.starts_with("gather.")), "{case}");
    }
}

#[test]
fn junit_of_every_case() {
    let path = scratch().join("selftest.xml");
    let place = path.to_str().expect("UTF-8");
    on_reference(&["--filter", "^(gather|step_grid)", "--junit", place]).succeeds();
    let text = std::fs::read_to_string(&path).expect("the file was written");
    let mut reader = quick_xml::Reader::from_str(&text);
    let (mut cases, mut suites) = (0, Vec::new());
    loop {
        use quick_xml::events::Event;
        match reader.read_event().expect("well-formed") {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag) => match tag.name().as_ref() {
                b"testcase" => cases += 1,
                b"testsuite" => {
                    let name = tag.try_get_attribute("name").expect("attributes").expect("a name");
                    suites.push(String::from_utf8_lossy(&name.value).into_owned());
                }
                _ => {}
            },
            _ => {}
        }
    }
    assert_eq!(suites, ["gather", "step_grid"]);
    let listed = on_reference(&["--filter", "^(gather|step_grid)", "--list"]).succeeds().out.lines().count();
    assert_eq!(cases, listed);
    let nowhere = on_reference(&["--filter", "^gather", "--junit", "/nowhere/at/all.xml"]);
    nowhere.refuses(2, &["/nowhere/at/all.xml"]);
}

#[test]
fn the_list_has_thousands_of_cases() {
    let said = on_reference(&["--list"]);
    let names: Vec<&str> = said.succeeds().out.lines().collect();
    assert!(names.len() >= 3000, "{} cases", names.len());
    // One name chooses one case.
    let one = on_reference(&["--list", "--filter", &format!("^{}$", names[names.len() / 2])]);
    assert_eq!(one.succeeds().out.lines().collect::<Vec<_>>(), [names[names.len() / 2]]);
}

#[test]
fn an_unexpected_pass_is_reported() {
    let list =
        file("expect-pass.txt", "# known\ngather.copy copies bits k 1 count 1$ # driver 12 drops a lane\n");
    let said = on_reference(&["--filter", "^gather", "--expect", &list]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("PASSED, expected to fail (driver 12 drops a lane): gather.copy"), "{said:?}");
    assert!(said.err.contains("1 cases passed although --expect says that they fail"), "{said:?}");
    // A pattern of cases that do not run is no news.
    on_reference(&["--filter", "^step_grid", "--expect", &list]).succeeds();
}

#[test]
fn wrong_arguments_are_told() {
    on_reference(&["--filter", "("]).refuses(2, &["--filter", "regular expression"]);
    on_reference(&["--filter", "no such case"]).refuses(2, &["none of the"]);
    on_reference(&["--explain", "glue"]).refuses(2, &["glue", "linear"]);
    on_reference(&["--explain", "linear", "--json"]).refuses_usage(&["--json"]);
    on_reference(&["--list", "--json"]).refuses_usage(&["--json"]);
    on_reference(&["--seed", "minus one"]).refuses_usage(&["--seed"]);
    on_reference(&["--expect", "/nowhere"]).refuses(2, &["/nowhere"]);
    let list = file("expect-bare.txt", "gather\n");
    on_reference(&["--expect", &list]).refuses(2, &["expect-bare.txt", "line 1", "no reason"]);
}

#[test]
fn explanations_name_choices_and_reasons() {
    let out = on_reference(&["--explain", "linear"]).succeeds().out.clone();
    assert!(out.contains("FORMAT q4_k, ACT q8, class int8"), "{out}");
    assert!(out.contains("is meant for"), "{out}");
    let out = on_reference(&["--explain", "glu"]).succeeds().out.clone();
    assert!(out.contains("1 rows and more: glu.blocks (rank 10)"), "{out}");
    let poor = on_reference(&["--explain", "norm", "--caps", "minus:subgroup,subgroup-arithmetic"]);
    assert!(poor.succeeds().out.contains("no kernel") || poor.out.contains("norm"), "{poor:?}");
}

/// 125 is what `git bisect run` skips.
#[test]
fn nothing_to_test_is_125() {
    let nowhere = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-driver.json");
    let said = command(&["selftest"])
        .env("VK_DRIVER_FILES", &nowhere)
        .env("VK_ICD_FILENAMES", &nowhere)
        .output()
        .expect("the program starts");
    assert_eq!(said.status.code(), Some(125), "{}", String::from_utf8_lossy(&said.stderr));
    let none = on_reference(&[
        "--filter",
        "^linear.matvec",
        "--caps",
        "minus:subgroup,subgroup-arithmetic,subgroup-shuffle",
    ]);
    assert!(none.code == Some(125) && none.err.contains("nothing could be tested"), "{none:?}");
    assert!(none.out.contains("which the device lacks"), "{none:?}");
}

#[test]
fn the_device_runs_a_part_of_the_suite() {
    if harness::device().is_none() {
        return;
    }
    let json = vkllm(&["selftest", "--filter", "^(gather|embed.lookup.q4_0)", "--json"]).json();
    assert!(json["passed"].as_u64().is_some_and(|passed| passed > 20) && json["failed"] == 0, "{json}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_computed() {
    use std::process::{Command, Stdio};
    let mut command = command(&["selftest", "--device", "reference", "--filter", "linear", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(sent.success());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    let json: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("JSON to the end");
    let (ran, wanted) = (json["cases"].as_array().map(Vec::len), json["wanted"].as_u64());
    assert_eq!(json["interrupted"], true);
    assert!(ran.is_some_and(|ran| (ran as u64) < wanted.unwrap_or(0)), "{ran:?} of {wanted:?}");
}
