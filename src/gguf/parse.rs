//! Reading header, metadata and tensor table: every length is checked against the bytes that are there before
//! it is used, nothing is allocated by a count from the file, nothing recurses, and time is linear in the file.

use super::error::{GgufError, Place, escaped};
use super::index::NameIndex;
use super::map::Bytes;
use super::metadata::{Entry, Metadata};
use super::types::{GGML_TYPES, ggml_type, unused_type};
use super::value::{Value, ValueType, string_at};
use super::{Gguf, TensorInfo};
use std::path::Path;
use std::sync::Arc;

/// Most keys a file may have; real files have fewer than a hundred.
pub const MAX_KEYS: u64 = 65_536;
/// Most tensors a file may have; the largest real ones have a few thousand.
pub const MAX_TENSORS: u64 = 1 << 20;
/// Longest key in bytes (GGUF specification).
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Longest tensor name in bytes: the specification says 64, its reference reader keeps a terminator in them.
pub const MAX_TENSOR_NAME_BYTES: u64 = 63;
/// Alignment of tensor data where no key says otherwise.
pub const DEFAULT_ALIGNMENT: u32 = 32;
/// Least and greatest alignment: the specification asks for a multiple of 8; a MiB is beyond any page size that
/// files are laid out for, and keeps the padding of small tensors bounded.
pub const ALIGNMENTS: std::ops::RangeInclusive<u32> = 8..=1 << 20;

const ALIGNMENT_KEY: &str = "general.alignment";
/// A key of one byte, its type and a value of one byte.
const LEAST_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
/// A name of one byte, one dimension, type and offset.
const LEAST_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// What is being read, for messages; made into text only when there is an error.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Header(&'static str),
    NthKey(u64),
    Key(&'a [u8]),
    NthTensor(u64),
    Tensor(&'a [u8]),
}

impl Subject<'_> {
    fn text(self) -> String {
        match self {
            Subject::Header(part) => part.to_owned(),
            Subject::NthKey(n) => format!("key number {n}"),
            Subject::Key(key) => format!("key `{}`", escaped(key)),
            Subject::NthTensor(n) => format!("tensor number {n}"),
            Subject::Tensor(name) => format!("tensor `{}`", escaped(name)),
        }
    }
}

/// A position in the file that moves forward only over bytes that are there.
struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    file: &'a Arc<Path>,
}

impl<'a> Reader<'a> {
    fn place(&self, offset: usize, subject: Subject<'_>) -> Place {
        Place { file: self.file.clone(), offset: offset as u64, subject: subject.text() }
    }

    fn left(&self) -> usize {
        self.data.len() - self.at
    }

    fn truncated(&self, needed: u64, subject: Subject<'_>) -> GgufError {
        GgufError::Truncated { at: self.place(self.at, subject), needed, left: self.left() as u64 }
    }

    fn take(&mut self, count: u64, subject: Subject<'_>) -> Result<&'a [u8], GgufError> {
        match usize::try_from(count) {
            Ok(count) if count <= self.left() => {
                let taken = &self.data[self.at..self.at + count];
                self.at += count;
                Ok(taken)
            }
            _ => Err(self.truncated(count, subject)),
        }
    }

    fn fixed<const N: usize>(&mut self, subject: Subject<'_>) -> Result<[u8; N], GgufError> {
        match self.data[self.at..].first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(self.truncated(N as u64, subject)),
        }
    }

    fn u32(&mut self, subject: Subject<'_>) -> Result<u32, GgufError> {
        self.fixed(subject).map(u32::from_le_bytes)
    }

    fn u64(&mut self, subject: Subject<'_>) -> Result<u64, GgufError> {
        self.fixed(subject).map(u64::from_le_bytes)
    }

