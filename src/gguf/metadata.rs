//! The metadata of a GGUF file: keys with typed values, in file order, with getters that say what is wrong.

use super::error::{GgufError, Place, escaped};
use super::index::NameIndex;
use super::map::Bytes;
use super::value::{NumberArray, StringArray, Value, ValueType, string_at};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

/// One key as found in the file: offsets only.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Offset of the key's eight-byte length.
    pub key_at: u64,
    /// Offset of the value: a scalar's bytes, a string's length, an array's first element.
    pub value_at: u64,
    /// Elements of a number array; position in `Metadata::strings` for a string array.
    pub count: u64,
    pub kind: ValueType,
    /// Type of an array's elements, equal to `kind` otherwise.
    pub element: ValueType,
}

/// All keys and values of a file.
pub struct Metadata {
    pub(super) bytes: Arc<Bytes>,
    pub(super) file: Arc<Path>,
    pub(super) entries: Vec<Entry>,
    /// Where the strings of each string array begin.
    pub(super) strings: Vec<Vec<u64>>,
    pub(super) index: NameIndex,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|(key, value)| (key, value.type_name()))).finish()
    }
}

impl Metadata {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|entry| (self.key(entry), self.value(entry)))
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.entry(key).map(|entry| self.value(entry))
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Whether the key is there and holds an array.
    pub fn is_array(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|entry| entry.kind == ValueType::Array)
    }

    /// An integer of any width from 0 to 2³² − 1.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "an integer from 0 to 4294967295")
    }

    /// An integer of any width that is not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "an integer from 0 to 18446744073709551615")
    }

    /// An integer of any width from −2³¹ to 2³¹ − 1.
    pub fn i32(&self, key: &str) -> Result<Option<i32>, GgufError> {
        self.integer(key, "an integer from -2147483648 to 2147483647")
    }

    /// A finite f32 or f64.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        match self.f32_any(key)? {
            Some(value) if !value.is_finite() => Err(self.refuse(key, value, "a finite number")),
            value => Ok(value),
        }
    }

    /// An f32 or f64, which may be infinite or not a number.
    pub fn f32_any(&self, key: &str) -> Result<Option<f32>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.float().map(Some).ok_or_else(|| self.wrong_type(key, &value, "f32 or f64"))
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong_type(key, &other, "bool")),
        }
    }

    /// A string that is UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        let Some(bytes) = self.bytes(key)? else { return Ok(None) };
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(GgufError::Text {
                at: self.place(key),
                found: format!("`{}`, not UTF-8 from its byte {} on", escaped(bytes), error.valid_up_to()),
                allowed: "a string in UTF-8".into(),
            }),
        }
    }

    /// A string as bytes.
    pub fn bytes(&self, key: &str) -> Result<Option<&[u8]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(bytes)) => Ok(Some(bytes)),
            Some(other) => Err(self.wrong_type(key, &other, "string")),
        }
    }

    /// An array of strings. An empty array of any type is an empty array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<StringArray<'_>>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Strings(array)) => Ok(Some(array)),
            Some(Value::Numbers(array)) if array.is_empty() => {
                Ok(Some(StringArray { file: self.bytes.as_slice(), starts: &[] }))
            }
            Some(other) => Err(self.wrong_type(key, &other, "array of string")),
        }
    }

    /// An array of numbers or truth values, unconverted. An empty array of strings is an empty one of bytes.
    pub fn numbers(&self, key: &str) -> Result<Option<NumberArray<'_>>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(array)) => Ok(Some(array)),
            Some(Value::Strings(array)) if array.is_empty() => {
                Ok(Some(NumberArray { element: ValueType::U8, bytes: &[] }))
            }
            Some(other) => Err(self.wrong_type(key, &other, "array of numbers")),
        }
    }

    /// An array of integers of any width, each from 0 to 2³² − 1.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.integers(key, "an integer from 0 to 4294967295")
    }

    /// An array of integers of any width, each from −2³¹ to 2³¹ − 1.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.integers(key, "an integer from -2147483648 to 2147483647")
    }

    /// An array of finite f32 or f64.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        let values = self.f32s_any(key)?;
        match values.iter().flatten().enumerate().find(|(_, value)| !value.is_finite()) {
            Some((i, value)) => Err(self.refuse(key, format!("{value} at index {i}"), "finite numbers")),
            None => Ok(values),
        }
    }

    /// An array of f32 or f64, which may be infinite or not a number.
    pub fn f32s_any(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.array(key, "array of f32 or f64", |_, value| value.float().ok_or(None))
    }

    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.array(key, "array of bool", |_, value| match value {
            Value::Bool(value) => Ok(value),
            _ => Err(None),
        })
    }

    pub fn require_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.require(key, self.u32(key)?)
    }

    pub fn require_u64(&self, key: &str) -> Result<u64, GgufError> {
        self.require(key, self.u64(key)?)
    }

    pub fn require_i32(&self, key: &str) -> Result<i32, GgufError> {
        self.require(key, self.i32(key)?)
    }

    pub fn require_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.require(key, self.f32(key)?)
    }

    pub fn require_bool(&self, key: &str) -> Result<bool, GgufError> {
        self.require(key, self.bool(key)?)
    }

    pub fn require_str(&self, key: &str) -> Result<&str, GgufError> {
        self.require(key, self.str(key)?)
    }

    pub fn require_strings(&self, key: &str) -> Result<StringArray<'_>, GgufError> {
        self.require(key, self.strings(key)?)
    }

    pub fn require_u32s(&self, key: &str) -> Result<Vec<u32>, GgufError> {
        self.require(key, self.u32s(key)?)
    }

    pub fn require_i32s(&self, key: &str) -> Result<Vec<i32>, GgufError> {
        self.require(key, self.i32s(key)?)
    }

    pub fn require_f32s(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        self.require(key, self.f32s(key)?)
    }

    pub fn require_bools(&self, key: &str) -> Result<Vec<bool>, GgufError> {
        self.require(key, self.bools(key)?)
    }

    /// The error for a value that has the right type and is not possible: names the file, the value's offset
    /// and the key.
    pub fn refuse(&self, key: &str, found: impl Display, allowed: impl Display) -> GgufError {
        GgufError::Value { at: self.place(key), found: found.to_string(), allowed: allowed.to_string() }
    }

    /// Where a key's value stands; byte 0 for a key that is not there.
    pub fn place(&self, key: &str) -> Place {
        Place {
            file: self.file.clone(),
            offset: self.entry(key).map_or(0, |entry| entry.value_at),
            subject: format!("key `{}`", escaped(key.as_bytes())),
        }
    }

    fn require<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| GgufError::MissingKey { file: self.file.clone(), key: escaped(key.as_bytes()) })
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.index.find(key.as_bytes(), |i| self.key_bytes(&self.entries[i])).map(|i| &self.entries[i])
    }

    fn key_bytes(&self, entry: &Entry) -> &[u8] {
        string_at(self.bytes.as_slice(), entry.key_at).unwrap_or_default()
    }

    fn key(&self, entry: &Entry) -> &str {
        std::str::from_utf8(self.key_bytes(entry)).unwrap_or_default()
    }

    /// The value behind an entry. The spans were checked when the file was opened; should the mapped file
    /// have been rewritten since, what no longer fits reads as empty or zero.
    fn value(&self, entry: &Entry) -> Value<'_> {
        let file = self.bytes.as_slice();
        let span = |count: u64| {
            let start = usize::try_from(entry.value_at).ok()?;
            let size = entry.element.size()?.checked_mul(usize::try_from(count).ok()?)?;
            file.get(start..start.checked_add(size)?)
        };
        match (entry.kind, entry.element) {
            (ValueType::String, _) => Value::String(string_at(file, entry.value_at).unwrap_or_default()),
            (ValueType::Array, ValueType::String) => Value::Strings(StringArray {
                file,
                starts: self.strings.get(entry.count as usize).map(Vec::as_slice).unwrap_or_default(),
            }),
            (ValueType::Array, element) => {
                Value::Numbers(NumberArray { element, bytes: span(entry.count).unwrap_or_default() })
            }
            (kind, _) => span(1).and_then(|bytes| Value::scalar(kind, bytes)).unwrap_or(Value::U8(0)),
        }
    }

    fn wrong_type(&self, key: &str, found: &Value<'_>, allowed: &str) -> GgufError {
        GgufError::Type { at: self.place(key), found: found.type_name(), allowed: allowed.into() }
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, allowed: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(wide) = value.integer() else { return Err(self.wrong_type(key, &value, allowed)) };
        T::try_from(wide).map(Some).map_err(|_| self.refuse(key, wide, allowed))
    }

    fn integers<T: TryFrom<i128>>(&self, key: &str, allowed: &str) -> Result<Option<Vec<T>>, GgufError> {
        self.array(key, "array of integers", |i, value| {
            let wide = value.integer().ok_or(None)?;
            T::try_from(wide).map_err(|_| Some((format!("{wide} at index {i}"), allowed.to_owned())))
        })
    }

    /// Converts a number array; the conversion fails with `None` for a wrong element type and with what was
    /// found and what is allowed for a wrong value.
    fn array<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(usize, Value<'_>) -> Result<T, Option<(String, String)>>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let array = match self.get(key) {
            None => return Ok(None),
            Some(Value::Numbers(array)) => array,
            Some(Value::Strings(array)) if array.is_empty() => return Ok(Some(Vec::new())),
            Some(other) => return Err(self.wrong_type(key, &other, expected)),
        };
        let mut values = Vec::with_capacity(array.len());
        for (i, value) in array.iter().enumerate() {
            values.push(convert(i, value).map_err(|why| match why {
                None => self.wrong_type(key, &Value::Numbers(array), expected),
                Some((found, allowed)) => self.refuse(key, found, allowed),
            })?);
        }
        Ok(Some(values))
    }
}
