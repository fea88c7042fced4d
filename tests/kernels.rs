//! The kernel suite on the device under test: one test per operation, or per part of one.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex_automata::meta::Regex;
use vkllm::selftest::{Bench, Case, Fault, cases};

use crate::harness::{another, device, environment, seed, skip, test_name};

/// A regular expression: only cases whose names match are run.
const CASES: &str = "VKLLM_TEST_CASES";

/// Operations with a test below; the last is tested by parts.
const OPS: &[&str] = &[
    "embed",
    "gather",
    "join",
    "hidden_put",
    "hidden_get",
    "route",
    "group",
    "experts_sum",
    "step_grid",
    "quantize",
    "halve",
    "norm",
    "soft_cap",
    "glu",
    "altup",
    "rescale",
    "sparsify",
    "add",
    "heads",
    "conv",
    "recurrence",
    "attention",
    "attention_combine",
    "argmax",
    "sample",
    "sample_collect",
    "sample_histogram",
    "sample_history",
    "sample_penalize",
    "sample_bias",
    "sample_truncate",
    "sample_draw",
    "spread",
    "gate",
    "verify_rows",
    "accept",
    "probe_read",
    "probe_write",
    "probe_copy",
    "probe_fma",
    "probe_dot",
    "linear",
];

fn suite() -> Option<&'static [Case]> {
    static SUITE: OnceLock<Vec<Case>> = OnceLock::new();
    let device = device()?;
    Some(SUITE.get_or_init(|| cases(device.caps())))
}

/// Whether a case is among those that this run is restricted to.
fn is_chosen(case: &Case) -> bool {
    static CHOICE: OnceLock<Option<Regex>> = OnceLock::new();
    let choice = CHOICE.get_or_init(|| {
        let text = std::env::var(CASES).ok()?;
        Some(Regex::new(&text).unwrap_or_else(|error| panic!("{CASES} is {text}: {error}")))
    });
    choice.as_ref().is_none_or(|choice| choice.is_match(case.name()))
}

/// Runs the cases that `wanted` chooses and fails with the lines that repeat those that failed.
fn check(wanted: impl Fn(&Case) -> bool) {
    // A device for each test: its messages are the test's own, and the layer of Vulkan 1.3.239 does not bear threads that
    // share one. Tests share no pipelines.
    let (Some(device), Some(suite)) = (another(), suite()) else { return };
    let bench = Bench::new(device, seed());
    let mut skips: BTreeMap<String, usize> = BTreeMap::new();
    let (mut ran, mut left_out, mut failures) = (0, 0, Vec::new());
    for case in suite.iter().filter(|case| wanted(case)) {
        if !is_chosen(case) {
            left_out += 1;
            continue;
        }
        match case.run(&bench) {
            Ok(()) => ran += 1,
            Err(Fault::Skipped(reason)) => {
                *skips.entry(format!("{} {reason}", case.kernel().name)).or_default() += 1;
            }
            Err(fault @ Fault::Wrong(_)) => {
                ran += 1;
                failures.push(format!("{}: {fault}\n  repeat with: {}", case.name(), repeat(case)));
            }
            Err(Fault::Device(error)) => panic!("{}: {error}\n  repeat with: {}", case.name(), repeat(case)),
        }
    }
    println!("{}: {ran} cases", test_name());
    if left_out > 0 {
        skip(&format!("{left_out} cases that {CASES} leaves out"));
    }
    skips.keys().for_each(|reason| skip(reason));
    assert!(ran + left_out + skips.len() > 0, "no case is here");
    assert!(failures.is_empty(), "{} of {ran} cases failed\n{}", failures.len(), failures.join("\n"));
}

fn repeat(case: &Case) -> String {
    format!("{}vkllm selftest --seed {} --filter '^{}$'", environment(), seed(), case.name())
}

fn check_op(op: &str) {
    check(|case| case.op() == op);
}

#[test]
fn embed() {
    check_op("embed");
}

#[test]
fn gather() {
    check_op("gather");
}

#[test]
fn hidden_rows() {
    check_op("hidden_put");
    check_op("hidden_get");
}

#[test]
fn step_grid() {
    check_op("step_grid");
}

#[test]
fn streams() {
    for op in ["altup", "rescale", "sparsify", "add"] {
        check_op(op);
    }
}

#[test]
fn halve() {
    check_op("halve");
}

#[test]
fn quantize() {
    check_op("quantize");
}

#[test]
fn norm() {
    check_op("norm");
}

#[test]
fn join() {
    check_op("join");
}

#[test]
fn route() {
    check_op("route");
}

#[test]
fn group() {
    check_op("group");
}

#[test]
fn experts_sum() {
    check_op("experts_sum");
}

#[test]
fn conv() {
    check_op("conv");
}

#[test]
fn recurrence() {
    check_op("recurrence");
}

#[test]
fn soft_cap() {
    check_op("soft_cap");
}

#[test]
fn glu() {
    check_op("glu");
}

#[test]
fn heads() {
    check_op("heads");
}

#[test]
fn attention() {
    check_op("attention");
    check_op("attention_combine");
}

#[test]
fn sampling() {
    for op in ["argmax", "sample", "sample_collect", "sample_histogram", "sample_history", "sample_penalize"]
    {
        check_op(op);
    }
}

#[test]
fn truncation() {
    for op in ["sample_bias", "sample_truncate", "sample_draw", "spread"] {
        check_op(op);
    }
}

#[test]
fn verification() {
    check_op("verify_rows");
    check_op("gate");
    check_op("accept");
}

#[test]
fn probes() {
    check(|case| case.op().starts_with("probe_"));
}

#[test]
fn linear_float() {
    check(|case| case.op() == "linear" && case.kernel().axis("ACT") == "f32");
}

#[test]
fn linear_half() {
    check(|case| case.op() == "linear" && case.kernel().axis("ACT") == "f16");
}

#[test]
fn linear_int8() {
    check(|case| case.op() == "linear" && case.kernel().axis("ACT") == "q8");
}

#[test]
fn every_operation_and_kernel_has_cases() {
    let (Some(suite), Some(device)) = (suite(), device()) else { return };
    assert!(suite.iter().all(|case| OPS.contains(&case.op())), "an operation has no test here");
    for kernel in vkllm_shaders::ops::ALL {
        if !kernel.needs.iter().all(|need| device.caps().has(*need)) {
            println!("no case for {}, which the device lacks something for", kernel.name);
            continue;
        }
        let count = suite.iter().filter(|case| case.kernel().name == kernel.name).count();
        assert!(count > 0, "no case for {}", kernel.name);
    }
    println!("{} cases", suite.len());
    let mut names: Vec<_> = suite.iter().map(Case::name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), suite.len(), "names are unique");
}
