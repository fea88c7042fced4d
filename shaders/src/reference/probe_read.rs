//! Reads memory to measure it.

use vkllm_runtime::Call;

use crate::ops::probe_read::Push;

/// Quads are shared evenly among the workgroups; `y` has for each invocation the exclusive or of the words of every WG-th
/// quad of its workgroup's share.
pub fn probe_read(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (x, y) = (call.arg("x"), call.arg("y"));
    let (groups, wg) = (call.grid[0] as usize, call.spec("WG").unwrap_or(1) as usize);
    let quads = push.quads as usize;
    let share = quads.div_ceil(groups);
    for lane in 0..groups * wg {
        let first = lane / wg * share;
        let own = (first + lane % wg..quads.min(first + share)).step_by(wg);
        let words = own.flat_map(|quad| 4 * quad..4 * quad + 4);
        y.set_u32(lane, words.fold(0, |all, word| all ^ x.u32(word)));
    }
}
