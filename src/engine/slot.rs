//! A conversation's place in an engine: its blocks in the pool, and how far its states are.

use std::ops::Range;

use super::Engine;
use crate::cache::BLOCK;
use crate::error::{Error, Result};

/// A conversation's place: its blocks in the pool.
#[derive(Default)]
pub(super) struct Slot {
    taken: bool,
    pub(super) blocks: Vec<u32>,
    /// First position of the rows that states of recurrent layers do not hold yet: a step may begin there or later.
    pub(super) committed: u32,
    /// Positions whose hidden rows are kept; of a predictor's place, those that its model keeps.
    hidden: Range<u32>,
}

impl Engine {
    /// Takes a slot for a conversation.
    ///
    /// Errors: all are taken, the device was lost.
    pub(crate) fn take_slot(&mut self) -> Result<u32> {
        self.check()?;
        let free = self.slots.iter().position(|slot| !slot.taken).ok_or_else(|| Error::Argument {
            what: "the number of sessions".into(),
            found: format!("{}", self.slots.len() + 1),
            allowed: format!("{}, as the model was opened", self.slots.len()),
        })?;
        self.take(free as u32)?;
        Ok(free as u32)
    }

    /// Takes a slot of a predictor: the one that its model's conversation has.
    ///
    /// Errors: the device was lost.
    pub(crate) fn take_slot_of(&mut self, slot: u32) -> Result<()> {
        self.check()?;
        self.take(slot)
    }

    fn take(&mut self, slot: u32) -> Result<()> {
        self.slots[slot as usize].taken = true;
        let ring = self.kv.layout().ring;
        if ring > 0 {
            let blocks = self.context().div_ceil(BLOCK);
            let entries: Vec<u32> = (0..blocks).map(|block| slot * ring + block % ring).collect();
            let at = u64::from(self.table_entry(slot)) * 4;
            self.write(&self.buffers.ring_table, at, bytemuck::cast_slice(&entries))?;
        }
        Ok(())
    }

    /// Gives a slot and its blocks back.
    pub(crate) fn free_slot(&mut self, slot: u32) {
        let slot = std::mem::take(&mut self.slots[slot as usize]);
        self.kv.give_back(slot.blocks);
    }

    /// Makes sure that a slot has blocks for positions below `end`.
    pub(super) fn reserve(&mut self, slot: u32, end: u32) -> Result<()> {
        self.check()?;
        if end > self.context() {
            return Err(Error::ContextFull { allowed: self.context() as usize });
        }
        let needed = end.div_ceil(BLOCK) as usize;
        while self.slots[slot as usize].blocks.len() < needed {
            let block = self.kv.take().ok_or(Error::ContextFull { allowed: self.context() as usize })?;
            let at = u64::from(self.table_entry(slot)) + self.slots[slot as usize].blocks.len() as u64;
            self.write(&self.buffers.table, at * 4, &block.to_le_bytes())?;
            self.slots[slot as usize].blocks.push(block);
        }
        Ok(())
    }

    /// Notes that the states of a slot hold the rows before a position, before they do: a step that fails may have got that far
    /// in some layers.
    pub(super) fn committed(&mut self, slot: u32, position: u32) {
        self.slots[slot as usize].committed = position;
    }

    /// Notes that a step leaves the hidden rows of `rows` positions from `first` on.
    pub(super) fn leaves_hidden(&mut self, slot: u32, first: u32, rows: u32) {
        let Some(pool) = self.hidden.as_ref().filter(|_| !self.is_predictor()) else { return };
        let (ring, end) = (pool.ring(), first + rows);
        let kept = &mut self.slots[slot as usize].hidden;
        let goes_on = (kept.start..=kept.end).contains(&first);
        *kept = if goes_on { kept.start } else { first }.max(end.saturating_sub(ring))..end;
    }

    /// Positions below `end` whose hidden rows are kept.
    pub(super) fn hidden_of(&self, slot: u32, end: u32) -> Range<u32> {
        let kept = &self.slots[slot as usize].hidden;
        kept.start.min(end)..kept.end.min(end)
    }

    /// Tells a predictor's slot which hidden rows of the same slot its model keeps.
    pub(crate) fn reads(&mut self, target: &Engine, slot: u32) {
        self.set_hidden(slot, target.slots[slot as usize].hidden.clone());
    }

    /// Tells a slot which hidden rows are there.
    pub(super) fn set_hidden(&mut self, slot: u32, kept: Range<u32>) {
        self.slots[slot as usize].hidden = kept;
    }

    /// Whether a predictor does not know what came before a position.
    pub(super) fn is_bare(&self, slot: u32, position: u32) -> bool {
        let unknown = |before: u32| !self.slots[slot as usize].hidden.contains(&before);
        self.is_predictor() && position.checked_sub(1).is_some_and(unknown)
    }
}
