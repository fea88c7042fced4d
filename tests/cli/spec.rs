//! `vkllm spec`: a draft model held against a target.

use std::path::PathBuf;

use super::{STORIES, on_reference, vkllm};
use crate::harness;

/// A model of the references beside the project.
fn shared(name: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/models").join(name);
    path.is_file().then(|| path.to_string_lossy().into_owned())
}

#[test]
fn bytes_and_bandwidth_predict_without_a_device() {
    let arguments =
        ["spec", "-m", STORIES, "-md", STORIES, "--bandwidth", "0.001", "--acceptance", "0.8", "--json"];
    let json = vkllm(&arguments).json();
    assert_eq!(json["vocabulary"]["shared"], 512);
    assert_eq!(json["acceptance"]["source"], "given");
    let bytes = json["target"]["weight_bytes_per_token"].as_f64().expect("a number");
    let seconds = json["target"]["step_seconds"].as_f64().expect("a number");
    assert!((seconds * 1e6 / bytes - 1.0).abs() < 1e-6, "{json}");
    // A draft as large as its target costs a step for each token and cannot pay.
    assert_eq!((json["best_k"].as_u64(), json["predictions"].as_array().map(Vec::len)), (Some(0), Some(16)));
    assert!((json["predictions"][0]["tokens"].as_f64().expect("a number") - 1.8).abs() < 1e-9, "{json}");
    assert!(!json["command"].as_str().expect("a command").contains("-md"), "{json}");
    let said = vkllm(&arguments[..9]);
    assert!(said.succeeds().out.contains("No draft length pays"), "{said:?}");
}

#[test]
fn a_model_accepts_its_own_drafts() {
    let said = on_reference("spec", &["-m", STORIES, "-md", STORIES, "-p", "Once upon a time", "-n", "6"]);
    assert!(said.succeeds().out.contains("acceptance  100.0 % (6 of 6 tokens, greedy)"), "{said:?}");
}

#[test]
fn a_pair_is_measured_and_a_stranger_refused() {
    let (Some(target), Some(draft)) = (shared("tiny-target.q8_0.gguf"), shared("tiny-draft.q8_0.gguf"))
    else {
        return harness::skip("../shared/models is not there; a trained pair is not tested");
    };
    let told = |bandwidth: &str| {
        vkllm(&["spec", "-m", &target, "-md", &draft, "--bandwidth", bandwidth, "--json"]).json()
    };
    let json = told("50");
    assert!(json["best_k"].as_u64() > Some(1), "{json}");
    assert_eq!(json["best_k"], told("100")["best_k"]);
    assert!(
        json["command"].as_str().is_some_and(|c| c.starts_with("vkllm run -m ") && c.contains(" -md ")),
        "{json}"
    );
    vkllm(&["spec", "-m", &target, "-md", STORIES, "--bandwidth", "50"])
        .refuses(1, &["the draft model does not fit the target", "token 3 is \"!\" in the target"]);
}

#[test]
fn wrong_numbers_are_refused() {
    let with = |more: &[&str]| vkllm(&[&["spec", "-m", STORIES, "-md", STORIES], more].concat());
    with(&["--acceptance", "1.5", "--bandwidth", "1"]).refuses(2, &["--acceptance is 1.5", "0 to 1"]);
    with(&["--bandwidth", "0"]).refuses(2, &["--bandwidth is 0", "more than 0"]);
    with(&["--bandwidth", "nan"]).refuses(2, &["--bandwidth is NaN"]);
    with(&["--bandwidth", "1", "-p", "x"]).refuses_usage(&["cannot be used with"]);
}
