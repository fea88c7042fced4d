//! Tests of baselines and comparisons on numbers made up for them.

use super::baseline::{Baseline, Comparison, Fault};
use super::child::{Answer, Pipeline};

const DECODE: &str = "linear.matvec.q4_k.q8 ROWS=1";
const PROMPT: &str = "linear.tiled.q4_k.q8";

fn pipeline(decode: bool, statistics: &[(&str, f64)]) -> Pipeline {
    let statistics = statistics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    Pipeline { decode, statistics, ..Pipeline::default() }
}

fn answer(vgprs: f64, spilled: f64, waves: f64) -> Answer {
    let statistics = [
        ("Driver pipeline hash", 4e9),
        ("VGPRs", vgprs),
        ("Spilled VGPRs", spilled),
        ("Instructions", 1000.0),
        ("Subgroups per SIMD", waves),
    ];
    let mut answer = Answer::default();
    answer.pipelines.insert(DECODE.into(), pipeline(true, &statistics));
    answer.pipelines.insert(PROMPT.into(), pipeline(false, &statistics));
    answer
}

fn faults(before: &Answer, now: &Answer) -> Vec<(String, Fault)> {
    let baseline = Baseline::of("GPU; Mesa 1.2.3".into(), before, None);
    let comparison = Comparison::new(Some(&baseline), now, true, false);
    comparison.findings.into_iter().map(|finding| (finding.pipeline, finding.fault)).collect()
}

#[test]
fn a_baseline_survives_being_written_and_read() {
    let baseline = Baseline::of("GPU; Mesa 1.2.3".into(), &answer(48.0, 0.0, 16.0), None);
    let text = baseline.to_text();
    assert_eq!(Baseline::parse(&text).unwrap(), baseline);
    assert!(
        text.starts_with("# GPU; Mesa 1.2.3\npipeline\tvgprs\tvgpr_spills\tinstructions\toccupancy\n"),
        "{text}"
    );
    assert!(text.contains("linear.matvec.q4_k.q8 ROWS=1\t48\t0\t1000\t16\n"), "{text}");
    assert!(!text.contains("hash"));
}

#[test]
fn damaged_baselines_are_refused() {
    let text = Baseline::of("GPU; Mesa 1.2.3".into(), &answer(48.0, 0.0, 16.0), None).to_text();
    for (from, to) in [("# ", ""), ("vgprs", "vgpr"), ("\t48", "\tmany"), ("\t48\t0", "\t48")] {
        assert!(Baseline::parse(&text.replacen(from, to, 1)).is_err(), "{from} → {to}");
    }
    assert!(Baseline::parse("").is_err());
}

#[test]
fn equal_numbers_and_a_tenth_more_pass() {
    let before = answer(40.0, 0.0, 16.0);
    assert_eq!(faults(&before, &before), []);
    assert_eq!(faults(&before, &answer(44.0, 0.0, 15.0)), []);
}

#[test]
fn more_than_a_tenth_worse_fails() {
    let before = answer(40.0, 0.0, 16.0);
    let worse = |statistic, before, now| Fault::Worse { statistic, before, now };
    let both = |fault: Fault| vec![(DECODE.to_owned(), fault.clone()), (PROMPT.to_owned(), fault)];
    assert_eq!(faults(&before, &answer(45.0, 0.0, 16.0)), both(worse("vgprs", 40.0, 45.0)));
    assert_eq!(faults(&before, &answer(40.0, 0.0, 14.0)), both(worse("occupancy", 16.0, 14.0)));
}

#[test]
fn a_spill_fails_in_decode_kernels_even_without_a_baseline() {
    let now = answer(40.0, 3.0, 16.0);
    let spill = Fault::Spill { statistic: "vgpr_spills", value: 3.0 };
    let alone = Comparison::new(None, &now, true, false);
    assert_eq!(alone.findings.len(), 1);
    assert_eq!((&alone.findings[0].pipeline[..], &alone.findings[0].fault), (DECODE, &spill));
    assert_eq!(
        faults(&now, &now),
        [(DECODE.to_owned(), spill)],
        "blessed spills of decode kernels still fail"
    );
    assert_eq!(
        Comparison::new(None, &now, true, true).findings,
        [],
        "not where drivers count other things too"
    );
    assert_eq!(
        faults(&answer(40.0, 0.0, 16.0), &now).len(),
        3,
        "a new spill of a prompt kernel is a regression"
    );
}

#[test]
fn errors_and_changes_are_counted() {
    let before = Baseline::of("GPU; Mesa 1.2.3".into(), &answer(40.0, 0.0, 16.0), None);
    let mut now = answer(30.0, 0.0, 16.0);
    now.pipelines.remove(PROMPT);
    now.pipelines.insert("glu.blocks".into(), pipeline(true, &[]));
    let broken = Pipeline { error: Some("no".into()), ..Pipeline::default() };
    now.pipelines.insert("heads.subgroup".into(), broken);
    let whole = Comparison::new(Some(&before), &now, true, false);
    assert_eq!((whole.better, whole.new, whole.gone, whole.findings.len()), (1, 1, 1, 1));
    let part = Comparison::new(Some(&before), &now, false, false);
    assert_eq!(part.gone, 0, "what was not asked for is not gone");
    let blessed = Baseline::of("GPU; Mesa 1.2.3".into(), &now, Some(before));
    assert!(blessed.pipelines.contains_key(PROMPT) && !blessed.pipelines.contains_key("heads.subgroup"));
}
