//! Reads GGUF files, versions 2 and 3, as they are: one memory map, checked before it is believed.
//!
//! What is promised for *any* file: a [`Gguf`] or a [`GgufError`], never a panic, an endless loop, a recursion
//! or an allocation that the bytes present do not justify. Every tensor that is listed lies inside the file,
//! shares no byte with another and has a size that follows from its shape. What keys and tensors *mean* is not
//! checked here but where a model is built.
//!
//! Tensor data should be read with [`Gguf::read_at`] or through [`Gguf::file`]: a file that is cut short after
//! it was opened is an error there, while touching its map is a signal.

mod error;
mod index;
mod map;
mod metadata;
mod parse;
mod split;
mod types;
mod value;

pub use error::{GgufError, Place, escaped};
pub use metadata::Metadata;
pub use parse::{ALIGNMENTS, DEFAULT_ALIGNMENT, MAX_KEY_BYTES, MAX_KEYS, MAX_TENSOR_NAME_BYTES, MAX_TENSORS};
pub use split::parts_of;
pub use types::{GGML_TYPES, GgmlType, ggml_type, type_name};
pub use value::{NumberArray, StringArray, Value, ValueType};

use index::NameIndex;
use map::Bytes;
use split::Part;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// GGUF's id of the element type; [`ggml_type`] measures it.
    pub ggml_type: u32,
    /// One to four dimensions in GGUF's order: the length of a row first.
    pub dims: Vec<u64>,
    /// Where the data begin in the file; of a model in several files, counted on from one to the next.
    pub offset: u64,
    /// How many bytes the data have.
    pub bytes: u64,
}

impl TensorInfo {
    /// The element type's name, for example "Q4_K".
    pub fn type_name(&self) -> &'static str {
        type_name(self.ggml_type)
    }

    /// The product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.dims.iter().fold(1, |product, dim| product.saturating_mul(*dim))
    }
}

/// The bytes of a file, mapped or in memory, whatever becomes of its [`Gguf`].
#[derive(Clone)]
pub struct SharedBytes {
    bytes: Arc<Bytes>,
    file: Arc<Path>,
    parts: Vec<Part>,
}

impl SharedBytes {
    /// Of a model in several files the first.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Reads the file again that was opened, even where its name was given to another since.
    ///
    /// Errors: as [`Gguf::open`]; a file that became shorter.
    pub fn read(&self) -> Result<Gguf, GgufError> {
        check_length(&self.bytes, &self.file)?;
        split::rejoin(parse::parse(Arc::clone(&self.bytes), Arc::clone(&self.file))?, &self.parts)
    }
}

/// Whether a file still has the length it was opened with.
fn check_length(bytes: &Bytes, file: &Arc<Path>) -> Result<(), GgufError> {
    let Some(opened) = bytes.file() else { return Ok(()) };
    let at = |what: &str| Place { file: file.clone(), offset: 0, subject: what.to_owned() };
    let needed = bytes.as_slice().len() as u64;
    match opened.metadata() {
        Ok(now) if now.len() >= needed => Ok(()),
        Ok(now) => Err(GgufError::Truncated { at: at("the file"), needed, left: now.len() }),
        Err(source) => Err(GgufError::Read { at: at("the file's length"), source }),
    }
}