    fn string(&mut self, subject: Subject<'_>) -> Result<&'a [u8], GgufError> {
        let length = self.u64(subject)?;
        self.take(length, subject)
    }

    /// A key or a tensor name: 1 to `longest` bytes of UTF-8 without control characters.
    fn name(&mut self, longest: u64, subject: Subject<'_>) -> Result<&'a [u8], GgufError> {
        let at = self.at;
        let length = self.u64(subject)?;
        if length > longest {
            let mut at = self.place(at, subject);
            at.subject.push_str(", bytes of the name");
            return Err(GgufError::TooMany { at, found: length, allowed: longest });
        }
        let bytes = self.take(length, subject)?;
        let wrong = |found: String| GgufError::Text {
            at: self.place(at + 8, subject),
            found,
            allowed: format!("a name of 1 to {longest} bytes in UTF-8 without control characters"),
        };
        match std::str::from_utf8(bytes) {
            Err(_) => Err(wrong(format!("the name `{}`, which is not UTF-8", escaped(bytes)))),
            Ok("") => Err(wrong("an empty name".into())),
            Ok(name) if name.chars().any(char::is_control) => {
                Err(wrong(format!("the name `{}`, which has control characters", escaped(bytes))))
            }
            Ok(_) => Ok(bytes),
        }
    }

    /// A count from the header, at most `most`.
    fn count(&mut self, what: &'static str, most: u64) -> Result<u64, GgufError> {
        let at = self.at;
        let found = self.u64(Subject::Header(what))?;
        if found > most {
            let at = self.place(at, Subject::Header(what));
            return Err(GgufError::TooMany { at, found, allowed: most });
        }
        Ok(found)
    }
}

/// Reads everything but the tensor data.
pub(super) fn parse(bytes: Arc<Bytes>, file: Arc<Path>) -> Result<Gguf, GgufError> {
    let mut reader = Reader { data: bytes.as_slice(), at: 0, file: &file };
    let version = header(&mut reader)?;
    let tensor_count = reader.count("tensor count", MAX_TENSORS)?;
    let key_count = reader.count("key count", MAX_KEYS)?;
    let least = key_count * LEAST_KEY_BYTES + tensor_count * LEAST_TENSOR_BYTES;
    if least > reader.left() as u64 {
        return Err(reader.truncated(least, Subject::Header("keys and tensors the header announces")));
    }

    let mut entries = Vec::new();
    let mut strings = Vec::new();
    for n in 0..key_count {
        entries.push(entry(&mut reader, n, &mut strings)?);
    }
    let key = |i: usize| string_at(reader.data, entries[i].key_at).unwrap_or_default();
    let index = NameIndex::build(entries.len(), key).map_err(|(first, second)| GgufError::Duplicate {
        at: reader.place(entries[second].key_at as usize, Subject::Key(key(second))),
        first: entries[first].key_at,
    })?;
    let metadata = Metadata { bytes: bytes.clone(), file: file.clone(), entries, strings, index };
    let alignment = alignment(&metadata)?;
    // The one string that decides how everything else is understood.
    metadata.str("general.architecture")?;

    // The data section begins after the table, so the table is walked once to check its records and find its
    // end, and once more to keep them: then what is allocated has exactly the size that is needed.
    let table = reader.at;
    for n in 0..tensor_count {
        record(&mut reader, n, alignment)?;
    }
    let data_offset = (reader.at as u64).next_multiple_of(u64::from(alignment));
    reader.at = table;
    let mut tensors = Vec::with_capacity(tensor_count as usize);
    let mut records = Vec::with_capacity(tensor_count as usize);
    for n in 0..tensor_count {
        let record = record(&mut reader, n, alignment)?;
        records.push(record.at as u64);
        tensors.push(located(&reader, &record, data_offset)?);
    }
    let tensor_index =
        NameIndex::build(tensors.len(), |i| tensors[i].name.as_bytes()).map_err(|(first, second)| {
            GgufError::Duplicate {
                at: reader.place(records[second] as usize, Subject::Tensor(tensors[second].name.as_bytes())),
                first: records[first],
            }
        })?;
    disjoint(&reader, &tensors, &records)?;
    Ok(Gguf { version, alignment, data_offset, metadata, tensors, tensor_index, parts: Vec::new() })
}

/// Magic and version.
fn header(reader: &mut Reader<'_>) -> Result<u32, GgufError> {
    let data = reader.data;
    if data.is_empty()
        || (data.len() >= 4 && !data.starts_with(b"GGUF"))
        || !b"GGUF".starts_with(&data[..data.len().min(4)])
    {
        return Err(match data.starts_with(b"FUGG") {
            true => GgufError::BigEndian { file: reader.file.clone(), offset: 0 },
            false => GgufError::NotGguf { file: reader.file.clone(), found: look_alike(data) },
        });
    }
    reader.fixed::<4>(Subject::Header("magic"))?;
    let found = reader.u32(Subject::Header("version"))?;
    let hint = match found {
        2 | 3 => return Ok(found),
        0 => ", which never existed",
        1 => ", an early form with 32-bit lengths (the file has to be converted again)",
        _ if matches!(found.swap_bytes(), 1..=3) => {
            return Err(GgufError::BigEndian { file: reader.file.clone(), offset: 4 });
        }
        _ => ", which is newer than this program",
    };
    Err(GgufError::Version { file: reader.file.clone(), found, hint })
}

/// What a file that is not GGUF seems to be.
fn look_alike(data: &[u8]) -> String {
    const MAGICS: &[(&[u8], &str)] = &[
        (b"lmgg", "a GGML file, the format before GGUF"),
        (b"GGML", "a GGML file, the format before GGUF"),
        (b"fmgg", "a GGMF file, a format before GGUF"),
        (b"GGMF", "a GGMF file, a format before GGUF"),
        (b"tjgg", "a GGJT file, a format before GGUF"),
        (b"GGJT", "a GGJT file, a format before GGUF"),
        (b"algg", "a GGLA adapter file, a format before GGUF"),
        (b"PK\x03\x04", "a zip archive (PyTorch checkpoints are such)"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\xfd7zXZ\0", "an xz archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"\x80\x02", "a Python pickle (old PyTorch checkpoints are such)"),
        (b"version https://git-lfs", "a Git LFS pointer (the model itself was not downloaded)"),
    ];
    if data.is_empty() {
        return "an empty file".into();
    }
    if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| data.starts_with(magic)) {
        return (*what).into();
    }
    if data.get(8) == Some(&b'{') {
        return "what looks like a safetensors file".into();
    }
    let text = data[..data.len().min(256)].trim_ascii_start();
    let starts = |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    if starts(b"<!doctype") || starts(b"<html") || starts(b"<?xml") {
        return "an HTML or XML page (often the error page of a failed download)".into();
    }
    if starts(b"{") {
        return "what looks like a JSON document".into();
    }
    format!("the bytes `{}`", escaped(&data[..data.len().min(4)]))
}

/// One key with its value, which is walked over but not copied.
fn entry(reader: &mut Reader<'_>, n: u64, strings: &mut Vec<Vec<u64>>) -> Result<Entry, GgufError> {
    let key_at = reader.at as u64;
    let key = Subject::Key(reader.name(MAX_KEY_BYTES, Subject::NthKey(n))?);
    let kind = value_type(reader, key, "a value type")?;
    let mut entry = Entry { key_at, value_at: reader.at as u64, count: 1, kind, element: kind };
    match kind {
        ValueType::Array => {
            entry.element = value_type(reader, key, "an element type")?;
            if entry.element == ValueType::Array {
                return Err(GgufError::Type {
                    at: reader.place(reader.at - 4, key),
                    found: "an array of arrays".into(),
                    allowed: "an array of numbers, truth values or strings".into(),
                });
            }
            let count = reader.u64(key)?;
            entry.value_at = reader.at as u64;
            entry.count = count;
            match entry.element.size() {
                Some(size) => {
                    let bytes = reader.take(count.saturating_mul(size as u64), key)?;
                    check_bools(reader, entry.element, bytes, key)?;
                }
                None => {
                    // Each string needs at least its length; a count beyond that is refused at once.
                    if count > reader.left() as u64 / 8 {
                        return Err(reader.truncated(count.saturating_mul(8), key));
                    }
                    let mut starts = Vec::new();
                    for _ in 0..count {
                        starts.push(reader.at as u64);
                        reader.string(key)?;
                    }
                    starts.shrink_to_fit();
                    entry.count = strings.len() as u64;
                    strings.push(starts);
                }
            }
        }
        ValueType::String => {
            reader.string(key)?;
        }
        scalar => {
            let bytes = reader.take(scalar.size().unwrap_or(1) as u64, key)?;
            check_bools(reader, scalar, bytes, key)?;
        }
    }
    Ok(entry)
}

fn value_type(reader: &mut Reader<'_>, key: Subject<'_>, what: &str) -> Result<ValueType, GgufError> {
    let at = reader.at;
    let id = reader.u32(key)?;
    ValueType::from_id(id).ok_or_else(|| GgufError::Type {
        at: reader.place(at, key),
        found: format!("{what} with the unknown id {id}"),
        allowed: "an id from 0 (u8) to 12 (f64)".into(),
    })
}

/// Truth values are 0 or 1 and nothing else; `bytes` were just read.
fn check_bools(
    reader: &Reader<'_>,
    kind: ValueType,
    bytes: &[u8],
    key: Subject<'_>,
) -> Result<(), GgufError> {
    if kind != ValueType::Bool {
        return Ok(());
    }
    match bytes.iter().position(|byte| *byte > 1) {
        None => Ok(()),
        Some(i) => Err(GgufError::Value {
            at: reader.place(reader.at - bytes.len() + i, key),
            found: format!("a bool of {}", bytes[i]),
            allowed: "0 or 1".into(),
        }),
    }
}

/// The alignment of tensor data. The specification makes it a u32, and readers disagree about all else.
fn alignment(metadata: &Metadata) -> Result<u32, GgufError> {
    let allowed =
        || format!("a u32 that is a power of two from {} to {}", ALIGNMENTS.start(), ALIGNMENTS.end());
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(found)) if found.is_power_of_two() && ALIGNMENTS.contains(&found) => Ok(found),
        Some(Value::U32(found)) => Err(metadata.refuse(ALIGNMENT_KEY, found, allowed())),
        Some(other) => Err(GgufError::Type {
            at: metadata.place(ALIGNMENT_KEY),
            found: other.type_name(),
            allowed: allowed(),
        }),
    }
}

