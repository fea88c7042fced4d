//! Sampler options: what is refused, and what the records say.

use vkllm_shaders::reference::sample::choose;

use super::*;

fn sentence(options: SamplerOptions) -> String {
    options.check().map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

#[test]
fn options_that_cannot_be_honoured_are_named() {
    let good = SamplerOptions::default();
    assert_eq!(sentence(good), "accepted");
    assert_eq!(sentence(SamplerOptions { top_p: 1.5, ..good }), "top-p is 1.5; allowed is 0 to 1");
    assert_eq!(sentence(SamplerOptions { min_p: f32::NAN, ..good }), "min-p is NaN; allowed is 0 to 1");
    for bad in [
        SamplerOptions { temperature: f32::NAN, ..good },
        SamplerOptions { temperature: f32::INFINITY, ..good },
        SamplerOptions { temperature: 1.0e-9, ..good },
        SamplerOptions { repeat_penalty: 0.0, ..good },
        SamplerOptions { frequency_penalty: f32::NEG_INFINITY, ..good },
        SamplerOptions { repeat_last_n: 5000, ..good },
    ] {
        assert_ne!(sentence(bad), "accepted", "{bad:?}");
    }
}

#[test]
fn records_say_off_as_the_shaders_expect() {
    let plain = SamplerOptions { top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerOptions::default() };
    let record = plain.record(0).unwrap();
    assert_eq!((record.top_k, record.top_p, record.penalty_window), (0, 0, 0));
    assert!(record.min_p_distance > 1.0e38);
    let record = SamplerOptions { top_p: 0.0, min_p: 1.0, ..plain }.record(0).unwrap();
    assert_eq!((record.top_p, record.min_p_distance), (1, 0.0));
    assert_eq!(SamplerOptions::greedy().record(0).unwrap().inverse_temperature, 0.0);
    let record = SamplerOptions { repeat_penalty: 1.1, ..plain }.record(4096).unwrap();
    assert_eq!((record.penalty_window, record.history), (64, 4096));
}

/// Every truncation removes what its definition says, seen in what 2000 positions draw.
#[test]
fn truncations_keep_what_they_should() {
    let logits: Vec<u32> = [0.5_f32, 0.25, 0.125, 0.0625, 0.0625].iter().map(|p| p.ln().to_bits()).collect();
    let seen = |options: SamplerOptions| {
        let record = options.record(0).unwrap();
        let mut ids: Vec<u32> = (0..2000).filter_map(|p| Some(choose(&logits, &record, p)?.0)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let all =
        SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerOptions::default() };
    assert_eq!(seen(all), [0, 1, 2, 3, 4]);
    assert_eq!(seen(SamplerOptions { top_k: 4, ..all }), [0, 1, 2, 3]);
    assert_eq!(seen(SamplerOptions { top_p: 0.0, ..all }), [0]);
    assert_eq!(seen(SamplerOptions { top_p: 0.49, ..all }), [0]);
    assert_eq!(seen(SamplerOptions { top_p: 0.51, ..all }), [0, 1]);
    // 0.8 of what top-k leaves (0.875) is 0.7.
    assert_eq!(seen(SamplerOptions { top_k: 3, top_p: 0.8, ..all }), [0, 1]);
    assert_eq!(seen(SamplerOptions { top_k: 3, top_p: 0.9, ..all }), [0, 1, 2]);
    assert_eq!(seen(SamplerOptions { min_p: 0.3, ..all }), [0, 1]);
    assert_eq!(seen(SamplerOptions { min_p: 1.0, ..all }), [0]);
}

#[test]
fn no_number_no_token() {
    let record = SamplerOptions::default().record(0).unwrap();
    let nothing = [f32::NAN, f32::NEG_INFINITY].map(f32::to_bits);
    assert_eq!(choose(&nothing, &record, 3), None);
}
