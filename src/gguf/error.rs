//! What can be wrong with a GGUF file, told with the file, the byte offset, the key or tensor, what was
//! found and what is allowed.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Where in a file something is wrong. Prints as "`model.gguf`, byte 24, key `general.alignment`".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's path, or the name given to [`Gguf::from_bytes`](super::Gguf::from_bytes).
    pub file: Arc<Path>,
    /// Byte offset in the file.
    pub offset: u64,
    /// The key, tensor or part of the file, already escaped for printing.
    pub subject: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}, {}", quoted_path(&self.file), self.offset, self.subject)
    }
}

/// A GGUF file that cannot be read. Nothing a file contains leads to anything but one of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The operating system refused to open, inspect or map the file.
    #[error("{}: found a file that cannot be opened ({source}), allowed is a readable GGUF file", quoted_path(.file))]
    Open { file: Arc<Path>, source: io::Error },
    /// The operating system refused to read a part of the opened file.
    #[error("{at}: found bytes that cannot be read ({source}), allowed is a readable file")]
    Read { at: Place, source: io::Error },
    /// The path leads to a directory, a pipe, a device or a socket.
    #[error("{}: found {found}, allowed is a regular file", quoted_path(.file))]
    NotRegularFile { file: Arc<Path>, found: &'static str },
    /// The first bytes are not the magic of GGUF.
    #[error("{}, byte 0, magic: found {found}, allowed is a GGUF file, which starts with the bytes `GGUF`", quoted_path(.file))]
    NotGguf { file: Arc<Path>, found: String },
    /// A GGUF file written for big-endian machines.
    #[error(
        "{}, byte {offset}, byte order: found a big-endian GGUF file, allowed is a little-endian one \
         (it has to be converted first)",
        quoted_path(.file)
    )]
    BigEndian { file: Arc<Path>, offset: u64 },
    /// A version of the format that is not read.
    #[error("{}, byte 4, version: found GGUF version {found}{hint}, allowed are versions 2 and 3", quoted_path(.file))]
    Version { file: Arc<Path>, found: u32, hint: &'static str },
    /// The file ends inside something.
    #[error("{at}: found only {left} more bytes in the file, allowed are {needed} or more")]
    Truncated { at: Place, needed: u64, left: u64 },
    /// A count or a length beyond its limit.
    #[error("{at}: found {found}, allowed are at most {allowed}")]
    TooMany { at: Place, found: u64, allowed: u64 },
    /// A key, a name or a string that is empty, too long, not UTF-8, or has control characters.
    #[error("{at}: found {found}, allowed is {allowed}")]
    Text { at: Place, found: String, allowed: String },
    /// A key or a tensor name that stands in the file twice.
    #[error("{at}: found it a second time (first at byte {first}), allowed is once")]
    Duplicate { at: Place, first: u64 },
    /// A metadata value of an unknown or unexpected type.
    #[error("{at}: found {found}, allowed is {allowed}")]
    Type { at: Place, found: String, allowed: String },
    /// A metadata value outside what its key allows.
    #[error("{at}: found {found}, allowed is {allowed}")]
    Value { at: Place, found: String, allowed: String },
    /// A model in several files, of which one is missing, another model's or not the first.
    #[error("{}: found {found}, allowed is {allowed}", quoted_path(.file))]
    Split { file: Arc<Path>, found: String, allowed: String },
    /// A key that has to be there.
    #[error("{}: found no key `{key}` in the metadata, allowed is a file that has it", quoted_path(.file))]
    MissingKey { file: Arc<Path>, key: String },
    /// A tensor that has to be there.
    #[error("{}: found no tensor `{tensor}`, allowed is a file that has it", quoted_path(.file))]
    MissingTensor { file: Arc<Path>, tensor: String },
    /// A tensor whose type, shape or place in the file is wrong.
    #[error("{at}: found {found}, allowed is {allowed}")]
    Tensor { at: Place, found: String, allowed: String },
}

/// How many characters of a name from a file are repeated in a message.
const SHOWN: usize = 120;

/// Text from a file, made safe to print: control characters, characters that reorder or hide text and
/// bytes that are not UTF-8 are escaped, and what is very long is cut.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut shown = 0;
    let mut left = bytes;
    while !left.is_empty() {
        if shown >= SHOWN {
            text.push_str(&format!("… ({} bytes)", bytes.len()));
            break;
        }
        // Looking at a bounded window keeps the cost of a 1 GiB name that of a short one.
        let window = &left[..left.len().min(4 * SHOWN)];
        let (valid, bad) = match std::str::from_utf8(window) {
            Ok(valid) => (valid, 0),
            Err(error) => {
                let valid = std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default();
                // A character cut by the window's end is seen whole in the next one.
                let cut = error.error_len().is_none() && window.len() < left.len() && !valid.is_empty();
                (valid, if cut { 0 } else { error.error_len().unwrap_or(window.len() - valid.len()) })
            }
        };
        let mut taken = 0;
        for c in valid.chars().take(SHOWN - shown) {
            push_escaped(&mut text, c);
            taken += c.len_utf8();
            shown += 1;
        }
        if taken == valid.len() && shown < SHOWN {
            for byte in &window[taken..taken + bad] {
                text.push_str(&format!("\\x{byte:02x}"));
                shown += 1;
            }
            taken += bad;
        }
        left = &left[taken..];
    }
    text
}

/// Whether a character may change how the text around it is shown, without being seen itself.
fn is_unsafe_to_print(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn push_escaped(text: &mut String, c: char) {
    if is_unsafe_to_print(c) {
        text.extend(c.escape_default());
    } else {
        text.push(c);
    }
}

/// A path for messages: escaped, never cut.
pub(super) fn quoted_path(path: &Path) -> String {
    let mut text = String::from("`");
    for c in path.to_string_lossy().chars() {
        push_escaped(&mut text, c);
    }
    text.push('`');
    text
}