/// An opened GGUF file.
pub struct Gguf {
    version: u32,
    alignment: u32,
    data_offset: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    tensor_index: NameIndex,
    /// What is in other files, of a model in several.
    parts: Vec<Part>,
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path())
            .field("version", &self.version)
            .field("keys", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

impl Gguf {
    /// Opens a file, maps it and checks everything but the tensor data. Of a model in several files the path is the first
    /// one's, and the others lie beside it.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let path: Arc<Path> = path.into();
        split::join(parse::parse(Arc::new(Bytes::open(&path)?), path)?)
    }

    /// The same for bytes in memory; `name` stands for the path in messages.
    pub fn from_bytes(bytes: Vec<u8>, name: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        split::join(parse::parse(Arc::new(Bytes::Owned(bytes)), name.as_ref().into())?)
    }

    /// The path the file was opened with, or the name given to [`from_bytes`](Self::from_bytes).
    pub fn path(&self) -> &Path {
        &self.metadata.file
    }

    /// Version of the format: 2 or 3, which differ in nothing that is read here.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Where tensor data begin. Past the end of a file that has no tensors and no padding.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Files that the model is in.
    pub fn files(&self) -> usize {
        1 + self.parts.len()
    }

    /// The opened file, for positioned reads; `None` for bytes in memory. Of several the first.
    pub fn file(&self) -> Option<&File> {
        self.metadata.bytes.file()
    }

    /// The file's length when it was opened; of several their sum.
    pub fn file_len(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.bytes.as_slice().len() as u64);
        self.bytes().len() as u64 + parts.sum::<u64>()
    }

    /// The whole file as mapped, or the bytes in memory. Of several the first.
    pub fn bytes(&self) -> &[u8] {
        self.metadata.bytes.as_slice()
    }

    /// The same bytes, for somebody who keeps them longer than this value.
    pub fn shared_bytes(&self) -> SharedBytes {
        SharedBytes {
            bytes: self.metadata.bytes.clone(),
            file: self.metadata.file.clone(),
            parts: self.parts.clone(),
        }
    }

    /// Whether the file still has the length it was opened with. One that is shorter is an error.
    pub fn check_length(&self) -> Result<(), GgufError> {
        check_length(&self.metadata.bytes, &self.metadata.file)?;
        self.parts.iter().try_for_each(|part| check_length(&part.bytes, &part.file))
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in the order of the file's table.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.tensor_index.find(name.as_bytes(), |i| self.tensors[i].name.as_bytes())?;
        self.tensors.get(found)
    }

    /// A tensor that has to be there.
    pub fn require_tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensor(name).ok_or_else(|| GgufError::MissingTensor {
            file: self.metadata.file.clone(),
            tensor: escaped(name.as_bytes()),
        })
    }

    /// The error for a tensor that is not what a model needs: names the file, the data's offset and the tensor.
    pub fn refuse_tensor(
        &self,
        tensor: &TensorInfo,
        found: impl std::fmt::Display,
        allowed: impl std::fmt::Display,
    ) -> GgufError {
        GgufError::Tensor {
            at: self.place(tensor.offset, format!("tensor `{}`", escaped(tensor.name.as_bytes()))),
            found: found.to_string(),
            allowed: allowed.to_string(),
        }
    }

    /// A tensor's data in the map. Empty for a tensor of another file that lies outside this one.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let ((bytes, _), offset) = self.local(tensor.offset);
        let start = usize::try_from(offset).ok();
        let end = offset.checked_add(tensor.bytes).and_then(|end| usize::try_from(end).ok());
        start.zip(end).and_then(|(start, end)| bytes.as_slice().get(start..end)).unwrap_or_default()
    }

    /// The file that holds a position, and the position in it.
    fn local(&self, offset: u64) -> ((&Bytes, &Arc<Path>), u64) {
        match self.parts.iter().rev().find(|part| part.base <= offset) {
            Some(part) => ((&part.bytes, &part.file), offset - part.base),
            None => ((&self.metadata.bytes, &self.metadata.file), offset),
        }
    }

    /// Fills `buffer` from the file at `offset` by positioned reads, from any thread. A file that was cut short
    /// since it was opened is an error.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), GgufError> {
        let needed = buffer.len() as u64;
        let truncated =
            |left: u64| GgufError::Truncated { at: self.place(offset, "tensor data".into()), needed, left };
        let ((bytes, _), within) = self.local(offset);
        let Some(file) = bytes.file() else {
            let start = usize::try_from(within).ok();
            let rest = start.and_then(|start| bytes.as_slice().get(start..)).unwrap_or_default();
            let Some(source) = rest.get(..buffer.len()) else { return Err(truncated(rest.len() as u64)) };
            buffer.copy_from_slice(source);
            return Ok(());
        };
        let mut done = 0;
        while done < buffer.len() {
            let Some(from) = within.checked_add(done as u64) else { return Err(truncated(done as u64)) };
            match read_some(file, &mut buffer[done..], from) {
                Ok(0) => return Err(truncated(done as u64)),
                Ok(read) => done += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let at = self.place(offset.saturating_add(done as u64), "tensor data".into());
                    return Err(GgufError::Read { at, source });
                }
            }
        }
        Ok(())
    }

    fn place(&self, offset: u64, subject: String) -> Place {
        let ((_, file), offset) = self.local(offset);
        Place { file: file.clone(), offset, subject }
    }
}

#[cfg(unix)]
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}
