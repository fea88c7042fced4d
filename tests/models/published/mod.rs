//! Architectures for which no golden file exists, against a naive evaluation of their published definitions: ERNIE 4.5
//! (Baidu's modeling_ernie4_5*.py), Qwen3-VL's text model (transformers), DeepSeek-V2's latent attention at its real head
//! sizes (arXiv 2405.04434, without absorbed matrices), Gemma 3n (transformers' modeling_gemma3n.py).

mod decoders;
mod gemma3n;
mod latent;
mod net;

use net::{Net, VOCAB};
use vkllm::{Activations, Device, Model, ModelFile};

use super::{PATHS, logits, options, reference};
use crate::harness;

/// Tokens of every test: more than any window.
fn tokens() -> Vec<u32> {
    (0..40).map(|i| i * 29 % VOCAB as u32).collect()
}

/// More than the ring of a window holds beside the most rows in flight: it goes round.
fn long() -> Vec<u32> {
    (0..300).map(|i| i * 31 % VOCAB as u32).collect()
}

/// By one row, few rows and prefill, on the reference and on the device. Products of f32 with sums of some hundred terms:
/// 1e-6 of a row's square, as golden files of f32 are held to.
fn agrees(net: &Net, tokens: &[u32], want: &[Vec<f64>]) {
    for device in [Some(reference()), harness::device()].into_iter().flatten() {
        let mut of_rows: Option<Vec<f32>> = None;
        for (path, batch) in PATHS {
            let got = computed(device, net, tokens, batch);
            for (position, (got, want)) in got.chunks(VOCAB).zip(want).enumerate() {
                let error: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
                let size: f64 = want.iter().map(|b| b * b).sum();
                let what = format!("{path} on {}, position {position}", device.caps().name);
                assert!(error <= 1e-6 * size, "{what}: {error:.2e} of {size:.2e}");
            }
            match &of_rows {
                Some(one) if batch == 16 => {
                    assert!(
                        one.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "rows and their neighbours"
                    );
                }
                None => of_rows = Some(got),
                _ => {}
            }
        }
        let messages = device.take_messages();
        assert!(messages.is_empty(), "the validation layers say {messages:?}");
    }
}

fn computed(device: &Device, net: &Net, tokens: &[u32], batch: u32) -> Vec<f32> {
    let file = ModelFile::new(net.file()).unwrap_or_else(|error| panic!("{error}"));
    let options = options(batch, Activations::Float);
    let model = Model::load(device, &file, &options, &|_, _| true).unwrap_or_else(|error| panic!("{error}"));
    logits(&model, tokens)
}
