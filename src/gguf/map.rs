//! The bytes of a GGUF file: one read-only memory map of a regular file, or bytes already in memory.
#![allow(unsafe_code)]

use super::error::GgufError;
use std::fs::{File, FileType};
use std::path::Path;
use std::sync::Arc;

/// What a [`Gguf`](super::Gguf) reads from.
pub(super) enum Bytes {
    Mapped { file: File, map: memmap2::Mmap },
    Owned(Vec<u8>),
}

impl Bytes {
    /// Opens and maps a file after making sure that it is a regular one: opening a pipe would block, and a
    /// device or a process's memory has no end.
    pub(super) fn open(path: &Arc<Path>) -> Result<Self, GgufError> {
        let fail = |source| GgufError::Open { file: path.clone(), source };
        let regular = |kind: FileType| match kind.is_file() {
            true => Ok(()),
            false => Err(GgufError::NotRegularFile { file: path.clone(), found: kind_name(kind) }),
        };
        regular(std::fs::metadata(path).map_err(fail)?.file_type())?;
        let file = File::open(path).map_err(fail)?;
        // The name may have been given to something else since; what counts is what was opened.
        let opened = file.metadata().map_err(fail)?;
        regular(opened.file_type())?;
        if opened.len() == 0 {
            return Ok(Bytes::Owned(Vec::new()));
        }
        // SAFETY: the map is private to this value, read-only, and only handed out as byte slices whose
        // content is never trusted: every count and offset read from it is checked where it is used, and
        // text is validated whenever it is borrowed. Somebody who shortens the file while it is mapped can
        // end the process with a signal but cannot make a checked slice longer; tensor data, the long-lived
        // part, is read through the file handle instead (`Gguf::read_at`), where that is an ordinary error.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail)?;
        Ok(Bytes::Mapped { file, map })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped { map, .. } => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    pub(super) fn file(&self) -> Option<&File> {
        match self {
            Bytes::Mapped { file, .. } => Some(file),
            Bytes::Owned(_) => None,
        }
    }
}

fn kind_name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        return "a directory";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_char_device() {
            return "a character device";
        } else if kind.is_block_device() {
            return "a block device";
        }
    }
    "something else"
}
