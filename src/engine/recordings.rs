//! The recordings of a model by shape: made once, replayed for every step of that shape.

use std::collections::BTreeMap;

use vkllm_runtime::Compiled;

use crate::models::Outputs;
use crate::ops::{Draw, Path};

/// Recordings kept. A prompt of an unusual length must not push the decode step out, so the least used goes first.
const KEPT: usize = 12;

/// What happens to the logits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tail {
    /// Nothing is wanted.
    None,
    /// They are copied to the host.
    Logits,
    /// A token is drawn on the device.
    Sample(Draw),
}

/// Shape of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) rows: u32,
    pub(super) path: Path,
    pub(super) outputs: Outputs,
    pub(super) tail: Tail,
    /// `Some(slot)`: the rows are the cursor of that slot; `None`: the batch rows the host wrote.
    pub(super) cursor: Option<u32>,
    /// Slot whose cursor is sampled into.
    pub(super) target: u32,
}

struct Entry {
    key: Key,
    compiled: Compiled,
    uses: u64,
}

/// Compiled recordings.
#[derive(Default)]
pub(super) struct Recordings {
    entries: Vec<Entry>,
    /// Recordings made so far.
    pub(super) made: u64,
}

impl Recordings {
    pub(super) fn position(&self, key: &Key) -> Option<usize> {
        self.entries.iter().position(|entry| entry.key == *key)
    }

    pub(super) fn insert(&mut self, key: Key, compiled: Compiled) -> usize {
        if self.entries.len() >= KEPT
            && let Some(least) = (0..self.entries.len()).min_by_key(|&i| self.entries[i].uses)
        {
            self.entries.swap_remove(least);
        }
        self.made += 1;
        self.entries.push(Entry { key, compiled, uses: 0 });
        self.entries.len() - 1
    }

    pub(super) fn used(&mut self, index: usize) -> &Compiled {
        self.entries[index].uses += 1;
        &self.entries[index].compiled
    }
}

/// Time per kind of work: labels without their layer.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Label → (dispatches, nanoseconds, bytes of weights read).
    pub labels: BTreeMap<String, (u64, u64, u64)>,
    /// Steps that were added.
    pub steps: u64,
}

impl Profile {
    /// Adds the times of one step.
    pub(super) fn add(&mut self, times: &vkllm_runtime::Times) {
        if times.labels.is_empty() {
            return;
        }
        self.steps += 1;
        for time in &times.labels {
            let mut label = time.label.as_str();
            if let Some((layer, rest)) = label.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
                && layer.bytes().all(|b| b.is_ascii_digit())
            {
                label = rest;
            }
            let entry = self.labels.entry(label.to_owned()).or_default();
            entry.0 += 1;
            entry.1 += time.nanoseconds;
            entry.2 += time.constant_bytes;
        }
    }
}
