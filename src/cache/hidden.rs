//! The last hidden rows of each session, from which layers that predict further tokens go on: in a ring by position.

use vkllm_runtime::{Buffer, Device, Usage, View};

use crate::error::Result;

/// Rows of a ring beside those of the largest step, and those that are saved: so far may a predictor lag behind.
pub const HIDDEN_KEPT: u32 = 256;

/// The rings of all sessions of a model. Cloning gives another handle.
#[derive(Clone)]
pub struct HiddenPool {
    buffer: Buffer,
    ring: u32,
    width: u32,
}

/// What steps write and predictors read: rows of all sessions, and rows of one.
#[derive(Clone, Debug)]
pub struct HiddenView {
    pub rows: View,
    pub ring: u32,
}

impl HiddenPool {
    /// Rings for `sessions` whose steps have at most `rows` rows of `width` elements.
    ///
    /// Errors: memory that does not suffice.
    pub fn new(device: &Device, (rows, width, sessions): (u32, u32, u32)) -> Result<Self> {
        let ring = rows.saturating_add(HIDDEN_KEPT);
        let bytes = (u64::from(ring) * u64::from(width) * 4).saturating_mul(u64::from(sessions));
        Ok(HiddenPool { buffer: device.buffer("hidden rows", bytes, Usage::Local)?, ring, width })
    }

    pub fn ring(&self) -> u32 {
        self.ring
    }

    /// Bytes of all rings.
    pub fn bytes(&self) -> u64 {
        self.buffer.size()
    }

    pub fn view(&self) -> HiddenView {
        HiddenView { rows: self.buffer.whole(), ring: self.ring }
    }

    /// Where the last rows of a session before `end` lie, at most [`HIDDEN_KEPT`]: position, offset and bytes of each.
    pub fn parts(&self, slot: u32, end: u32) -> impl Iterator<Item = (u32, (&Buffer, u64, u64))> {
        let bytes = u64::from(self.width) * 4;
        (end.saturating_sub(HIDDEN_KEPT)..end).map(move |position| {
            let place = u64::from(slot) * u64::from(self.ring) + u64::from(position % self.ring);
            (position, (&self.buffer, place * bytes, bytes))
        })
    }
}
