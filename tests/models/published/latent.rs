//! Latent attention at the head sizes of DeepSeek-V2 and V3: keys of 512 + 64 elements in the cache, values within them.
//! Here keys and values of each head are made from the latent, as the paper has it, instead of queries from the keys.

use vkllm::{Activations, Error, KvType, Model, ModelFile, ModelOptions};

use super::net::{Net, attend, rotated, silu, sum};
use super::{agrees, reference, tokens};

const WIDTH: u32 = 64;
const HEADS: u32 = 4;
const RANK: u32 = 512;
const ROT: u32 = 64;
const PLAIN: u32 = 128;
const VALUE: u32 = 128;
const FFN: u32 = 96;
const LAYERS: u32 = 2;

fn net() -> Net {
    let mut net = Net::new("deepseek2", LAYERS, WIDTH);
    net.u32("attention.head_count", HEADS);
    net.u32("attention.head_count_kv", 1);
    net.u32("attention.key_length", RANK + ROT);
    net.u32("attention.value_length", RANK);
    net.u32("attention.key_length_mla", PLAIN + ROT);
    net.u32("attention.value_length_mla", VALUE);
    net.u32("attention.kv_lora_rank", RANK);
    net.u32("rope.dimension_count", ROT);
    net.u32("feed_forward_length", FFN);
    for layer in 0..LAYERS {
        let at = |name: &str| format!("blk.{layer}.{name}");
        net.norm(&at("attn_norm"), WIDTH);
        net.matrix(&at("attn_q"), &[WIDTH, HEADS * (PLAIN + ROT)]);
        net.matrix(&at("attn_kv_a_mqa"), &[WIDTH, RANK + ROT]);
        net.norm(&at("attn_kv_a_norm"), RANK);
        net.matrix(&at("attn_k_b"), &[PLAIN, RANK, HEADS]);
        net.matrix(&at("attn_v_b"), &[RANK, VALUE, HEADS]);
        net.matrix(&at("attn_output"), &[HEADS * VALUE, WIDTH]);
        net.norm(&at("ffn_norm"), WIDTH);
        net.ffn(layer, "", WIDTH, FFN);
    }
    net
}

fn evaluated(net: &Net) -> Vec<Vec<f64>> {
    let (rank, rot, plain) = (RANK as usize, ROT as usize, PLAIN as usize);
    let mut x: Vec<Vec<f64>> = tokens().iter().map(|token| net.embedding(*token, WIDTH as usize)).collect();
    for layer in 0..LAYERS {
        let at = |name: &str| format!("blk.{layer}.{name}");
        let inputs: Vec<Vec<f64>> = x.iter().map(|x| net.normed(&at("attn_norm"), x)).collect();
        let queries: Vec<Vec<f64>> = inputs.iter().map(|h| net.times(&at("attn_q"), 0, h)).collect();
        let pairs: Vec<Vec<f64>> = inputs.iter().map(|h| net.times(&at("attn_kv_a_mqa"), 0, h)).collect();
        let latents: Vec<Vec<f64>> =
            pairs.iter().map(|pair| net.normed(&at("attn_kv_a_norm"), &pair[..rank])).collect();
        let mut attended = vec![Vec::new(); x.len()];
        for head in 0..HEADS as usize {
            // The transpose of what takes queries to the latent takes the latent to keys.
            let k_b = &net.get(&at("attn_k_b"))[head * rank * plain..][..rank * plain];
            let key = |position: usize| -> Vec<f64> {
                let part =
                    |i: usize| (0..rank).map(|r| k_b[r * plain + i] * latents[position][r]).sum::<f64>();
                let turned = rotated(&pairs[position][rank..], position, 10_000.0, true);
                (0..plain).map(part).chain(turned).collect()
            };
            let keys: Vec<Vec<f64>> = (0..x.len()).map(key).collect();
            let values: Vec<Vec<f64>> =
                latents.iter().map(|latent| net.times(&at("attn_v_b"), head, latent)).collect();
            for (position, attended) in attended.iter_mut().enumerate() {
                let query = &queries[position][head * (plain + rot)..][..plain + rot];
                let turned = rotated(&query[plain..], position, 10_000.0, true);
                let query: Vec<f64> = query[..plain].iter().copied().chain(turned).collect();
                let keys: Vec<&[f64]> = keys[..=position].iter().map(Vec::as_slice).collect();
                let values: Vec<&[f64]> = values[..=position].iter().map(Vec::as_slice).collect();
                attended.extend(attend(&query, &keys, &values, 1.0 / ((plain + rot) as f64).sqrt()));
            }
        }
        for (x, attended) in x.iter_mut().zip(&attended) {
            *x = sum(x, &net.times(&at("attn_output"), 0, attended));
            let h = net.normed(&at("ffn_norm"), x);
            let [gate, up] = ["ffn_gate", "ffn_up"].map(|name| net.times(&at(name), 0, &h));
            let inner: Vec<f64> = gate.iter().zip(&up).map(|(gate, up)| silu(*gate) * up).collect();
            *x = sum(x, &net.times(&at("ffn_down"), 0, &inner));
        }
    }
    x.iter().map(|x| net.logits(x)).collect()
}

#[test]
fn latents_of_real_sizes() {
    let net = net();
    agrees(&net, &tokens(), &evaluated(&net));
}

#[test]
fn the_latent_is_cached_once() {
    let file = ModelFile::new(net().file()).expect("a model");
    let plan = |k_type, v_type| {
        let options = ModelOptions {
            context: Some(512),
            activations: Activations::Float,
            k_type,
            v_type,
            ..ModelOptions::default()
        };
        file.plan(reference().caps(), &options)
    };
    let position = u64::from(LAYERS) * u64::from(RANK + ROT);
    assert_eq!(plan(None, None).expect("a plan").kv, 512 * position * 4);
    let small = plan(Some(KvType::Q8_0), None).expect("a plan");
    assert_eq!((small.kv, small.v_type), (512 * position * 34 / 32, KvType::Q8_0));
    let refused = plan(Some(KvType::F16), Some(KvType::Q8_0)).expect_err("two types for one cache");
    assert!(matches!(refused, Error::Argument { .. }) && refused.to_string().contains("parts of the keys"));
    // Blocks of 32 elements hold latents as well.
    let options = ModelOptions { k_type: Some(KvType::Q8_0), ..super::options(16, Activations::Float) };
    let model = Model::load(reference(), &file, &options, &|_, _| true).expect("a model");
    let (got, want) = (super::logits(&model, &tokens()), evaluated(&net()));
    for (got, want) in got.chunks(super::VOCAB).zip(&want) {
        let error: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        assert!(error <= 1e-3 * want.iter().map(|b| b * b).sum::<f64>(), "{error}");
    }
}
