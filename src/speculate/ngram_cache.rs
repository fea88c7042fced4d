//! `ngram-cache`: counts of what followed the newest one to four tokens; the longest context that is sure enough says
//! the next token.
//!
//! A token's probability is its count over one more than the context's, so a context seen once is half sure; contexts
//! of one and two tokens need two sightings. Each context keeps its four likeliest successors; of two contexts that
//! share a place the more frequent stays. Memory: 1.75 MiB.

use super::{Drafter, Parameter};

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::count("n-min", 1, 1, 4, "shortest context"),
    Parameter::count("n-max", 4, 1, 4, "longest context"),
    Parameter::share("p-min", 0.5, "stop at a token less likely than this"),
];

const BITS: u32 = 16;
const SUCCESSORS: usize = 4;
/// Contexts of at most this many tokens must have been seen twice.
const SHORT: usize = 2;

pub(super) fn make(values: &[f64]) -> Box<dyn Drafter> {
    let (shortest, longest) = (values[0] as usize, values[1] as usize);
    Box::new(NgramCache {
        shortest: shortest.min(longest),
        longest,
        p_min: values[2],
        contexts: vec![Context::default(); 1 << BITS],
        seen: 0,
    })
}

#[derive(Clone, Copy, Default)]
struct Context {
    /// Bits of the hash beyond the place.
    tag: u32,
    successors: [u32; SUCCESSORS],
    counts: [u8; SUCCESSORS],
    /// Sightings; 0 is an empty place.
    total: u8,
}

impl Context {
    fn add(&mut self, tag: u32, token: u32) {
        if self.total > 0 && self.tag != tag {
            // Each visit of another context wears the one that is here, until it gives way.
            self.total -= 1;
            if self.total > 0 {
                return;
            }
        }
        if self.total == 0 {
            *self = Context { tag, ..Context::default() };
        }
        if self.total == u8::MAX {
            self.total /= 2;
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
        self.total += 1;
        let place = (0..SUCCESSORS).find(|&i| self.counts[i] > 0 && self.successors[i] == token);
        let rarest = || (0..SUCCESSORS).min_by_key(|&i| self.counts[i]).unwrap_or(0);
        let place = place.unwrap_or_else(rarest);
        if self.counts[place] > 0 && self.successors[place] != token {
            self.counts[place] -= 1;
            if self.counts[place] > 0 {
                return;
            }
        }
        self.successors[place] = token;
        self.counts[place] += 1;
    }

    /// The likeliest successor and its probability; of equals the one noted first.
    fn likeliest(&self) -> (u32, f64) {
        let best = (0..SUCCESSORS).rev().max_by_key(|&i| self.counts[i]).unwrap_or(0);
        (self.successors[best], f64::from(self.counts[best]) / (f64::from(self.total) + 1.0))
    }
}

struct NgramCache {
    shortest: usize,
    longest: usize,
    p_min: f64,
    contexts: Vec<Context>,
    /// Tokens of the history that were read.
    seen: usize,
}

/// Place and tag of a context.
fn place(context: &[u32]) -> (usize, u32) {
    let hash = context.iter().fold(context.len() as u64, |hash, &token| {
        let hash = (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (hash >> 32)
    });
    let hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((hash >> (64 - BITS)) as usize, hash as u32)
}

impl NgramCache {
    fn read(&mut self, history: &[u32]) {
        for at in self.seen..history.len() {
            for n in self.shortest..=self.longest.min(at) {
                let (slot, tag) = place(&history[at - n..at]);
                self.contexts[slot].add(tag, history[at]);
            }
        }
        self.seen = history.len();
    }

    fn next(&self, newest: &[u32]) -> Option<u32> {
        (self.shortest..=self.longest.min(newest.len())).rev().find_map(|n| {
            let (slot, tag) = place(&newest[newest.len() - n..]);
            let context = &self.contexts[slot];
            let (token, p) = context.likeliest();
            let sightings = if n <= SHORT { 2 } else { 1 };
            (context.tag == tag && context.total >= sightings && p > 0.0 && p >= self.p_min).then_some(token)
        })
    }
}

impl Drafter for NgramCache {
    fn begin(&mut self, history: &[u32]) {
        self.contexts.fill(Context::default());
        self.seen = 0;
        self.read(history);
    }

    fn draft(&mut self, history: &[u32], most: usize, out: &mut Vec<u32>) {
        if history.len() < self.seen {
            self.begin(history);
        }
        self.read(history);
        let mut newest = [0; 4];
        let mut known = history.len().min(self.longest);
        newest[4 - known..].copy_from_slice(&history[history.len() - known..]);
        for _ in 0..most {
            let Some(token) = self.next(&newest[4 - known..]) else { return };
            out.push(token);
            newest.rotate_left(1);
            newest[3] = token;
            known = (known + 1).min(self.longest);
        }
    }

    fn result(&mut self, _: &[u32], _: usize) {}
}
