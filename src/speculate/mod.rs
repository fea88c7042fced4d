//! Speculation without a device: who drafts, how many tokens to draft, and what came of it.
//!
//! A round drafts up to k tokens, verifies them beside the last committed token in one step of k + 1 rows, and commits
//! the accepted ones and one more. *History drafters* ([`Drafter`]) find drafts in the tokens committed so far, on the
//! host; the draft model drafts on the device. A [`Chain`] holds the history drafters in the order in which they are
//! asked. The [`Governor`] chooses k each round from what rounds cost and yield, 0 included. Nothing here changes the
//! text: the target verifies every token.

mod chain;
mod governor;
mod history;
mod method;
mod ngram_cache;
mod ngram_map_k;
mod ngram_mod;
mod ngram_simple;
mod round;
mod statistics;
#[cfg(test)]
mod tests;
mod trim;
mod vocabulary;

pub use chain::Chain;
pub use governor::{Decision, Governor, GovernorOptions, Offer, Why};
pub use method::{METHODS, Method, MethodRow, Parameter, Setting};
pub use round::{Round, Times};
pub use statistics::{Detail, MethodRecord, Record, Seconds, Statistics};
pub use trim::Trim;
pub use vocabulary::{Mismatch, Shared, Side, compare, compare_models};

/// Most tokens a draft model is asked for in one round.
pub const MOST_MODEL: usize = 16;
/// Most tokens a history drafter is asked for in one round.
pub const MOST_HISTORY: usize = 64;

/// Finds drafts in a conversation's own tokens, on the host.
///
/// A drafter sees committed tokens only, so a rejected draft needs no undoing. It is deterministic: the same calls give
/// the same drafts. Between two calls of [`begin`](Drafter::begin) the history only grows at its end; a history that
/// became shorter is taken as a new beginning.
pub trait Drafter: Send {
    /// Forgets everything and reads `history`, the committed tokens of a conversation.
    fn begin(&mut self, history: &[u32]);

    /// Appends at most `most` tokens to `out` that are likely to follow `history`, or none. Tokens of `history` that are
    /// new since the last call are read first, in constant time each.
    fn draft(&mut self, history: &[u32], most: usize, out: &mut Vec<u32>);

    /// Says how many of the tokens drafted last were accepted. `drafted` are those that were verified, which may be
    /// fewer than were offered.
    fn result(&mut self, drafted: &[u32], accepted: usize);
}
