//! Models in several files, as `llama-gguf-split` makes them: `NAME-00001-of-00003.gguf` and its siblings. Positions in the
//! parts count on from one to the next, so that a tensor's offset names its part too.

use std::path::Path;
use std::sync::Arc;

use super::error::{GgufError, escaped};
use super::index::NameIndex;
use super::map::Bytes;
use super::{Gguf, check_length, parse};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Most parts of a model: names have five digits.
const MOST_PARTS: u32 = 99_999;
/// Positions of a part begin at multiples of this, a page of any device.
const PART_ALIGN: u64 = 1 << 16;

/// A part behind the first.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) bytes: Arc<Bytes>,
    pub(super) file: Arc<Path>,
    /// Position of its first byte.
    pub(super) base: u64,
}

impl Part {
    /// Position behind its last byte.
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.as_slice().len() as u64
    }
}

/// The names of all parts of a model, if this is the name of one, and which it is, from 0.
pub fn parts_of(name: &str) -> Option<(u32, Vec<String>)> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| {
        let good = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u32>().ok().filter(|_| good)
    };
    let (number, count) = (parse(number)?, parse(count)?);
    if number == 0 || number > count || count > MOST_PARTS {
        return None;
    }
    Some((number - 1, (1..=count).map(|part| format!("{stem}-{part:05}-of-{count:05}.gguf")).collect()))
}

fn refuse(file: &Path, found: String, allowed: String) -> GgufError {
    GgufError::Split { file: file.into(), found, allowed }
}

/// What a file says of itself: its number, from 0, of how many. A whole file says nothing, or one.
fn place_of(gguf: &Gguf) -> Result<(u32, u32), GgufError> {
    let metadata = gguf.metadata();
    Ok((metadata.u32(NUMBER)?.unwrap_or(0), metadata.u32(COUNT)?.unwrap_or(1).max(1)))
}

/// Joins the other parts to a first one; a whole file is left as it is.
pub(super) fn join(mut first: Gguf) -> Result<Gguf, GgufError> {
    let (number, count) = place_of(&first)?;
    if count == 1 {
        return Ok(first);
    }
    let path = first.path().to_owned();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = parts_of(name).filter(|(_, names)| names.len() == count as usize);
    let Some((_, names)) = named.filter(|_| first.file().is_some()) else {
        let found = format!("part {} of {count} with a name that does not say so", number + 1);
        return Err(refuse(
            &path,
            found,
            format!("a file NAME-00001-of-{count:05}.gguf with the others beside it"),
        ));
    };
    if number != 0 {
        let found = format!("part {} of {count}", number + 1);
        return Err(refuse(&path, found, format!("the first part, {}", names[0])));
    }
    let mut base = first.metadata.bytes.as_slice().len() as u64;
    for (index, name) in (0u32..).zip(&names).skip(1) {
        let file: Arc<Path> = path.with_file_name(name).into();
        if !file.exists() {
            let found = format!("a model in {count} parts without {name} beside it");
            return Err(refuse(&path, found, "all parts in one folder".into()));
        }
        let bytes = Arc::new(Bytes::open(&file)?);
        add(&mut first, parse::parse(Arc::clone(&bytes), Arc::clone(&file))?, (index, count), &mut base)?;
    }
    finish(first)
}

/// Joins parts that were opened before, read again.
pub(super) fn rejoin(mut first: Gguf, parts: &[Part]) -> Result<Gguf, GgufError> {
    let count = parts.len() as u32 + 1;
    let mut base = first.metadata.bytes.as_slice().len() as u64;
    for (index, part) in (1u32..).zip(parts) {
        check_length(&part.bytes, &part.file)?;
        let gguf = parse::parse(Arc::clone(&part.bytes), Arc::clone(&part.file))?;
        add(&mut first, gguf, (index, count), &mut base)?;
    }
    if parts.is_empty() { Ok(first) } else { finish(first) }
}

/// Adds the tensors of one part.
fn add(first: &mut Gguf, part: Gguf, expected: (u32, u32), base: &mut u64) -> Result<(), GgufError> {
    let found = place_of(&part)?;
    if found != expected {
        let told = |(number, count)| format!("part {} of {count}", number + 1);
        return Err(refuse(part.path(), told(found), format!("{}, as its name says", told(expected))));
    }
    *base = base.next_multiple_of(PART_ALIGN);
    let Gguf { metadata, tensors, .. } = part;
    let part = Part { bytes: metadata.bytes.clone(), file: metadata.file.clone(), base: *base };
    *base = part.end();
    first.tensors.extend(tensors.into_iter().map(|mut tensor| {
        tensor.offset += part.base;
        tensor
    }));
    first.parts.push(part);
    Ok(())
}

/// Indexes the tensors of all parts.
fn finish(mut gguf: Gguf) -> Result<Gguf, GgufError> {
    let tensors = &gguf.tensors;
    if let Some(said) = gguf.metadata.u64(TENSORS)?
        && said != tensors.len() as u64
    {
        let found = format!("{} tensors in all parts", tensors.len());
        return Err(refuse(gguf.path(), found, format!("{said}, as the first part says")));
    }
    let index = NameIndex::build(tensors.len(), |i| tensors[i].name.as_bytes());
    gguf.tensor_index = index.map_err(|(one, other)| {
        let (one, other) = (&gguf.tensors[one], &gguf.tensors[other]);
        let subject = format!("tensor `{}`", escaped(other.name.as_bytes()));
        let (at, first) = (gguf.place(other.offset, subject), gguf.local(one.offset).1);
        GgufError::Duplicate { at, first }
    })?;
    Ok(gguf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let (number, names) = parts_of("a-Q4_K_M-00002-of-00003.gguf").expect("a part");
        assert_eq!(number, 1);
        assert_eq!(names[0], "a-Q4_K_M-00001-of-00003.gguf");
        assert_eq!(names.len(), 3);
        for name in
            ["a.gguf", "a-1-of-2.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-00001-of-00003"]
        {
            assert_eq!(parts_of(name), None, "{name}");
        }
    }
}
