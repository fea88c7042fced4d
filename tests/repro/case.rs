//! Captured cases: they run alone with the same bits, say what they find by their exit codes, and survive bad folders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vkllm::repro::{
    Capsule, Case, FindOptions, Shrink, Verdict, assembly, capture, dispatches, judge, reduce, replay,
    synthetic,
};
use vkllm::selftest::Rng;
use vkllm::{Activations, Device};

use super::mutate::{Fault, demanding, mutant, untyped};
use super::{PROMPT, model};
use crate::cli::{command, vkllm};
use crate::harness;

pub(super) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("repro").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.parent().expect("a parent")).expect("a folder in the target folder");
    folder
}

/// One dispatch of the small model.
pub(super) fn captured(device: &Device, label: &str) -> Capsule {
    let options = FindOptions { label: Some(label.into()), ..FindOptions::default() };
    let model = model(device, Activations::Int8);
    capture(&model, &PROMPT, &options, 0).expect("a prompt that fits").expect("such a dispatch")
}

pub(super) fn case(device: &Device, capsule: &Capsule) -> Case {
    let mut case = Case::new(capsule, device.caps(), None);
    case.actual = Some(case.capsule.run(device).expect("it runs").state);
    case
}

#[test]
fn every_pipeline_of_a_step_runs_alone_with_the_same_bits() {
    let Some(device) = harness::another() else { return };
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    for activations in [Activations::Float, Activations::Int8] {
        let model = model(&device, activations);
        let all = FindOptions { tokens: 1, ..FindOptions::default() };
        for (label, kernel) in dispatches(&model, &PROMPT, &all).expect("a prompt that fits") {
            if !seen.insert(kernel.name) {
                continue;
            }
            let options =
                FindOptions { label: Some(label.clone()), op: Some(kernel.op.into()), ..all.clone() };
            let capsule = capture(&model, &PROMPT, &options, 0).expect("a prompt").expect("such a dispatch");
            let path = folder(&format!("{}.tar.zst", kernel.name));
            case(&device, &capsule).write(&path).unwrap_or_else(|error| panic!("{label}: {error}"));
            bytes = std::fs::metadata(&path).expect("it was written").len().max(bytes);
            let read = Case::read(&path, false).unwrap_or_else(|error| panic!("{label}: {error}"));
            let replayed = replay(&device, &read, 2, &mut |_| {});
            assert!(matches!(replayed.verdict, Verdict::Match), "{label}: {:?}", replayed.verdict);
            assert_eq!((replayed.same_bits, replayed.deterministic), (Some(true), true), "{label}");
            std::fs::remove_file(&path).expect("it was there");
        }
    }
    println!("{} kernels, the largest case has {bytes} bytes", seen.len());
    assert!(seen.len() >= 12, "{seen:?}");
    assert!(bytes <= 1 << 20);
}

#[test]
fn made_up_data_keep_a_fault_and_hold_nothing_of_the_model() {
    let Some(device) = harness::another() else { return };
    let capsule = captured(&device, "blk.1.ffn_gate");
    let kernel = mutant(capsule.kernel, Fault::Overflow, 0).expect("a product");
    let made = Capsule { kernel, ..synthetic(&capsule, 1) };
    let case = case(&device, &made);
    assert!(matches!(replay(&device, &case, 1, &mut |_| {}).verdict, Verdict::Mismatch(_)));
    let (x, weights) = (capsule.arg("x").expect("x"), capsule.arg("weights").expect("weights"));
    for arg in [x, weights] {
        let (old, new) = (&capsule.pieces[arg.piece].words, &made.pieces[arg.piece].words);
        let same = old.iter().zip(new).filter(|(old, new)| old == new && **old != 0).count();
        assert!(same * 20 < old.len(), "{same} of {} words stay", old.len());
    }
    let text = String::from_utf8_lossy(&case.files().expect("its files")["manifest.json"]).into_owned();
    assert!(!text.contains("stories") && text.contains("\"op\": \"linear\""), "{text}");
}

fn run(path: &Path, more: &[&str]) -> Option<i32> {
    vkllm(&[&["repro", "run", path.to_str().expect("UTF-8")], more].concat()).code
}

