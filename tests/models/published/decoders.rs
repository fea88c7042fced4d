//! Plain decoders and mixtures of experts: ERNIE 4.5 and the text model of Qwen3-VL.

use super::net::{Net, Sizes, attend, rotated, silu, sum};
use super::{agrees, tokens};

const SIZES: Sizes = Sizes { width: 64, heads: 4, kv_heads: 2, head: 16, ffn: 96 };
const EXPERTS: usize = 6;
const USED: usize = 2;
const LAYERS: u32 = 4;

/// What differs among them.
struct Kind {
    /// RoPE turns neighbours; else halves.
    neighbours: bool,
    head_norm: bool,
    /// Which layers are mixtures.
    experts: fn(u32) -> bool,
    /// Experts are chosen with a bias, weighted without (ERNIE's moe_statics), and all rows use one more.
    ernie: bool,
}

fn net(arch: &'static str, kind: &Kind) -> Net {
    let mut net = Net::new(arch, LAYERS, SIZES.width);
    SIZES.keys(&mut net);
    for layer in 0..LAYERS {
        net.layer(layer, &SIZES);
        let at = |name: &str| format!("blk.{layer}.{name}");
        if kind.head_norm {
            net.norm(&at("attn_q_norm"), SIZES.head);
            net.norm(&at("attn_k_norm"), SIZES.head);
        }
        if (kind.experts)(layer) {
            let (width, ffn, count) = (SIZES.width, 32, EXPERTS as u32);
            net.matrix(&at("ffn_gate_inp"), &[width, count]);
            for (name, k, n) in [("gate", width, ffn), ("up", width, ffn), ("down", ffn, width)] {
                net.matrix(&at(&format!("ffn_{name}_exps")), &[k, n, count]);
            }
            if kind.ernie {
                net.bias(&at("exp_probs_b"), count);
                net.ffn(layer, "_shexp", width, 48);
            }
        }
    }
    net
}

fn perceptron(net: &Net, at: &str, suffix: &str, which: usize, x: &[f64]) -> Vec<f64> {
    let [gate, up] = ["gate", "up"].map(|name| net.times(&format!("{at}ffn_{name}{suffix}"), which, x));
    let inner: Vec<f64> = gate.iter().zip(&up).map(|(gate, up)| silu(*gate) * up).collect();
    net.times(&format!("{at}ffn_down{suffix}"), which, &inner)
}

fn mixture(net: &Net, at: &str, kind: &Kind, x: &[f64]) -> Vec<f64> {
    let scores: Vec<f64> = net.times(&format!("{at}ffn_gate_inp"), 0, x).iter().map(|s| s.exp()).collect();
    let all: f64 = scores.iter().sum();
    let bias =
        |expert: usize| if kind.ernie { net.get(&format!("{at}exp_probs_b.bias"))[expert] } else { 0.0 };
    let rank = |expert: usize| scores[expert] / all + bias(expert);
    let mut order: Vec<usize> = (0..EXPERTS).collect();
    order.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)));
    let total: f64 = order[..USED].iter().map(|expert| scores[*expert]).sum();
    let mut y = if kind.ernie { perceptron(net, at, "_shexp", 0, x) } else { vec![0.0; x.len()] };
    for &expert in &order[..USED] {
        let part = perceptron(net, at, "_exps", expert, x);
        y.iter_mut().zip(part).for_each(|(y, part)| *y += scores[expert] / total * part);
    }
    y
}

fn evaluated(net: &Net, kind: &Kind) -> Vec<Vec<f64>> {
    let (width, head) = (SIZES.width as usize, SIZES.head as usize);
    let mut x: Vec<Vec<f64>> = tokens().iter().map(|token| net.embedding(*token, width)).collect();
    for layer in 0..LAYERS {
        let at = format!("blk.{layer}.");
        let heads = |name: &str, position: usize, x: &[f64]| -> Vec<Vec<f64>> {
            let h = net.normed(&format!("{at}attn_norm"), x);
            let all = net.times(&format!("{at}attn_{name}"), 0, &h);
            let normed = |one: &[f64]| match kind.head_norm && name != "v" {
                true => net.normed(&format!("{at}attn_{name}_norm"), one),
                false => one.to_vec(),
            };
            let turned = |one: Vec<f64>| match name {
                "v" => one,
                _ => rotated(&one, position, 10_000.0, kind.neighbours),
            };
            all.chunks(head).map(|one| turned(normed(one))).collect()
        };
        let of = |name: &str| -> Vec<Vec<Vec<f64>>> {
            x.iter().enumerate().map(|(position, x)| heads(name, position, x)).collect()
        };
        let (queries, keys, values) = (of("q"), of("k"), of("v"));
        let share = (SIZES.heads / SIZES.kv_heads) as usize;
        for (position, x) in x.iter_mut().enumerate() {
            let attended = queries[position].iter().enumerate().flat_map(|(h, q)| {
                let seen = |all: &'_ [Vec<Vec<f64>>]| -> Vec<Vec<f64>> {
                    all[..=position].iter().map(|heads| heads[h / share].clone()).collect()
                };
                let (keys, values) = (seen(&keys), seen(&values));
                let keys: Vec<&[f64]> = keys.iter().map(Vec::as_slice).collect();
                let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
                attend(q, &keys, &values, 1.0 / (head as f64).sqrt())
            });
            let attended: Vec<f64> = attended.collect();
            *x = sum(x, &net.times(&format!("{at}attn_output"), 0, &attended));
            let h = net.normed(&format!("{at}ffn_norm"), x);
            let y = match (kind.experts)(layer) {
                true => mixture(net, &at, kind, &h),
                false => perceptron(net, &at, "", 0, &h),
            };
            *x = sum(x, &y);
        }
    }
    x.iter().map(|x| net.logits(x)).collect()
}

fn experts(net: &mut Net) {
    net.u32("expert_count", EXPERTS as u32);
    net.u32("expert_used_count", USED as u32);
    net.u32("expert_feed_forward_length", 32);
}

/// No golden file: from the published definition.
#[test]
fn ernie4_5() {
    let kind = Kind { neighbours: true, head_norm: false, experts: |_| false, ernie: true };
    let net = net("ernie4_5", &kind);
    agrees(&net, &tokens(), &evaluated(&net, &kind));
}

/// No golden file: from the published definition. Of the layers behind the first, every second is a mixture.
#[test]
fn ernie4_5_moe() {
    let kind = Kind { neighbours: true, head_norm: false, experts: |layer| layer % 2 == 1, ernie: true };
    let mut net = net("ernie4_5-moe", &kind);
    experts(&mut net);
    net.u32("leading_dense_block_count", 1);
    net.u32("interleave_moe_layer_step", 2);
    net.u32("expert_shared_feed_forward_length", 48);
    agrees(&net, &tokens(), &evaluated(&net, &kind));
}

/// No golden file: from the published definition, whose multi-section RoPE is the plain one for text.
#[test]
fn qwen3vl() {
    let kind = Kind { neighbours: false, head_norm: true, experts: |_| false, ernie: false };
    let net = net("qwen3vl", &kind);
    agrees(&net, &tokens(), &evaluated(&net, &kind));
}

/// No golden file: from the published definition.
#[test]
fn qwen3vlmoe() {
    let kind = Kind { neighbours: false, head_norm: true, experts: |_| true, ernie: false };
    let mut net = net("qwen3vlmoe", &kind);
    experts(&mut net);
    agrees(&net, &tokens(), &evaluated(&net, &kind));
}
