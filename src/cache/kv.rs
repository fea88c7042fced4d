//! The key and value pools of a model. Blocks of 128 positions belong to sessions; rows find theirs through a block
//! table, so a recording never names a session.

use std::collections::BTreeSet;

use vkllm_runtime::{Buffer, Device, Usage, View};

use crate::error::{Error, Result};

/// Positions of one block, as `include/step.glsl` has it.
pub const BLOCK: u32 = 128;

/// How keys or values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    F32,
    #[default]
    F16,
}

impl KvType {
    /// Code of the specialisation constants `K_TYPE` and `V_TYPE`.
    pub fn code(self) -> u32 {
        match self {
            KvType::F32 => 0,
            KvType::F16 => 1,
        }
    }

    /// Bytes of `elements` elements.
    pub fn bytes(self, elements: u64) -> u64 {
        match self {
            KvType::F32 => 4 * elements,
            KvType::F16 => 2 * elements,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        }
    }

    /// Parses a name as users type it.
    pub fn parse(name: &str) -> Option<Self> {
        [KvType::F32, KvType::F16].into_iter().find(|kind| kind.name() == name)
    }
}

/// Shape of the cache of one model.
#[derive(Clone, Copy, Debug)]
pub struct KvLayout {
    pub layers: u32,
    pub kv_heads: u32,
    /// Elements of a key and of a value per head.
    pub head: u32,
    pub head_v: u32,
    pub k_type: KvType,
    pub v_type: KvType,
}

impl KvLayout {
    /// Bytes of one layer's keys of one block.
    fn key_block(&self) -> u64 {
        self.k_type.bytes(u64::from(BLOCK) * u64::from(self.kv_heads) * u64::from(self.head))
    }

    fn value_block(&self) -> u64 {
        self.v_type.bytes(u64::from(BLOCK) * u64::from(self.kv_heads) * u64::from(self.head_v))
    }

    /// Bytes of the whole pool for `blocks` blocks; `None` when they cannot be counted in 64 bits.
    pub fn bytes(&self, blocks: u64) -> Option<u64> {
        (self.key_block() + self.value_block()).checked_mul(u64::from(self.layers))?.checked_mul(blocks)
    }

    /// Bytes of the larger of one layer's two pools.
    pub fn largest_binding(&self, blocks: u64) -> Option<u64> {
        self.key_block().max(self.value_block()).checked_mul(blocks)
    }
}

/// Pools of all layers and the list of free blocks.
pub struct KvPool {
    layout: KvLayout,
    layers: Vec<(Buffer, Buffer)>,
    free: BTreeSet<u32>,
}

impl KvPool {
    /// Allocates a pool for `tokens` positions.
    ///
    /// Errors: sizes beyond what the device can bind, memory that does not suffice.
    pub fn new(device: &Device, layout: KvLayout, tokens: u64) -> Result<Self> {
        let blocks = tokens.div_ceil(u64::from(BLOCK)).max(1);
        let caps = device.caps();
        let unfit = |need: u64, have: u64| Error::DoesNotFit {
            what: format!("the key and value cache of {tokens} positions"),
            need,
            have,
        };
        let total = layout.bytes(blocks).ok_or_else(|| unfit(u64::MAX, u64::from(u32::MAX)))?;
        let largest = layout.largest_binding(blocks).unwrap_or(u64::MAX);
        if largest > caps.max_binding {
            let fits = caps.max_binding / layout.largest_binding(1).unwrap_or(1).max(1) * u64::from(BLOCK);
            return Err(Error::Argument {
                what: format!("the context, whose cache needs {largest} bytes in one binding,"),
                found: tokens.to_string(),
                allowed: format!(
                    "at most {fits} tokens on {} (binding limit {})",
                    caps.name, caps.max_binding
                ),
            });
        }
        let memory: u64 = caps.heaps.iter().map(|heap| heap.size).sum();
        if !caps.heaps.is_empty() && total > memory {
            return Err(unfit(total, memory));
        }
        let layers = (0..layout.layers)
            .map(|layer| {
                let keys =
                    device.buffer(format!("keys {layer}"), layout.key_block() * blocks, Usage::Shared)?;
                let values =
                    device.buffer(format!("values {layer}"), layout.value_block() * blocks, Usage::Shared)?;
                Ok((keys, values))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(KvPool { layout, layers, free: (0..blocks as u32).collect() })
    }

    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Keys and values of a layer.
    pub fn layer(&self, layer: u32) -> (View, View) {
        let (keys, values) = &self.layers[layer as usize];
        (keys.whole(), values.whole())
    }

    /// Takes a free block, the lowest there is.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop_first()
    }

    /// Gives blocks back.
    pub fn give_back(&mut self, blocks: impl IntoIterator<Item = u32>) {
        self.free.extend(blocks);
    }
}
