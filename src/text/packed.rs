//! Many short byte strings in one allocation, and a hash table from their content to their index.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Byte strings one after the other; string `i` is `get(i)`.
#[derive(Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Packed {
    /// Room for `count` strings, a number that the caller has seen to be real.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { bytes: Vec::new(), ends: Vec::with_capacity(count) }
    }

    /// Appends a string; false when all strings together would pass 4 GiB.
    pub(crate) fn push(&mut self, string: &[u8]) -> bool {
        self.push_with(|bytes| bytes.extend_from_slice(string))
    }

    /// Appends what `write` adds to the buffer, with the meaning of [`Packed::push`].
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        write(&mut self.bytes);
        let Ok(end) = u32::try_from(self.bytes.len()) else { return false };
        self.ends.push(end);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// String `index`, empty when there is none.
    pub(crate) fn get(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let Some(&end) = self.ends.get(index) else { return &[] };
        let begin = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[begin as usize..end as usize]
    }
}

/// A fast hash under a random key, which keeps crafted files from making a table slow.
#[derive(Clone)]
pub(crate) struct Keyed {
    key: u64,
    state: u64,
}

impl Keyed {
    fn new() -> Self {
        Self { key: RandomState::new().hash_one(0u64), state: RandomState::new().hash_one(1u64) }
    }

    /// Folds a word into the state by a wide multiplication.
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.state ^ word) * u128::from(self.key | 1);
        self.state = (wide as u64) ^ (wide >> 64) as u64;
    }
}

impl Hasher for Keyed {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
        self.mix(bytes.len() as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
        self.mix(self.key.rotate_left(32));
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

impl BuildHasher for Keyed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        self.clone()
    }
}

impl Default for Keyed {
    fn default() -> Self {
        Self::new()
    }
}

const EMPTY: u64 = u64::MAX;

/// An open-addressing table of indices into a [`Packed`].
pub(crate) struct Table {
    /// The upper half of a string's hash and its index: most unequal strings are told apart without being read.
    slots: Vec<u64>,
    hasher: Keyed,
}

impl Table {
    /// Room for `count` entries at half load.
    pub(crate) fn with_capacity(count: usize) -> Self {
        let size = count.saturating_mul(2).next_power_of_two().max(2);
        Self { slots: vec![EMPTY; size], hasher: Keyed::new() }
    }

    /// The slot where `key` is or would go, and the upper half of its hash.
    fn slot(&self, strings: &Packed, key: &[u8]) -> (usize, u64) {
        let mut hasher = self.hasher.clone();
        hasher.write(key);
        let (hash, mask) = (hasher.finish(), self.slots.len() - 1);
        let (mut slot, tag) = (hash as usize & mask, hash >> 32);
        loop {
            let found = self.slots[slot];
            if found == EMPTY || found >> 32 == tag && strings.get(found as u32) == key {
                return (slot, tag);
            }
            slot = (slot + 1) & mask;
        }
    }

    pub(crate) fn get(&self, strings: &Packed, key: &[u8]) -> Option<u32> {
        let found = self.slots[self.slot(strings, key).0];
        (found != EMPTY).then_some(found as u32)
    }

    /// Adds string `index` unless an equal one is there; returns the one that was.
    pub(crate) fn insert(&mut self, strings: &Packed, index: u32) -> Option<u32> {
        let (slot, tag) = self.slot(strings, strings.get(index));
        let found = self.slots[slot];
        if found == EMPTY {
            self.slots[slot] = tag << 32 | u64::from(index);
        }
        (found != EMPTY).then_some(found as u32)
    }
}
