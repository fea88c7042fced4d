//! Metadata values as they stand in the file: scalars by value, strings and arrays as borrowed spans.

use super::error::escaped;
use std::fmt;
use std::ops::Index;

/// The type of a metadata value or of an array's elements, with GGUF's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// GGUF's name of the type in lower case, for messages.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }

    /// Bytes of one value, `None` for strings and arrays.
    pub(super) fn size(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }
}

/// A metadata value. Strings are bytes here: tokens need not be UTF-8.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a [u8]),
    U64(u64),
    I64(i64),
    F64(f64),
    Strings(StringArray<'a>),
    Numbers(NumberArray<'a>),
}

impl<'a> Value<'a> {
    /// A number or a truth value of the given type from exactly its bytes.
    pub(super) fn scalar(kind: ValueType, bytes: &[u8]) -> Option<Value<'a>> {
        Some(match kind {
            ValueType::U8 => Value::U8(*bytes.first()?),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(*bytes.first()? != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }

    /// The value of any integer type; no value of another type.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value of either float type as f32; no value of another type.
    pub fn float(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// The type in words, for messages: "u32", "array of 3 strings".
    pub fn type_name(&self) -> String {
        match self {
            Value::U8(_) => "u8".into(),
            Value::I8(_) => "i8".into(),
            Value::U16(_) => "u16".into(),
            Value::I16(_) => "i16".into(),
            Value::U32(_) => "u32".into(),
            Value::I32(_) => "i32".into(),
            Value::F32(_) => "f32".into(),
            Value::Bool(_) => "bool".into(),
            Value::String(_) => "string".into(),
            Value::U64(_) => "u64".into(),
            Value::I64(_) => "i64".into(),
            Value::F64(_) => "f64".into(),
            Value::Strings(array) => format!("array of {} string", array.len()),
            Value::Numbers(array) => format!("array of {} {}", array.len(), array.element.name()),
        }
    }
}

/// How many elements of an array are printed.
const SHOWN: usize = 8;

/// For people: text escaped and cut, arrays with their first elements and their length.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::String(text) => f.write_str(&escaped(text)),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
            Value::Strings(array) => {
                list(f, array.iter().map(|text| format!("\"{}\"", escaped(text))), array.len())
            }
            Value::Numbers(array) => list(f, array.iter().map(|value| value.to_string()), array.len()),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>, len: usize) -> fmt::Result {
    let shown: Vec<String> = items.take(SHOWN).collect();
    match len > SHOWN {
        true => write!(f, "[{}, … {len} in all]", shown.join(", ")),
        false => write!(f, "[{}]", shown.join(", ")),
    }
}

/// An array of numbers or truth values, still in the file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct NumberArray<'a> {
    pub(super) element: ValueType,
    pub(super) bytes: &'a [u8],
}

impl<'a> NumberArray<'a> {
    /// The type of each element.
    pub fn element(&self) -> ValueType {
        self.element
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.element.size().unwrap_or(1)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements, little endian, one after the other.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn get(&self, i: usize) -> Option<Value<'a>> {
        let size = self.element.size()?;
        let start = i.checked_mul(size)?;
        Value::scalar(self.element, self.bytes.get(start..start.checked_add(size)?)?)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value<'a>> + use<'a> {
        let element = self.element;
        // `parse` cuts `bytes` to whole elements, so every chunk is a value.
        self.bytes
            .chunks_exact(element.size().unwrap_or(1))
            .map(move |bytes| Value::scalar(element, bytes).unwrap_or(Value::U8(0)))
    }
}

/// An array of strings: the bytes stay in the file, only where each begins is kept.
#[derive(Clone, Copy)]
pub struct StringArray<'a> {
    pub(super) file: &'a [u8],
    /// Offset of each string's eight-byte length.
    pub(super) starts: &'a [u64],
}

impl<'a> StringArray<'a> {
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The bytes of string `i`, `None` past the end.
    pub fn get(&self, i: usize) -> Option<&'a [u8]> {
        string_at(self.file, *self.starts.get(i)?)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let file = self.file;
        self.starts.iter().map(move |&start| string_at(file, start).unwrap_or_default())
    }

    /// Byte offset of string `i` in the file, for messages.
    pub fn offset(&self, i: usize) -> Option<u64> {
        self.starts.get(i).map(|start| start + 8)
    }
}

impl Index<usize> for StringArray<'_> {
    type Output = [u8];

    /// Panics past the end, as slices do; [`get`](Self::get) does not.
    fn index(&self, i: usize) -> &[u8] {
        string_at(self.file, self.starts[i]).unwrap_or_default()
    }
}

impl fmt::Debug for StringArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StringArray").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A string from the offset of its length. Checked again at each use, because a mapped file can change.
pub(super) fn string_at(file: &[u8], start: u64) -> Option<&[u8]> {
    let rest = file.get(usize::try_from(start).ok()?..)?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}
