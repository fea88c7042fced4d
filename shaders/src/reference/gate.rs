//! Whether a part of a round runs.

use vkllm_runtime::Call;

use crate::ops::gate::Push;

/// `args` = `counts`, or zeros when one of the drafts before the part is less likely than allowed.
pub fn gate(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (drafts, counts, args) = (call.arg("drafts"), call.arg("counts"), call.arg("args"));
    let unsure = (1..=push.drafted as usize).any(|j| drafts.f32(4 * j + 1) < push.ln_p_min);
    for i in 0..push.words as usize {
        args.set_u32(i, if unsure { 0 } else { counts.u32(i) });
    }
}
