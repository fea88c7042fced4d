//! The key and value pools of a model. Blocks of 128 positions belong to sessions; rows find theirs through a block
//! table, so a recording never names a session.

use std::collections::BTreeSet;
use std::ops::Range;

use vkllm_runtime::{Buffer, Device, Usage, View};
use vkllm_shaders::reference::kv::{KV_FORMATS, KvFormat};

use crate::error::{Error, Result};

/// Positions of one block, as `include/step.glsl` has it.
pub const BLOCK: u32 = 128;

/// How keys or values are stored: a row of [`KV_FORMATS`]. Types with blocks need heads of a multiple of 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
#[repr(u32)]
pub enum KvType {
    F32,
    #[default]
    F16,
    BF16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    IQ4_NL,
}

impl KvType {
    /// Every type.
    pub const ALL: [KvType; 9] = [
        KvType::F32,
        KvType::F16,
        KvType::BF16,
        KvType::Q8_0,
        KvType::Q5_1,
        KvType::Q5_0,
        KvType::Q4_1,
        KvType::Q4_0,
        KvType::IQ4_NL,
    ];

    fn format(self) -> &'static KvFormat {
        &KV_FORMATS[self as usize]
    }

    /// Value of the specialisation constants `K_TYPE` and `V_TYPE`.
    pub(crate) fn code(self) -> u32 {
        self as u32
    }

    /// Name as users type it.
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// Parses a name as users type it.
    pub fn parse(name: &str) -> Option<Self> {
        KvType::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Elements that are stored together; a head must be a whole number of them.
    pub fn block(self) -> u32 {
        self.format().block as u32
    }

    /// Bytes of one position of a head of `size` elements.
    fn row_bytes(self, size: u32) -> u64 {
        4 * self.format().row_words(size as usize) as u64
    }
}

/// Shape of the cache of one model.
#[derive(Clone, Copy, Debug)]
pub struct KvLayout {
    pub layers: u32,
    /// Those of the layers that keep the last positions alone, in a ring of blocks per session.
    pub near: u32,
    /// Blocks of a session's ring.
    pub ring: u32,
    pub kv_heads: u32,
    /// Elements of a key and of a value per head.
    pub head: u32,
    pub head_v: u32,
    /// Values are the ends of keys, and have no pool of their own.
    pub v_in_k: bool,
    pub k_type: KvType,
    pub v_type: KvType,
}

impl KvLayout {
    /// Refuses types whose blocks do not divide the heads, and values of another type than the keys that they are part of.
    pub fn check(&self) -> Result<()> {
        if self.v_in_k && self.v_type != self.k_type {
            return Err(Error::Argument {
                what: "the type of cached values, which are parts of the keys,".into(),
                found: self.v_type.name().into(),
                allowed: format!("the type of keys, {}", self.k_type.name()),
            });
        }
        // Values within keys begin where a block does.
        let v_size = if self.v_in_k { self.head - self.head_v } else { self.head_v };
        for (what, kind, size) in [("keys", self.k_type, self.head), ("values", self.v_type, v_size)] {
            if size % kind.block() != 0 {
                let fit = KvType::ALL.into_iter().filter(|kind| size % kind.block() == 0);
                return Err(Error::Argument {
                    what: format!("the type of cached {what}, which come in heads of {size} elements,"),
                    found: format!("{}, whose blocks have {} elements", kind.name(), kind.block()),
                    allowed: fit.map(KvType::name).collect::<Vec<_>>().join(", "),
                });
            }
        }
        Ok(())
    }

    /// Bytes of one layer's keys of one block.
    fn key_block(&self) -> u64 {
        u64::from(BLOCK) * u64::from(self.kv_heads) * self.k_type.row_bytes(self.head)
    }

    fn value_block(&self) -> u64 {
        if self.v_in_k {
            return 0;
        }
        u64::from(BLOCK) * u64::from(self.kv_heads) * self.v_type.row_bytes(self.head_v)
    }

