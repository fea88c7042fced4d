//! The states of recurrent layers, per session: what was committed, and the rows since then, by which it is brought up to
//! date. A step commits the state before its first row, so that any number of its rows can be forgotten afterwards.

use vkllm_runtime::{Buffer, Device, Usage, View};

use crate::error::{Error, Result};

/// Rows that are remembered, in a ring by position: those of the last step and of the one under way, of 65 rows each.
pub const STATE_RING: u32 = 130;

/// Shape of the states of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateLayout {
    /// Layers with a state.
    pub layers: u32,
    /// Channels of the convolution and the inputs that one output sees.
    pub channels: u32,
    pub taps: u32,
    /// Elements of a key; 0 for layers that are a convolution alone.
    pub size: u32,
    pub key_heads: u32,
    /// Value heads and their elements, the columns of their states.
    pub heads: u32,
    pub columns: u32,
}

impl StateLayout {
    fn marks(&self) -> u64 {
        4 * u64::from(self.heads) * u64::from(self.columns)
    }

    /// Bytes of one layer's committed state of one session: what a step reads once and writes once.
    pub fn state_bytes(&self) -> u64 {
        self.marks() * u64::from(self.size)
    }

    /// Bytes of a remembered row: inputs of the convolution, and terms of the state.
    fn row_bytes(&self) -> (u64, u64) {
        let (keys, heads) = (u64::from(self.key_heads) * u64::from(self.size), u64::from(self.heads));
        (4 * u64::from(self.channels), 4 * (keys + heads * (u64::from(self.columns) + 1)))
    }

    /// Bytes of all layers of `sessions`; `None` when they cannot be counted in 64 bits.
    pub fn bytes(&self, sessions: u32) -> Option<u64> {
        let (inputs, terms) = self.row_bytes();
        let ring = (inputs + terms) * u64::from(STATE_RING);
        let one = self.state_bytes().checked_add(self.marks())?.checked_add(ring)?;
        one.checked_mul(u64::from(self.layers))?.checked_mul(u64::from(sessions))
    }
}

struct Layer {
    state: Buffer,
    marks: Buffer,
    inputs: Buffer,
    terms: Buffer,
}

/// What a recurrent layer's kernels read and write.
#[derive(Clone, Debug)]
pub struct StateViews {
    pub state: View,
    pub marks: View,
    pub inputs: View,
    pub terms: View,
}

/// States of all layers and sessions.
pub struct StatePool {
    layout: StateLayout,
    layers: Vec<Layer>,
}

impl StatePool {
    /// Allocates the states of `sessions`.
    ///
    /// Errors: sizes beyond what the device can bind, memory that does not suffice.
    pub fn new(device: &Device, layout: StateLayout, sessions: u32) -> Result<Self> {
        let (inputs, terms) = layout.row_bytes();
        let of_all = |bytes: u64| bytes.saturating_mul(u64::from(sessions));
        let ring = u64::from(STATE_RING);
        let sizes = [layout.state_bytes(), layout.marks(), inputs * ring, terms * ring].map(of_all);
        let limit = device.caps().max_binding;
        if let Some(largest) = sizes.into_iter().max().filter(|largest| *largest > limit && layout.layers > 0)
        {
            return Err(Error::Argument {
                what: format!("the number of sessions, whose states need {largest} bytes in one binding,"),
                found: sessions.to_string(),
                allowed: format!("at most {}", limit / (largest / u64::from(sessions.max(1))).max(1)),
            });
        }
        let layers = (0..layout.layers)
            .map(|layer| {
                let make = |name: &str, size: u64| {
                    device.buffer(format!("{name} {layer}"), size.max(4), Usage::Local)
                };
                Ok(Layer {
                    state: make("state", sizes[0])?,
                    marks: make("state marks", sizes[1])?,
                    inputs: make("state inputs", sizes[2])?,
                    terms: make("state terms", sizes[3])?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(StatePool { layout, layers })
    }

    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// What the kernels of a recurrent layer, counted among those, read and write.
    pub fn layer(&self, layer: u32) -> StateViews {
        let of = &self.layers[layer as usize];
        StateViews {
            state: of.state.whole(),
            marks: of.marks.whole(),
            inputs: of.inputs.whole(),
            terms: of.terms.whole(),
        }
    }

    /// Where the state of a session lies that was committed before `committed` and computed before `end`: buffer, offset
    /// and bytes.
    pub fn parts(&self, slot: u32, committed: u32, end: u32) -> Vec<(&Buffer, u64, u64)> {
        let (inputs, terms) = self.layout.row_bytes();
        let mut parts = Vec::new();
        if end == 0 {
            return parts;
        }
        let slot = u64::from(slot);
        let row = |position: u32, bytes: u64| {
            let place = slot * u64::from(STATE_RING) + u64::from(position % STATE_RING);
            (place * bytes, bytes)
        };
        for layer in &self.layers {
            if self.layout.size > 0 {
                for (buffer, bytes) in
                    [(&layer.state, self.layout.state_bytes()), (&layer.marks, self.layout.marks())]
                {
                    parts.push((buffer, slot * bytes, bytes));
                }
                let rows = (committed..end).map(|position| row(position, terms));
                parts.extend(rows.map(|(offset, bytes)| (&layer.terms, offset, bytes)));
            }
            // The next step may begin at any row since the commit.
            let first = committed.saturating_sub(self.layout.taps.saturating_sub(1));
            let rows = (first..end).map(|position| row(position, inputs));
            parts.extend(rows.map(|(offset, bytes)| (&layer.inputs, offset, bytes)));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted() {
        // Qwen3.6-35B-A3B: 30 layers of 32 heads of 128 by 128.
        let layout = StateLayout {
            layers: 30,
            channels: 8192,
            taps: 4,
            size: 128,
            key_heads: 16,
            heads: 32,
            columns: 128,
        };
        assert_eq!(layout.state_bytes(), 2 << 20);
        let row = 4 * (8192 + 16 * 128 + 32 * 129);
        let marks = 4 * 32 * 128;
        assert_eq!(layout.bytes(2), Some(2 * 30 * ((2 << 20) + marks + u64::from(STATE_RING) * row)));
        assert_eq!(StateLayout::default().bytes(1), Some(0));
    }
}