#[test]
fn exit_codes_tell_what_happened() {
    let Some(device) = harness::another() else { return };
    let capsule = captured(&device, "blk.0.attn_norm");
    let good = case(&device, &capsule);
    let write = |name: &str, case: &Case| {
        let path = folder(name);
        case.write(&path).expect("a case");
        path
    };
    let path = write("good", &good);
    assert_eq!(run(&path, &["--times", "3"]), Some(0));
    assert_eq!(run(&path, &["--device", "reference"]), Some(0));
    assert_eq!(run(&path, &["--caps", "minus:subgroup-shuffle"]), Some(125));

    let kernel = mutant(capsule.kernel, Fault::Nan, 0).expect("a product");
    let wrong = Case::new(&Capsule { kernel, ..capsule.clone() }, device.caps(), None);
    let path = write("wrong", &wrong);
    assert_eq!(run(&path, &[]), Some(2), "SPIR-V of another program needs --raw");
    assert_eq!(run(&path, &["--raw"]), Some(1));
    let said = vkllm(&["repro", "run", path.to_str().expect("UTF-8"), "--raw", "--json"]);
    assert!(said.out.contains("\"code\":1") && said.out.contains("NaN"), "{said:?}");

    let mut endless = good.clone();
    endless.manifest.grid = [65535, 65535, 1];
    let path = write("endless", &endless);
    assert_eq!(run(&path, &["--timeout", "0.5"]), Some(11));

    let kernel = untyped(capsule.kernel);
    let mut broken = good.clone();
    broken.capsule.kernel = kernel;
    broken.manifest.spirv_sha256 = sha256(kernel.spirv);
    let path = write("broken", &broken);
    assert_eq!(run(&path, &["--raw", "--timeout", "30"]), Some(12));

    // Calls that fail: a lost device wherever a call may say so, and compilers that give up.
    let path = write("calls", &good);
    let mut codes = BTreeSet::new();
    for nth in 1..200 {
        let code = run(&path, &["--fail-call", &nth.to_string(), "--fail-how", "0"]);
        assert!(matches!(code, Some(0 | 10 | 12 | 125)), "call {nth}: {code:?}");
        codes.extend(code);
        if codes.contains(&10) && codes.contains(&12) {
            break;
        }
    }
    assert!(codes.contains(&10) && codes.contains(&12), "{codes:?}");

    let kernel = demanding(capsule.kernel);
    let mut invalid = good.clone();
    invalid.capsule.kernel = kernel;
    invalid.manifest.spirv_sha256 = sha256(kernel.spirv);
    let (invalid, valid) = (write("invalid", &invalid), write("valid", &good));
    match run(&valid, &["--validate", "core"]) {
        Some(125) => harness::skip("the validation layer is not installed"),
        code => {
            assert_eq!(code, Some(0));
            assert_eq!(run(&invalid, &["--raw", "--validate", "core"]), Some(13));
        }
    }

    assert_eq!(run(Path::new("/nonexistent"), &[]), Some(2));
    let mut parent = command(&["repro", "run"]);
    assert_eq!(parent.output().expect("it starts").status.code(), Some(2));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn damaged_cases_are_refused_and_nothing_panics() {
    let Some(device) = harness::another() else { return };
    let good = case(&device, &captured(&device, "blk.0.attn_norm"));
    let path = folder("damaged");
    good.write(&path).expect("a case");
    let files = good.files().expect("its files");
    let mut rng: Rng = harness::rng("damaged cases");
    for round in 0..400 {
        let names: Vec<&String> = files.keys().collect();
        let name =
            if round % 2 == 0 { "manifest.json" } else { names[rng.int(0, names.len() as i32 - 1) as usize] };
        let mut bytes = files[name].clone();
        if bytes.is_empty() {
            continue;
        }
        let at = rng.int(0, bytes.len() as i32 - 1) as usize;
        match round % 4 {
            0 | 1 => bytes[at] ^= 1 << rng.int(0, 7),
            2 => {
                let digits = bytes.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|(i, _)| i);
                let digits: Vec<usize> = digits.collect();
                let at = digits[rng.int(0, digits.len() as i32 - 1) as usize];
                bytes.splice(at..at, b"99999999".iter().copied());
            }
            _ => bytes.truncate(at),
        }
        std::fs::write(path.join(name), &bytes).expect("the folder is there");
        // Refused or not, nothing panics.
        let _ = Case::read(&path, true);
        let _ = Case::read(&path, false);
        std::fs::write(path.join(name), &files[name]).expect("the folder is there");
    }
    Case::read(&path, false).expect("it is whole again");
    for name in ["manifest.json", "shader.spv", "in_0.bin"] {
        std::fs::remove_file(path.join(name)).expect("it is there");
        assert!(Case::read(&path, true).expect_err("a file is missing").contains(name));
        std::fs::write(path.join(name), &files[name]).expect("the folder is there");
    }
    for bytes in [&b""[..], b"not an archive", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]] {
        let archive = folder("bad.tar.zst");
        std::fs::write(&archive, bytes).expect("the folder is there");
        assert!(Case::read(&archive, true).is_err());
    }
}

