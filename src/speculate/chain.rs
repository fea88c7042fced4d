//! History drafters in the order in which they are asked: the first that finds a draft gives it.

use super::{Drafter, Method, Setting};

/// The history drafters of one conversation.
pub struct Chain {
    drafters: Vec<(Method, Box<dyn Drafter>)>,
    /// Who drafted last.
    last: Option<usize>,
}

impl Chain {
    /// Makes the history drafters among the settings, in their order. The draft model is not one of them.
    pub fn new(settings: &[Setting]) -> Self {
        let drafters = settings.iter().filter_map(|s| Some((s.method, s.make()?))).collect();
        Chain { drafters, last: None }
    }

    /// True when no history drafter was asked for.
    pub fn is_empty(&self) -> bool {
        self.drafters.is_empty()
    }

    /// As [`Drafter::begin`], for all of them.
    pub fn begin(&mut self, history: &[u32]) {
        self.last = None;
        for (_, drafter) in &mut self.drafters {
            drafter.begin(history);
        }
    }

    /// Replaces `out` by the first draft that one of them finds, of at most `most` tokens; says whose it is.
    pub fn draft(&mut self, history: &[u32], most: usize, out: &mut Vec<u32>) -> Option<Method> {
        out.clear();
        self.last = None;
        for (index, (method, drafter)) in self.drafters.iter_mut().enumerate() {
            drafter.draft(history, most.min(method.row().most), out);
            if !out.is_empty() {
                self.last = Some(index);
                return Some(*method);
            }
        }
        None
    }

    /// As [`Drafter::result`], for the one that drafted last. Not to be called when its draft was not verified.
    pub fn result(&mut self, drafted: &[u32], accepted: usize) {
        if let Some(index) = self.last.take() {
            self.drafters[index].1.result(drafted, accepted);
        }
    }
}
