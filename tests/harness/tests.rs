//! The harness can fail: planted mistakes are noticed, tolerances that mean nothing are refused.

use std::panic::{AssertUnwindSafe, catch_unwind};

use vkllm::selftest::compare::{bits, values, within};
use vkllm::selftest::{Bench, Check, GUARD, Job, Rng, disturbed};
use vkllm_runtime::{DeviceOptions, Selector};
use vkllm_shaders::ops;

use super::{device, open, rng, seed};

/// What a check says.
fn failure(check: Check) -> String {
    check.expect_err("nothing was noticed").to_string()
}

#[test]
fn a_wrong_element_is_noticed() {
    let mut rng = rng("wrong element");
    let right: Vec<u32> = (0..100_000).map(|_| rng.word() & 0xbfff_ffff).collect();
    let mut wrong = right.clone();
    wrong[77_777] ^= 1;
    assert!(
        failure(bits(&"planted", &wrong, &right))
            .starts_with("planted: 1 of 100000 values are wrong; the first at 77777")
    );
    assert!(failure(values(&"planted", &wrong, &right)).contains("77777"));
    bits(&"same", &right, &right).expect("equal");
    values(&"zeros", &[0, 1 << 31], &[1 << 31, 0]).expect("one zero");
    let want: Vec<f64> = (0..1000).map(f64::from).collect();
    let mut got: Vec<f32> = want.iter().map(|value| *value as f32).collect();
    let bound: Vec<f64> = want.iter().map(|value| value * 1e-6).collect();
    within(&"close", &got, &want, &bound).expect("close");
    got[500] += 0.001;
    assert!(
        failure(within(&"planted", &got, &want, &bound))
            .contains("1 of 1000 values are wrong; the first at 500")
    );
    got[500] = f32::NAN;
    assert!(failure(within(&"planted", &got, &want, &bound)).contains("NaN"));
}

#[test]
fn absurd_tolerances_are_refused() {
    for absurd in [0.1, f64::INFINITY, f64::NAN, -1e-9] {
        let text = failure(within(&"loose", &[1.0, 2.0], &[1.0, 2.0], &[1e-6, absurd]));
        assert!(text.contains("absurd"), "{text}");
    }
    assert!(failure(within(&"zeros", &[0.0], &[0.0], &[1e-3])).contains("absurd"));
    assert!(failure(within(&"nan", &[f32::NAN], &[f64::NAN], &[0.0])).contains("not finite"));
}

#[test]
fn a_write_outside_is_noticed() {
    let before = vec![GUARD; 300];
    let mut after = before.clone();
    after[100..200].fill(5);
    assert_eq!(disturbed(&before, &after, &[100..150, 150..200]), None);
    assert_eq!(disturbed(&before, &after, &[100..150, 150..199]), Some(199));
    after[99] = 0;
    assert_eq!(disturbed(&before, &after, &[100..150, 150..200]), Some(99));
}

#[test]
fn a_kernel_that_answers_wrongly_is_noticed() {
    let Some(device) = device() else { return };
    let push = ops::gather::Push { k: 5, count: 2, ..Default::default() };
    let words: Vec<u32> = (0..20).collect();
    let job = |x: &[u32]| {
        let candidate = &ops::gather::CANDIDATES[0];
        let job = Job::new(candidate, &[], &push, [1, 2, 1]);
        job.words("x", x.to_vec()).words("index", vec![3, 1]).output("y", 10)
    };
    let mut other = words.clone();
    other[7] = 70;
    let (right, wrong) = (job(&words), job(&other));
    let bench = Bench::new(device.clone(), seed());
    let want = right.meaning(&bench);
    bits(&"gather", right.on(&bench).expect("it runs").words("y"), want.words("y")).expect("equal");
    let got = wrong.on(&bench).expect("it runs");
    let text = failure(bits(&"gather", got.words("y"), want.words("y")));
    assert!(text.contains("1 of 10 values are wrong; the first at 7"), "{text}");
}

#[test]
fn a_named_device_that_is_missing_is_a_failure() {
    let named = DeviceOptions { selector: Selector::Name("no such device".into()), ..Default::default() };
    let outcome = catch_unwind(AssertUnwindSafe(|| drop(open(&named)))).expect_err("nothing was noticed");
    assert!(outcome.downcast_ref::<String>().is_some_and(|text| text.contains("VKLLM_TEST_DEVICE")));
    let reference = DeviceOptions { selector: Selector::Reference, ..Default::default() };
    assert!(open(&reference).is_some());
}

#[test]
fn seeds_repeat_and_labels_differ() {
    let words = |label: &str| -> Vec<u32> {
        let mut rng = Rng::new(seed(), label);
        (0..4).map(|_| rng.word()).collect()
    };
    assert_eq!(words("a"), words("a"));
    assert_ne!(words("a"), words("b"));
    let mut rng = Rng::new(seed(), "range");
    let ints: Vec<i32> = (0..1000).map(|_| rng.int(-3, 3)).collect();
    assert!((-3..=3).all(|value| ints.contains(&value)) && ints.iter().all(|value| value.abs() <= 3));
    let mut order = rng.order(50);
    order.sort_unstable();
    assert!(order.into_iter().eq(0..50));
}
