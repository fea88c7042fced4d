//! What each token of a file is and writes: types corrected, spellings undone, ends found.

use super::alphabet::{byte_token, unspell};
use super::error::{TextError, shown};
use super::merge::NONE;
use super::packed::Packed;
use super::special::{is_end_name, looks_like_control};
use super::vocabulary::{SPACE, TokenKind, VocabularyKind};

/// The type of a token as GGUF numbers it.
pub(super) fn token_kind(kind: i32) -> TokenKind {
    match kind {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Normal,
    }
}

/// Corrects the types converters get wrong, always towards control, so that text cannot forge such a token.
pub(super) fn classify(texts: &Packed, kinds: &mut [TokenKind], named: &[Option<u32>], typed: bool) {
    for &id in named.iter().flatten() {
        if let kind @ (TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused) =
            &mut kinds[id as usize]
        {
            *kind = TokenKind::Control;
        }
    }
    for (id, kind) in (0u32..).zip(kinds) {
        let untyped = !typed && is_end_name(texts.get(id));
        if untyped || *kind == TokenKind::UserDefined && looks_like_control(texts.get(id)) {
            *kind = TokenKind::Control;
        }
    }
}

/// The token of each byte in vocabularies that spell bytes as `<0xHH>`.
pub(super) fn byte_tokens(
    kind: VocabularyKind,
    texts: &Packed,
    kinds: &mut [TokenKind],
    typed: bool,
) -> Result<Box<[u32; 256]>, TextError> {
    let mut bytes = Box::new([NONE; 256]);
    if kind == VocabularyKind::ByteBpe {
        return Ok(bytes);
    }
    for (id, kind) in (0u32..).zip(kinds) {
        if !typed && byte_token(texts.get(id)).is_some() {
            *kind = TokenKind::Byte;
        }
        if *kind == TokenKind::Byte {
            let wrong = || TextError::ByteToken { id, text: shown(texts.get(id)) };
            let byte = byte_token(texts.get(id)).ok_or_else(wrong)?;
            let slot = &mut bytes[usize::from(byte)];
            *slot = if *slot == NONE { id } else { *slot };
        }
    }
    Ok(bytes)
}

/// What the tokens of byte-level BPE write, and which of them are not spelled in the byte alphabet although they
/// should be. Special tokens are never spelled in it.
pub(super) fn unspelled(texts: &Packed, kinds: &[TokenKind]) -> Option<(Packed, Vec<u32>)> {
    let mut outputs = Packed::with_capacity(texts.len());
    let mut literals = Vec::new();
    for (id, kind) in (0u32..).zip(kinds) {
        let literal = matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
        let pushed = outputs.push_with(|out| match literal {
            true => out.extend_from_slice(texts.get(id)),
            false if unspell(texts.get(id), out) => {}
            false => literals.push(id),
        });
        if !pushed {
            return None;
        }
    }
    Some((outputs, literals))
}

/// What the tokens of SentencePiece vocabularies write.
pub(super) fn unescaped(texts: &Packed, kinds: &[TokenKind]) -> Option<Packed> {
    let mut outputs = Packed::with_capacity(texts.len());
    for (id, kind) in (0u32..).zip(kinds) {
        let text = texts.get(id);
        let pushed = outputs.push_with(|out| match (kind, byte_token(text)) {
            (TokenKind::Byte, Some(byte)) => out.push(byte),
            (TokenKind::Control | TokenKind::Unknown, _) => out.extend_from_slice(text),
            _ => {
                let mut rest = text;
                while let Some((&first, tail)) = rest.split_first() {
                    let space = rest.strip_prefix(SPACE.as_bytes());
                    out.push(if space.is_some() { b' ' } else { first });
                    rest = space.unwrap_or(tail);
                }
            }
        });
        if !pushed {
            return None;
        }
    }
    Some(outputs)
}

/// The tokens that end a generation.
pub(super) fn end_tokens(texts: &Packed, kinds: &[TokenKind], named: &[Option<u32>]) -> Vec<u32> {
    let by_name = |name: &str| {
        let mut ids = (0u32..).zip(kinds).filter(|&(_, &kind)| kind == TokenKind::Control).map(|(id, _)| id);
        ids.find(|&id| texts.get(id) == name.as_bytes())
    };
    let named_end =
        |&(id, kind): &(u32, &TokenKind)| *kind == TokenKind::Control && is_end_name(texts.get(id));
    let mut ends: Vec<u32> = (0u32..).zip(kinds).filter(named_end).map(|(id, _)| id).collect();
    // Where messages end with their own tokens, `<|end|>` only ends a part of an answer.
    let messages = by_name("<|return|>").or(by_name("<|flush|>")).is_some();
    if messages && by_name("<|call|>").or(by_name("<|calls|>")).is_some() {
        let part = by_name("<|end|>");
        ends.retain(|&id| Some(id) != part);
    }
    ends.extend(named.iter().flatten());
    ends.sort_unstable();
    ends.dedup();
    ends
}
