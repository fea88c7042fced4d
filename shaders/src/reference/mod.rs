//! What every operation means: one naive CPU function per op, in f64 where that is natural, stored as f32.

pub mod accept;
pub mod argmax;
pub mod attention;
pub mod attention_combine;
pub mod embed;
pub mod gather;
pub mod glu;
pub mod heads;
pub mod kv;
pub mod linear;
pub mod quantize;
pub mod rms_norm;
pub mod sample;
pub mod sample_collect;
pub mod sample_histogram;
pub mod sample_history;
pub mod sample_penalize;
pub mod sampler;
pub mod step_grid;
pub mod verify_rows;

/// Positions per KV block and per attention chunk.
pub const KV_BLOCK: usize = 128;
