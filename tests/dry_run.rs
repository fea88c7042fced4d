//! Dry run on a simulated Radeon 890M: the driver compiles, the program loads, records and submits, nothing executes.
//! All time there is host time.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness;

const SHIM: &str = "/usr/lib/x86_64-linux-gnu/libamdgpu_noop_drm_shim.so";
const RADV: &str = "/usr/share/vulkan/icd.d/radeon_icd.json";

/// A file that tools/test names, or where Debian has it.
fn place(variable: &str, usual: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).filter(|name| !name.is_empty()).map(PathBuf::from);
    let path = named.unwrap_or_else(|| PathBuf::from(usual));
    path.exists().then_some(path)
}

/// The program on the simulated device.
fn simulated(arguments: &[&str]) -> Option<Command> {
    let (Some(shim), Some(radv)) = (place("VKLLM_TEST_SHIM", SHIM), place("VKLLM_TEST_RADV", RADV)) else {
        harness::skip("mesa-drm-shim or RADV is not installed");
        return None;
    };
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dry-run");
    std::fs::create_dir_all(&cache).expect("a folder in the target folder");
    // Names differ by version of Mesa: `gfx1150` until 25, `strix1` since.
    let gpu = std::env::var("AMDGPU_GPU_ID").unwrap_or_else(|_| "gfx1150".into());
    let mut command = Command::new(env!("CARGO_BIN_EXE_vkllm"));
    command
        .args(arguments)
        .env("LD_PRELOAD", shim)
        .env("VK_DRIVER_FILES", &radv)
        .env("VK_ICD_FILENAMES", &radv)
        .env("AMDGPU_GPU_ID", gpu)
        .env("XDG_CACHE_HOME", &cache)
        .env("MESA_SHADER_CACHE_DIR", &cache)
        .stdin(std::process::Stdio::null());
    Some(command)
}

/// Runs a model there; returns what `--json` printed.
fn run(arguments: &[&str]) -> Option<serde_json::Value> {
    let fixed = ["run", "--device", "0", "--tokens", "1,2,3", "--temp", "0", "--ignore-eos", "--json"];
    let output = simulated(&[&fixed[..], arguments].concat())?.output().expect("the program starts");
    let err = String::from_utf8_lossy(&output.stderr);
    if err.contains("VK_LAYER_KHRONOS_validation, which") {
        harness::skip("the validation layers are not installed");
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(!err.contains("panicked"), "{err}");
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn golden(name: &str) -> String {
    format!("{}/tests/data/golden/{name}.gguf", env!("CARGO_MANIFEST_DIR"))
}

/// Loading, recording and submitting are valid to the layers, and everything comes out as zeros.
fn clean(arguments: &[&str]) {
    for activations in ["float", "int8"] {
        let all = [&["-n", "8", "--validate", "sync", "--activations", activations], arguments].concat();
        let Some(json) = run(&all) else { return };
        assert_eq!(json["tokens"], serde_json::json!(vec![0; 8]), "{json}");
        assert_eq!(json["stats"]["recordings_made_while_decoding"], 0, "{json}");
    }
}

#[test]
fn the_built_in_model_is_clean() {
    clean(&[]);
}

#[test]
fn a_qwen3_is_clean() {
    clean(&["-m", &golden("qwen3-q4_k_m")]);
}

#[test]
fn a_long_prompt_is_clean() {
    let ids: Vec<String> = (0..96).map(|id| id.to_string()).collect();
    let Some(mut command) =
        simulated(&["run", "--device", "0", "--tokens", &ids.join(","), "-n", "2", "--validate", "sync"])
    else {
        return;
    };
    let output = command.output().expect("the program starts");
    let err = String::from_utf8_lossy(&output.stderr);
    if err.contains("VK_LAYER_KHRONOS_validation, which") {
        return harness::skip("the validation layers are not installed");
    }
    assert_eq!(output.status.code(), Some(0), "{err}");
}

/// Nothing executes, so this is the program's own time. Printed, not judged: machines differ.
#[test]
fn host_time_is_reported() {
    let Some(json) = run(&["-n", "64", "-m", &golden("qwen3-q4_k_m")]) else { return };
    let [host, step] =
        ["host_ms_per_token", "step_ms_per_token"].map(|key| json["stats"][key].as_f64().unwrap_or(0.0));
    assert!(host > 0.0 && step >= host, "{json}");
    println!("host time per decoded token: {host:.4} ms beside waiting, {step:.4} ms with");
    assert_eq!(json["stats"]["recordings_made_while_decoding"], 0, "{json}");
}
