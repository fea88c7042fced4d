//! Golden files: models with the logits an independent implementation computed, and how far ours are from them.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Rows that the reference kept: every sixth.
const FIRST: usize = 5;
const STEP: usize = 6;

/// Architectures of the files that test formats; `families` tests the others one by one.
const ARCHITECTURES: &[&str] = &["llama", "mistral3", "qwen2", "qwen3", "smollm3"];

/// One golden model.
pub struct Golden {
    pub name: String,
    pub path: PathBuf,
    pub tokens: Vec<u32>,
    /// Greedy continuation with dequantised weights, and how far each token was ahead of the second.
    pub greedy: Vec<u32>,
    pub gaps: Vec<f64>,
    /// Standard deviation of the logits.
    pub deviation: f64,
    /// Weights are quantised, so int8 activations are possible.
    pub quantised: bool,
    vocab: usize,
    want: Vec<f32>,
}

/// Normalised mean squared errors of the rows that the reference kept.
pub struct Errors {
    pub median: f64,
    pub worst: f64,
}

/// The values of a .npy file of little-endian f32 in C order, and their shape.
fn npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}: magic", path.display());
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).expect("a header in ASCII");
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let shape = header.split_once('(').and_then(|(_, rest)| rest.split_once(')')).expect("a shape").0;
    let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let floats = bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (shape, floats.collect())
}

fn numbers(json: &Value, key: &str) -> Vec<f64> {
    let list = json[key].as_array().unwrap_or_else(|| panic!("{key} is missing"));
    list.iter().map(|value| value.as_f64().expect("a number")).collect()
}

fn ids(json: &Value, key: &str) -> Vec<u32> {
    numbers(json, key).into_iter().map(|id| id as u32).collect()
}

impl Golden {
    /// One golden model of a folder, whatever its architecture; `None` when it is not there.
    pub fn named(folder: &Path, name: &str) -> Option<Golden> {
        Golden::read(&folder.join(format!("{name}.json")), &|_| true)
    }

    fn read(json_path: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<Golden> {
        let name = json_path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
        let text = std::fs::read_to_string(json_path).ok()?;
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let architecture = json["architecture"].as_str()?;
        if !wanted(architecture) || name.ends_with(".mtp") {
            return None;
        }
        let (shape, want) = npy(&json_path.with_file_name(format!("{name}.deq.npy")));
        let tokens = ids(&json, "tokens");
        assert_eq!(shape[0], (tokens.len() - FIRST).div_ceil(STEP), "{name}: rows");
        Some(Golden {
            path: json_path.with_extension("gguf"),
            greedy: ids(&json, "greedy_f32_weights"),
            gaps: numbers(&json, "greedy_f32_weights_top2_gap"),
            deviation: json["logits_std"].as_f64().expect("logits_std"),
            quantised: !matches!(json["type"].as_str(), Some("F32" | "F16" | "BF16")),
            vocab: shape[1],
            tokens,
            want,
            name,
        })
    }

    /// The golden models of a folder, by name.
    pub fn folder(folder: &Path) -> Vec<Golden> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
            .iter()
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .filter_map(|p| Golden::read(p, &|architecture| ARCHITECTURES.contains(&architecture)))
            .filter(|golden| !golden.name.contains("-moe-"))
            .collect()
    }

    /// Compares the logits of all tokens with the rows the reference kept.
    pub fn errors(&self, logits: &[f32]) -> Errors {
        assert_eq!(logits.len(), self.tokens.len() * self.vocab, "{}: number of logits", self.name);
        let rows = logits.chunks(self.vocab).skip(FIRST).step_by(STEP).zip(self.want.chunks(self.vocab));
        let mut errors: Vec<f64> = rows.map(|(got, want)| nmse(got, want)).collect();
        errors.sort_by(f64::total_cmp);
        Errors { median: errors[errors.len() / 2], worst: errors[errors.len() - 1] }
    }
}

/// Squared error over squared size; infinite for anything that is not a number.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = want.iter().map(|b| square(f64::from(*b))).sum();
    if error.is_finite() { error / size } else { f64::INFINITY }
}

#[test]
fn errors_are_noticed() {
    let folder = super::data("golden");
    let golden = Golden::folder(&folder).into_iter().next().expect("a checked-in golden model");
    let mut logits = vec![0.0; golden.tokens.len() * golden.vocab];
    for (row, want) in golden.want.chunks(golden.vocab).enumerate() {
        logits[(FIRST + row * STEP) * golden.vocab..][..golden.vocab].copy_from_slice(want);
    }
    assert_eq!(golden.errors(&logits).worst, 0.0);
    logits[FIRST * golden.vocab] += 1.0;
    assert!(golden.errors(&logits).worst > 1e-6, "one wrong logit");
    logits[95 * golden.vocab + 1] = f32::NAN;
    assert!(golden.errors(&logits).worst.is_infinite(), "a logit that is no number");
}
