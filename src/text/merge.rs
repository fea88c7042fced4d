//! Greedy pair merging, the core of both BPE and SentencePiece: best pair first, O(n log n), no recursion.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An id for "no token" (a character the vocabulary lacks) and the index for "no neighbour".
pub(crate) const NONE: u32 = u32::MAX;

/// A stretch of the text and its token.
pub(crate) struct Symbol {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) id: u32,
    previous: u32,
    next: u32,
    /// What merging with the next symbol would give, and how urgent that is (lower first, `NONE` = never).
    merged: u32,
    priority: u32,
}

/// The symbols of one word, reused from word to word.
#[derive(Default)]
pub(crate) struct Merger {
    symbols: Vec<Symbol>,
    queue: Queue,
}

/// A priority queue that is fast when entries come almost in order, as they do in a sweep from left to right:
/// a sorted list that is consumed from its end, and a heap of what came later, which becomes the next list.
#[derive(Default)]
struct Queue {
    /// Descending.
    sorted: Vec<Reverse<u64>>,
    later: BinaryHeap<Reverse<u64>>,
}

impl Queue {
    fn clear(&mut self) {
        self.sorted.clear();
        self.later.clear();
    }

    fn pop(&mut self) -> Option<u64> {
        if self.sorted.is_empty() {
            let used = std::mem::take(&mut self.sorted);
            self.sorted = std::mem::replace(&mut self.later, BinaryHeap::from(used)).into_vec();
            // `Reverse` sorts the most urgent to the end; a list in ascending order needs one pass.
            self.sorted.sort_unstable();
        }
        let first = match (self.sorted.last(), self.later.peek()) {
            (Some(sorted), Some(later)) if later > sorted => self.later.pop(),
            _ => self.sorted.pop(),
        };
        first.map(|Reverse(entry)| entry)
    }
}

/// A merge that is possible: (priority, id of the merged token).
pub(crate) type Merge = Option<(u32, u32)>;

impl Merger {
    /// Begins a word of at most `symbols` symbols.
    pub(crate) fn begin(&mut self, symbols: usize) {
        self.symbols.clear();
        self.symbols.reserve(symbols);
    }

    /// Appends a symbol; a word has fewer than 2^32 - 1 bytes, which the caller sees to.
    pub(crate) fn push(&mut self, start: usize, end: usize, id: u32) {
        let index = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        self.symbols.push(Symbol {
            start: start as u32,
            end: end as u32,
            id,
            previous: index.wrapping_sub(1),
            next: NONE,
            merged: NONE,
            priority: NONE,
        });
    }

    /// Merges until no pair can be: lowest priority first, leftmost among equals.
    pub(crate) fn run(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Merge) {
        self.queue.clear();
        for left in 0..self.symbols.len() {
            let entry = self.consider(left as u32, &pair);
            self.queue.later.extend(entry.map(Reverse));
        }
        while let Some(entry) = self.queue.pop() {
            let (priority, left) = ((entry >> 32) as u32, entry as u32);
            let symbol = &self.symbols[left as usize];
            // An entry whose symbol has changed since is outdated; an absorbed symbol has no priority.
            if symbol.priority != priority {
                continue;
            }
            let (merged, right) = (symbol.merged, symbol.next);
            let absorbed = &mut self.symbols[right as usize];
            absorbed.priority = NONE;
            let (end, next) = (absorbed.end, absorbed.next);
            let symbol = &mut self.symbols[left as usize];
            (symbol.id, symbol.end, symbol.next) = (merged, end, next);
            let previous = symbol.previous;
            if next != NONE {
                self.symbols[next as usize].previous = left;
            }
            if previous != NONE {
                let entry = self.consider(previous, &pair);
                self.queue.later.extend(entry.map(Reverse));
            }
            let entry = self.consider(left, &pair);
            self.queue.later.extend(entry.map(Reverse));
        }
    }

    /// Looks at `left` and its next symbol afresh; the queue entry when they can merge.
    fn consider(&mut self, left: u32, pair: &impl Fn(&Symbol, &Symbol) -> Merge) -> Option<u64> {
        let symbol = &self.symbols[left as usize];
        let merge = self.symbols.get(symbol.next as usize).and_then(|next| pair(symbol, next));
        let (priority, merged) = merge.unwrap_or((NONE, NONE));
        let symbol = &mut self.symbols[left as usize];
        (symbol.priority, symbol.merged) = (priority, merged);
        (priority != NONE).then_some(u64::from(priority) << 32 | u64::from(left))
    }

    /// The symbols that are left, in order.
    pub(crate) fn remaining(&self) -> impl Iterator<Item = &Symbol> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let symbol = self.symbols.get(next as usize)?;
            next = symbol.next;
            Some(symbol)
        })
    }
}

/// A SentencePiece score as a priority: the highest score is the lowest number, NaN comes last.
pub(crate) fn priority_of_score(score: f32) -> u32 {
    let score = if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 };
    let bits = score.to_bits();
    !(if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 })
}