    /// Bytes of one layer's keys and values of one position.
    pub fn position_bytes(&self) -> u64 {
        (self.key_block() + self.value_block()) / u64::from(BLOCK)
    }

    /// Blocks of a ring that holds a window of keys and the most rows that may be in flight beside it, at most those of
    /// the context.
    pub fn ring_of(window: u32, rows: u32, context: u32) -> u32 {
        let positions = u64::from(window) + u64::from(rows);
        let blocks = positions.div_ceil(u64::from(BLOCK)) + 1;
        blocks.min(u64::from(context.div_ceil(BLOCK))) as u32
    }

    /// Blocks of `sessions` that each have a whole context.
    pub fn blocks_of(context: u32, sessions: u32) -> u64 {
        u64::from(context.div_ceil(BLOCK)) * u64::from(sessions)
    }

    /// Bytes of the whole pool for `blocks` blocks of `sessions`; `None` when they cannot be counted in 64 bits.
    pub fn bytes(&self, blocks: u64, sessions: u32) -> Option<u64> {
        let far = u64::from(self.layers - self.near).checked_mul(blocks)?;
        let near = u64::from(self.near).checked_mul(u64::from(self.ring) * u64::from(sessions))?;
        (self.key_block() + self.value_block()).checked_mul(far.checked_add(near)?)
    }

    /// Bytes of the larger of one layer's two pools.
    pub fn largest_binding(&self, blocks: u64) -> Option<u64> {
        self.key_block().max(self.value_block()).checked_mul(blocks)
    }
}

/// Pools of all layers and the list of free blocks.
pub struct KvPool {
    layout: KvLayout,
    /// Keys and values of each layer; no values where they are the ends of keys.
    layers: Vec<(Buffer, Option<Buffer>)>,
    /// Which layers keep rings.
    near: Vec<bool>,
    free: BTreeSet<u32>,
}

