//! Options that are wrong, do not fit the model, or name what is not there.

use super::{STORIES, command, on_reference, vkllm, vkllm_with};

#[test]
fn unknown_options_and_commands() {
    vkllm(&["run", "--no-such-option"]).refuses_usage(&["--no-such-option"]);
    vkllm(&["no-such-command"]).refuses_usage(&["no-such-command"]);
    vkllm(&["run", "-n", "many"]).refuses_usage(&["many"]);
    vkllm(&["run", "-p", "a", "-f", "b"]).refuses_usage(&["cannot be used with"]);
    vkllm(&["logits", "-m", STORIES]).refuses_usage(&["--tokens"]);
    vkllm(&["run", "--activations", "int4"]).refuses_usage(&["int4", "float", "int8", "auto"]);
    vkllm(&["run", "--tokens", "1,-2"]).refuses_usage(&["-2"]);
    vkllm(&["run", "--tokens", "1,,2"]).refuses_usage(&["--tokens"]);
    vkllm(&["run", "--top-k", "-1"]).refuses_usage(&["-1"]);
    let nothing = vkllm(&[]);
    assert!(nothing.code == Some(2) && nothing.err.contains("Usage"), "{nothing:?}");
}

#[test]
fn values_outside_their_range() {
    let run = |arguments: &[&str]| on_reference("run", &[&["-p", "a", "-n", "1"], arguments].concat());
    run(&["--temp", "nan"]).refuses(2, &["temperature", "NaN"]);
    run(&["--temp", "inf"]).refuses(2, &["temperature", "inf"]);
    run(&["--top-p", "1.5"]).refuses(2, &["top-p", "1.5"]);
    run(&["--min-p", "2"]).refuses(2, &["min-p", "2"]);
    run(&["--repeat-penalty", "0"]).refuses(2, &["repetition penalty", "0"]);
    run(&["--frequency-penalty", "-101"]).refuses(2, &["frequency penalty", "-101"]);
    run(&["--repeat-last-n", "4000000000"]).refuses(2, &["4000000000"]);
    run(&["-b", "0"]).refuses(2, &["0"]);
    run(&["-ctk", "q6_k"]).refuses(2, &["--cache-type-k", "q6_k", "f32", "bf16", "q8_0", "iq4_nl"]);
    // The built-in model has heads of 8.
    run(&["-ctk", "q8_0"]).refuses(2, &["cached keys", "8 elements", "q8_0", "32", "f32, f16, bf16"]);
    run(&["-ctk", "bf16", "-ctv", "f32"]).succeeds();
    run(&["-ctv", "f64"]).refuses(2, &["--cache-type-v", "f64"]);
    run(&["--caps", "fp16"]).refuses(2, &["--caps", "minus:"]);
    run(&["--caps", "minus:wings"]).refuses(2, &["wings", "fp16"]);
    run(&["-c", "0"]).refuses(2, &["context", "0"]);
}

#[test]
fn speculation_that_cannot_be() {
    let run = |arguments: &[&str]| on_reference("run", &[&["-p", "a", "-n", "4"], arguments].concat());
    run(&["--draft-max", "3"]).refuses(2, &["--draft-max", "-md"]);
    run(&["--draft-p-min", "0.5", "--spec", "ngram-mod"]).refuses(2, &["--draft-p-min", "-md"]);
    run(&["--spec", "draft-model"]).refuses(2, &["draft-model", "-md"]);
    run(&["--spec", "magic"]).refuses(2, &["magic", "ngram-cache"]);
    run(&["--spec", "ngram-cache", "--draft-max", "65"]).refuses(2, &["65", "64"]);
    run(&["--spec", "ngram-cache", "--draft-max", "few"]).refuses(2, &["few", "auto"]);
    run(&["-md", "no-such-file.gguf"]).refuses(2, &["no-such-file.gguf"]);
    run(&["-m", STORIES, "-md", STORIES, "--draft-max", "17"]).refuses(2, &["17", "16"]);
    run(&["-m", STORIES, "-md", STORIES, "--draft-p-min", "2"]).refuses(2, &["p-min", "2"]);
    run(&["--spec", "ngram-cache", "--draft-head", "100"]).refuses(2, &["--draft-head", "-md"]);
    run(&["--draft-accept", "rejection"]).refuses(2, &["--draft-accept", "-md"]);
    run(&["-m", STORIES, "-md", STORIES, "--draft-head", "0"]).refuses(2, &["0", "auto"]);
    run(&["-m", STORIES, "-md", STORIES, "--draft-max", "2"]).succeeds();
    let pair = ["-m", STORIES, "-md", STORIES, "--draft-max", "2", "-s", "1"];
    run(&[&pair[..], &["--draft-head", "200", "--draft-accept", "rejection"]].concat()).succeeds();
    let json = run(&[&pair[..], &["--draft-p-min", "0", "--show-source", "--json"]].concat()).json();
    assert_eq!(
        json["sources"],
        serde_json::json!(["target", "draft-model", "draft-model", "target"]),
        "{json}"
    );
    run(&["--spec", "ngram-cache"]).succeeds();
}