/// A tensor as the table describes it: everything checked that does not depend on where the data begin.
struct Record<'a> {
    at: usize,
    name: &'a [u8],
    dims: [u64; 4],
    dim_count: usize,
    ggml_type: u32,
    /// From the start of the data section.
    offset: u64,
    bytes: u64,
}

fn record<'a>(reader: &mut Reader<'a>, n: u64, alignment: u32) -> Result<Record<'a>, GgufError> {
    let at = reader.at;
    let name = reader.name(MAX_TENSOR_NAME_BYTES, Subject::NthTensor(n))?;
    let tensor = Subject::Tensor(name);
    let wrong = |reader: &Reader<'_>, at: usize, found: String, allowed: String| GgufError::Tensor {
        at: reader.place(at, tensor),
        found,
        allowed,
    };

    let count_at = reader.at;
    let dim_count = reader.u32(tensor)?;
    if !(1..=4).contains(&dim_count) {
        let found = format!("{dim_count} dimensions");
        return Err(wrong(reader, count_at, found, "1 to 4 dimensions".into()));
    }
    let dim_count = dim_count as usize;
    let dims_at = reader.at;
    let mut dims = [1; 4];
    let mut elements = Some(1u64);
    for (i, dim) in dims[..dim_count].iter_mut().enumerate() {
        *dim = reader.u64(tensor)?;
        if *dim == 0 || *dim > i64::MAX as u64 {
            let found = format!("{dim} as dimension {i}");
            return Err(wrong(reader, reader.at - 8, found, "a dimension from 1 to 2^63 - 1".into()));
        }
        elements = elements.and_then(|product| product.checked_mul(*dim));
    }
    let shape = || format!("{:?}", &dims[..dim_count]);
    let Some(elements) = elements.filter(|elements| *elements <= i64::MAX as u64) else {
        let found = format!("the shape {}", shape());
        return Err(wrong(reader, dims_at, found, "a shape of fewer than 2^63 elements".into()));
    };

    let type_at = reader.at;
    let id = reader.u32(tensor)?;
    let Some(kind) = ggml_type(id) else {
        let last = GGML_TYPES.last().map_or(0, |last| last.id);
        let allowed = format!("a type id in use, from 0 (F32) to {last}");
        return Err(wrong(reader, type_at, unused_type(id), allowed));
    };
    if dims[0] % kind.block != 0 {
        let found = format!("rows of {} elements of type {}", dims[0], kind.name);
        let allowed = format!("rows of a multiple of {} elements", kind.block);
        return Err(wrong(reader, dims_at, found, allowed));
    }
    // Room for the padding after the tensor, so that no later sum of sizes can wrap.
    let bytes = (elements / kind.block)
        .checked_mul(kind.bytes)
        .filter(|bytes| *bytes <= i64::MAX as u64 - u64::from(alignment));
    let Some(bytes) = bytes else {
        let found = format!("the shape {} of type {}", shape(), kind.name);
        return Err(wrong(reader, dims_at, found, "a tensor of fewer than 2^63 bytes".into()));
    };

    let offset_at = reader.at;
    let offset = reader.u64(tensor)?;
    if !offset.is_multiple_of(u64::from(alignment)) {
        let found = format!("the data offset {offset}");
        return Err(wrong(reader, offset_at, found, format!("a multiple of the alignment {alignment}")));
    }
    Ok(Record { at, name, dims, dim_count, ggml_type: id, offset, bytes })
}

