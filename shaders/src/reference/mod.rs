//! What every operation means: one naive CPU function per op, in f64 where that is natural, stored as f32.

pub mod accept;
pub mod add;
pub mod altup;
pub mod argmax;
pub mod attention;
pub mod attention_combine;
pub mod conv;
pub mod embed;
pub mod experts_sum;
pub mod gate;
pub mod gather;
pub mod glu;
pub mod group;
pub mod halve;
pub mod heads;
pub mod hidden_get;
pub mod hidden_put;
pub mod join;
pub mod kv;
pub mod linear;
pub mod norm;
pub mod probe_copy;
pub mod probe_dot;
pub mod probe_fma;
pub mod probe_read;
pub mod probe_write;
pub mod quantize;
pub mod recurrence;
pub mod rescale;
pub mod route;
pub mod sample;
pub mod sample_bias;
pub mod sample_collect;
pub mod sample_draw;
pub mod sample_histogram;
pub mod sample_history;
pub mod sample_penalize;
pub mod sample_truncate;
pub mod sampler;
pub mod soft_cap;
pub mod sparsify;
pub mod spread;
pub mod step_grid;
pub mod verify_rows;

/// Positions per KV block and per attention chunk.
pub const KV_BLOCK: usize = 128;

/// First key position that a row sees in a layer with a window of so many keys; 0 is a layer without.
pub fn window_begin(begin: usize, position: usize, window: u32) -> usize {
    if window == 0 { begin } else { begin.max((position + 1).saturating_sub(window as usize)) }
}

/// Chunk from which the parts of a row are counted.
pub fn window_chunk(begin: usize, window: u32) -> usize {
    if window == 0 { 0 } else { begin / KV_BLOCK }
}