#[test]
fn biases_and_typical_tokens() {
    let run = |arguments: &[&str]| on_reference("run", &[&["-p", "a", "-n", "4"], arguments].concat());
    run(&["-l", "7"]).refuses_usage(&["15043-1"]);
    run(&["--logit-bias", "x+1"]).refuses_usage(&["x"]);
    run(&["--logit-bias", "512+1"]).refuses(2, &["512"]);
    run(&["--typical", "2"]).refuses(2, &["typical-p", "2"]);
    let json = run(&["--typical", "0.5", "-l", "300+90", "-l", "301-inf", "--json"]).json();
    assert_eq!(json["tokens"], serde_json::json!([300, 300, 300, 300]), "{json}");
}

#[test]
fn an_audit_compares_and_says_what_it_did() {
    let audit = |arguments: &[&str]| {
        let few = ["--prompts", "2", "--prompt-tokens", "6", "-n", "6", "-s", "7"];
        on_reference("audit", &[&few[..], arguments].concat())
    };
    let json = audit(&["-m", STORIES, "-md", STORIES, "--draft-max", "2", "--json"]).json();
    // Seven samplers, four history drafters and twice the draft model, two prompts.
    assert_eq!((json["texts"].as_u64(), json["differing"].as_u64()), (Some(7 * 6 * 2), Some(0)), "{json}");
    let model =
        json["rows"].as_array().into_iter().flatten().filter(|row| row["drafter"] == "draft-model:p-min=0");
    let [drafted, accepted] =
        ["drafted", "accepted"].map(|key| model.clone().filter_map(|row| row[key].as_u64()).sum::<u64>());
    assert!(drafted > 0 && drafted == accepted, "a model's drafts for itself are its own draws: {json}");
    audit(&["--drafter", "draft-model"]).refuses(2, &["draft-model", "-md"]);
    audit(&["--draft-max", "some"]).refuses(2, &["some", "auto"]);
    audit(&["-f", "no-such-file.txt"]).refuses(2, &["no-such-file.txt"]);
    on_reference("audit", &["--prompts", "0"]).refuses(2, &["--prompts"]);
}

#[test]
fn a_prompt_that_does_not_fit() {
    let long = "word ".repeat(200);
    on_reference("run", &["-p", &long, "-c", "64"]).refuses(2, &["prompt", "64", "-c"]);
    on_reference("run", &["-p", "", "--special"]).succeeds();
    let ids = vec!["5"; 65].join(",");
    on_reference("logits", &["-m", STORIES, "--tokens", &ids, "-c", "64"]).refuses(2, &["65", "64", "-c"]);
}

#[test]
fn a_token_that_does_not_exist() {
    on_reference("run", &["--tokens", "1,512"]).refuses(2, &["512", "511"]);
    on_reference("logits", &["-m", STORIES, "--tokens", "4294967295"]).refuses(2, &["4294967295", "511"]);
    vkllm(&["run", "--tokens", "4294967296"]).refuses_usage(&["4294967296"]);
}

#[test]
fn a_prompt_that_is_no_text() {
    vkllm_with(&["run", "--device", "reference", "-n", "1"], b"ab\xff\xfe")
        .refuses(2, &["standard input", "byte 2", "UTF-8"]);
    vkllm_with(&["tokenize", "-m", STORIES], b"\xc3").refuses(2, &["standard input", "byte 0", "UTF-8"]);
}

#[test]
fn a_context_that_no_machine_holds() {
    let said = on_reference("run", &["-p", "a", "-n", "1", "-c", "4294967295"]);
    said.refuses(2, &["bytes"]);
}

#[test]
fn devices_that_are_not_there() {
    if crate::harness::device().is_none() {
        return;
    }
    vkllm(&["run", "--device", "no such card", "-p", "a"])
        .refuses(3, &["no such card", "found: 0", "reference"]);
    vkllm(&["run", "--device", "99", "-p", "a"]).refuses(3, &["99", "found: 0", "reference"]);
    vkllm(&["run", "--subgroup", "7", "-p", "a"]).refuses(3, &["subgroup", "7"]);
}

#[test]
fn no_driver() {
    let none = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("VK_DRIVER_FILES", "/dev/null").env("VK_ICD_FILENAMES", "/dev/null");
        super::Said::of(command.output().expect("the program starts"))
    };
    // A machine without the loader gives the same code and another hint.
    none(&["run", "-p", "a"]).refuses(3, &["install", "reference"]);
    none(&["logits", "-m", STORIES, "--tokens", "1"]).refuses(3, &["install", "reference"]);
    none(&["run", "--device", "reference", "-p", "a", "-n", "2"]).succeeds();
    none(&["inspect", "-m", STORIES]).succeeds();
}
