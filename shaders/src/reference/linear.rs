//! Matrix times rows: every weight decoded to f32, every product summed in f64.

use vkllm_runtime::{Call, Words};

use crate::formats::by_name;
use crate::ops::linear::Push;

/// Words of one q8 block of 32 activations: eight of int8, the scale, two sums, one unused.
const Q8_WORDS: usize = 12;

/// Row of k activations that starts at word `at`, in the form the kernel's axis `ACT` names.
fn activations(x: Words<'_>, at: usize, k: usize, q8: bool) -> Vec<f64> {
    let value = |element: usize| {
        if !q8 {
            return f64::from(x.f32(at + element));
        }
        let block = at + element / 32 * Q8_WORDS;
        let byte = x.u8(4 * block + element % 32) as i8;
        f64::from(byte) * f64::from(x.f32(block + 8))
    };
    (0..k).map(value).collect()
}

/// y = (W·x + bias) · scale + residual.
pub fn linear(call: &Call<'_>) {
    let push = call.push::<Push>();
    let name = call.kernel.axis("FORMAT");
    let format = by_name(name).unwrap_or_else(|| panic!("{} has no weight format {name}", call.kernel.name));
    let q8 = call.kernel.axis("ACT") == "q8";
    let (k, n, rows) = (push.k as usize, push.n as usize, push.rows as usize);
    let (weights, y) = (call.arg("weights"), call.arg("y"));
    let x: Vec<Vec<f64>> =
        (0..rows).map(|row| activations(call.arg("x"), row * push.x_stride as usize, k, q8)).collect();
    let mut decoded = vec![0.0f32; k];
    for output in 0..n {
        let bytes = weights.bytes(output * push.row_bytes as usize, push.row_bytes as usize);
        format.decode_row(&bytes, &mut decoded);
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
