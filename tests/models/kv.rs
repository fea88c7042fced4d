//! Types of the key and value cache in whole models: how far quantised caches take the logits, and that rows keep their
//! bits.

use vkllm::{Activations, Device, KvType, Model, ModelOptions};

use super::golden::Golden;
use super::{data, logits, options, reference};
use crate::harness;

/// Logits of the first tokens with float activations.
fn with_cache(
    device: &Device,
    golden: &Golden,
    batch: u32,
    count: usize,
    types: (KvType, KvType),
) -> Vec<f32> {
    let options =
        ModelOptions { k_type: Some(types.0), v_type: Some(types.1), ..options(batch, Activations::Float) };
    let model = Model::open(device, &golden.path, &options, &|_, _| true)
        .unwrap_or_else(|error| panic!("{}: {error}", golden.name));
    logits(&model, &golden.tokens[..count])
}

/// Mean squared error of stored elements over their mean square, for normal values. A step's error is spread evenly, a
/// twelfth of its square; steps come from the extremes of 32 normal values, 2.4 deviations from zero and 4.1 apart. A
/// float of p bits behind the leading one is off by 2^-(p+1) of its binade at most, a third of that squared on average,
/// and the mean square of significands is 3 / (2 ln 2).
fn share(kind: KvType) -> f64 {
    let step = |span: f64, steps: f64| (span / steps).powi(2) / 12.0;
    let float = |p: i32| 2f64.powi(-2 * (p + 1)) / 3.0 / (1.5 / std::f64::consts::LN_2);
    match kind {
        KvType::F32 => 0.0,
        KvType::F16 => float(10),
        KvType::BF16 => float(7),
        KvType::Q8_0 => step(2.4, 127.0),
        KvType::Q5_1 => step(4.1, 31.0),
        KvType::Q5_0 => step(2.4, 16.0),
        KvType::Q4_1 => step(4.1, 15.0),
        KvType::Q4_0 | KvType::IQ4_NL => step(2.4, 8.0),
    }
}

fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    error / want.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()
}

/// What a model makes of errors in its cache is measured with bf16: so many times their share in the logits, at most 12
/// here. Every other type must be that many times its own share off, within a factor of 2.5 either way (keys and values
/// do not count alike, and blocks are not normal); no row ten times.
fn check(device: &Device, count: usize) {
    for golden in Golden::folder(&data("golden")) {
        let exact = with_cache(device, &golden, 512, count, (KvType::F32, KvType::F32));
        let vocab = exact.len() / count;
        let errors = |types| {
            let got = with_cache(device, &golden, 512, count, types);
            let rows = got.chunks(vocab).zip(exact.chunks(vocab)).map(|(got, want)| nmse(got, want));
            let mut errors: Vec<f64> = rows.collect();
            errors.sort_by(f64::total_cmp);
            let share = share(types.0) + share(types.1);
            (errors[count / 2] / share, errors[count - 1] / share)
        };
        let gain = errors((KvType::BF16, KvType::BF16)).0;
        println!("{}: logits are off by {gain:.2} times the error of the cache", golden.name);
        assert!(gain > 0.01 && gain < 12.0, "{}: {gain}", golden.name);
        let others = KvType::ALL.into_iter().filter(|kind| !matches!(kind, KvType::F32 | KvType::BF16));
        let mut pairs: Vec<_> = others.map(|kind| (kind, kind)).collect();
        pairs.extend([(KvType::Q8_0, KvType::Q4_0), (KvType::F16, KvType::Q5_1)]);
        for types in pairs {
            let (median, worst) = errors(types);
            let what =
                format!("{} {types:?}: median {median:.2}, worst {worst:.2} times its share", golden.name);
            println!("{what}");
            assert!(
                median < 2.5 * gain && gain < 2.5 * median && worst < 10.0 * gain,
                "{what}, not {gain:.2}"
            );
        }
    }
}

#[test]
fn quantised_caches_stay_within_their_error_on_the_reference() {
    check(reference(), 24);
}

#[test]
fn quantised_caches_stay_within_their_error_on_the_device() {
    if let Some(device) = harness::device() {
        check(device, 48);
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours_with_any_cache() {
    let Some(device) = harness::device() else { return };
    let golden = Golden::folder(&data("golden")).swap_remove(0);
    for kind in KvType::ALL {
        let one = with_cache(device, &golden, 1, 40, (kind, kind));
        for batch in [16, 7] {
            let some = with_cache(device, &golden, batch, 40, (kind, kind));
            let same = one.iter().zip(&some).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}: {batch} rows differ from one with a cache of {}", golden.name, kind.name());
        }
    }
}
