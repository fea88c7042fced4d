//! `vkllm perplexity` agrees with what `vkllm logits` says, and does not depend on the rows of a step.

use super::{STORIES, on_reference, scratch, vkllm_with};

const TEXT: &str = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, \
                    she saw a big dog. The dog was very happy and wanted to play with her. Lily was not sure, but her \
                    mom said it was okay. They ran and ran until the sun went down. Then they all went home and slept.";

fn file() -> String {
    let path = scratch().join("perplexity.txt");
    std::fs::write(&path, TEXT).expect("a file");
    path.to_str().expect("a path").to_owned()
}

#[test]
fn perplexity_is_that_of_the_logits() {
    let said = |extra: &[&str]| {
        let file = file();
        let common = ["-f", file.as_str(), "-c", "64", "--activations", "float", "--json"];
        on_reference("perplexity", &[&common, extra].concat()).json()
    };
    let whole = said(&["--chunks", "1"]);
    assert_eq!(whole["tokens_counted"], 31, "{whole}");
    let ids = vkllm_with(&["tokenize", "-m", STORIES, "--json"], TEXT.as_bytes()).json();
    let ids: Vec<u64> =
        ids.as_array().expect("a list").iter().filter_map(|id| id.as_u64()).take(64).collect();
    let listed: Vec<String> = ids.iter().map(u64::to_string).collect();
    let npy = scratch().join("perplexity.npy");
    let place = npy.to_str().expect("a path");
    let arguments = ["-m", STORIES, "--tokens", &listed.join(","), "-o", place, "--activations", "float"];
    on_reference("logits", &arguments).succeeds();
    let bytes = std::fs::read(&npy).expect("it was written");
    let floats: Vec<f64> = bytes[bytes.len() - 64 * 512 * 4..]
        .chunks_exact(4)
        .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        .collect();
    let nll = |row: usize| {
        let logits = &floats[row * 512..][..512];
        logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[ids[row + 1] as usize]
    };
    let expected = (32..63).map(nll).sum::<f64>() / 31.0;
    let got = whole["nll"].as_f64().expect("a number");
    assert!((got - expected).abs() < 1e-5, "{got} instead of {expected}");
    // Prompts are computed by the same kernels in steps of any size; the others round elsewhere.
    let stepped = said(&["--chunks", "1", "-b", "20"]);
    assert_eq!(stepped["nll"], whole["nll"]);
    let decoded = said(&["--chunks", "1", "--decode"])["nll"].as_f64().expect("a number");
    assert!((decoded - got).abs() < 1e-4, "{decoded} instead of {got}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let file = file();
    on_reference("perplexity", &["-f", &file, "-c", "32"]).refuses(2, &["-c is 32", "64"]);
    on_reference("perplexity", &["-f", &file, "-c", "512"]).refuses(2, &["512 and more", "one chunk"]);
    on_reference("perplexity", &["-f", &file, "-c", "64", "--chunks", "0"]).refuses(2, &["--chunks is 0"]);
}
