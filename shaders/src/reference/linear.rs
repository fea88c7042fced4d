//! Matrix times rows: every weight decoded to f32, rounded to f16 where rows are of f16, every product summed in f64.

use half::f16;
use vkllm_runtime::{Call, Words};

use crate::formats::{Format, by_name};
use crate::ops::linear::Push;

/// Words of one q8 block of 32 activations: eight of int8, the scale, two sums, one unused.
const Q8_WORDS: usize = 12;

/// Row of k activations that starts at word `at`, in the form the kernel's axis `ACT` names.
fn activations(x: Words<'_>, at: usize, k: usize, act: &str) -> Vec<f64> {
    let value = |element: usize| match act {
        "q8" => {
            let block = at + element / 32 * Q8_WORDS;
            let byte = x.u8(4 * block + element % 32) as i8;
            f64::from(byte) * f64::from(x.f32(block + 8))
        }
        "f16" => {
            let bits = x.u32(at + element / 2) >> (element % 2 * 16);
            f64::from(f16::from_bits(bits as u16)) * f64::from(x.f32(at + k / 2))
        }
        _ => f64::from(x.f32(at + element)),
    };
    (0..k).map(value).collect()
}

/// Decodes a row of weights as the kernel's products see them.
fn decode(format: &Format, act: &str, bytes: &[u8], decoded: &mut [f32]) {
    format.decode_row(bytes, decoded);
    if act == "f16" {
        decoded.iter_mut().for_each(|w| *w = f16::from_f32(*w).to_f32());
    }
}

/// y = (W·x + bias) · scale + residual; with `EXPERTS` y = W·x + bias for each assignment of a row to an expert's matrix.
pub fn linear(call: &Call<'_>) {
    let push = call.push::<Push>();
    if call.spec("EXPERTS") == Some(1) {
        return experts(call, &push);
    }
    let name = call.kernel.axis("FORMAT");
    let format = by_name(name).unwrap_or_else(|| panic!("{} has no weight format {name}", call.kernel.name));
    let act = call.kernel.axis("ACT");
    let (k, n, rows) = (push.k as usize, push.n as usize, push.rows as usize);
    let (weights, y) = (call.arg("weights"), call.arg("y"));
    let x: Vec<Vec<f64>> =
        (0..rows).map(|row| activations(call.arg("x"), row * push.x_stride as usize, k, act)).collect();
    let mut decoded = vec![0.0f32; k];
    for output in 0..n {
        let bytes = weights.bytes(output * push.row_bytes as usize, push.row_bytes as usize);
        decode(format, act, &bytes, &mut decoded);
        for (row, x) in x.iter().enumerate() {
            let mut sum: f64 = decoded.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
            if call.spec("BIAS") == Some(1) {
                sum += f64::from(call.arg("bias").f32(output));
            }
            sum *= f64::from(push.scale);
            if call.spec("RESIDUAL") == Some(1) {
                sum += f64::from(call.arg("residual").f32(row * push.residual_stride as usize + output));
            }
            y.set_f32(row * push.y_stride as usize + output, sum as f32);
        }
    }
}

/// Tile by tile, and stack by stack where there are two.
fn experts(call: &Call<'_>, push: &Push) {
    let Some(format) = by_name(call.kernel.axis("FORMAT")) else { return };
    let act = call.kernel.axis("ACT");
    let (k, n) = (push.k as usize, push.n as usize);
    let (tiles, order, y) = (call.arg("tiles"), call.arg("order"), call.arg("y"));
    let mut decoded = vec![0.0f32; k];
    for tile in 0..call.grid[1] as usize {
        let [expert, first, count] = [0, 1, 2].map(|word| tiles.u32(tile * 4 + word) as usize);
        let place = (expert as u32).wrapping_sub(push.first_expert);
        if place >= push.expert_count {
            continue;
        }
        let assignments: Vec<usize> = (first..first + count).map(|at| order.u32(at) as usize).collect();
        let x: Vec<Vec<f64>> = assignments
            .iter()
            .map(|a| activations(call.arg("x"), a / push.slots as usize * push.x_stride as usize, k, act))
            .collect();
        for stack in 0..call.grid[2] as usize {
            for output in 0..n {
                let base = stack * push.second_bytes as usize + place as usize * push.expert_bytes as usize;
                let at = base + output * push.row_bytes as usize;
                let bytes = call.arg("weights").bytes(at, push.row_bytes as usize);
                decode(format, act, &bytes, &mut decoded);
                for (a, x) in assignments.iter().zip(&x) {
                    let mut sum: f64 = decoded.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
                    if call.spec("BIAS") == Some(1) {
                        let bias = call.arg(if stack == 0 { "bias" } else { "bias2" });
                        sum += f64::from(bias.f32(expert * n + output));
                    }
                    y.set_f32(a * push.y_stride as usize + stack * n + output, sum as f32);
                }
            }
        }
    }
}