#[test]
fn find_and_capture_from_the_command_line() {
    if harness::device().is_none() {
        return;
    }
    let said = vkllm(&["repro", "find", "--tokens", "1,403,407", "-n", "1", "--json"]);
    assert_eq!(said.json()["findings"], serde_json::json!([]));
    let path = folder("captured");
    let path = path.to_str().expect("UTF-8");
    let capture = ["repro", "capture", "--tokens", "1,403,407", "-n", "1", "-o", path];
    vkllm(&[&capture[..], &["--label", "blk.2.ffn_down", "--synthetic"]].concat()).succeeds();
    for file in ["manifest.json", "shader.spv", "shader.spvasm", "in_0.bin", "README.md"] {
        assert!(Path::new(path).join(file).is_file(), "{file}");
    }
    assert_eq!(run(Path::new(path), &[]), Some(0));
    vkllm(&[&capture[..], &["--op", "embed"]].concat()).refuses(2, &["token ids", "--include-ids"]);
    vkllm(&[&capture[..], &["--op", "nothing"]].concat()).refuses(2, &["--op"]);
}

/// Instructions of a module, without its header.
fn code(bytes: &[u8]) -> &[u8] {
    &bytes[20..]
}

#[test]
fn the_assembly_of_every_kernel_makes_the_same_code() {
    let assembler = std::process::Command::new("spirv-as").arg("--version").output();
    if assembler.is_err() {
        return harness::skip("spirv-as is not installed");
    }
    let (text, module) = (folder("kernel.spvasm"), folder("kernel.spv"));
    let mut refused = 0;
    for kernel in vkllm_shaders::ops::ALL {
        std::fs::write(&text, assembly(kernel.spirv).expect("a module")).expect("the folder is there");
        let (out, input) = (module.to_str().expect("UTF-8"), text.to_str().expect("UTF-8"));
        let said = std::process::Command::new("spirv-as")
            .args(["--target-env", "vulkan1.3", "--preserve-numeric-ids", "-o", out, input])
            .output()
            .expect("it starts");
        let told = String::from_utf8_lossy(&said.stderr);
        // Older assemblers know no newer extensions and capabilities.
        let unknown = ["OpExtension", "Invalid capability"].iter().any(|word| told.contains(word));
        if !said.status.success() && unknown {
            refused += 1;
            continue;
        }
        assert!(said.status.success(), "{}: {told}", kernel.name);
        let made = std::fs::read(&module).expect("it was written");
        assert_eq!(code(&made), code(kernel.spirv), "{}", kernel.name);
    }
    println!("{} modules, {refused} beyond this assembler", vkllm_shaders::ops::ALL.len());
    assert!(refused * 2 < vkllm_shaders::ops::ALL.len());
}

#[test]
fn cases_are_exported() {
    let Some(device) = harness::another() else { return };
    let capsule = captured(&device, "blk.1.attn_q");
    let kernel = mutant(capsule.kernel, Fault::Nan, 0).expect("a product");
    let case = case(&device, &Capsule { kernel, ..capsule });
    let path = folder("export");
    case.write(&path).expect("a case");
    let path = path.to_str().expect("UTF-8");
    let (script, program) = (folder("export.amber"), folder("export.c"));
    let said = vkllm(&[
        "repro",
        "export",
        path,
        "--raw",
        "--amber",
        script.to_str().expect("UTF-8"),
        "--c",
        program.to_str().expect("UTF-8"),
        "--issue",
        "mesa",
    ]);
    let said = &said.succeeds().out;
    for words in ["vkllm repro run", "Driver:", "lspci", "SHA-256", "linear", "Workgroups"] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    assert!(said.len() < 64 << 10);
    let script = std::fs::read_to_string(script).expect("it was written");
    for words in
        ["#!amber", "SPIRV-ASM", "SPECIALIZE", "REQUIRED_SIZE", "push_constant", "RUN pipeline", "TOLERANCE"]
    {
        assert!(script.contains(words), "{words} is not in the script");
    }
    let program = std::fs::read_to_string(program).expect("it was written");
    assert!(!program.contains("/* DATA */") && program.contains("vkCmdDispatch"));
    for (tracker, asks) in [
        ("nvidia", "nvidia-bug-report"),
        ("intel", "INTEL_DEBUG"),
        ("moltenvk", "MVK_CONFIG"),
        ("mesa", "RADV_DEBUG"),
    ] {
        let said = vkllm(&["repro", "export", path, "--raw", "--issue", tracker]);
        assert!(said.succeeds().out.contains(asks) && said.out.len() < 64 << 10, "{tracker}: {said:?}");
    }
    vkllm(&["repro", "export", path, "--raw"]).refuses(2, &["--amber", "--issue"]);
    vkllm(&["repro", "export", path, "--raw", "--issue", "amd"]).refuses(2, &["amd", "mesa"]);
}

