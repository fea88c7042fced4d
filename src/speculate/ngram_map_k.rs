//! `ngram-map-k`: the tokens that followed the newest n tokens (the key) each of the last `min-hits` times, and as many
//! of them as were accepted when the key was last drafted from.
//!
//! A key whose draft was accepted as a whole may draft `size-m` tokens; one whose draft failed after a tokens may draft
//! 2a + 1 the next time, so a wrong key costs little and a right one recovers quickly. Of two keys that share a place
//! the newer stays; matches are compared token by token. Memory: 2 MiB; of longer histories than 262,144 tokens it
//! finds the last occurrence only.

use super::history::{Rolling, copy_on};
use super::{Drafter, Parameter};

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::count("size-n", 12, 1, 64, "newest tokens that must match: the key"),
    Parameter::count("size-m", 48, 1, 64, "tokens to draft at most"),
    Parameter::count("min-hits", 1, 1, 8, "earlier occurrences of the key that must agree"),
];

/// Places of keys, and of links from one occurrence to the one before.
const KEY_BITS: u32 = 17;
const LINKS: usize = 1 << 18;
/// Links to follow for each hit that is wanted; other keys in the same place use some up.
const PATIENCE: usize = 4;

pub(super) fn make(values: &[f64]) -> Box<dyn Drafter> {
    let [n, m, min_hits] = [values[0], values[1], values[2]].map(|value| value as usize);
    Box::new(NgramMapK {
        n,
        m,
        min_hits,
        keys: vec![Key::default(); 1 << KEY_BITS],
        before: vec![0; LINKS],
        hash: Rolling::new(n),
        seen: 0,
        drafted_from: None,
    })
}

#[derive(Clone, Copy, Default)]
struct Key {
    /// Position after the newest occurrence; 0 is none.
    after: u32,
    /// Bits of the hash beyond the place.
    tag: u16,
    /// Tokens the key may draft; 0 is `size-m`.
    limit: u8,
}

struct NgramMapK {
    n: usize,
    m: usize,
    min_hits: usize,
    keys: Vec<Key>,
    /// Position after the occurrence before the one that a position is after, at that position modulo the length.
    before: Vec<u32>,
    hash: Rolling,
    /// Tokens of the history that were read.
    seen: usize,
    /// Place and tag of the key drafted from last.
    drafted_from: Option<(usize, u16)>,
}

impl NgramMapK {
    /// The newest n-gram becomes a key only with the token after it.
    fn read(&mut self, history: &[u32]) {
        for at in self.seen..history.len() {
            if at >= self.n {
                let key = &mut self.keys[self.hash.slot(KEY_BITS)];
                let tag = self.hash.tag();
                self.before[at % LINKS] = key.after;
                let limit = if key.tag == tag { key.limit } else { 0 };
                *key = Key { after: at as u32, tag, limit };
            }
            self.hash.advance(history, at);
        }
        self.seen = history.len();
    }

    /// Where the draft begins and how many tokens `min_hits` occurrences agree on, at most `most`.
    fn agreed(&self, history: &[u32], newest: u32, most: usize) -> Option<(usize, usize)> {
        let suffix = &history[history.len() - self.n..];
        let (mut first, mut length, mut hits) = (None, most, 0);
        let mut at = newest as usize;
        for _ in 0..self.min_hits * PATIENCE {
            if at == 0 {
                return None;
            }
            if history[at - self.n..].starts_with(suffix) {
                let begin = *first.get_or_insert(at);
                // Beyond its end the history goes on with the draft.
                let go_on = |i: usize| {
                    history[if i < history.len() { i } else { begin + (i - begin) % (history.len() - begin) }]
                };
                length = (0..length).take_while(|j| go_on(begin + j) == go_on(at + j)).count();
                hits += 1;
                if hits == self.min_hits {
                    return (length > 0).then_some((begin, length));
                }
            }
            if history.len() - at >= LINKS {
                return None;
            }
            at = self.before[at % LINKS] as usize;
        }
        None
    }
}

impl Drafter for NgramMapK {
    fn begin(&mut self, history: &[u32]) {
        self.keys.fill(Key::default());
        self.hash.clear();
        self.seen = 0;
        self.drafted_from = None;
        self.read(history);
    }

    fn draft(&mut self, history: &[u32], most: usize, out: &mut Vec<u32>) {
        if history.len() < self.seen {
            self.begin(history);
        }
        self.read(history);
        self.drafted_from = None;
        let (slot, tag) = (self.hash.slot(KEY_BITS), self.hash.tag());
        let key = self.keys[slot];
        if key.after == 0 || key.tag != tag {
            return;
        }
        let limit = if key.limit == 0 { self.m } else { self.m.min(usize::from(key.limit)) };
        if let Some((from, length)) = self.agreed(history, key.after, most.min(limit)) {
            copy_on(history, from, length, out);
            self.drafted_from = Some((slot, tag));
        }
    }

    fn result(&mut self, drafted: &[u32], accepted: usize) {
        let Some((slot, tag)) = self.drafted_from.take() else { return };
        let key = &mut self.keys[slot];
        if key.tag == tag {
            key.limit = if accepted >= drafted.len() { 0 } else { (2 * accepted + 1).min(255) as u8 };
        }
    }
}
