//! What a conversation has computed: keys and values in a pool of blocks, shared by all sessions of a model.

mod kv;

pub use kv::{BLOCK, KvLayout, KvPool, KvType};