impl KvPool {
    /// Allocates a pool for sessions of `context` positions; `is_near` says which layers keep rings.
    ///
    /// Errors: sizes beyond what the device can bind, memory that does not suffice.
    pub fn new(
        device: &Device,
        layout: KvLayout,
        is_near: &dyn Fn(u32) -> bool,
        (context, sessions): (u32, u32),
    ) -> Result<Self> {
        let tokens = u64::from(context) * u64::from(sessions);
        let blocks = KvLayout::blocks_of(context, sessions).max(1);
        let caps = device.caps();
        let unfit = |need: u64, have: u64| Error::DoesNotFit {
            what: format!("the key and value cache of {tokens} positions"),
            need,
            have,
            advice: String::new(),
        };
        let total = layout.bytes(blocks, sessions).ok_or_else(|| unfit(u64::MAX, u64::from(u32::MAX)))?;
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
                let blocks =
                    if is_near(layer) { u64::from(layout.ring) * u64::from(sessions) } else { blocks };
                let keys =
                    device.buffer(format!("keys {layer}"), layout.key_block() * blocks, Usage::Local)?;
                let values = |bytes| device.buffer(format!("values {layer}"), bytes, Usage::Local);
                let bytes = layout.value_block() * blocks;
                Ok((keys, if bytes > 0 { Some(values(bytes)?) } else { None }))
            })
            .collect::<Result<Vec<_>>>()?;
        let near = (0..layout.layers).map(is_near).collect();
        Ok(KvPool { layout, layers, near, free: (0..blocks as u32).collect() })
    }

    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Keys and values of a layer.
    pub fn layer(&self, layer: u32) -> (View, View) {
        let (keys, values) = &self.layers[layer as usize];
        (keys.whole(), values.as_ref().unwrap_or(keys).whole())
    }

    /// Where a session's keys and values lie: buffer, offset and bytes, layer by layer. `blocks` are those of the layers
    /// without rings.
    pub fn parts(&self, slot: u32, blocks: &[u32]) -> Vec<(&Buffer, u64, u64)> {
        let mut parts = Vec::new();
        for ((keys, values), near) in self.layers.iter().zip(&self.near) {
            let values = values.iter().map(|values| (values, self.layout.value_block()));
            for (buffer, block) in std::iter::once((keys, self.layout.key_block())).chain(values) {
                if *near {
                    let ring = u64::from(self.layout.ring) * block;
                    parts.push((buffer, u64::from(slot) * ring, ring));
                } else {
                    parts.extend(blocks.iter().map(|&at| (buffer, u64::from(at) * block, block)));
                }
            }
        }
        parts
    }

    /// Of the bytes of [`KvPool::parts`], one part behind the other, those of positions from `end` on, which a session
    /// that has `blocks` blocks and computed `end` positions never wrote: another one may have, before it.
    pub fn unwritten(&self, blocks: usize, end: u32) -> Vec<Range<usize>> {
        let layout = &self.layout;
        let mut ranges = Vec::new();
        let mut at = 0;
        for near in &self.near {
            let count = if *near { layout.ring as usize } else { blocks };
            // A ring that went round has no position that was never written.
            let end = if *near && end >= layout.ring * BLOCK { u32::MAX } else { end };
            let both = [(layout.k_type, layout.head), (layout.v_type, layout.head_v)];
            for (kind, size) in both.into_iter().take(if layout.v_in_k { 1 } else { 2 }) {
                for block in 0..count {
                    let written = (end as usize).saturating_sub(block * BLOCK as usize).min(BLOCK as usize);
                    for _ in 0..layout.kv_heads {
                        for words in kind.format().parts(size as usize) {
                            let row = words * 4;
                            let next = at + BLOCK as usize * row;
                            ranges.push(at + written * row..next);
                            at = next;
                        }
                    }
                }
            }
        }
        ranges.retain(|range| !range.is_empty());
        ranges
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_name_code_and_size() {
        // Bytes of 128 elements, and of 96, whose three scales fill two words.
        let bytes = [512, 256, 256, 136, 96, 88, 80, 72, 72];
        let odd = [384, 192, 192, 104, 72, 68, 60, 56, 56];
        for (code, kind) in KvType::ALL.into_iter().enumerate() {
            assert_eq!((kind.code() as usize, KvType::parse(kind.name())), (code, Some(kind)));
            assert_eq!(
                (kind.row_bytes(128), kind.row_bytes(96)),
                (bytes[code], odd[code]),
                "{}",
                kind.name()
            );
        }
        assert_eq!(KvType::parse("q6_k"), None);
    }

    #[test]
    fn rings_hold_a_window_and_the_rows_in_flight() {
        assert_eq!(KvLayout::ring_of(16, 65, 4096), 2);
        assert_eq!(KvLayout::ring_of(4096, 512, 32_768), 37);
        assert_eq!(KvLayout::ring_of(4096, 512, 1000), 8);
        // Any rows of such a number, after any position, see blocks of different places in the ring.
        for (window, rows) in [(1, 65), (16, 65), (128, 512), (129, 100), (4096, 512)] {
            let ring = KvLayout::ring_of(window, rows, u32::MAX);
            for first in window..window + 3 * BLOCK {
                let (oldest, newest) = (first - (window - 1), first + rows - 1);
                assert!(newest / BLOCK - oldest / BLOCK < ring, "{window} {rows} {first}");
            }
        }
    }

    #[test]
    fn heads_that_are_no_whole_blocks_are_refused() {
        let layout = KvLayout {
            layers: 1,
            near: 0,
            ring: 0,
            kv_heads: 1,
            head: 128,
            head_v: 80,
            v_in_k: false,
            k_type: KvType::Q8_0,
            v_type: KvType::F16,
        };
        assert!(layout.check().is_ok());
        let text = KvLayout { v_type: KvType::Q4_0, ..layout }.check().unwrap_err().to_string();
        assert_eq!(
            text,
            "the type of cached values, which come in heads of 80 elements, is q4_0, whose blocks have 32 elements; \
             allowed is f32, f16, bf16"
        );
    }
}
