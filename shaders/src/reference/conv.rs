//! Short causal convolutions.

use vkllm_runtime::Call;

use crate::ops::conv::Push;

/// `y = act(Σ w[t]·x[p - taps + 1 + t] + bias)`, groups of channels divided by their length; inputs go to a ring by position.
pub fn conv(call: &Call<'_>) {
    let push = call.push::<Push>();
    let spec = |name| call.spec(name).unwrap_or(0) as usize;
    let (x, rows, inputs, y) = (call.arg("x"), call.arg("rows"), call.arg("inputs"), call.arg("y"));
    let (taps, width, ring) = (spec("TAPS"), push.width as usize, push.ring as usize);
    let stride = push.x_stride as usize;
    let slot = |row: usize| rows.u32(row * 8 + 4) as usize;
    let place = |row: usize, position: usize| (slot(row) * ring + position % ring) * width;
    let groups = (0..width).step_by(push.group as usize);
    for row in push.first_row as usize..push.row_count as usize {
        let position = rows.u32(row * 8 + 1) as usize;
        let value = |back: usize, channel: usize| {
            if back > position {
                0.0
            } else if back <= row && slot(row - back) == slot(row) {
                x.f32((row - back) * stride + channel)
            } else {
                inputs.f32(place(row, position - back) + channel)
            }
        };
        let convolved = |channel: usize| {
            let bias = if spec("BIAS") == 1 { f64::from(call.arg("bias").f32(channel)) } else { 0.0 };
            let weight = |t: usize| f64::from(call.arg("weight").f32(channel * taps + t));
            let sum: f64 =
                bias + (0..taps).map(|t| weight(t) * f64::from(value(taps - 1 - t, channel))).sum::<f64>();
            if spec("ACT") == 1 { sum / (1.0 + (-sum).exp()) } else { sum }
        };
        for first in groups.clone().filter(|_| spec("COMPUTE") == 1) {
            let channels = first..(first + push.group as usize).min(width);
            let mut values: Vec<f64> = channels.map(convolved).collect();
            let mut factor = if first < push.scaled as usize { f64::from(push.scale) } else { 1.0 };
            if first < push.normed as usize {
                let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
                factor /= length.max(f64::from(push.eps));
            }
            values.iter_mut().for_each(|value| *value *= factor);
            for (c, value) in values.into_iter().enumerate() {
                y.set_f32(row * width + first + c, value as f32);
            }
        }
    }
    // Behind everything else, as if at once: no row's place is another's that is still to be read.
    for row in (push.first_row as usize..push.row_count as usize).filter(|_| spec("KEEP") == 1) {
        let at = place(row, rows.u32(row * 8 + 1) as usize);
        (0..width).for_each(|c| inputs.set_f32(at + c, x.f32(row * stride + c)));
    }
}
