//! A hash index from names to positions that stores neither: the names stay in the file.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

const EMPTY: u32 = u32::MAX;

/// Open addressing over positions 0..n; the hash is keyed at random, so no file can be made to collide.
pub(super) struct NameIndex {
    slots: Vec<u32>,
    state: RandomState,
}

impl NameIndex {
    /// Indexes `count` names, which the caller has seen in the file. A name that occurs twice is returned as
    /// `Err((first, second))`.
    pub(super) fn build<'a>(count: usize, name: impl Fn(usize) -> &'a [u8]) -> Result<Self, (usize, usize)> {
        let mut index = NameIndex {
            slots: vec![EMPTY; (count.saturating_mul(3) / 2 + 1).next_power_of_two()],
            state: RandomState::new(),
        };
        for i in 0..count {
            let slot = index.slot(name(i), &name);
            match index.slots[slot] {
                EMPTY => index.slots[slot] = i as u32,
                first => return Err((first as usize, i)),
            }
        }
        Ok(index)
    }

    pub(super) fn find<'a>(&self, wanted: &[u8], name: impl Fn(usize) -> &'a [u8]) -> Option<usize> {
        match self.slots[self.slot(wanted, &name)] {
            EMPTY => None,
            found => Some(found as usize),
        }
    }

    /// The slot that holds `wanted`, or the empty one where it belongs. A third of the slots is always empty,
    /// so this ends.
    fn slot<'a>(&self, wanted: &[u8], name: &impl Fn(usize) -> &'a [u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.state.hash_one(wanted) as usize & mask;
        while self.slots[slot] != EMPTY && name(self.slots[slot] as usize) != wanted {
            slot = (slot + 1) & mask;
        }
        slot
    }
}