/// Rows of a longer prompt, so that there is something to leave out.
const LONG: usize = 40;

/// Reduces mismatches of a device at some labels; each must lose nine tenths of its rows and outputs, and of its inputs.
fn reduced(device: &Device, labels: &[&str], faults: &[Fault], most: usize) -> usize {
    let model = model(device, Activations::Int8);
    let prompt: Vec<u32> = (0..LONG as u32).map(|i| 1 + i * 7 % 300).collect();
    let mut count = 0;
    for label in labels {
        let options = FindOptions { label: Some((*label).into()), ..FindOptions::default() };
        let capsule = capture(&model, &prompt, &options, 0).expect("a prompt").expect("such a dispatch");
        for &fault in faults {
            let Some(kernel) = mutant(capsule.kernel, fault, 1).filter(|_| count < most) else { continue };
            let wrong = Capsule { kernel, ..capsule.clone() };
            let mut still = |capsule: &Capsule| {
                let ran = capsule.run(device).expect("it runs");
                let outputs = judge(capsule, &ran.state, &capsule.meaning());
                outputs.iter().any(|output| !output.wrong.is_empty())
            };
            if !still(&wrong) {
                continue;
            }
            let start = Instant::now();
            let (small, done) = reduce(&wrong, Shrink::Values, &mut still, start + Duration::from_secs(55));
            let took = start.elapsed();
            assert!(still(&small), "{label} {fault:?}");
            println!("{label} {fault:?}: {done:?} in {took:?}");
            assert!(took.as_secs() <= 60, "{label} {fault:?}: {took:?}");
            assert!(done.inputs.1 * 10 <= done.inputs.0, "{label} {fault:?}: {done:?}");
            assert!(done.outputs.1 * 10 <= done.outputs.0, "{label} {fault:?}: {done:?}");
            count += 1;
        }
    }
    println!("{count} cases are reduced to a tenth or less");
    count
}

const LABELS: &[&str] =
    &["blk.1.attn_q", "blk.1.attn_norm", "blk.3.ffn_gate", "blk.0.ffn_act", "blk.1.ffn_norm", "blk.2.attn_v"];

#[test]
fn mismatches_are_reduced() {
    let Some(device) = harness::another() else { return };
    assert!(reduced(&device, &LABELS[..2], &[Fault::Nan, Fault::WRONG_SIGN, Fault::LostTerm], 4) >= 3);
}

#[test]
#[ignore = "takes minutes; docs/measurements/faults.md has its numbers"]
fn every_mismatch_is_reduced() {
    let Some(device) = harness::another() else { return };
    assert!(reduced(&device, LABELS, Fault::ALL, 40) >= 20);
}

#[test]
fn a_hang_is_reduced_and_spirv_reduce_has_its_script() {
    let Some(device) = harness::another() else { return };
    let mut endless = case(&device, &captured(&device, "blk.0.attn_norm"));
    endless.manifest.grid = [65535, 65535, 1];
    endless.capsule.grid = endless.manifest.grid;
    let (path, small) = (folder("hanging"), folder("hanging-small"));
    endless.write(&path).expect("a case");
    let (path, small) = (path.to_str().expect("UTF-8"), small.to_str().expect("UTF-8"));
    let said = vkllm(&["repro", "reduce", path, "-o", small, "--timeout", "0.7", "--seconds", "8"]);
    assert!(said.succeeds().out.contains("exit code 11"), "{said:?}");
    let less = Case::read(Path::new(small), false).expect("it was written");
    assert!(less.capsule.grid.iter().map(|n| u64::from(*n)).product::<u64>() < 65535 * 65535 / 2);
    let script = std::fs::read_to_string(Path::new(small).join("interesting.sh")).expect("it was written");
    assert!(script.contains("-eq 11") && script.contains("--timeout 0.7"), "{script}");
}
