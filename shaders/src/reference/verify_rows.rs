//! The rows of a verification.

use vkllm_runtime::Call;

use super::sampler::ROW_IDLE;
use crate::ops::verify_rows::Push;

/// `rows[i]` = the cursor, its position moved on by i and its token the i-th draft for i > 0 (0 for one outside the
/// vocabulary); rows beyond the drafts, or from the first on that is less likely than allowed, are idle.
pub fn verify_rows(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (cursor, drafts, rows) = (call.arg("cursor"), call.arg("drafts"), call.arg("rows"));
    let unsure = |i: u32| drafts.f32(4 * i as usize + 1) < push.ln_p_min;
    let count = (1..=drafts.u32(0).min(push.row_count - 1)).take_while(|&i| !unsure(i)).count() as u32;
    for i in 0..push.row_count {
        let idle = i > count;
        let token = match i {
            0 => cursor.u32(0),
            _ => Some(drafts.u32(4 * i as usize)).filter(|&t| !idle && t < push.vocab).unwrap_or(0),
        };
        let [position, table, begin, sampler] = [1, 2, 3, 4].map(|word| cursor.u32(word));
        let flags = if idle { ROW_IDLE } else { 0 };
        let row = [token, position + i, table, begin, sampler, push.segment, i, flags];
        row.into_iter().enumerate().for_each(|(word, value)| rows.set_u32(i as usize * 8 + word, value));
    }
}
