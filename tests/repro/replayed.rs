//! Captures of every pipeline, and cases that are replayed without the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use vkllm::Device;
use vkllm::repro::{Capsule, Case, Verdict, amber, c, capsules, replay};
use vkllm::selftest::{Bench, Case as Test, Fault as Failing, cases};

use super::case::{captured, case, folder};
use super::mutate::{Fault, mutant};
use crate::cli::vkllm;
use crate::harness;

/// The first dispatch of a kernel among its tests.
fn first(device: &Device, kernel: &'static str, tests: &[&Test]) -> Option<Capsule> {
    for test in tests {
        let found: Arc<Mutex<Option<Capsule>>> = Arc::default();
        let kept = Arc::clone(&found);
        let bench =
            Bench::new(device.clone(), harness::seed()).with_observer(Arc::new(move |device, recording| {
                let mut found = kept.lock().expect("nothing panics");
                if found.is_none() {
                    let all = capsules(device, recording).expect("the device is well");
                    *found = all.into_iter().find(|capsule| capsule.kernel.name == kernel);
                }
            }));
        match test.run(&bench) {
            Ok(()) | Err(Failing::Skipped(_)) => {}
            Err(fault) => panic!("{}: {fault}", test.name()),
        }
        let capsule = found.lock().expect("nothing panics").take();
        if capsule.is_some() {
            return capsule;
        }
    }
    None
}

/// Words of the module that an Amber script holds, through another assembler; `None` where that knows too little.
fn reassembled(script: &str) -> Option<Vec<u8>> {
    let (_, after) = script.split_once("SPIRV-ASM").expect("a module");
    let (_, assembly) = after.split_once('\n').expect("lines");
    let (assembly, _) = assembly.split_once("\nEND\n").expect("its end");
    let (text, module) = (folder("script.spvasm"), folder("script.spv"));
    std::fs::write(&text, assembly).expect("the folder is there");
    let said = Command::new("spirv-as")
        .args(["--target-env", "vulkan1.3", "--preserve-numeric-ids", "-o"])
        .args([&module, &text])
        .output()
        .ok()?;
    let told = String::from_utf8_lossy(&said.stderr);
    if !said.status.success() && told.contains("OpExtension") {
        return None;
    }
    assert!(said.status.success(), "{told}");
    let valid = Command::new("spirv-val").args(["--target-env", "vulkan1.3"]).arg(&module).output();
    if let Ok(valid) = valid {
        assert!(valid.status.success(), "{}", String::from_utf8_lossy(&valid.stderr));
    }
    Some(std::fs::read(&module).expect("it was written"))
}

/// Captures kernels, replays them from their folders, and exports them.
fn replayed(wanted: &dyn Fn(usize) -> bool) -> usize {
    let Some(device) = harness::another() else { return usize::MAX };
    let list = cases(device.caps());
    let mut by_kernel: BTreeMap<&'static str, Vec<&Test>> = BTreeMap::new();
    for test in &list {
        by_kernel.entry(test.kernel().name).or_default().push(test);
    }
    let assembler = Command::new("spirv-as").arg("--version").output().is_ok();
    let (mut done, mut bytes, mut scripts, mut mismatches, mut absent) =
        (0, 0, 0, Vec::new(), BTreeSet::new());
    for (number, (kernel, tests)) in by_kernel.into_iter().enumerate() {
        if !wanted(number) {
            continue;
        }
        let Some(capsule) = first(&device, kernel, &tests) else {
            absent.insert(kernel);
            continue;
        };
        let path = folder("pipeline");
        case(&device, &capsule).write(&path).unwrap_or_else(|error| panic!("{kernel}: {error}"));
        bytes += std::fs::read_dir(&path).expect("it was written").flatten().count();
        let read = Case::read(&path, false).unwrap_or_else(|error| panic!("{kernel}: {error}"));
        let again = replay(&device, &read, 2, &mut |_| {});
        assert_eq!((again.same_bits, again.deterministic), (Some(true), true), "{kernel}");
        if !matches!(again.verdict, Verdict::Match) {
            mismatches.push(format!("{kernel}: {}", again.verdict.sentence(device.caps().subgroup)));
        }
        let (script, _) = amber(&read, "case").unwrap_or_else(|error| panic!("{kernel}: {error}"));
        if let Some(module) = reassembled(&script).filter(|_| assembler) {
            assert_eq!(&module[20..], &read.capsule.kernel.spirv[20..], "{kernel}");
            scripts += 1;
        }
        done += 1;
    }
    println!(
        "{done} kernels replay with the same bits from {bytes} files, {scripts} scripts make the same module; not here: \
         {absent:?}; mismatches: {mismatches:#?}"
    );
    assert!(mismatches.is_empty(), "{mismatches:#?}");
    done
}

