//! The printable alphabet in which byte-level BPE files spell bytes: GPT-2's `bytes_to_unicode`.

/// Bytes that stand for themselves; the other 68 are spelled U+0100.. in ascending order.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

const fn table() -> [u8; 0x144] {
    let mut table = [0u8; 0x144];
    let (mut byte, mut shifted) = (0usize, 0x100usize);
    while byte < 256 {
        if is_plain(byte as u8) {
            table[byte] = byte as u8;
        } else {
            table[shifted] = byte as u8;
            shifted += 1;
        }
        byte += 1;
    }
    table
}

const BYTE_OF: [u8; 0x144] = table();

/// The byte a character spells, or `None` for a character outside the alphabet.
fn byte_of(character: char) -> Option<u8> {
    match character as u32 {
        code @ 0..=0xff if !is_plain(code as u8) => None,
        code @ 0..0x144 => Some(BYTE_OF[code as usize]),
        _ => None,
    }
}

/// Appends the bytes that `spelled` stands for; what is outside the alphabet stands for itself.
/// Returns whether all of it was inside.
pub(crate) fn unspell(spelled: &[u8], out: &mut Vec<u8>) -> bool {
    let mut inside = true;
    for chunk in spelled.utf8_chunks() {
        for character in chunk.valid().chars() {
            match byte_of(character) {
                Some(byte) => out.push(byte),
                None => {
                    inside = false;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
        inside &= chunk.invalid().is_empty();
        out.extend_from_slice(chunk.invalid());
    }
    inside
}

/// The byte of a `<0xHH>` token, the spelling of bytes in SentencePiece vocabularies.
pub(crate) fn byte_token(text: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = text else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}