/// The tensor at its place in the file, which has to hold all of it.
fn located(reader: &Reader<'_>, record: &Record<'_>, data_offset: u64) -> Result<TensorInfo, GgufError> {
    let file_len = reader.data.len() as u64;
    let offset = record.offset.checked_add(data_offset);
    match offset.and_then(|offset| offset.checked_add(record.bytes)) {
        Some(end) if end <= file_len => Ok(TensorInfo {
            name: String::from_utf8_lossy(record.name).into_owned(),
            ggml_type: record.ggml_type,
            dims: record.dims[..record.dim_count].to_vec(),
            offset: end - record.bytes,
            bytes: record.bytes,
        }),
        _ => Err(GgufError::Tensor {
            at: reader.place(record.at, Subject::Tensor(record.name)),
            found: format!(
                "{} bytes at offset {} of the tensor data, which begin at byte {data_offset}",
                record.bytes, record.offset
            ),
            allowed: format!("data within the {file_len} bytes of the file (is it cut short?)"),
        }),
    }
}

/// No two tensors may share bytes; gaps are fine.
fn disjoint(reader: &Reader<'_>, tensors: &[TensorInfo], records: &[u64]) -> Result<(), GgufError> {
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&i| tensors[i as usize].offset);
    for pair in order.windows(2) {
        let (a, b) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        if a.offset + a.bytes > b.offset {
            return Err(GgufError::Tensor {
                at: reader.place(records[pair[1] as usize] as usize, Subject::Tensor(b.name.as_bytes())),
                found: format!(
                    "data at bytes {}..{}, which overlap those of tensor `{}` at {}..{}",
                    b.offset,
                    b.offset + b.bytes,
                    escaped(a.name.as_bytes()),
                    a.offset,
                    a.offset + a.bytes
                ),
                allowed: "data of its own".into(),
            });
        }
    }
    Ok(())
}
