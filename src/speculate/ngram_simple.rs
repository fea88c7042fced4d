//! `ngram-simple`: the tokens that followed the last earlier occurrence of the newest n tokens.
//!
//! The table holds, for each n-gram, where its continuation begins; of two that share a place the newer stays. A match
//! is compared token by token before it is used. Memory: 1 MiB, whatever the history's length.

use super::history::{Rolling, copy_on};
use super::{Drafter, Parameter};

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::count("size-n", 12, 1, 64, "newest tokens that must match"),
    Parameter::count("size-m", 48, 1, 64, "tokens to draft at most"),
];

const BITS: u32 = 18;

pub(super) fn make(values: &[f64]) -> Box<dyn Drafter> {
    let (n, m) = (values[0] as usize, values[1] as usize);
    Box::new(NgramSimple { n, m, after: vec![0; 1 << BITS], hash: Rolling::new(n), seen: 0 })
}

struct NgramSimple {
    n: usize,
    m: usize,
    /// Position after an n-gram; 0 is none.
    after: Vec<u32>,
    hash: Rolling,
    /// Tokens of the history that were read.
    seen: usize,
}

impl NgramSimple {
    /// The newest n-gram enters the table only with the token after it.
    fn read(&mut self, history: &[u32]) {
        for at in self.seen..history.len() {
            if at >= self.n {
                self.after[self.hash.slot(BITS)] = at as u32;
            }
            self.hash.advance(history, at);
        }
        self.seen = history.len();
    }
}

impl Drafter for NgramSimple {
    fn begin(&mut self, history: &[u32]) {
        self.after.fill(0);
        self.hash.clear();
        self.seen = 0;
        self.read(history);
    }

    fn draft(&mut self, history: &[u32], most: usize, out: &mut Vec<u32>) {
        if history.len() < self.seen {
            self.begin(history);
        }
        self.read(history);
        let from = self.after[self.hash.slot(BITS)] as usize;
        if from != 0 && history[from - self.n..].starts_with(&history[history.len() - self.n..]) {
            copy_on(history, from, most.min(self.m), out);
        }
    }

    fn result(&mut self, _: &[u32], _: usize) {}
}
