//! Whether speculation changes the text: the same prompts with and without drafters, compared bit for bit.

use crate::engine::Model;
use crate::error::Result;
use crate::sample::SamplerOptions;
use crate::session::{Event, Finish, GenerateOptions, Session, SpecOptions};
use crate::speculate::{Method, Setting};

/// What is compared: every prompt with every sampler, drafter and length of draft.
pub struct Audit<'a> {
    pub target: &'a Model,
    /// Drafts where a drafter names `draft-model`.
    pub draft: Option<&'a Model>,
    pub prompts: &'a [Vec<u32>],
    /// With the names that rows bear.
    pub samplers: &'a [(String, SamplerOptions)],
    /// Lists of methods as `--spec` takes them, read.
    pub drafters: &'a [(String, Vec<Setting>)],
    /// Tokens drafted each round; `None` leaves it to the governor. Lengths that a drafter does not reach are left out.
    pub lengths: &'a [Option<usize>],
    /// Tokens of each text.
    pub new: usize,
}

/// The first place where a text differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Index in the prompts.
    pub prompt: usize,
    /// Index in the generated text.
    pub at: usize,
    /// The token of plain decoding and the one with a drafter; `None` where a text had ended.
    pub plain: Option<u32>,
    pub found: Option<u32>,
}

/// Texts of one sampler, drafter and length of draft.
#[derive(Clone, Debug)]
pub struct Row {
    pub sampler: String,
    pub drafter: String,
    pub length: Option<usize>,
    pub texts: usize,
    pub tokens: usize,
    /// Rounds that drafted, tokens they verified, and how many of those were accepted.
    pub rounds: u64,
    pub drafted: u64,
    pub accepted: u64,
    /// One per text that differs in a token, the bits of a log probability, or its end.
    pub differences: Vec<Difference>,
}

/// A text: ids, bits of log probabilities, and how it ended.
#[derive(Clone, Debug, PartialEq)]
struct Text {
    tokens: Vec<(u32, u32)>,
    finish: Option<Finish>,
}

fn text(session: &mut Session, prompt: &[u32], new: usize) -> Result<Text> {
    session.clear();
    let mut text = Text { tokens: Vec::with_capacity(new), finish: None };
    let options = GenerateOptions { max_tokens: Some(new), ignore_end: false };
    for event in session.generate(prompt, options)? {
        match event? {
            Event::Token(token) => text.tokens.push((token.id, token.logprob.to_bits())),
            Event::Done { finish, .. } => text.finish = Some(finish),
            Event::Round(_) => {}
        }
    }
    Ok(text)
}

fn difference(prompt: usize, plain: &Text, found: &Text) -> Option<Difference> {
    if plain == found {
        return None;
    }
    let shorter = plain.tokens.len().min(found.tokens.len());
    let at = (0..shorter).find(|&at| plain.tokens[at] != found.tokens[at]).unwrap_or(shorter);
    let token = |text: &Text| text.tokens.get(at).map(|&(token, _)| token);
    Some(Difference { prompt, at, plain: token(plain), found: token(found) })
}

impl Audit<'_> {
    /// Drafters with the lengths they reach.
    fn combinations(&self) -> Vec<(&str, &[Setting], Option<usize>)> {
        let mut all = Vec::new();
        for (name, methods) in self.drafters {
            let most = methods.iter().map(|setting| setting.method.row().most).max().unwrap_or(0);
            for &length in self.lengths.iter().filter(|length| length.is_none_or(|length| length <= most)) {
                all.push((name.as_str(), methods.as_slice(), length));
            }
        }
        all
    }

    /// Rows that [`Audit::run`] will give.
    pub fn rows(&self) -> usize {
        self.samplers.len() * self.combinations().len()
    }

    /// Generates and compares; `each` sees every row when it is complete and ends the audit with `false`.
    ///
    /// Errors: models or options that do not go together, and what generating can fail with.
    pub fn run(&self, mut each: impl FnMut(&Row) -> bool) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (sampler_name, sampler) in self.samplers {
            let mut session = Session::new(self.target, *sampler)?;
            let plain = self
                .prompts
                .iter()
                .map(|prompt| text(&mut session, prompt, self.new))
                .collect::<Result<Vec<_>>>()?;
            drop(session);
            for (drafter, methods, length) in self.combinations() {
                let options =
                    SpecOptions { methods: methods.to_vec(), draft_max: length, ..SpecOptions::default() };
                let session = Session::new(self.target, *sampler)?;
                let names = |method| methods.iter().any(|setting| setting.method == method);
                let mut session = match self.draft.filter(|_| names(Method::DRAFT_MODEL)) {
                    Some(draft) => session.with_draft(draft, &options)?,
                    None if names(Method::MTP) => session.with_mtp(&options)?,
                    None => session.with_history(&options)?,
                };
                let mut row = Row {
                    sampler: sampler_name.clone(),
                    drafter: drafter.to_owned(),
                    length,
                    texts: self.prompts.len(),
                    tokens: 0,
                    rounds: 0,
                    drafted: 0,
                    accepted: 0,
                    differences: Vec::new(),
                };
                for (index, (prompt, plain)) in self.prompts.iter().zip(&plain).enumerate() {
                    let found = text(&mut session, prompt, self.new)?;
                    row.tokens += found.tokens.len();
                    row.differences.extend(difference(index, plain, &found));
                }
                if let Some(statistics) = session.speculation() {
                    row.rounds = statistics.drafting_rounds();
                    row.drafted = statistics.drafted();
                    row.accepted = statistics.accepted();
                }
                let more = each(&row);
                rows.push(row);
                if !more {
                    return Ok(rows);
                }
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(tokens: &[(u32, u32)], finish: Finish) -> Text {
        Text { tokens: tokens.to_vec(), finish: Some(finish) }
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let plain = made(&[(1, 10), (2, 20)], Finish::Length);
        let found = |text: &Text| difference(3, &plain, text).map(|d| (d.prompt, d.at, d.plain, d.found));
        assert_eq!(found(&plain.clone()), None);
        assert_eq!(found(&made(&[(1, 10), (5, 20)], Finish::Length)), Some((3, 1, Some(2), Some(5))));
        // The same token with another probability, a text that is shorter, longer, or ends otherwise.
        assert_eq!(found(&made(&[(1, 11), (2, 20)], Finish::Length)), Some((3, 0, Some(1), Some(1))));
        assert_eq!(found(&made(&[(1, 10)], Finish::End)), Some((3, 1, Some(2), None)));
        let longer = made(&[(1, 10), (2, 20), (3, 30)], Finish::Length);
        assert_eq!(found(&longer), Some((3, 2, None, Some(3))));
        assert_eq!(found(&made(&[(1, 10), (2, 20)], Finish::End)), Some((3, 2, None, None)));
    }
}
