//! `ngram-mod`: for each hash of n tokens the token that came next, followed from token to token.
//!
//! Keys are not kept, only hashes; a draft ends at a hash that was never seen, so its length follows the text. Drafts
//! shorter than `n-min` are not offered. The pool starts anew when a quarter of it is in use, and after five rounds in
//! a row of which less than a quarter was accepted. Memory: 16 MiB, of which the pages in use are touched.

use super::history::Rolling;
use super::{Drafter, Parameter};

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::count("n-match", 24, 1, 64, "newest tokens that are hashed"),
    Parameter::count("n-min", 48, 1, 64, "shortest draft that is offered"),
    Parameter::count("n-max", 64, 1, 64, "tokens to draft at most"),
];

const BITS: u32 = 22;
const POOL: usize = 1 << BITS;
/// Entries in use at which the pool starts anew.
const FULL: usize = POOL / 4;
/// Rounds in a row with less than a quarter accepted after which the pool starts anew.
const BAD_ROUNDS: u32 = 5;
/// An entry is the pool's age in the upper 8 bits and the token in the others, so a new age empties it at once.
const TOKEN_BITS: u32 = 24;
const TOKEN_MASK: u32 = (1 << TOKEN_BITS) - 1;

pub(super) fn make(values: &[f64]) -> Box<dyn Drafter> {
    let [n, least, most] = [values[0], values[1], values[2]].map(|value| value as usize);
    Box::new(NgramMod {
        n,
        least,
        most,
        pool: vec![0; POOL],
        age: 1,
        used: 0,
        bad: 0,
        hash: Rolling::new(n),
        seen: 0,
    })
}

struct NgramMod {
    n: usize,
    least: usize,
    most: usize,
    pool: Vec<u32>,
    /// 1 to 255; entries of another age are empty.
    age: u32,
    used: usize,
    bad: u32,
    hash: Rolling,
    /// Tokens of the history that were read.
    seen: usize,
}

impl NgramMod {
    fn empty(&mut self) {
        self.age += 1;
        if self.age > 255 {
            self.pool.fill(0);
            self.age = 1;
        }
        (self.used, self.bad) = (0, 0);
    }

    fn get(&self, slot: usize) -> Option<u32> {
        let entry = self.pool[slot];
        (entry >> TOKEN_BITS == self.age).then_some(entry & TOKEN_MASK)
    }

    fn read(&mut self, history: &[u32]) {
        for at in self.seen..history.len() {
            let token = history[at];
            if at >= self.n && token <= TOKEN_MASK {
                if self.used >= FULL {
                    self.empty();
                }
                let slot = self.hash.slot(BITS);
                self.used += usize::from(self.get(slot).is_none());
                self.pool[slot] = self.age << TOKEN_BITS | token;
            }
            self.hash.advance(history, at);
        }
        self.seen = history.len();
    }
}

impl Drafter for NgramMod {
    fn begin(&mut self, history: &[u32]) {
        self.empty();
        self.hash.clear();
        self.seen = 0;
        self.read(history);
    }

    fn draft(&mut self, history: &[u32], most: usize, out: &mut Vec<u32>) {
        if history.len() < self.seen {
            self.begin(history);
        }
        self.read(history);
        if history.len() < self.n {
            return;
        }
        let (begin, most) = (out.len(), most.min(self.most));
        let mut hash = self.hash;
        while out.len() - begin < most
            && let Some(token) = self.get(hash.slot(BITS))
        {
            let leaves = history.len() + (out.len() - begin) - self.n;
            let leaves = match leaves.checked_sub(history.len()) {
                None => history[leaves],
                Some(drafted) => out[begin + drafted],
            };
            hash.push(token, Some(leaves));
            out.push(token);
        }
        // Where less room is left than the shortest draft takes, a draft that fills it is long enough.
        if out.len() - begin < self.least.min(most) {
            out.truncate(begin);
        }
    }

    fn result(&mut self, drafted: &[u32], accepted: usize) {
        self.bad = if accepted * 4 < drafted.len() { self.bad + 1 } else { 0 };
        if self.bad >= BAD_ROUNDS {
            self.empty();
        }
    }
}
