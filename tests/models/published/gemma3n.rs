//! Gemma 3n: AltUp, LAuReL, per-layer embeddings, sparse activations, layers that read the keys of earlier ones.

use super::net::{Net, Sizes, attend, gelu, rms, rotated, scaled, sum};
use super::{agrees, long, tokens};

const SIZES: Sizes = Sizes { width: 64, heads: 4, kv_heads: 2, head: 16, ffn: 96 };
const LAYERS: usize = 6;
/// Layers with keys of their own; the last two of them are a near and a far one.
const CACHING: usize = 4;
const FAR: [bool; LAYERS] = [false, true, false, true, false, true];
const WINDOW: usize = 9;
const STREAMS: usize = 4;
const OWN: usize = 32;
const LAUREL: u32 = 16;
const DEVIATIONS: f32 = 0.7;
const CAP: f64 = 30.0;
const FAR_BASE: f64 = 1e6;
const NEAR_BASE: f64 = 1e4;

fn net() -> Net {
    let (width, streams, own) = (SIZES.width, STREAMS as u32, OWN as u32);
    let mut net = Net::new("gemma3n", LAYERS as u32, width);
    SIZES.keys(&mut net);
    net.u32("altup.num_inputs", streams);
    net.u32("altup.active_idx", 0);
    net.u32("embedding_length_per_layer_input", own);
    net.u32("attention.shared_kv_layers", (LAYERS - CACHING) as u32);
    net.u32("attention.sliding_window", WINDOW as u32);
    net.bools("attention.sliding_window_pattern", &FAR.map(|far| !far));
    net.f32("rope.freq_base", FAR_BASE as f32);
    net.f32("final_logit_softcapping", CAP as f32);
    let sparse: Vec<f32> =
        (0..LAYERS).map(|layer| if layer < 3 { DEVIATIONS } else { f32::NEG_INFINITY }).collect();
    net.f32s("activation_sparsity_scale", &sparse);
    net.matrix("altup_proj", &[width, width, streams - 1]);
    net.matrix("altup_unembd_proj", &[width, width, streams - 1]);
    net.matrix("per_layer_token_embd", &[own * LAYERS as u32, super::VOCAB as u32]);
    net.matrix("per_layer_model_proj", &[width, own * LAYERS as u32]);
    net.norm("per_layer_proj_norm", own);
    for layer in 0..LAYERS as u32 {
        net.layer(layer, &SIZES);
        let at = |name: &str| format!("blk.{layer}.{name}");
        for name in
            ["post_attention_norm", "post_ffw_norm", "laurel_post_norm", "altup_router_norm", "post_norm"]
        {
            net.norm(&at(name), width);
        }
        net.norm(&at("altup_correct_scale"), width);
        net.norm(&at("attn_q_norm"), SIZES.head);
        net.norm(&at("attn_k_norm"), SIZES.head);
        for (name, k, n) in [
            ("laurel_l", width, LAUREL),
            ("laurel_r", LAUREL, width),
            ("altup_router", width, streams),
            ("altup_predict_coef", streams, streams * streams),
            ("altup_correct_coef", streams, streams),
            ("inp_gate", width, own),
            ("proj", own, width),
        ] {
            net.matrix(&at(name), &[k, n]);
        }
    }
    net
}

fn mean_square(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64
}

/// A row of the size of another.
fn sized(x: &[f64], like: &[f64]) -> Vec<f64> {
    scaled(x, mean_square(like).sqrt() / mean_square(x).max(1e-5).sqrt())
}

/// Streams and inputs of all layers of one token.
fn begun(net: &Net, token: u32) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let width = SIZES.width as usize;
    let x = scaled(&net.embedding(token, width), (width as f64).sqrt());
    let mut streams = vec![x.clone()];
    streams.extend((0..STREAMS - 1).map(|i| sized(&net.times("altup_proj", i, &x), &x)));
    let by_token = &net.get("per_layer_token_embd")[token as usize * OWN * LAYERS..][..OWN * LAYERS];
    let projected = scaled(&net.times("per_layer_model_proj", 0, &x), 1.0 / (width as f64).sqrt());
    let input = |layer: usize| {
        let own = net.normed("per_layer_proj_norm", &projected[layer * OWN..][..OWN]);
        let embedded = scaled(&by_token[layer * OWN..][..OWN], (OWN as f64).sqrt());
        scaled(&sum(&own, &embedded), 0.5f64.sqrt())
    };
    (streams, (0..LAYERS).map(input).collect())
}

fn modalities(net: &Net, at: &str, x: &[f64]) -> Vec<f64> {
    let h = scaled(&net.normed(&format!("{at}altup_router_norm"), x), 1.0 / f64::from(SIZES.width));
    net.times(&format!("{at}altup_router"), 0, &h).iter().map(|x| x.tanh()).collect()
}

fn predicted(net: &Net, at: &str, streams: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let c = net.times(&format!("{at}altup_predict_coef"), 0, &modalities(net, at, &streams[0]));
    let mixed = |j: usize| {
        let add = |y: Vec<f64>, i: usize| sum(&y, &scaled(&streams[i], c[j * STREAMS + i]));
        (0..STREAMS).fold(streams[j].clone(), add)
    };
    (0..STREAMS).map(mixed).collect()
}

fn corrected(net: &Net, at: &str, predicted: &[Vec<f64>], computed: &[f64]) -> Vec<Vec<f64>> {
    let c = net.times(&format!("{at}altup_correct_coef"), 0, &modalities(net, at, computed));
    let change = sum(computed, &scaled(&predicted[0], -1.0));
    predicted.iter().zip(c).map(|(x, c)| sum(x, &scaled(&change, c + 1.0))).collect()
}

