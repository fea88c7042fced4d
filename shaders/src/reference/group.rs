//! Assignments sorted by expert.

use vkllm_runtime::Call;

use crate::ops::group::Push;

/// order = assignments by expert (with `ROUND` assignment a is to expert a % EXPERTS), tiles = (expert, first, count, 0) of at most `tile_rows` of them; the rest is zero.
pub fn group(call: &Call<'_>) {
    let push = call.push::<Push>();
    let (ids, tiles, order) = (call.arg("ids"), call.arg("tiles"), call.arg("order"));
    let experts = call.spec("EXPERTS").unwrap_or(0) as usize;
    let mut of: Vec<Vec<u32>> = vec![Vec::new(); experts];
    for assignment in 0..push.count {
        let round = call.spec("ROUND") == Some(1);
        let expert =
            if round { assignment as usize % experts } else { ids.u32(assignment as usize) as usize };
        of[expert.min(experts - 1)].push(assignment);
    }
    let (mut place, mut tile) = (0, 0);
    for (expert, assignments) in of.iter().enumerate() {
        for some in assignments.chunks(push.tile_rows as usize) {
            let words = [expert as u32, place as u32, some.len() as u32, 0];
            words.into_iter().enumerate().for_each(|(i, word)| tiles.set_u32(tile * 4 + i, word));
            some.iter().enumerate().for_each(|(i, assignment)| order.set_u32(place + i, *assignment));
            (place, tile) = (place + some.len(), tile + 1);
        }
    }
    (tile * 4..push.tile_count as usize * 4).for_each(|word| tiles.set_u32(word, 0));
}