#[test]
fn pipelines_replay_with_the_same_bits() {
    // A ninth of them, others for every seed.
    let turn = harness::seed() as usize % 9;
    assert!(replayed(&|number| number % 9 == turn) >= 10);
}

#[test]
#[ignore = "takes minutes; docs/measurements/faults.md has its numbers"]
fn every_pipeline_replays_with_the_same_bits() {
    assert!(replayed(&|_| true) >= 150);
}

/// Compiles and runs the program in C of a case.
fn run_c(case: &Case, name: &str) -> Option<i32> {
    let (source, program) = (folder(&format!("{name}.c")), folder(name));
    std::fs::write(&source, c(case).expect("a module")).expect("the folder is there");
    let built = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Werror", "-O1", "-o"])
        .args([&program, &source])
        .args(["-ldl", "-lm"])
        .output()
        .expect("cc was there");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Command::new(&program).output().expect("it starts").status.code()
}

fn has_headers() -> bool {
    let source = folder("headers.c");
    std::fs::write(&source, "#include <vulkan/vulkan.h>\nint main(void) { return 0; }\n").expect("a folder");
    let said = Command::new("cc").args(["-fsyntax-only"]).arg(&source).stderr(Stdio::null()).status();
    said.is_ok_and(|status| status.success())
}

#[test]
fn the_program_in_c_needs_vulkans_headers_alone() {
    let Some(device) = harness::another() else { return };
    if !has_headers() {
        return harness::skip("no C compiler, or Vulkan's headers are not installed");
    }
    // The first product of a gate is in a branch that its constants leave out: nothing is wrong there.
    for (label, faulty) in [("blk.0.attn_norm", 1), ("blk.1.attn_q", 1), ("blk.1.ffn_act", 0)] {
        let capsule = captured(&device, label);
        assert_eq!(run_c(&case(&device, &capsule), "replay"), Some(0), "{label}");
        let kernel = mutant(capsule.kernel, Fault::Nan, 0).expect("a product");
        let wrong = Capsule { kernel, ..capsule };
        assert_eq!(run_c(&Case::new(&wrong, device.caps(), None), "replay-wrong"), Some(faulty), "{label}");
    }
}

#[test]
fn an_issue_has_the_machine_code_of_three_chips() {
    let Some(device) = harness::another() else { return };
    let place = |name: &str| std::env::var(name).ok().filter(|path| Path::new(path).is_file());
    let (Some(shim), Some(radv)) = (place("VKLLM_TEST_SHIM"), place("VKLLM_TEST_RADV")) else {
        return harness::skip("no simulated AMD devices");
    };
    let path = folder("issue");
    case(&device, &captured(&device, "blk.1.ffn_down")).write(&path).expect("a case");
    let path = path.to_str().expect("UTF-8");
    let said =
        vkllm(&["repro", "export", path, "--issue", "mesa", "--amd-shim", &shim, "--amd-driver", &radv]);
    let text = &said.succeeds().out;
    for words in ["gfx1150, simulated", "navi31, simulated", "navi21, simulated", "VGPRs", "v_"] {
        assert!(text.contains(words), "{words} is not in\n{text}\n{}", said.err);
    }
    assert!(text.len() < 64 << 10, "{}", text.len());
}