fn perceptron(net: &Net, at: &str, layer: usize, h: &[f64]) -> Vec<f64> {
    let [mut gate, up] = ["gate", "up"].map(|name| net.times(&format!("{at}ffn_{name}"), 0, h));
    if layer < 3 {
        let mean = gate.iter().sum::<f64>() / gate.len() as f64;
        let apart: Vec<f64> = gate.iter().map(|gate| gate - mean).collect();
        let least = mean + f64::from(DEVIATIONS) * mean_square(&apart).sqrt();
        gate.iter_mut().for_each(|gate| *gate = (*gate - least).max(0.0));
    }
    let inner: Vec<f64> = gate.iter().zip(&up).map(|(gate, up)| gelu(*gate) * up).collect();
    net.times(&format!("{at}ffn_down"), 0, &inner)
}

fn evaluated(net: &Net, tokens: &[u32]) -> Vec<Vec<f64>> {
    let head = SIZES.head as usize;
    let mut rows: Vec<_> = tokens.iter().map(|token| begun(net, *token)).collect();
    // Keys and values by layer, position and head.
    let mut caches: Vec<Vec<Vec<(Vec<f64>, Vec<f64>)>>> = Vec::new();
    for layer in 0..LAYERS {
        let at = format!("blk.{layer}.");
        let base = if FAR[layer] { FAR_BASE } else { NEAR_BASE };
        let heads = |name: &str, h: &[f64]| -> Vec<Vec<f64>> {
            net.times(&format!("{at}attn_{name}"), 0, h).chunks(head).map(<[f64]>::to_vec).collect()
        };
        let turned = |name: &str, position: usize, one: &[f64]| {
            rotated(&net.normed(&format!("{at}attn_{name}_norm"), one), position, base, false)
        };
        let predictions: Vec<_> = rows.iter().map(|(streams, _)| predicted(net, &at, streams)).collect();
        let inputs: Vec<_> =
            predictions.iter().map(|p| net.normed(&format!("{at}attn_norm"), &p[0])).collect();
        if layer < CACHING {
            let stored = |(position, h): (usize, &Vec<f64>)| {
                let (keys, values) = (heads("k", h), heads("v", h));
                keys.iter().zip(&values).map(|(k, v)| (turned("k", position, k), rms(v))).collect()
            };
            caches.push(inputs.iter().enumerate().map(stored).collect());
        }
        let source = if layer < CACHING { layer } else { CACHING - if FAR[layer] { 1 } else { 2 } };
        for (position, (streams, own)) in rows.iter_mut().enumerate() {
            let first = if FAR[layer] { 0 } else { (position + 1).saturating_sub(WINDOW) };
            let seen = &caches[source][first..=position];
            let queries = heads("q", &inputs[position]);
            let attended = queries.iter().enumerate().flat_map(|(h, q)| {
                let kv = h / (SIZES.heads / SIZES.kv_heads) as usize;
                let keys: Vec<&[f64]> = seen.iter().map(|heads| &heads[kv].0[..]).collect();
                let values: Vec<&[f64]> = seen.iter().map(|heads| &heads[kv].1[..]).collect();
                attend(&turned("q", position, q), &keys, &values, 1.0)
            });
            let attended: Vec<f64> = attended.collect();
            let attended = net.times(&format!("{at}attn_output"), 0, &attended);
            let attended = net.normed(&format!("{at}post_attention_norm"), &attended);
            let low = net.times(&format!("{at}laurel_l"), 0, &inputs[position]);
            let laurel = net.times(&format!("{at}laurel_r"), 0, &low);
            let laurel = sum(&net.normed(&format!("{at}laurel_post_norm"), &laurel), &inputs[position]);
            let x = scaled(&sum(&sum(&attended, &predictions[position][0]), &laurel), 0.5f64.sqrt());
            let y = perceptron(net, &at, layer, &net.normed(&format!("{at}ffn_norm"), &x));
            let computed = sum(&x, &net.normed(&format!("{at}post_ffw_norm"), &y));
            *streams = corrected(net, &at, &predictions[position], &computed);
            let factors = net.get(&format!("{at}altup_correct_scale"));
            let gated: Vec<f64> = streams[0].iter().zip(factors).map(|(x, factor)| x * factor).collect();
            let gate = net.times(&format!("{at}inp_gate"), 0, &gated);
            let inner: Vec<f64> = gate.iter().zip(&own[layer]).map(|(gate, own)| gelu(*gate) * own).collect();
            let more = net.normed(&format!("{at}post_norm"), &net.times(&format!("{at}proj"), 0, &inner));
            for stream in &mut streams[1..] {
                *stream = sum(stream, &more);
            }
        }
    }
    let merged = |streams: &[Vec<f64>]| {
        let back = |i: usize| sized(&net.times("altup_unembd_proj", i, &streams[i + 1]), &streams[0]);
        let all = (0..STREAMS - 1).fold(streams[0].clone(), |all, i| sum(&all, &back(i)));
        let logits = net.logits(&scaled(&all, 1.0 / STREAMS as f64));
        logits.iter().map(|logit| CAP * (logit / CAP).tanh()).collect()
    };
    rows.iter().map(|(streams, _)| merged(streams)).collect()
}

/// No golden file: from the published definition.
#[test]
fn gemma3n() {
    let net = net();
    agrees(&net, &tokens(), &evaluated(&net, &tokens()));
}

/// Keys of layers with a window lie in a ring, which is read by the layers that share them as well.
#[test]
fn a_long_text_through_gemma3n() {
    let net = net();
    agrees(&net, &long(), &evaluated(&net, &long()));
}
