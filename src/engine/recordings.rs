//! The recordings of a model by shape: made once, replayed for every step of that shape.

use std::collections::BTreeMap;
use std::time::Instant;

use vkllm_runtime::{Compiled, Reading, Times};

use super::work::{CommandWork, Seen, Work};
use crate::models::Outputs;
use crate::ops::{Draw, Path};

/// Recordings kept. A prompt of an unusual length must not push the decode step out, so the least used goes first.
const KEPT: usize = 32;

/// What happens to the logits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tail {
    /// Nothing is wanted.
    None,
    /// They are copied to the host.
    Logits,
    /// Those of the last row are copied to the host.
    LastLogits,
    /// Those of the rows of a verification are copied to the host.
    RowLogits,
    /// A token is drawn on the device for every row, each of another conversation.
    SampleRows(Draw),
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

/// A compiled recording with what its commands do, which is counted only while times are measured.
pub(super) struct Made {
    pub(super) compiled: Compiled,
    pub(super) work: Vec<CommandWork>,
}

struct Entry {
    key: Key,
    made: Made,
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

    pub(super) fn insert(&mut self, key: Key, made: Made) -> usize {
        if self.entries.len() >= KEPT
            && let Some(least) = (0..self.entries.len()).min_by_key(|&i| self.entries[i].uses)
        {
            self.entries.swap_remove(least);
        }
        self.made += 1;
        self.entries.push(Entry { key, made, uses: 0 });
        self.entries.len() - 1
    }

    pub(super) fn used(&mut self, index: usize) {
        self.entries[index].uses += 1;
    }

    pub(super) fn at(&self, index: usize) -> &Made {
        &self.entries[index].made
    }

    /// Forgets one, so that it is made anew when it is needed.
    pub(super) fn forget(&mut self, index: usize) {
        self.entries.swap_remove(index);
    }

    /// Forgets them all, so that they are made anew.
    #[cfg(feature = "bench")]
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// What the commands of one label came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelTotal {
    pub dispatches: u64,
    pub nanoseconds: u64,
    pub work: Work,
    /// Kernel of the last dispatch, or `copy` and `fill`.
    pub kernel: &'static str,
}

/// One submitted recording on the device's clock.
#[derive(Clone, Debug)]
pub struct Span {
    /// What was recorded, for example `draft 0`.
    pub name: String,
    /// Whether a draft model's work: it has a track of its own.
    pub draft: bool,
    pub times: Times,
    /// When the host had waited for it.
    pub ended: Instant,
}

/// Time and work per kind of work: labels without their layer.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    pub labels: BTreeMap<String, LabelTotal>,
    /// Recordings that were added.
    pub steps: u64,
    /// Device time of those recordings, begin to end.
    pub nanoseconds: u64,
    /// The device's clock and the host's before and after all of it, where they can be read together.
    pub clocks: Option<[Reading; 2]>,
    /// Every recording one by one, when they are kept.
    pub spans: Option<Vec<Span>>,
}

impl Profile {
    /// Adds the times of one recording.
    pub(super) fn add(&mut self, name: &str, draft: bool, times: &Times, work: &[CommandWork], seen: Seen) {
        if times.labels.is_empty() {
            return;
        }
        self.steps += 1;
        self.nanoseconds += times.total_nanoseconds.unwrap_or(0);
        // A device that leaves some times out leaves it open which.
        let known = work.len() == times.labels.len();
        for (index, time) in times.labels.iter().enumerate() {
            let mut label = time.label.as_str();
            if let Some((layer, rest)) = label.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
                && layer.bytes().all(|b| b.is_ascii_digit())
            {
                label = rest;
            }
            let entry = self.labels.entry(label.to_owned()).or_default();
            entry.dispatches += 1;
            entry.nanoseconds += time.nanoseconds;
            entry.kernel = time.kernel;
            if known {
                entry.work += work[index].of(seen);
            }
        }
        if let Some(spans) = &mut self.spans {
            let ended = Instant::now();
            spans.push(Span { name: name.to_owned(), draft, times: times.clone(), ended });
        }
    }
}
