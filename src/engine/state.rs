//! What a conversation has on the device, as bytes: to save, to restore, to copy.
//!
//! Who adds state to a slot adds it here.

use vkllm_runtime::Buffer;

use super::Engine;
use crate::cache::{BLOCK, HIDDEN_KEPT, HiddenPool, KvLayout, STATE_RING, StateLayout};
use crate::error::{Error, Result};
use crate::ops::HISTORY_RING;

impl Engine {
    /// What the bytes of [`Engine::save`] mean: equal for engines that can exchange them.
    pub(crate) fn state_layout(&self) -> String {
        let KvLayout { layers, near, ring, kv_heads, head, head_v, v_in_k, k_type, v_type } =
            *self.kv.layout();
        let types = (k_type.name(), if v_in_k { "none" } else { v_type.name() });
        let hidden = match self.kept_rows() {
            Some(_) => format!("; {HIDDEN_KEPT} hidden rows of {}", self.config.width),
            None => String::new(),
        };
        let StateLayout { layers: states, channels, taps, size, key_heads, heads, columns } =
            *self.states.layout();
        format!(
            "{layers} layers, {near} of them with rings of {ring}, {kv_heads} heads of {head} and {head_v}, {} and {}; \
             {states} states of {heads} heads of {columns} by {size}, {key_heads} keys, {channels} channels of {taps}{hidden}",
            types.0, types.1
        )
    }

    /// The hidden rows that belong to this engine's conversations; a predictor reads those of its model.
    fn kept_rows(&self) -> Option<&HiddenPool> {
        self.hidden.as_ref().filter(|_| !self.is_predictor())
    }

    /// Where a slot's state lies of positions below `end`, when those before `committed` are part of recurrent states.
    fn parts(&self, slot: u32, committed: u32, end: u32) -> Vec<(&Buffer, u64, u64)> {
        let mut parts = self.kv.parts(slot, self.blocks(slot, end));
        parts.extend(self.states.parts(slot, committed, end));
        parts.extend(
            self.kept_rows().into_iter().flat_map(|pool| pool.parts(slot, end)).map(|(_, part)| part),
        );
        parts
    }

    /// What a slot's positions below `end` came to: the position up to which recurrent states hold them, keys and values,
    /// states and the terms since. Zeros behind the positions, where memory may still hold what another conversation left.
    pub(crate) fn save(&self, slot: u32, end: u32) -> Result<Vec<u8>> {
        let committed = self.slots[slot as usize].committed.min(end);
        let mut bytes = committed.to_le_bytes().to_vec();
        let first = bytes.len();
        for (buffer, offset, len) in self.parts(slot, committed, end) {
            let at = bytes.len();
            bytes.resize(at + len as usize, 0);
            self.device().read(buffer, offset, &mut bytes[at..])?;
        }
        let blocks = self.blocks(slot, end).len();
        for range in self.kv.unwritten(blocks, end) {
            bytes[first + range.start..first + range.end].fill(0);
        }
        let mut at = bytes.len();
        let rows: Vec<_> = self.kept_rows().into_iter().flat_map(|pool| pool.parts(slot, end)).collect();
        for (position, (.., len)) in rows.into_iter().rev() {
            at -= len as usize;
            if !self.hidden_of(slot, end).contains(&position) {
                bytes[at..at + len as usize].fill(0);
            }
        }
        Ok(bytes)
    }

    /// Puts back what [`Engine::save`] gave for `end` positions, and the conversation's tokens where penalties look.
    ///
    /// Errors: bytes of another length, a context that does not hold them.
    pub(crate) fn load(&mut self, slot: u32, tokens: &[u32], end: u32, bytes: &[u8]) -> Result<()> {
        self.reserve(slot, end)?;
        let committed = bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word)).min(end);
        // A file that says otherwise would have the ring hold what it has no room for.
        let committed = committed.max(end.saturating_sub(STATE_RING));
        let parts = self.parts(slot, committed, end);
        let need: u64 = 4 + parts.iter().map(|(.., len)| len).sum::<u64>();
        if need != bytes.len() as u64 {
            return Err(Error::Argument {
                what: format!("the saved state of {end} positions"),
                found: format!("{} bytes", bytes.len()),
                allowed: format!("{need} bytes"),
            });
        }
        let mut rest = &bytes[4..];
        for (buffer, offset, len) in parts {
            let (part, after) = rest.split_at(len as usize);
            self.device().write(buffer, offset, part)?;
            rest = after;
        }
        self.committed(slot, committed);
        self.set_hidden(slot, end.saturating_sub(HIDDEN_KEPT)..end);
        let recent = tokens.len().saturating_sub(HISTORY_RING as usize);
        for (position, token) in (0u32..).zip(tokens).skip(recent) {
            let word = self.history_of(slot) + position % HISTORY_RING;
            self.write(&self.buffers.history, u64::from(word) * 4, &token.to_le_bytes())?;
        }
        Ok(())
    }

    fn blocks(&self, slot: u32, end: u32) -> &[u32] {
        let blocks = &self.slots[slot as usize].blocks;
        &blocks[..blocks.len().min(end.div_ceil(BLOCK) as usize)]
    }

    /// Whether a slot that computed positions below `reached` still has all that a row at `position` sees.
    pub(crate) fn keeps(&self, slot: u32, position: u32, reached: u32) -> bool {
        if self.states.layout().layers > 0 && position < self.slots[slot as usize].committed {
            return false;
        }
        let layout = self.kv.layout();
        let Some(window) = self.config.window.as_ref().filter(|_| layout.near > 0) else { return true };
        let oldest = position.saturating_sub(window.keys) / BLOCK;
        reached == 0 || oldest + layout.ring > (reached - 1) / BLOCK
    }
}
