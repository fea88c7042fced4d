//! Texts of mixed origin: control tokens that scaffolding wrote, and text in which no name of a control token counts.

use super::Vocabulary;
use super::vocabulary::Encoding;

/// A stretch of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// A control token, written by scaffolding.
    Control(u32),
    /// Text. Names of control tokens in it are text.
    Text(String),
}

impl Vocabulary {
    /// Cuts scaffolding at the control tokens it names. Encoding the spans gives what encoding `text` with
    /// `parse_special` gives.
    #[must_use]
    pub fn spans(&self, text: &str) -> Vec<Span> {
        let mut spans = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while let Some(found) = self.find_special(text, at) {
            at = found.end;
            if self.is_control(found.id) {
                if begin < found.start {
                    spans.push(Span::Text(text[begin..found.start].to_owned()));
                }
                spans.push(Span::Control(found.id));
                begin = at;
            }
        }
        if begin < text.len() {
            spans.push(Span::Text(text[begin..].to_owned()));
        }
        spans
    }

    /// Spans to tokens, without BOS unless a span is it.
    #[must_use]
    pub fn encode_spans(&self, spans: &[Span]) -> Vec<u32> {
        let mut out = Vec::new();
        let mut encoding = Encoding::new();
        for span in spans {
            match span {
                Span::Control(id) => self.encode_special(*id, &mut encoding, &mut out),
                Span::Text(text) => self.encode_onto(text, false, &mut encoding, &mut out),
            }
        }
        out
    }
}
