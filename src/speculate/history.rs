//! What history drafters share: a rolling hash of the newest n tokens, and copying what followed earlier ones.

/// Odd, with bits spread: multiplication by it is a permutation of 64-bit words.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hash of the last `n` tokens pushed, as a polynomial in [`BASE`]; one multiplication and one subtraction a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rolling {
    n: usize,
    /// `BASE` to the power `n`.
    top: u64,
    value: u64,
}

impl Rolling {
    pub(super) fn new(n: usize) -> Self {
        Rolling { n, top: (0..n).fold(1, |power: u64, _| power.wrapping_mul(BASE)), value: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.value = 0;
    }

    /// Takes in `token`; `leaves` is the token pushed n pushes ago, if there is one.
    pub(super) fn push(&mut self, token: u32, leaves: Option<u32>) {
        let leaves = leaves.map_or(0, |token| (u64::from(token) + 1).wrapping_mul(self.top));
        self.value = self.value.wrapping_mul(BASE).wrapping_add(u64::from(token) + 1).wrapping_sub(leaves);
    }

    /// Pushes `history[at]`.
    pub(super) fn advance(&mut self, history: &[u32], at: usize) {
        self.push(history[at], at.checked_sub(self.n).map(|left| history[left]));
    }

    fn mixed(&self) -> u64 {
        (self.value ^ (self.value >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    /// Place in a table of `1 << bits` entries. The upper bits are mixed best.
    pub(super) fn slot(&self, bits: u32) -> usize {
        (self.mixed() >> (64 - bits)) as usize
    }

    /// Bits that are not in the place.
    pub(super) fn tag(&self) -> u16 {
        (self.mixed() >> 16) as u16
    }
}

/// Appends the `most` tokens from position `from` of `history`; where the history ends, it goes on with what was
/// appended, so that a repetition shorter than the draft is continued.
pub(super) fn copy_on(history: &[u32], from: usize, most: usize, out: &mut Vec<u32>) {
    let begin = out.len();
    for at in from..from + most {
        let token = match at.checked_sub(history.len()) {
            None => history[at],
            Some(beyond) => out[begin + beyond],
        };
        out.push(token);
    }
}
