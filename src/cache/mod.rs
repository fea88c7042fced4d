//! What a conversation has computed: keys and values in a pool of blocks, shared by all sessions of a model, and the states
//! of recurrent layers, and hidden rows for layers that predict.

mod hidden;
mod kv;
mod states;

pub use hidden::{HIDDEN_KEPT, HiddenPool, HiddenView};
pub use kv::{BLOCK, KvLayout, KvPool, KvType};
pub use states::{STATE_RING, StateLayout, StatePool, StateViews};
