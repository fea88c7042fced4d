//! What a conversation has on the device, as bytes: to save, to restore, to copy.
//!
//! Who adds state to a slot adds it here.

use super::Engine;
use crate::cache::{BLOCK, KvLayout};
use crate::error::{Error, Result};
use crate::ops::HISTORY_RING;

impl Engine {
    /// What the bytes of [`Engine::save`] mean: equal for engines that can exchange them.
    pub(crate) fn state_layout(&self) -> String {
        let KvLayout { layers, near, ring, kv_heads, head, head_v, k_type, v_type } = *self.kv.layout();
        let types = (k_type.name(), v_type.name());
        format!(
            "{layers} layers, {near} of them with rings of {ring}, {kv_heads} heads of {head} and {head_v}, {} and {}",
            types.0, types.1
        )
    }

    /// Keys and values of a slot's positions below `end`.
    pub(crate) fn save(&self, slot: u32, end: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (buffer, offset, len) in self.kv.parts(slot, self.blocks(slot, end)) {
            let at = bytes.len();
            bytes.resize(at + len as usize, 0);
            self.device().read(buffer, offset, &mut bytes[at..])?;
        }
        Ok(bytes)
    }

    /// Puts back what [`Engine::save`] gave for `end` positions, and the conversation's tokens where penalties look.
    ///
    /// Errors: bytes of another length, a context that does not hold them.
    pub(crate) fn load(&mut self, slot: u32, tokens: &[u32], end: u32, bytes: &[u8]) -> Result<()> {
        self.reserve(slot, end)?;
        let parts = self.kv.parts(slot, self.blocks(slot, end));
        let need: u64 = parts.iter().map(|(.., len)| len).sum();
        if need != bytes.len() as u64 {
            return Err(Error::Argument {
                what: format!("the saved state of {end} positions"),
                found: format!("{} bytes", bytes.len()),
                allowed: format!("{need} bytes"),
            });
        }
        let mut rest = bytes;
        for (buffer, offset, len) in parts {
            let (part, after) = rest.split_at(len as usize);
            self.device().write(buffer, offset, part)?;
            rest = after;
        }
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
    pub(crate) fn keeps(&self, position: u32, reached: u32) -> bool {
        let layout = self.kv.layout();
        let Some(window) = self.config.window.as_ref().filter(|_| layout.near > 0) else { return true };
        let oldest = position.saturating_sub(window.keys) / BLOCK;
        reached == 0 || oldest + layout.ring > (reached - 1) / BLOCK
    }
}
