//! Which drafts of a verification stand.

use vkllm_runtime::Call;

use super::sampler::{NO_TOKEN, RESULT_WORDS, ROW_IDLE};
use crate::ops::accept::Push;

/// For each segment with rows, its first row the cursor and the others drafts: the longest prefix of drafts in which
/// each equals the draw of the row before. outcome = drafts, length of the prefix, the draw after it, its position;
/// cursor = that draw, unless there is none; pair = the last accepted token (or the old cursor) and that draw, 0 for
/// what the drafter does not know. Idle rows are none.
pub fn accept(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (rows, drawn, outcomes) = (call.arg("rows"), call.arg("drawn"), call.arg("outcomes"));
    let (cursors, pairs) = (call.arg("cursors"), call.arg("pairs"));
    for segment in 0..push.segments {
        let own: Vec<[u32; 8]> = (0..push.row_count as usize)
            .map(|row| std::array::from_fn(|word| rows.u32(row * 8 + word)))
            .filter(|row: &[u32; 8]| row[5] == segment && row[7] & ROW_IDLE == 0)
            .collect();
        let draw = |row: &[u32; 8]| drawn.u32(row[6] as usize * RESULT_WORDS);
        let accepted = own.windows(2).take_while(|pair| pair[1][0] == draw(&pair[0])).count();
        let Some(last) = own.get(accepted) else { continue };
        let (next, position) = (draw(last), last[1] + 1);
        let outcome = [own.len() as u32 - 1, accepted as u32, next, position];
        let at = segment as usize * RESULT_WORDS;
        outcome.into_iter().enumerate().for_each(|(i, word)| outcomes.set_u32(at + i, word));
        if next == NO_TOKEN {
            continue;
        }
        let known = |token| if token < push.draft_vocab { token } else { 0 };
        let move_to = |rows: vkllm_runtime::Words<'_>, at: usize, token: u32, position: u32| {
            rows.set_u32(at * 8, token);
            rows.set_u32(at * 8 + 1, position);
        };
        let segment = segment as usize;
        move_to(cursors, segment, next, position);
        move_to(pairs, 2 * segment, known(last[0]), last[1]);
        move_to(pairs, 2 * segment + 1, known(next), position);
    }
}
